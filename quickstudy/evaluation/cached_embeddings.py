"""Evaluation from cached embeddings: every image is embedded once, not once per episode.

10,000 episodes of 5 ways, 1 shot and 15 queries need 800,000 embeddings of perhaps 8,000
images. The rest of an episode is its head: means and distances, votes, a regression.
"""

from copy import copy
from threading import Lock
from typing import Any, Self

import torch
from torch import Generator, Tensor

from quickstudy.core.parameters import device_of
from quickstudy.core.task import Examples, Task
from quickstudy.core.threads import seeded
from quickstudy.core.torch_private import reparametrized
from quickstudy.core.tree import leaves, tree_map
from quickstudy.evaluation.protocol import evaluating
from quickstudy.execution.batching import inference, over_tasks
from quickstudy.execution.errors import explained
from quickstudy.learner import Learner
from quickstudy.tasks.few_shot import FewShot
from quickstudy.training.embed_together import head_of, require_embed

AT_ONCE = 64  # images that are embedded


def embed_once(
    learner: Learner[Any], *tasks: FewShot
) -> tuple[Learner[Any], *tuple[FewShot, ...]]:
    """Return a learner of embeddings, and `tasks` with embeddings in the place of images.

    `evaluate(*embed_once(learner, tasks))` gives the numbers of `evaluate(learner, tasks)`, up
    to rounding, and is much faster for many tasks. Episodes and the report's card are the same.
    An image is embedded when it is first drawn, in evaluation mode, by the learner's module
    `embed` as it is now; all other parameters are shared with the learner. The head runs with
    its class's default execution.

    Args:
        learner: has the capability `Embeds`.
        tasks: distributions of one data set, prepared alike, share their embeddings.

    Raises:
        ValueError: the learner does not embed; or the embedding of an image depends on other
            images or changes with the task, so that every episode needs its own; or `tasks`
            change images at random.

    Examples:
        >>> import quickstudy as qs
        >>> y = torch.arange(6) // 3
        >>> data = qs.datasets.Labelled(torch.eye(6), y, ("a", "b"), name="toy")
        >>> tasks = qs.FewShot(data, ways=2, shots=1, queries=2)
        >>> learner = qs.PrototypicalNetwork(torch.nn.Linear(6, 2))
        >>> head, embedded = embed_once(learner, tasks)
        >>> batch = embedded.sample(1, torch.Generator().manual_seed(0))
        >>> head.embed, batch.support.x.shape
        (Identity(), torch.Size([1, 2, 2]))
    """
    require_embed(learner, "evaluate it on the tasks themselves")
    cache: dict[Any, _Embeddings] = {}
    embedded: list[FewShot] = []
    with evaluating(learner) as frozen:
        head = head_of(frozen)
        for original in tasks:
            key = original.dataset, original.rotations is None, original.normalise
            if key not in cache:
                cache[key] = _Embeddings(frozen, original)
            embedded.append(original.with_inputs(cache[key]))
            state, prediction = _outcome(frozen, original)
            head_state, head_prediction = _outcome(head, embedded[-1])
            # a net that is adapted has its parameters in the state
            if len(leaves(head_state)) != len(leaves(state)) or not _close(
                head_prediction, prediction
            ):
                raise ValueError(
                    f"{type(learner).__name__} changes its net with the task, or does more "
                    "with images than to embed them: evaluate it on the tasks themselves."
                )
    return head_of(learner), *embedded


class _Embeddings:
    """The embeddings of `inputs` of tasks, each computed when it is first asked for.

    They are those of the parameters that the net has now, on the device of the images.

    Raises:
        ValueError: the embedding of an image depends on other images.
    """

    def __init__(self, learner: Learner[Any], tasks: FewShot):
        self.net, self.tasks, self._lock = learner.get_submodule("embed"), tasks, Lock()
        with inference(learner) as (fast, *_):  # with weights as convolutions are fastest
            net = fast.get_submodule("embed")
            tensors = [*net.named_parameters(), *net.named_buffers()]
            self.tensors = {name: tensor.detach().clone() for name, tensor in tensors}
        self.device = tasks.dataset.x.device
        count = len(tasks.dataset) * (1 if tasks.rotations is None else 4)
        self._has = torch.zeros(count, dtype=torch.bool)
        first = torch.arange(min(count, AT_ONCE))
        embedded, half = self._embed(first), (len(first) + 1) // 2
        if not _close(self._embed(first[:half]), embedded[:half]):
            raise ValueError(
                f"The embedding of an image by {type(learner).__name__} depends on other "
                "images, as in a net that normalises by the batch at hand: evaluate it on the "
                "tasks themselves, or train a net that keeps running statistics."
            )
        self._values = embedded.new_empty(count, *embedded.shape[1:])
        self._keep(first, embedded)

    def index_select(self, dim: int, index: Tensor, /) -> Tensor:
        """Return the embeddings of some rows."""
        rows = index.cpu()
        with self._lock:
            new = rows.unique()
            for part in new[~self._has[new]].split(AT_ONCE):
                self._keep(part, self._embed(part))
            return self._values.index_select(dim, rows.to(self._values.device))

    def to(self, device: Any, /) -> Self:
        """Return the same embeddings on a device."""
        other = copy(self)
        other.device = torch.device(device)
        other._values, other._has = self._values.to(device, copy=True), self._has.clone()
        return other

    @torch.inference_mode(False)
    @torch.no_grad()
    def _embed(self, rows: Tensor) -> Tensor:
        x = self.tasks.input_rows(rows).to(next(iter(self.tensors.values()), rows).device)
        with reparametrized(self.net, self.tensors):
            return self.net(x).to(self.device)

    @torch.inference_mode(False)
    def _keep(self, rows: Tensor, values: Tensor) -> None:
        self._values[rows.to(self._values.device)] = values.to(self._values.dtype)
        self._has[rows] = True


def _outcome(learner: Learner[Any], tasks: FewShot) -> tuple[Any, Any]:
    """Return the states of two tasks, and the predictions of their queries."""
    batch = tree_map(
        lambda x: x.to(device_of(learner)), tasks.sample(2, Generator().manual_seed(0))
    )
    with seeded(0), inference(learner) as (fast, execution, chunk), explained(fast, batch):

        def adapted(task: Task[Examples]) -> tuple[Any, Any]:
            state = fast.adapt(task.support)
            return state, fast.predict(state, task.query.x)

        return over_tasks(adapted, execution, chunk)(batch)


def _largest(values: Tensor) -> float:
    return torch.where(values.isfinite(), values.abs(), 0).max().item()


def _close(some: Any, others: Any) -> bool:
    """Return whether trees of tensors are equal up to rounding, which a head may amplify."""
    return all(
        torch.allclose(a.to(b), b, rtol=0, atol=2e-3 * _largest(b), equal_nan=True)
        for a, b in zip(leaves(some), leaves(others), strict=True)
    )
