"""Every learner of the zoo × every check; and every check on a learner that must fail it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quickstudy import MAML, Examples, Learner, PrototypicalNetwork, Task, TaskDistribution
from quickstudy.capabilities import LendsParameters, TakesDenseTargets
from quickstudy.testing.learners import CHECKS, Blobs, Case, Lines, Trait, check_learner
from tests.zoo import ZOO


def is_slow(name: str, check: Callable[[Case], None]) -> bool:
    """Whether the check trains a variant of another learner of the zoo, or takes long."""
    is_variant = any(name.startswith(f"{other}_") for other in ZOO)
    is_long = name in ("la_maml", "mer", "imaml")
    return (is_variant or is_long) and check.__name__ == "a_metric_improves"


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(
            *(name, check),
            id=f"{name}-{check.__name__}",
            marks=[pytest.mark.slow] if is_slow(name, check) else [],
        )
        for name in ZOO
        for check in CHECKS
    ],
)
def test_learner(name: str, check: Callable[[Case], None]):
    check(ZOO[name].case())


class Sound(Learner[tuple[Tensor, ...]]):
    """Class means of an embedding, as the broken ones below begin."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 4)

    def adapt(self, support: Examples, state: Any = None) -> Any:
        y = support.y * support.weight[:, None]
        new = (y.T @ self.embed(support.x), y.sum(0))
        return new if state is None else tuple(map(torch.add, state, new))

    def predict(self, state: Any, x: Tensor) -> Tensor:
        mean = state[0] / state[1].clamp_min(1)[:, None]
        return -(self.embed(x)[:, None] - mean).square().sum(-1)


class ScalarForAll(Sound):
    def loss(self, task: Task[Any]) -> Tensor:
        return super().loss(task) * torch.ones(1, dtype=task.query.x.dtype)


