"""Training with the images of all tasks of a batch embedded at once."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Embeds
from quickstudy.core.task import Task, TaskBatch
from quickstudy.execution.batching import channels_last
from quickstudy.learner import Learner


class EmbedTogether(nn.Module):
    """A learner in training that embeds the images of all tasks of a batch at once.

    Batch normalisation then uses the statistics of the whole meta-batch, closer to the running
    statistics used at test time; otherwise each task is normalised by its own few images. It is
    also much faster on a CPU, as only the head runs task by task. Give it to `train` in the
    place of the learner.

    Args:
        learner: has the capability `Embeds`, and adapts nothing of `embed`.

    Raises:
        ValueError: it does not embed.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> learner = qs.PrototypicalNetwork(nn.Identity())
        >>> batch = Blobs().sample(3, torch.Generator().manual_seed(0))
        >>> torch.allclose(EmbedTogether(learner)(batch), learner(batch))
        True
    """

    def __init__(self, learner: Learner[Any]):
        super().__init__()
        require_embed(learner, "train it as it is")
        self.learner = learner

    def forward(self, tasks: TaskBatch) -> Tensor:
        """Return the loss of every task (T,)."""
        inputs = [part.x for part in tasks]  # (T, N, *features) each
        flat = torch.cat([channels_last(x.flatten(0, 1)) for x in inputs])
        embedded = self.learner.get_submodule("embed")(flat).to(inputs[0].dtype)
        parts = embedded.split([len(x) * x.shape[1] for x in inputs])
        support, query = (
            part._replace(x=new.unflatten(0, part.x.shape[:2]))
            for part, new in zip(tasks, parts, strict=True)
        )
        return head_of(self.learner)(Task(support, query))


def require_embed(learner: Learner[Any], remedy: str) -> None:
    """Raise an error unless the learner has the capability `Embeds`.

    Examples:
        >>> import quickstudy as qs
        >>> require_embed(qs.PrototypicalNetwork(nn.Identity()), "train it as it is")
    """
    if not isinstance(learner, Embeds):
        raise ValueError(
            f"{type(learner).__name__} has no module `embed` that images go through first: "
            f"{remedy}, or declare the capability `Embeds`."
        )


def head_of(learner: Learner[Any]) -> Learner[Any]:
    """Return a learner that takes embeddings as inputs, and shares all other parameters.

    Examples:
        >>> import quickstudy as qs
        >>> head_of(qs.PrototypicalNetwork(nn.Linear(4, 2))).embed
        Identity()
    """
    head = copy.copy(learner)
    head._modules = {**learner._modules, "embed": nn.Identity()}  # the copy's was the learner's
    for name in ("execution", "chunk", "threads", "intra_op"):  # were chosen for the net
        vars(head).pop(name, None)
    return head
