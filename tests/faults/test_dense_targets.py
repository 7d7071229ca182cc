"""Targets with more axes than (N, C): every criterion averages over those in the middle."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

import quickstudy as qs
from quickstudy.capabilities import TakesDenseTargets
from quickstudy.core.criteria import (
    OutputMismatch,
    accuracy,
    gaussian_nll,
    log_likelihood,
    weighted_mean,
)
from quickstudy.core.tree import tree_map
from quickstudy.learners.gradient.cavia import CAVIA, ContextInput
from quickstudy.learners.gradient.imaml import IMAML
from quickstudy.learners.gradient.maml_pp import MAMLPlusPlus
from quickstudy.learners.gradient.meta_curvature import MetaCurvature
from quickstudy.learners.gradient.meta_sgd import MetaSGD
from quickstudy.learners.gradient.reptile import Reptile
from quickstudy.learners.memory import bit_cross_entropy
from tests.zoo import ZOO

pytestmark = pytest.mark.usefixtures("double")

# some have as many steps as examples, so that a wrong broadcast raises no error
SHAPES = [(6, 1, 32), (5, 5, 3), (4, 6, 4), (4, 4, 4, 4), (3, 2, 5, 2, 3)]


def weights(size: int) -> Tensor:
    return torch.tensor([1.0, 0.0, 2.5, 0.5, 1.0, 3.0])[:size]


def one_hot(shape: tuple[int, ...]) -> Tensor:
    return F.one_hot(torch.randint(shape[-1], shape[:-1]), shape[-1]).to(torch.float64)


def example_means(
    of_row: Callable[[Tensor, Tensor], Tensor], prediction: Tensor, y: Tensor
) -> float:
    """The weighted mean over examples of the mean over all rows of an example, by loops."""
    total, weight = 0.0, weights(len(y))
    for n in range(len(y)):
        rows = zip(
            prediction[n].reshape(-1, y.shape[-1]), y[n].reshape(-1, y.shape[-1]), strict=True
        )
        values = [float(of_row(p, t)) for p, t in rows]
        total += float(weight[n]) * math.fsum(values) / len(values)
    return total / float(weight.sum())


def row_nll(mean: Tensor, y: Tensor) -> Tensor:
    return -torch.distributions.Normal(mean, 0.7).log_prob(y).sum()


CRITERIA: dict[str, tuple[Any, Any, Any]] = {
    "cross_entropy": (
        qs.cross_entropy,
        lambda logits, y: F.cross_entropy(logits[None], y.argmax(-1, keepdim=True)),
        one_hot,
    ),
    "accuracy": (accuracy, lambda logits, y: (logits.argmax() == y.argmax()).double(), one_hot),
    "squared_error": (qs.squared_error, lambda p, y: ((p - y) ** 2).sum(), torch.randn),
    "gaussian_nll": (
        lambda p, e: gaussian_nll(torch.distributions.Normal(p, 0.7), e),
        row_nll,
        torch.randn,
    ),
    "log_likelihood": (
        lambda p, e: log_likelihood(torch.distributions.Normal(p, 0.7), e),
        lambda p, y: -row_nll(p, y),
        torch.randn,
    ),
    "bit_cross_entropy": (
        bit_cross_entropy,
        lambda p, y: F.binary_cross_entropy_with_logits(p, y, reduction="sum") / math.log(2),
        lambda shape: torch.randint(2, shape).to(torch.float64),
    ),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CRITERIA)
def test_axes_in_the_middle_are_averaged_over(name: str, shape: tuple[int, ...]):
    criterion, of_row, make_y = CRITERIA[name]
    prediction, y = torch.randn(shape), make_y(shape)
    examples = qs.Examples(torch.zeros(len(y), 1), y, weights(len(y)))
    expected = example_means(of_row, prediction, y)
    assert criterion(prediction, examples).item() == pytest.approx(expected)
    batch = tree_map(lambda leaf: torch.stack([leaf, leaf.flip(0)]), (prediction, examples))
    for value in vmap(criterion)(*batch):
        assert value.item() == pytest.approx(expected)


def test_the_squared_error_of_a_signal():
    y = torch.randn(6, 1, 32)
    prediction = torch.zeros_like(y)
    examples = qs.Examples(y, y, torch.ones(6))
    assert qs.squared_error(prediction, examples).item() == pytest.approx(
        F.mse_loss(prediction, y).item() * 32
    )


def test_weights_that_fit_no_axis_are_refused():
    with pytest.raises(ValueError, match="give a weight to each example"):
        weighted_mean(torch.ones(3, 4), torch.ones(4))
    with pytest.raises(ValueError, match="give a weight to each example"):
        weighted_mean(torch.ones(()), torch.ones(4))


@pytest.mark.parametrize("size", [3, 8])
def test_classes_on_another_axis_than_the_last_are_refused(size: int):
    """(N, C, H, W), as in torch. Labels of 3 x 3 pixels are so by their values only."""
    torch.manual_seed(0)
    y = one_hot((6, size, size, 3)).movedim(-1, 1)
    logits = torch.randn_like(y)
    examples = qs.Examples(y, y, torch.ones(6))
    for criterion in (qs.cross_entropy, accuracy):
        with pytest.raises(ValueError, match="put the axis of classes last"):
            criterion(logits, examples)
        with pytest.raises(ValueError, match="put the axis of classes last"):
            vmap(criterion)(logits[None], tree_map(lambda leaf: leaf[None], examples))
    learner = qs.MAML(nn.Conv2d(3, 3, 3, padding=1), lr=0.1)
    batch = tree_map(lambda leaf: leaf[None], qs.Task(examples, examples))
    with pytest.raises(ValueError, match="put the axis of classes last"):
        learner(batch)


def test_a_prediction_of_another_shape_is_refused():
    examples = qs.Examples(torch.zeros(4, 1), torch.zeros(4, 5, 3), torch.ones(4))
    for criterion in (qs.cross_entropy, qs.squared_error, accuracy):
        with pytest.raises(OutputMismatch):
            criterion(torch.zeros(4, 1, 3), examples)
        with pytest.raises(OutputMismatch):
            criterion(torch.zeros(4, 3), examples)


def tagging(n_tasks: int, size: int, steps: int) -> qs.Task:
    def draw() -> qs.Examples:
        x = torch.randn(n_tasks, size, steps, 4)
        return qs.Examples(x, one_hot((n_tasks, size, steps, 3)), torch.ones(n_tasks, size))

    return qs.Task(draw(), draw())


def flat(batch: qs.Task) -> qs.Task:
    """The same tasks with an example for each step."""
    return qs.Task(
        *(
            qs.Examples(
                part.x.flatten(1, 2),
                part.y.flatten(1, 2),
                torch.ones(part.y.shape[:3]).flatten(1),
            )
            for part in batch
        )
    )


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


BY_DESCENT: dict[str, Callable[[int], qs.Learner[Any]]] = {
    "maml": lambda _: qs.MAML(linear(), lr=0.3, steps=2),
    "fomaml": lambda _: qs.fomaml(linear(), lr=0.3),
    "imaml": lambda _: IMAML(linear(), lr=0.3, steps=2),
    "maml_pp": lambda _: MAMLPlusPlus(linear(), steps=2),
    "meta_curvature": lambda _: MetaCurvature(linear(), steps=2),
    "meta_sgd": lambda _: MetaSGD(linear(), steps=2),
    "fine_tuning": lambda scale: qs.FineTuning(linear(), lr=0.3, batch_size=2 * scale),
    "joint": lambda scale: qs.Joint(linear(), lr=0.3, batch_size=6 * scale),
}


@pytest.mark.parametrize("name", BY_DESCENT)
@pytest.mark.parametrize("steps", [5, 6])
def test_tags_of_steps_are_learned_as_examples_of_their_own(name: str, steps: int):
    batch = tagging(2, 6, steps)
    dense, by_step = BY_DESCENT[name](1), BY_DESCENT[name](steps)
    torch.testing.assert_close(dense(batch), by_step(flat(batch)))
    dense(batch).sum().backward()
    by_step(flat(batch)).sum().backward()
    for p, q in zip(dense.parameters(), by_step.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_maml_of_a_signal_is_a_loop_in_plain_torch():
    torch.manual_seed(0)
    net = nn.Conv1d(1, 1, 3, padding=1)
    learner = qs.MAML(net, lr=0.01, steps=1, criterion=qs.squared_error)
    x, y = torch.randn(2, 2, 6, 1, 32).unbind()
    task = qs.Examples(x, y, torch.ones(2, 6))
    for number, loss in enumerate(learner(qs.Task(task, task))):
        params: dict[str, Tensor] = {**dict(net.named_parameters())}

        def error(params: dict[str, Tensor], number: int = number) -> Tensor:
            gap = functional_call(net, params, (x[number],)) - y[number]
            return gap.square().flatten(1).sum(1).mean()

        grads = torch.autograd.grad(error(params), list(params.values()))
        stepped = {
            name: p - 0.01 * g for (name, p), g in zip(params.items(), grads, strict=True)
        }
        torch.testing.assert_close(loss, error(stepped))


def learners() -> dict[str, qs.Learner[Any]]:
    return {name: entry.learner() for name, entry in ZOO.items()}


DENSE = {
    **BY_DESCENT,
    "reptile": lambda _: Reptile(linear(), steps=2, batch_size=3),
    "cavia": lambda _: CAVIA(ContextInput(nn.Linear(6, 3)), context=2),
    "experience_replay": lambda _: qs.ExperienceReplay(linear(), memory_size=4),
    "dark_experience_replay": lambda _: qs.DarkExperienceReplay(linear(), memory_size=4),
    "a_gem": lambda _: qs.AGEM(linear(), memory_size=4),
    "mer": lambda _: qs.MER(linear(), memory_size=4),
    "la_maml": lambda _: qs.LaMAML(linear(), memory_size=4),
    "synaptic_intelligence": lambda _: qs.SynapticIntelligence(linear()),
}


@pytest.mark.parametrize("name", DENSE)
def test_an_example_of_equal_steps_is_one_example(name: str):
    plain = flat(tagging(2, 6, 1))
    dense = qs.Task(
        *(
            part._replace(
                x=part.x[:, :, None].expand(-1, -1, 6, -1),
                y=part.y[:, :, None].expand(-1, -1, 6, -1),
            )
            for part in plain
        )
    )
    learner = DENSE[name](1)
    torch.manual_seed(0)
    expected = learner(plain)
    torch.manual_seed(0)
    torch.testing.assert_close(learner(dense), expected)


REFUSING = [
    name for name, learner in learners().items() if not isinstance(learner, TakesDenseTargets)
]


@pytest.mark.parametrize("name", REFUSING)
def test_who_takes_no_dense_targets_refuses_them(name: str):
    entry = ZOO[name]
    batch = entry.tasks.sample(2, torch.Generator().manual_seed(0))

    def densely(part: qs.Examples) -> qs.Examples:
        return part._replace(y=part.y[:, :, None].expand(-1, -1, part.y.shape[1], -1))

    learner = entry.learner().double()
    dense = qs.Task(*map(densely, batch))
    with pytest.raises(ValueError, match=r"takes targets \(N, C\)"):
        learner(dense)


def test_the_declared_are_in_the_zoo():
    declared = [k for k, v in learners().items() if isinstance(v, TakesDenseTargets)]
    assert len(declared) > 12


def test_a_head_that_knows_the_task_predicts_among_its_classes_at_every_step():
    """`task_incremental` masks the classes that no step of a test has."""

    class Fixed(qs.Learner[Tensor], TakesDenseTargets):
        def adapt(self, support: qs.Examples, state: Tensor | None = None) -> Tensor:
            return support.weight

        def predict(self, state: Tensor, x: Tensor) -> Tensor:
            return torch.tensor([3.0, 2.0, 1.0]).expand(*x.shape[:2], 3)

    y = torch.eye(3)[torch.tensor([[1, 2], [2, 1], [1, 1]])]  # (3, 2, 3), never class 0
    examples = qs.Examples(torch.zeros(3, 2, 4), y, torch.ones(3))
    stream = [qs.Task(examples, examples)] * 2
    known = [
        step.scores.tolist()
        for step in qs.evaluation.run_stream(Fixed(), stream, task_incremental=True)
    ]
    assert known[-1] == pytest.approx([4 / 6, 4 / 6])
