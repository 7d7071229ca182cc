"""The contract of learners, as a test suite for yours.

>>> import torch
>>> from quickstudy import PrototypicalNetwork
>>> _ = torch.manual_seed(0)
>>> check_learner(PrototypicalNetwork(torch.nn.Linear(8, 4)), Blobs(), declared={"additive"})
"""

import copy
import math
import pickle
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Generator, Tensor

from quickstudy.core.criteria import accuracy
from quickstudy.core.task import Examples, Json, Task, TaskBatch, TaskDistribution
from quickstudy.core.tree import leaves, tree_map
from quickstudy.evaluation.protocol import default_metrics, evaluate
from quickstudy.evaluation.report import Difference
from quickstudy.learner import Learner
from quickstudy.testing._checks import (
    gradients,
    is_finite,
    require,
    require_same,
    require_traits,
    run_checks,
    save_and_load,
)
from quickstudy.testing._criterion_checks import dense_targets_are_averaged, nan_is_not_hidden
from quickstudy.testing._net_checks import (
    inference_mode_changes_nothing,
    inputs_may_be_nests,
    parameters_frozen_later_stay,
)
from quickstudy.testing._thread_checks import threads_change_nothing
from quickstudy.training.loop import train

# a check is no function to call: `check_...` runs it and shows its docstring as the remedy
__all__ = ["CHECKS", "Blobs", "Case", "Lines", "Trait", "check_learner"]

Trait: TypeAlias = Literal[
    "additive",  # promises: adapt(b, adapt(a)) is adapt(a and b together)
    "empty support",  # promises: predicts something finite before the first example
    "order matters",  # excuses: the order of the support examples changes predictions
    "class order matters",  # excuses: an untrained head treats the classes differently
    "padding counts",  # excuses: the net normalises by batch statistics
]
"""What may be declared of a learner, as it is not true of all."""


def check_learner(
    learner: Learner[Any],
    tasks: TaskDistribution,
    *,
    declared: Collection[Trait] = (),
    steps: int = 40,
    meta_batch_size: int = 16,
    lr: float = 1e-2,
) -> None:
    """Run every check of `CHECKS` on copies of `learner`.

    Args:
        tasks: small ones, such as `Blobs` or `Lines`, so that this takes seconds.
        declared: properties of this learner that not all have; see `Trait`.
        steps: of meta-training after which a metric must be better than before.
        meta_batch_size: tasks in such a step.
        lr: of Adam in such a step.

    Raises:
        AssertionError: names the check that failed, what was seen, and the remedy.
        ValueError: `declared` holds an unknown trait.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> class Broken(qs.PrototypicalNetwork):
        ...     def loss(self, task):
        ...         return super().loss(task) * torch.nan
        >>> try:
        ...     check_learner(Broken(torch.nn.Flatten()), Blobs())
        ... except AssertionError as error:
        ...     print(str(error).split(":")[0])
        Broken fails `losses_are_one_per_task`
    """
    case = Case(learner, tasks, declared, steps, meta_batch_size, lr)
    run_checks(CHECKS, case, learner)


@dataclass(frozen=True)
class Case:
    """A learner on trial. The checks work on copies of it.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> case = Case(qs.PrototypicalNetwork(torch.nn.Flatten()), Blobs())
        >>> case.task().support.x.shape, case.task().support.x.dtype
        (torch.Size([6, 8]), torch.float64)
    """

    learner: Learner[Any]
    tasks: TaskDistribution
    declared: Collection[Trait] = ()
    steps: int = 40
    meta_batch_size: int = 16
    lr: float = 1e-2

    def __post_init__(self) -> None:
        require_traits(self.declared, Trait.__args__, "a learner")

    def exact(self) -> Learner[Any]:
        """A copy of the learner in float64 and evaluation mode."""
        return copy.deepcopy(self.learner).double().eval()

    def batch(self, size: int = 3, *, dtype: torch.dtype = torch.float64) -> TaskBatch:
        """The same `size` tasks at every call."""
        return _cast(self.tasks.sample(size, Generator().manual_seed(0)), dtype)

    def task(self, number: int = 0) -> Task[Examples]:
        """One task in float64."""
        return tree_map(lambda leaf: leaf[number], self.batch())


