r"""A memory of tasks: adaptation starts from the states of the past tasks that fit best.

With $\phi_1, \dots, \phi_M$ the states of past tasks, $\phi_0$ the learned start, and
$L^s_\tau$ the loss on the support set of the new task, adaptation starts from

$$\sum_{i=0}^M a_i \phi_i, \qquad a = \mathrm{softmax}_i(- L^s_\tau(\phi_i) / T)$$

A past task is recalled by how well its state fits the new examples, so retrieval needs no
training. States can be averaged because all of them are a few steps away from one start. The
lower the temperature, the fewer are averaged.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import vmap

from quickstudy.capabilities import Checkpointed, DescendsInSteps, HasInitialParams
from quickstudy.core.task import Examples, Task, TaskBatch
from quickstudy.core.tree import leaves, tree_map, unstack
from quickstudy.evaluation.protocol import evaluating
from quickstudy.execution.batching import Execution, inference, over_tasks
from quickstudy.execution.errors import explained
from quickstudy.learner import Learner


def support_losses(
    learner: Learner[Any], states: Any, support: Examples, execution: Execution = "vmap"
) -> Tensor:
    """Return the criterion (M,) of each state on the examples of one task.

    Args:
        states: a tree whose tensors have an axis M in front.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.MAML(nn.Linear(2, 2, bias=False))
        >>> states = {"weight": torch.stack([torch.eye(2), -torch.eye(2)])}
        >>> examples = Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> [round(loss, 2) for loss in support_losses(learner, states, examples).tolist()]
        [0.31, 1.31]
    """

    def support_loss(state: Any) -> Tensor:
        return learner.criterion(learner.predict(state, support.x), support)

    return over_tasks(support_loss, execution)(states)


def attention(losses: Tensor, temperature: float | Tensor) -> Tensor:
    """Return the share (M,) of each state by its loss; 0 if the loss is not finite.

    Examples:
        >>> attention(torch.tensor([1.0, 1.0, torch.nan]), temperature=0.1).tolist()
        [0.5, 0.5, 0.0]
    """
    scores = torch.where(losses.isfinite(), -losses / temperature, -torch.inf)
    return scores.softmax(-1)


class TaskMemory(Learner[Any], Checkpointed, DescendsInSteps):
    """A learner whose adaptation starts from past tasks. Its states are those of `learner`.

    Meta-training is that of `learner`, and does not use the memory. Fill the memory afterwards
    with `remember`, as states belong to one set of parameters. It is saved with the learner.

    Args:
        learner: has the capabilities `HasInitialParams` and `DescendsInSteps`, such as CAVIA,
            MAML and its family.
        capacity: the largest number of tasks. In a full memory each new task takes the place
            of the oldest.
        temperature: in units of the criterion. Towards 0, adaptation starts from the one state
            that fits best; towards infinity, from the plain mean.

    Attributes:
        limit: the number of places that are used: None for all, 0 for a learner without a
            memory.
        supports: by place, the support set of the state there; for inspection, not saved.

    Raises:
        ValueError: the learner lacks a capability.

    Examples:
        >>> import quickstudy as qs
        >>> from quickstudy.testing.learners import Blobs
        >>> batch = Blobs().sample(2, torch.Generator().manual_seed(0))
        >>> memory = qs.TaskMemory(qs.MAML(qs.nets.MLP(8, 3)), capacity=4)
        >>> memory.remember(batch)
        >>> support = Examples(*(leaf[0] for leaf in batch.support))
        >>> memory.attention(support).shape  # the initial parameters, and four places
        torch.Size([5])
    """

    states: Tensor  # (M, P)  a state in each row
    count: Tensor  # ()  the number of tasks remembered so far

    def __init__(self, learner: Learner[Any], *, capacity: int = 256, temperature: float = 0.1):
        super().__init__(learner.criterion)
        if capacity < 1 or temperature <= 0:
            raise ValueError(
                f"capacity={capacity}, temperature={temperature}: give at least 1 place, and a "
                "temperature above 0."
            )
        self.learner, self.temperature = learner, temperature
        self.limit: int | None = None
        self.execution, self.transductive = learner.execution, learner.transductive
        start = flat(_initial_params(learner)).detach()
        self.register_buffer("states", start.new_zeros(capacity, len(start)))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64, device=start.device))
        self.supports: dict[int, Examples] = {}
        self.register_load_state_dict_post_hook(_forget_supports)

    @property
    def steps(self) -> int:
        """The learner's number of inner steps."""
        return cast(DescendsInSteps, self.learner).steps

    @steps.setter
    def steps(self, steps: int) -> None:  # pyright: ignore
        cast(DescendsInSteps, self.learner).steps = steps

    @property
    def checkpoint(self) -> Any:
        """The learner's inner steps that are kept for the backward pass."""
        return self.learner.checkpoint if isinstance(self.learner, Checkpointed) else None

    @checkpoint.setter
    def checkpoint(self, checkpoint: Any) -> None:  # pyright: ignore
        if isinstance(self.learner, Checkpointed):
            self.learner.checkpoint = checkpoint

    @torch.no_grad()
    def remember(self, tasks: TaskBatch) -> None:
        """Adapt to the support set of every task from the initial parameters; keep the states.

        States of tasks where adaptation diverged are dropped.

        Raises:
            ValueError: the learner's states have another form than its initial parameters.
        """
        tasks = tree_map(lambda leaf: leaf.to(self.states.device), tasks)
        with (
            evaluating(self.learner) as copy,
            inference(copy) as (learner, execution, chunk),
            explained(learner, tasks),
        ):
            states = over_tasks(learner.adapt, execution, chunk)(tasks.support)
        if type(states) is not type(_initial_params(learner)):
            raise ValueError(_NO_START.format(type(learner).__name__))
        rows = vmap(flat)(states)
        finite = rows.isfinite().all(1)
        rows, supports = rows[finite], tree_map(lambda leaf: leaf[finite], tasks.support)
        capacity = len(self.states)
        places = (self.count + torch.arange(len(rows), device=rows.device)) % capacity
        # of more rows than places, the last
        self.states[places[-capacity:]] = rows[-capacity:]
        self.supports.update(zip(places.tolist(), unstack(supports), strict=True))
        self.count += len(rows)

    def attention(self, support: Examples) -> Tensor:
        """Return the share of each candidate in a new task's start (1 + M,).

        The first candidate is the initial parameters, the others are the places of the memory.
        """
        return self._attention(support, self._candidates())

    def adapt(self, support: Examples, state: Any = None) -> Any:
        """Adapt the learner from the past tasks that fit `support`, or from `state`."""
        if state is None:
            candidates = self._candidates()
            state = self._state(self._attention(support, candidates) @ candidates)
        return self.learner.adapt(support, state)

    def predict(self, state: Any, x: Tensor) -> Any:
        """Return the learner's predictions for `x`."""
        return self.learner.predict(state, x)

    def loss(self, task: Task[Any]) -> Tensor:
        """Return the learner's own loss, without the memory."""
        return self.learner.loss(task)

    def retrieved(self, support: Examples, most: int = 3) -> tuple[Tensor, Tensor]:
        """Return the past tasks with the largest shares in a new task's start.

        The place of a task is the number of tasks remembered before it, modulo the capacity.

        Args:
            most: at most so many tasks.

        Returns:
            Their places in the memory (K,) and their shares (K,), the largest first.
        """
        in_memory = self.attention(support)[1:]
        shares, places = in_memory.topk(min(most, len(in_memory)))
        return places, shares

    def recall(self, places: Tensor, x: Tensor) -> Any:
        """Return the predictions (K, Q, C) of each state in `places` (K,) for `x`
        (Q, *features)."""
        return vmap(lambda row: self.predict(self._state(row), x))(self.states[places])

    def _candidates(self) -> Tensor:
        start = flat(_initial_params(self.learner))
        return torch.cat([start[None], self.states[: self.limit]])

    def _attention(self, support: Examples, candidates: Tensor) -> Tensor:
        losses = support_losses(self, vmap(self._state)(candidates), support)
        places = torch.arange(len(candidates), device=candidates.device)
        losses = torch.where(places <= self.count, losses, torch.inf)  # inf at empty places
        return attention(losses, self.temperature)

    def _state(self, row: Tensor) -> Any:
        """Return a row in the form of a state."""
        form = _initial_params(self.learner)
        parts = iter(row.split([leaf.numel() for leaf in leaves(form)]))
        return tree_map(lambda leaf: next(parts).view_as(leaf), form)


_NO_START = (
    "{} has no initial_params() of the form of its states, so that past states could be "
    "averaged to a start: give TaskMemory a learner that descends, such as MAML or CAVIA."
)


def _forget_supports(memory: nn.Module, keys: Any) -> None:
    """Forget the support sets after loading, as they belong to other states."""
    assert isinstance(memory, TaskMemory)
    memory.supports.clear()


def _initial_params(learner: Learner[Any]) -> Any:
    if not (isinstance(learner, HasInitialParams) and isinstance(learner, DescendsInSteps)):
        raise ValueError(_NO_START.format(type(learner).__name__))
    return learner.initial_params()


def flat(state: Any) -> Tensor:
    """Return all numbers of a state as one vector (P,).

    Examples:
        >>> flat({"W": torch.eye(2), "b": torch.zeros(1)}).tolist()
        [1.0, 0.0, 0.0, 1.0, 0.0]
    """
    return torch.cat([leaf.flatten() for leaf in leaves(state)])