class Unreached(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.forgotten = nn.Linear(2, 2)


class Detached(Sound):
    def adapt(self, support: Examples, state: Any = None) -> Any:
        return tuple(leaf.detach() for leaf in super().adapt(support, state))

    def predict(self, state: Any, x: Tensor) -> Tensor:
        return (
            super().predict(state, x).detach()
            + 0 * self.embed.weight.sum()
            + self.embed.bias.sum() * 0
        )


class ControlFlow(Sound):
    def predict(self, state: Any, x: Tensor) -> Tensor:
        return super().predict(state, x) * (2 if x.sum() > 0 else 1)


class DiffersInVmap(Sound):
    def predict(self, state: Any, x: Tensor) -> Tensor:
        scale = 2 if "Batched" in repr(x) else 1
        return super().predict(state, x) * scale


class WritesParameters(Sound):
    def adapt(self, support: Examples, state: Any = None) -> Any:
        self.embed.bias.data += 1
        return super().adapt(support, state)


class RemembersOnSelf(Sound):
    def adapt(self, support: Examples, state: Any = None) -> Any:
        self.last = super().adapt(support, state)
        return self.last

    def predict(self, state: Any, x: Tensor) -> Tensor:
        return super().predict(self.last, x)


class WritesData(Sound):
    def predict(self, state: Any, x: Tensor) -> Tensor:
        return super().predict(state, x.add_(1))


class NumberInState(Sound):
    def adapt(self, support: Examples, state: Any = None) -> Any:
        return (*super().adapt(support, state and state[:2]), len(support.x))


class GraphInState(Sound):
    def adapt(self, support: Examples, state: Any = None) -> Any:
        with torch.enable_grad():
            return super().adapt(support, state)


class IgnoresWeight(Sound):
    def adapt(self, support: Examples, state: Any = None) -> Any:
        return super().adapt(support._replace(weight=torch.ones_like(support.weight)), state)


class PositionCounts(Sound):
    def adapt(self, support: Examples, state: Any = None) -> Any:
        position = torch.arange(len(support.x), dtype=support.x.dtype)
        return super().adapt(support._replace(x=support.x * (1 + position[:, None])), state)


class QueryPositionCounts(Sound):
    def predict(self, state: Any, x: Tensor) -> Tensor:
        return super().predict(state, x) + torch.arange(len(x), dtype=x.dtype)[:, None]


class ClassesDiffer(Sound):
    def predict(self, state: Any, x: Tensor) -> Tensor:
        return super().predict(state, x) + torch.arange(3).to(x)


class Forgets(Sound):
    def adapt(self, support: Examples, state: Any = None) -> Any:
        return super().adapt(support)


class DividesByNothing(Sound):
    def predict(self, state: Any, x: Tensor) -> Tensor:
        return -(self.embed(x)[:, None] - state[0] / state[1][:, None]).square().sum(-1)


class PlainAttribute(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.offset = [torch.randn(1).item()]

    def predict(self, state: Any, x: Tensor) -> Tensor:
        return super().predict(state, x) * self.offset[0]

    def __deepcopy__(self, memo: Any) -> "PlainAttribute":
        other = PlainAttribute()  # with an offset of its own
        other.load_state_dict(self.state_dict())
        return other.to(self.embed.weight.dtype)


class Unpicklable(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.criterion = lambda logits, examples: logits.square().mean()


class OwnDtype(Sound):
    def predict(self, state: Any, x: Tensor) -> Tensor:
        return super().predict(state, x) + torch.zeros(1)


class OwnDevice(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.constants = [torch.ones(4, dtype=torch.float64)]

    def adapt(self, support: Examples, state: Any = None) -> Any:
        sums, sizes = super().adapt(support, state)
        return sums * self.constants[0], sizes


class RandomOfItsOwn(Sound):
    generator = torch.Generator()

    def predict(self, state: Any, x: Tensor) -> Tensor:
        noise = torch.rand(1, generator=self.generator).item()
        return super().predict(state, x) + noise * torch.arange(3)


class CountsEvaluations(Sound):
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def predict(self, state: Any, x: Tensor) -> Tensor:
        self.seen += 1
        return super().predict(state, x)


class HidesNaN(Sound):
    def predict(self, state: Any, x: Tensor) -> Tensor:
        return super().predict(state, x).nan_to_num()


class SumsSteps(Sound, TakesDenseTargets):
    def adapt(self, support: Examples, state: Any = None) -> Any:
        return (support.weight,)

    def predict(self, state: Any, x: Tensor) -> Tensor:
        return self.embed(x)[..., :3]

    def loss(self, task: Task[Any]) -> Tensor:
        gap = self.predict(self.adapt(task.support), task.query.x) - task.query.y
        return gap.square().flatten(1).sum(1).mean()


class IgnoresFreezing(Sound, LendsParameters):
    def lent_parameters(self) -> tuple[nn.Module, dict[str, Tensor]]:
        return self.embed, dict(self.embed.named_parameters())


class DiffersInInferenceMode(Sound):
    def predict(self, state: Any, x: Tensor) -> Tensor:
        return super().predict(state, x) * (2 if torch.is_inference_mode_enabled() else 1)


class SlicesInputs(MAML):
    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 3))

    def predict(self, state: Any, x: Tensor) -> Tensor:
        return super().predict(state, x[:])


class WrongWay(Sound):
    def loss(self, task: Task[Any]) -> Tensor:
        return -super().loss(task)


BROKEN: list[tuple[type[Any], str, set[Trait]]] = [
    (ScalarForAll, "losses_are_one_per_task", set()),
    (Unreached, "gradient_reaches_every_parameter", set()),
    (Detached, "gradient_reaches_every_parameter", set()),
    (ControlFlow, "execution_changes_nothing", set()),
    (DiffersInVmap, "execution_changes_nothing", set()),
    (WritesParameters, "adapt_and_predict_change_nothing", set()),
    (RemembersOnSelf, "adapt_and_predict_change_nothing", set()),
    (WritesData, "adapt_and_predict_change_nothing", set()),
    (NumberInState, "state_is_a_nest_of_tensors", set()),
    (GraphInState, "state_is_a_nest_of_tensors", set()),
    (IgnoresWeight, "padding_counts_for_nothing", set()),
    (PositionCounts, "order_of_examples_does_not_matter", set()),
    (QueryPositionCounts, "order_of_examples_does_not_matter", {"order matters"}),
    (ClassesDiffer, "names_of_classes_do_not_matter", set()),
    (Forgets, "examples_may_come_later", {"additive"}),
    (DividesByNothing, "nothing_is_known_of_an_empty_support", {"empty support"}),
    (PlainAttribute, "saving_and_loading_keeps_predictions", set()),
    (Unpicklable, "copies_predict_the_same", set()),
    (OwnDtype, "dtype_follows_the_parameters", set()),
    (OwnDevice, "device_follows_the_parameters", set()),
    (CountsEvaluations, "evaluation_leaves_no_trace", set()),
    (CountsEvaluations, "threads_change_nothing", set()),
    (RandomOfItsOwn, "one_seed_gives_the_same_numbers", set()),
    (HidesNaN, "nan_is_not_hidden", set()),
    (SumsSteps, "dense_targets_are_averaged", set()),
    (IgnoresFreezing, "parameters_frozen_later_stay", set()),
    (DiffersInInferenceMode, "inference_mode_changes_nothing", set()),
    (SlicesInputs, "inputs_may_be_nests", set()),
    (WrongWay, "a_metric_improves", set()),
]


@pytest.mark.parametrize(
    ("kind", "name", "declared"), BROKEN, ids=lambda x: getattr(x, "__name__", "")
)
def test_check_fails_a_broken_learner(kind: type[Any], name: str, declared: set[Trait]):
    check = next(check for check in CHECKS if check.__name__ == name)
    check(Case(Sound(), Blobs(), {"additive", "empty support"}))
    with pytest.raises(Exception) as raised:
        check(Case(kind(), Blobs(), declared))
    assert str(raised.value)


def test_every_check_has_a_learner_that_fails_it():
    assert {name for _, name, _ in BROKEN} == {check.__name__ for check in CHECKS}


def test_failure_names_the_check_and_the_remedy():
    with pytest.raises(
        AssertionError, match=r"(?s)Unreached fails `gradient_reaches.*forgotten.*freeze what"
    ):
        check_learner(Unreached(), Blobs())


def test_unknown_trait_is_refused():
    with pytest.raises(ValueError, match=r"adaptive.*the traits are: additive"):
        check_learner(Sound(), Blobs(), declared={"adaptive"})  # pyright: ignore[reportArgumentType]


def test_a_declared_exception_excuses():
    check_learner(ClassesDiffer(), Blobs(), declared={"class order matters"})
    with pytest.raises(AssertionError, match="names_of_classes"):
        check_learner(ClassesDiffer(), Blobs())


def test_checks_leave_the_learner_alone():
    learner = PrototypicalNetwork(nn.Linear(8, 4))
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    random = torch.get_rng_state()
    check_learner(learner, Blobs(), declared={"additive"}, steps=20, meta_batch_size=8)
    assert all(torch.equal(before[name], v) for name, v in learner.state_dict().items())
    assert learner.training and all(p.grad is None for p in learner.parameters())
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("tasks", [Blobs(shape=(1, 4, 4)), Lines()])
def test_toy_tasks_have_the_shapes_they_say(tasks: TaskDistribution):
    batch = tasks.sample(5, torch.Generator().manual_seed(0))
    if isinstance(tasks, Blobs):
        assert batch.support.x.shape == (5, 6, 1, 4, 4) and batch.query.y.shape == (5, 12, 3)
        assert (batch.support.y.sum(1) == 2).all() and (batch.query.y.sum(1) == 4).all()
    else:
        assert batch.support.x.shape == (5, 5, 1) and batch.query.y.shape == (5, 5, 1)
        x, y = batch.query.x[0, :, 0], batch.query.y[0, :, 0]
        grads = (y[1:] - y[:-1]) / (x[1:] - x[:-1])
        torch.testing.assert_close(grads, grads[:1].expand(4), rtol=1e-3, atol=1e-3)