def losses_are_one_per_task(case: Case) -> None:
    """`learner(tasks)` is a finite loss for every task (T,). Return a scalar from `loss`."""
    losses = case.exact()(case.batch(3))
    require(losses.shape == (3,), f"three tasks have losses of shape {tuple(losses.shape)}")
    require(is_finite(losses), f"the losses are {losses.tolist()}")


def gradient_reaches_every_parameter(case: Case) -> None:
    """Every parameter that requires a gradient gets a finite one from the loss. Look for a
    `detach`, a `no_grad` or a layer that is never called; freeze what is not to be learned by
    `requires_grad_(False)`."""
    learner = case.exact()
    learner(case.batch()).mean().backward()
    grads = gradients(learner)
    lost = [n for n, p in learner.named_parameters() if p.requires_grad and n not in grads]
    require(not lost, f"no gradient reaches {', '.join(lost)}")
    broken = [name for name, grad in grads.items() if not is_finite(grad)]
    require(not broken, f"the gradient of {', '.join(broken)} is not finite")
    require(any(grad.any() for grad in grads.values()), "the whole gradient is zero")


def execution_changes_nothing(case: Case) -> None:
    """All tasks at once, a few at once, and one after the other have the same losses and
    gradients. Write `adapt`, `predict` and `loss` for one task, without Python control flow
    that depends on values; if a net has no batching rule, set `execution = "loop"` on the
    class."""
    learner, batch = case.exact(), case.batch(3)
    if learner.execution == "loop":
        return

    def outcome(execution: Literal["vmap", "loop"], chunk: int | None) -> Any:
        learner.execution, learner.chunk = execution, chunk
        learner.zero_grad()
        losses = learner(batch)
        losses.sum().backward()
        return losses.detach(), gradients(learner)

    one_by_one = outcome("loop", None)
    require_same(outcome("vmap", None), one_by_one, "vmap and loop give different results")
    require_same(outcome("vmap", 2), one_by_one, "chunks and loop give different results")


@torch.no_grad()
def adapt_and_predict_change_nothing(case: Case) -> None:
    """In evaluation mode `adapt` and `predict` change no parameter, no buffer and no data,
    and `predict` depends on its arguments only. Keep what was learned in the state,
    never on `self`, and use no in-place operation on an argument."""
    learner, task = case.exact(), case.task()
    before = copy.deepcopy((dict(learner.state_dict()), task))
    state = learner.adapt(task.support)
    kept = copy.deepcopy(state)
    first = learner.predict(state, task.query.x)
    learner.predict(learner.adapt(case.task(1).support), case.task(1).query.x)
    learner.adapt(case.task(1).support, state)
    again = learner.predict(state, task.query.x)
    after = (dict(learner.state_dict()), task)
    require_same(after, before, "a parameter, a buffer or the data changed", exactly=True)
    require_same(state, kept, "`adapt` or `predict` changed the state", exactly=True)
    require_same(again, first, "adapting to another task changed a prediction", exactly=True)


@torch.no_grad()
def state_is_a_nest_of_tensors(case: Case) -> None:
    """A state is a nest of tuples and dictionaries of tensors; `adapt` takes it back; under
    `no_grad` it holds no graph. Turn numbers into tensors, and leave gradients that are taken
    inside `adapt` without a graph when gradients are off, as `descend` does."""
    learner, task = case.exact(), case.task()
    state = learner.adapt(task.support)
    parts = leaves(state)
    require(len(parts) > 0, "the state is empty")
    odd = {type(part).__name__ for part in parts if not isinstance(part, Tensor)}
    require(not odd, f"the state holds {', '.join(sorted(odd))}")
    graph = any(part.grad_fn is not None for part in parts)
    require(not graph, "a state made under `no_grad` holds a graph")
    prediction = learner.predict(learner.adapt(task.support, state), task.query.x)
    has_nan = any(bool(leaf.isnan().any()) for leaf in leaves(prediction))
    require(not has_nan, "having adapted twice, it predicts NaN")


@torch.no_grad()
def padding_counts_for_nothing(case: Case) -> None:
    """Examples of weight 0 change neither predictions nor the loss. Use `weight` wherever
    examples are summed, averaged, normalised or attended to; declare "padding counts" if the
    net normalises by batch statistics."""
    if "padding counts" in case.declared:
        return
    learner, task, other = case.exact(), case.task(0), case.task(1)
    padded = Task(_padded(task.support, other.support), _padded(task.query, other.query))
    require_same(
        learner.predict(learner.adapt(padded.support), task.query.x),
        learner.predict(learner.adapt(task.support), task.query.x),
        "padding of the support set changes predictions",
    )
    require_same(learner.loss(padded), learner.loss(task), "padding of a set changes the loss")


