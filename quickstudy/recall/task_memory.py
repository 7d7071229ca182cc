r"""A memory of tasks: a new one is learned from what was learned of the past ones most like it.

With $\phi_1, \dots, \phi_M$ the states of past tasks, $\phi_0$ the learned start, and
$L^s_\tau$ the loss on the support set of the new task, adaptation starts from

$$\sum_{i=0}^M a_i \phi_i, \qquad a = \mathrm{softmax}_i(- L^s_\tau(\phi_i) / T)$$

So a past task is recalled by how well what was learned of it fits the new examples: nothing
needs to be learned for that. The average is one of weights, which are alike as all states are a
few steps away from one start; the lower the temperature, the fewer are averaged.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from quickstudy.core.task import Examples, Task, TaskBatch
from quickstudy.core.tree import leaves, tree_map, unstack
from quickstudy.evaluation.protocol import evaluating
from quickstudy.execution.batching import Execution, inference, over_tasks
from quickstudy.execution.errors import explained
from quickstudy.learner import Learner


def misfits(
    learner: Learner[Any], states: Any, support: Examples, execution: Execution = "vmap"
) -> Tensor:
    """The criterion (M,) of each state on the examples of one task.

    Args:
        states: a tree whose tensors have an axis M in front.
    """

    def misfit(state: Any) -> Tensor:
        return learner.criterion(learner.predict(state, support.x), support)

    return over_tasks(misfit, execution)(states)


def attention(misfits: Tensor, temperature: float | Tensor) -> Tensor:
    """The share (M,) of each state by how well it fits: none where the misfit is not finite."""
    fits = torch.where(misfits.isfinite(), -misfits / temperature, -torch.inf)
    return fits.softmax(-1)


class TaskMemory(Learner[Any]):
    """A learner that starts from its past tasks. Its states are those of `learner`.

    Meta-training is that of `learner`, and does not look at the memory. Fill this afterwards by
    `remember`, as states of other parameters are of no use. It is saved with the learner.

    Args:
        learner: one with `initial_params()` that is like its states: MAML and its family, CAVIA.
        size: how many tasks are remembered at most; after that, each new one takes the place
            of the oldest.
        temperature: in units of the criterion. Towards 0 the one state that fits best is the
            start; towards infinity, the plain mean.

    Attributes:
        limit: how many places of the memory are looked at: None for all, 0 for a learner
            without one.
        supports: by place, what the state there was learned from; to look at, and not saved.

    Raises:
        ValueError: the learner has no such start.
    """

    states: Tensor  # (M, P)  a state in each row
    count: Tensor  # ()  of all tasks that were ever remembered

    def __init__(self, learner: Learner[Any], *, size: int = 256, temperature: float = 0.1):
        super().__init__(learner.criterion)
        if size < 1 or temperature <= 0:
            raise ValueError(
                f"size={size}, temperature={temperature}: give at least 1 place, and a "
                "temperature above 0."
            )
        self.learner, self.temperature = learner, temperature
        self.limit: int | None = None
        self.execution, self.transductive = learner.execution, learner.transductive
        start = flat(_start(learner)).detach()
        self.register_buffer("states", start.new_zeros(size, len(start)))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64, device=start.device))
        self.supports: dict[int, Examples] = {}
        self.register_load_state_dict_post_hook(_forget_supports)

    @property
    def steps(self) -> int:
        """Of the learner's inner descent."""
        return getattr(self.learner, "steps")  # noqa: B009  (not every learner has it)

    @steps.setter
    def steps(self, steps: int) -> None:
        self.learner.steps = steps

    @property
    def checkpoint(self) -> Any:
        """What the learner keeps of its inner steps."""
        return getattr(self.learner, "checkpoint", None)

    @torch.no_grad()
    def remember(self, tasks: TaskBatch) -> None:
        """Adapts to the support set of every task, from the learned start, and keeps the
        states, but for those of tasks where adaptation diverged.

        Raises:
            ValueError: the learner's states are not like its start, so have no mean.
        """
        tasks = tree_map(lambda leaf: leaf.to(self.states.device), tasks)
        learner = self.learner
        with (
            evaluating(self),
            explained(learner, tasks),
            inference(learner) as (execution, chunk),
        ):
            found = over_tasks(learner.adapt, execution, chunk)(tasks.support)
        if type(found) is not type(_start(learner)):
            raise ValueError(_NO_START.format(type(learner).__name__))
        rows = vmap(flat)(found)
        kept = rows.isfinite().all(1)
        rows, supports = rows[kept], tree_map(lambda leaf: leaf[kept], tasks.support)
        size = len(self.states)
        places = (self.count + torch.arange(len(rows), device=rows.device)) % size
        self.states[places[-size:]] = rows[-size:]  # of more than there are places, the last
        self.supports.update(zip(places.tolist(), unstack(supports), strict=True))
        self.count += len(rows)

    def attention(self, support: Examples) -> Tensor:
        """What share of a new task's start each candidate has (1 + M,): first the learned
        start, then the places of the memory."""
        return self._attention(support, self._candidates())

    def adapt(self, support: Examples, state: Any = None) -> Any:
        """As the learner does, from the past tasks that fit `support`, or from `state`."""
        if state is None:
            candidates = self._candidates()
            state = self._state(self._attention(support, candidates) @ candidates)
        return self.learner.adapt(support, state)

    def predict(self, state: Any, x: Tensor) -> Any:
        """What the learner says of `x`."""
        return self.learner.predict(state, x)

    def loss(self, task: Task[Any]) -> Tensor:
        """The learner's own, without the memory."""
        return self.learner.loss(task)

    def retrieved(self, support: Examples, most: int = 3) -> tuple[Tensor, Tensor]:
        """The past tasks that a new one starts from, at most `most`, the largest share first:
        their places in the memory (K,) and their shares (K,). The place of a task is how many
        were remembered before it, but that a full memory begins again at 0."""
        own = self.attention(support)[1:]
        shares, places = own.topk(min(most, len(own)))
        return places, shares

    def recall(self, places: Tensor, x: Tensor) -> Any:
        """What the states in `places` (K,) of the memory, each by itself, say of `x`
        (Q, *features): (K, Q, C)."""
        return vmap(lambda flat: self.predict(self._state(flat), x))(self.states[places])

    def _candidates(self) -> Tensor:
        start = flat(_start(self.learner))
        return torch.cat([start[None], self.states[: self.limit]])

    def _attention(self, support: Examples, candidates: Tensor) -> Tensor:
        found = misfits(self, vmap(self._state)(candidates), support)
        places = torch.arange(len(candidates), device=candidates.device)
        known = torch.where(places <= self.count, found, torch.inf)
        return attention(known, self.temperature)

    def _state(self, flat: Tensor) -> Any:
        """A row, in the form of a state."""
        form = _start(self.learner)
        parts = iter(flat.split([leaf.numel() for leaf in leaves(form)]))
        return tree_map(lambda leaf: next(parts).view_as(leaf), form)


_NO_START = (
    "{} has no initial_params() that is like the states it adapts to, so that past states could be "
    "averaged to a start: give TaskMemory a learner that descends, such as MAML or CAVIA."
)


def _forget_supports(memory: nn.Module, keys: Any) -> None:
    """After loading: they are not those of the states that are there now."""
    assert isinstance(memory, TaskMemory)
    memory.supports.clear()


def _start(learner: Any) -> Any:
    try:
        return learner.initial_params()
    except (AttributeError, TypeError):  # ProtoMAML's is made from a support set
        raise ValueError(_NO_START.format(type(learner).__name__)) from None


def flat(state: Any) -> Tensor:
    """All numbers of a state, one after the other (P,)."""
    return torch.cat([leaf.flatten() for leaf in leaves(state)])
