"""Nets apart from what is done with their embeddings.

Evaluation from cached embeddings: every image is embedded once, not once per episode.
10,000 episodes of 5 ways, 1 shot and 15 queries ask for 800,000 embeddings of what may be 8,000
images. What is left of an episode is its head: means and distances, votes, a regression.
"""

import copy
from typing import Any

import torch
from torch import Generator, Tensor, nn

from quickstudy.core.parameters import device_of
from quickstudy.core.task import Examples, Task, TaskBatch
from quickstudy.core.tree import leaves, tree_map
from quickstudy.evaluation.protocol import evaluating
from quickstudy.execution.batching import channels_last, inference, over_tasks
from quickstudy.execution.errors import explained
from quickstudy.learner import Learner
from quickstudy.tasks.few_shot import FewShot


def embed_once(
    learner: Learner[Any], *tasks: FewShot
) -> tuple[Learner[Any], *tuple[FewShot, ...]]:
    """What `learner` does with embeddings, and `tasks` that are made of its embeddings.

    `evaluate(*embed_once(learner, tasks))` finds, but for rounding, what
    `evaluate(learner, tasks)` does, and much faster where there are many tasks. Episodes and
    the report's card are the same. Images go through the module `embed` of the learner in
    evaluation mode; every other parameter is shared with it. The head is executed in the way
    that is the default of its class.

    Args:
        tasks: those of one data set, prepared alike, have their embeddings in common.

    Raises:
        ValueError: the learner has no module `embed`; or what that makes of an image depends
            on other images or changes with the task, so that every episode needs its own; or
            `tasks` change images at random.
    """
    name = type(learner).__name__
    _check_embeds(learner, "evaluate it on the tasks themselves")
    head = _without_net(learner)
    known: dict[Any, Tensor] = {}
    found: list[FewShot] = []
    with evaluating(learner):
        for each in tasks:
            kind = each.dataset, each.rotations is None, each.normalise
            if kind not in known:
                with inference(learner):
                    known[kind] = _embeddings(learner, each)
            found.append(each.with_inputs(known[kind]))
            (state, truth), (rest, guess) = _outcome(learner, each), _outcome(head, found[-1])
            # what is adapted of a net is in the state
            if len(leaves(rest)) != len(leaves(state)) or not _close(guess, truth):
                raise ValueError(
                    f"{name} changes its net with the task, or does more with images than to "
                    "embed them: evaluate it on the tasks themselves."
                )
    return head, *found


class EmbedTogether(nn.Module):
    """A learner in training, with the images of all tasks of a batch embedded at once.

    Of a net that keeps running statistics, batch normalisation then is by the images of all
    tasks, as it will be at test, where otherwise each task is normalised by its own: few
    images, of few classes. Also much faster on a CPU, as only what follows the embedding is
    done task by task. Give `train` this in the place of the learner.

    Args:
        learner: has a module `embed` that images go through first, and adapts nothing of it.

    Raises:
        ValueError: it has no such module.
    """

    def __init__(self, learner: Learner[Any]):
        super().__init__()
        _check_embeds(learner, "train it as it is")
        self.learner = learner

    def forward(self, tasks: TaskBatch) -> Tensor:
        """The loss of every task (T,)."""
        parts = [part.x for part in tasks]  # (T, N, *features) each
        flat = torch.cat([channels_last(x.flatten(0, 1)) for x in parts])
        embedded = self.learner.get_submodule("embed")(flat).to(parts[0].dtype)
        found = embedded.split([len(x) * x.shape[1] for x in parts])
        support, query = (
            part._replace(x=new.unflatten(0, part.x.shape[:2]))
            for part, new in zip(tasks, found, strict=True)
        )
        return _without_net(self.learner)(Task(support, query))


def _check_embeds(learner: Learner[Any], remedy: str) -> None:
    if not isinstance(getattr(learner, "embed", None), nn.Module):
        raise ValueError(
            f"{type(learner).__name__} has no module `embed` that images go through first: "
            f"{remedy}."
        )


def _without_net(learner: Learner[Any]) -> Learner[Any]:
    """`learner`, to be given embeddings."""
    head = copy.copy(learner)
    head._modules = {**learner._modules, "embed": nn.Identity()}  # the copy's was the learner's
    for name in ("execution", "chunk", "threads"):  # were chosen for the net
        vars(head).pop(name, None)
    return head


def _embeddings(learner: Learner[Any], tasks: FewShot) -> Tensor:
    """Of all `inputs` of `tasks`, where their images are."""
    net = learner.get_submodule("embed")
    where = device_of(net)
    parts: list[Tensor] = []
    for x in tasks.inputs():
        parts.append(net(x.to(where)))
        some = (len(x) + 1) // 2
        if len(parts) == 1 and not _close(net(x[:some].to(where)), parts[0][:some]):
            raise ValueError(
                f"What {type(learner).__name__} makes of an image depends on those beside it, "
                "as of a net that normalises by the batch at hand: evaluate it on the tasks "
                "themselves, or train a net that keeps running statistics."
            )
    return torch.cat([part.to(tasks.dataset.x.device) for part in parts])


def _outcome(learner: Learner[Any], tasks: FewShot) -> tuple[Any, Any]:
    """The states, and the predictions of the queries, of two tasks."""

    def adapted(task: Task[Examples]) -> tuple[Any, Any]:
        state = learner.adapt(task.support)
        return state, learner.predict(state, task.query.x)

    where = device_of(learner)
    batch = tree_map(lambda x: x.to(where), tasks.sample(2, Generator().manual_seed(0)))
    torch.manual_seed(0)
    with explained(learner, batch), inference(learner) as (execution, chunk):
        return over_tasks(adapted, execution, chunk)(batch)


def _close(some: Any, others: Any) -> bool:
    """Whether trees of tensors are equal but for rounding, which a head may amplify."""
    for a, b in zip(leaves(some), leaves(others), strict=True):
        most = torch.where(b.isfinite(), b.abs(), 0).max().item()
        if not torch.allclose(a.to(b), b, rtol=0, atol=2e-3 * most, equal_nan=True):
            return False
    return True