@torch.no_grad()
def order_of_examples_does_not_matter(case: Case) -> None:
    """Predictions do not depend on the order of the support examples (unless "order matters"
    is declared), and follow the order of the queries. Replace what depends on positions by
    sums or attention."""
    learner, task = case.exact(), case.task()

    def shuffled(size: int) -> Tensor:
        return torch.randperm(size, generator=Generator().manual_seed(1))

    state = learner.adapt(task.support)
    expected = learner.predict(state, task.query.x)
    order = shuffled(len(task.query.x))
    require_same(
        learner.predict(state, task.query.x[order]),
        tree_map(lambda leaf: leaf[order], expected),
        "queries in another order are predicted otherwise",
    )
    if "order matters" in case.declared:
        return
    support = Examples(*(leaf[shuffled(len(leaf))] for leaf in task.support))
    require_same(
        learner.predict(learner.adapt(support), task.query.x),
        expected,
        "support examples in another order lead to other predictions",
    )


@torch.no_grad()
def names_of_classes_do_not_matter(case: Case) -> None:
    """Permuting the columns of one-hot labels permutes predictions and changes nothing else.
    Treat classes alike, or declare "class order matters", as learners with a linear head per
    class have to."""
    learner, task = case.exact(), case.task()
    y = task.support.y
    one_hot = bool(((y == 0) | (y == 1)).all() and (y.sum(-1) == 1).all())
    if "class order matters" in case.declared or not one_hot:
        return
    order = torch.arange(y.shape[-1]).roll(1)
    renamed = learner.adapt(task.support._replace(y=y[:, order]))
    expected = learner.predict(learner.adapt(task.support), task.query.x)
    require_same(
        learner.predict(renamed, task.query.x),
        tree_map(lambda leaf: leaf[:, order], expected),
        "renaming the classes does not permute the predictions",
    )


@torch.no_grad()
def examples_may_come_later(case: Case) -> None:
    """Where "additive" is declared, adapting to some examples and then to the others is
    adapting to all of them. Keep sums and sizes, not means, in the state."""
    if "additive" not in case.declared:
        return
    learner, task = case.exact(), case.task()
    some = len(task.support.x) // 2
    first = task.support.take(slice(some))
    second = task.support.take(slice(some, None))
    require_same(
        learner.predict(learner.adapt(second, learner.adapt(first)), task.query.x),
        learner.predict(learner.adapt(task.support), task.query.x),
        "examples in two parts lead to other predictions than all at once",
    )


def nothing_is_known_of_an_empty_support(case: Case) -> None:
    """Where "empty support" is declared, no example, or padding only, is a support set: all
    predictions and gradients are finite. Divide by a sum of weights `clamp_min`ed above 0."""
    if "empty support" not in case.declared:
        return
    learner, task = case.exact(), case.task()
    padding = task.support._replace(weight=torch.zeros_like(task.support.weight))
    for support in (task.support.take(slice(0)), padding):
        learner.zero_grad()
        prediction = learner.predict(learner.adapt(support), task.query.x)
        require(is_finite(prediction), "a prediction is not finite")
        learner.loss(Task(support, task.query)).backward()
        require(is_finite(gradients(learner)), "a gradient is not finite")


def saving_and_loading_keeps_predictions(case: Case) -> None:
    """A saved and loaded learner predicts the same, to the bit. Keep what is learned in
    parameters and buffers, not in plain attributes."""
    learner, task = case.exact(), case.task()
    other = copy.deepcopy(learner)
    save_and_load(learner, other)
    require_same(
        _predict(other, task), _predict(learner, task), "predictions differ", exactly=True
    )


def copies_predict_the_same(case: Case) -> None:
    """Copies by `deepcopy` and `pickle` predict the same. Store no lambda, local function or
    open file on the learner: use functions of a module, or `functools.partial` of one."""
    learner, task = case.exact(), case.task()
    expected = _predict(learner, task)
    for name, other in {
        "deepcopy": copy.deepcopy(learner),
        "pickle": pickle.loads(pickle.dumps(learner)),
    }.items():
        what = f"the copy by {name} predicts otherwise"
        require_same(_predict(other, task), expected, what, exactly=True)


def dtype_follows_the_parameters(case: Case) -> None:
    """State, predictions and losses have the parameters' dtype, whatever torch's default.
    Create tensors by `x.new_zeros(...)` or `torch.zeros_like(x)`, not by `torch.zeros(...)`."""
    default = torch.get_default_dtype()
    try:
        for dtype, other in {
            torch.float32: torch.float64,
            torch.float64: torch.float32,
        }.items():
            torch.set_default_dtype(other)
            learner = copy.deepcopy(case.learner).to(dtype).eval()
            wrong = {
                part.dtype
                for part in _outcome(learner, case.batch(dtype=dtype))
                if part.is_floating_point() and part.dtype != dtype
            }
            require(not wrong, f"a {dtype} learner makes {', '.join(map(str, wrong))}")
    finally:
        torch.set_default_dtype(default)


def device_follows_the_parameters(case: Case) -> None:
    """State, predictions and losses are where the parameters are. Create tensors by
    `x.new_zeros(...)`, and register constants by `register_buffer`. (Tried on a GPU, or on
    PyTorch's "meta" device, where shapes are computed and values are not.)"""
    device = torch.device("cuda" if torch.cuda.is_available() else "meta")
    learner = case.exact().to(device)
    batch = tree_map(lambda leaf: leaf.to(device), case.batch())
    wrong = {part.device.type for part in _outcome(learner, batch)} - {device.type}
    require(not wrong, f"a learner on {device} makes tensors on {', '.join(wrong)}")


def evaluation_leaves_no_trace(case: Case) -> None:
    """`evaluate` keeps no graph, and leaves parameters, buffers, their gradients, training
    mode and torch's random state as they were. Write nothing to `self` in `adapt`, `predict`
    and metrics."""
    learner = copy.deepcopy(case.learner)
    before = copy.deepcopy(dict(learner.state_dict()))
    for mode in (True, False):
        learner.train(mode)
        random = torch.get_rng_state()
        report = evaluate(learner, case.tasks, n_tasks=3, meta_batch_size=2)
        require(not any(v.requires_grad for v in report.values.values()), "a graph was kept")
        require(torch.equal(random, torch.get_rng_state()), "torch's random state changed")
        require(learner.training == mode, "training mode changed")
        require(not gradients(learner), "a gradient was kept")
    after = dict(learner.state_dict())
    require_same(after, before, "a parameter or buffer changed", exactly=True)


def one_seed_gives_the_same_numbers(case: Case) -> None:
    """Training and evaluation repeat to the bit for one seed. Draw random numbers from
    torch's global generator, which `train` and `evaluate` seed, and from no other."""

    def numbers() -> Any:
        learner = copy.deepcopy(case.learner).train()
        optimizer = torch.optim.Adam(learner.parameters(), case.lr)
        steps = list(train(learner, case.tasks, optimizer, steps=3, meta_batch_size=2))
        report = evaluate(learner, case.tasks, n_tasks=3, meta_batch_size=2)
        return tuple(step.loss for step in steps), dict(report.values)

    require_same(numbers(), numbers(), "a second run gives other numbers", exactly=True)


def a_metric_improves(case: Case) -> None:
    """A short meta-training makes a metric better on new tasks, by more than the 95 %
    interval of the difference, whichever of three seeds draws the tasks. Give more `steps` or
    another `lr`; if that does not help, the gradient points the wrong way."""
    for seed in range(3):
        learner = copy.deepcopy(case.learner).train()
        before = evaluate(learner, case.tasks, n_tasks=100)
        optimizer = torch.optim.Adam(learner.parameters(), case.lr)
        list(
            train(
                learner,
                case.tasks,
                optimizer,
                steps=case.steps,
                meta_batch_size=case.meta_batch_size,
                seed=seed,
            )
        )
        change = evaluate(learner, case.tasks, n_tasks=100).paired_difference(before)
        require(_gain(learner, change) > change.interval, f"seed {seed}: {change}")


CHECKS: tuple[Callable[[Case], None], ...] = (
    losses_are_one_per_task,
    gradient_reaches_every_parameter,
    execution_changes_nothing,
    adapt_and_predict_change_nothing,
    state_is_a_nest_of_tensors,
    padding_counts_for_nothing,
    order_of_examples_does_not_matter,
    names_of_classes_do_not_matter,
    examples_may_come_later,
    nothing_is_known_of_an_empty_support,
    saving_and_loading_keeps_predictions,
    copies_predict_the_same,
    dtype_follows_the_parameters,
    device_follows_the_parameters,
    evaluation_leaves_no_trace,
    threads_change_nothing,
    one_seed_gives_the_same_numbers,
    nan_is_not_hidden,
    dense_targets_are_averaged,
    parameters_frozen_later_stay,
    inference_mode_changes_nothing,
    inputs_may_be_nests,
    a_metric_improves,
)
"""The checks of `check_learner`."""


class Blobs(TaskDistribution):
    """Classes are Gaussian clouds. The first half of the features separates them. The
    others are noise, and many tasks reveal it. Each class has `unlabelled` further support
    examples with only zeros in y.

    Examples:
        >>> import torch
        >>> Blobs(ways=3, shots=2).sample(4, torch.Generator()).support.x.shape
        torch.Size([4, 6, 8])
    """

    def __init__(
        self,
        *,
        ways: int = 3,
        shots: int = 2,
        queries: int = 4,
        shape: tuple[int, ...] = (8,),
        unlabelled: int = 0,
    ):
        self.ways, self.shots, self.queries, self.shape = ways, shots, queries, shape
        self.unlabelled = unlabelled

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """Draw tasks of `ways * (shots + unlabelled)` support and `ways * queries` query
        examples, shuffled."""
        width = math.prod(self.shape)
        informative = torch.arange(width) < width / 2
        centre = torch.randn(n_tasks, self.ways, width, generator=generator) * informative
        spread = torch.where(informative, 0.5, 2.0)

        def draw(labelled: int, unlabelled: int = 0) -> Examples:
            each = labelled + unlabelled
            shuffled = torch.rand(n_tasks, self.ways * each, generator=generator).argsort(1)
            label = shuffled % self.ways  # (T, N), `each` times every class
            has_label = shuffled < self.ways * labelled
            noise = torch.randn(*label.shape, width, generator=generator) * spread
            x = centre[torch.arange(n_tasks)[:, None], label] + noise
            y = torch.eye(self.ways)[label] * has_label[..., None]
            return Examples(x.unflatten(-1, self.shape), y, torch.ones(label.shape))

        return Task(draw(self.shots, self.unlabelled), draw(self.queries))

    def card(self) -> dict[str, Json]:
        """Return ways, shots and queries per class, and the number without a label if any."""
        sizes = {"ways": self.ways, "shots": self.shots, "queries": self.queries}
        sizes |= {"unlabelled": self.unlabelled} if self.unlabelled else {}
        return {**super().card(), **sizes}


class Lines(TaskDistribution):
    """Regression on lines: y = a x + b with a and b standard normal, x uniform in [-1, 1].

    Examples:
        >>> import torch
        >>> Lines(shots=5).sample(4, torch.Generator()).support.y.shape
        torch.Size([4, 5, 1])
    """

    def __init__(self, *, shots: int = 5, queries: int = 5):
        self.shots, self.queries = shots, queries

    def sample(self, n_tasks: int, generator: Generator) -> TaskBatch:
        """Draw tasks of `shots` support and `queries` query examples, x and y of width 1."""
        slope, intercept = torch.randn(2, n_tasks, 1, 1, generator=generator)

        def draw(each: int) -> Examples:
            x = 2 * torch.rand(n_tasks, each, 1, generator=generator) - 1
            return Examples(x, slope * x + intercept, torch.ones(n_tasks, each))

        return Task(draw(self.shots), draw(self.queries))

    def card(self) -> dict[str, Json]:
        """Return shots and queries."""
        return {**super().card(), "shots": self.shots, "queries": self.queries}


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    return tree_map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, tree)


def _padded(examples: Examples, padding: Examples) -> Examples:
    nothing = padding._replace(weight=torch.zeros_like(padding.weight))
    return Examples.cat(examples, nothing)


@torch.no_grad()
def _predict(learner: Learner[Any], task: Task[Examples]) -> Any:
    return learner.predict(learner.adapt(task.support), task.query.x)


def _outcome(learner: Learner[Any], batch: TaskBatch) -> list[Tensor]:
    task = tree_map(lambda leaf: leaf[0], batch)
    state = learner.adapt(task.support)
    return leaves((state, learner.predict(state, task.query.x), learner(batch)))


def _gain(learner: Learner[Any], change: Difference) -> float:
    larger_is_better = accuracy in default_metrics(learner).values()
    return change.mean if larger_is_better else -change.mean
