"""Reports, and the protocol by which they are made."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from quickstudy import (
    MAML,
    Examples,
    Learner,
    PrototypicalNetwork,
    Report,
    TaskDistribution,
    accuracy,
    evaluate,
    squared_error,
)
from quickstudy.core.task import TaskBatch
from quickstudy.core.tree import tree_map
from quickstudy.evaluation import Difference
from quickstudy.nets.backbones import MLP, Conv4, use_batch_statistics
from quickstudy.testing.learners import Blobs, Lines


def report(*numbers: float, **card: Any) -> Report:
    return Report({"accuracy": torch.tensor(numbers, dtype=torch.float64)}, card)


def protonet(width: int = 4) -> PrototypicalNetwork:
    torch.manual_seed(0)
    return PrototypicalNetwork(nn.Linear(8, width))


def test_mean_and_interval():
    numbers = torch.rand(600, dtype=torch.float64)
    found = Report({"accuracy": numbers})
    assert found.mean("accuracy") == pytest.approx(np.mean(numbers.numpy()))
    low, high = scipy.stats.t.interval(
        0.95, 599, np.mean(numbers.numpy()), scipy.stats.sem(numbers.numpy())
    )
    assert 2 * found.interval("accuracy") == pytest.approx(high - low, rel=1e-4)
    assert math.isnan(report(0.5).interval("accuracy"))


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        found = report(*rng.normal(1, 2, 100))
        covered += abs(found.mean("accuracy") - 1) < found.interval("accuracy")
    assert 930 <= covered <= 970


def test_compare_is_paired_by_task():
    a, b = report(0.9, 0.8, 0.7, 0.6, seed=1), report(0.8, 0.8, 0.5, 0.7, seed=1)
    difference = a.paired_difference(b)
    gap = np.array([0.1, 0, 0.2, -0.1])
    half = scipy.stats.t.ppf(0.975, len(gap) - 1) * scipy.stats.sem(gap)
    assert tuple(difference) == pytest.approx((0.05, half, 2.5 / 4))
    assert tuple(b.paired_difference(a, "accuracy")) == pytest.approx((-0.05, half, 1.5 / 4))
    assert str(Difference(0.05, 0.01, 0.625)) == "+0.0500 ± 0.0100, larger on 62% of tasks"


def test_compare_refuses_different_tasks():
    one = report(0.9, 0.8, tasks="Blobs", ways=5, seed=1)
    for other, differ in [
        (report(0.9, 0.8, tasks="Blobs", ways=5, seed=2), "seed"),
        (report(0.9, 0.8, tasks="Blobs", ways=20, seed=2), "seed, ways"),
        (report(0.9, 0.8, tasks="Blobs", ways=5, seed=1, noise=0.1), "noise"),
        (report(0.9, 0.8, 0.7, tasks="Blobs", ways=5, seed=1), "their number"),
    ]:
        with pytest.raises(ValueError, match=rf"they differ in {differ}\). Evaluate both"):
            one.paired_difference(other)


def test_compare_takes_learners_that_differ():
    facts: dict[str, Any] = {"tasks": "Blobs", "seed": 1}
    one = report(0.9, transductive=True, selection="best", learner={"steps": 1}, **facts)
    assert one.paired_difference(
        report(0.8, transductive=False, **facts)
    ).mean == pytest.approx(0.1)


@pytest.mark.parametrize("call", ["mean", "interval"])
def test_a_metric_that_is_not_there(call: str):
    with pytest.raises(ValueError, match="no metric 'f1'; it has: accuracy"):
        getattr(report(0.5), call)("f1")
    with pytest.raises(ValueError, match="no metric 'f1'"):
        report(0.5).paired_difference(report(0.5), "f1")


def test_json_round_trip_is_exact(tmp_path: Path):
    found = evaluate(protonet(), Blobs(), n_tasks=7, meta_batch_size=4)
    found.save(tmp_path / "report.json")
    again = Report.load(tmp_path / "report.json")
    assert again.card == found.card
    assert torch.equal(again.values["accuracy"], found.values["accuracy"])
    assert tuple(again.paired_difference(found)) == (0, 0, 0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_json_has_no_nan(tmp_path: Path):
    found = report(math.nan, math.inf, 0.5)
    found.save(tmp_path / "report.json")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    data = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert data["summary"]["accuracy"] == {"mean": None, "interval": None}
    again = Report.load(tmp_path / "report.json").values["accuracy"]
    assert again.isnan().tolist() == [True, True, False] and again[2] == 0.5


def test_a_save_that_fails_leaves_the_old_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "report.json"
    report(0.5).save(path)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        report(0.7).save(path)
    assert Report.load(path).mean("accuracy") == 0.5


def test_text_has_numbers_and_protocol():
    assert str(report(0.5, 0.7, ways=5)) == "accuracy 0.6000 ± 1.2706  [ways: 5]"


def test_card_says_the_protocol():
    card = evaluate(
        protonet(),
        Blobs(ways=4, shots=3, queries=2),
        n_tasks=5,
        meta_batch_size=3,
        seed=9,
        selection="best",
    ).card
    assert card == {
        "tasks": "Blobs",
        "ways": 4,
        "shots": 3,
        "queries": 2,
        "episodes": 5,
        "batch": 3,
        "seed": 9,
        "transductive": False,
        "selection": "best",
    }


IMAGES = Blobs(shape=(1, 16, 16))


@pytest.mark.parametrize(
    ("learner", "expected"),
    [
        (lambda: PrototypicalNetwork(Conv4(channels=4, size=16)), False),
        (lambda: PrototypicalNetwork(use_batch_statistics(Conv4(channels=4, size=16))), True),
        (lambda: MAML(use_batch_statistics(Conv4(3, channels=4, size=16)), steps=1), True),
        (lambda: MAML(nn.Sequential(nn.Flatten(), MLP(256, 3)), steps=1), False),
    ],
)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_transductive_is_measured(learner: Any, expected: bool, mode: str):
    found = evaluate(learner().train(mode == "train"), IMAGES, n_tasks=2, meta_batch_size=2)
    assert found.card["transductive"] is expected


class Counting(TaskDistribution):
    """Task number n of all that were drawn has n as its target."""

    def __init__(self) -> None:
        self.drawn = 0

    def sample(self, n_tasks: int, generator: torch.Generator) -> TaskBatch:
        y = torch.arange(self.drawn, self.drawn + n_tasks)[:, None, None].float()
        self.drawn += n_tasks
        examples = Examples(torch.zeros(n_tasks, 1, 1), y, torch.ones(n_tasks, 1))
        return TaskBatch(examples, examples)


class Zero(Learner[Tensor]):
    """Predicts 0, so that its error is the squared target."""

    def __init__(self) -> None:
        super().__init__(squared_error)

    def adapt(self, support: Examples, state: Tensor | None = None) -> Tensor:
        return support.y.sum()

    def predict(self, state: Tensor, x: Tensor) -> Tensor:
        return 0 * x


@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 50), (7, 3), (6, 3)])
def test_every_task_counts_once(count: int, size: int):
    counts: list[int] = []
    found = evaluate(
        Zero(), Counting(), n_tasks=count, meta_batch_size=size, progress=counts.append
    )
    assert found.values["squared_error"].tolist() == [n**2 for n in range(count)]
    assert counts == [min(n, count) for n in range(size, count + size, size)]


def test_fewer_tasks_are_the_first_of_more():
    few, many = (
        evaluate(protonet(), Blobs(), n_tasks=count, meta_batch_size=4) for count in (3, 9)
    )
    assert torch.equal(few.values["accuracy"], many.values["accuracy"][:3])


def test_a_number_is_that_of_adapting_to_the_task():
    learner, seen = protonet(), []

    class Spy(Blobs):
        def sample(self, n_tasks: int, generator: torch.Generator) -> TaskBatch:
            seen.append(super().sample(n_tasks, generator))
            return seen[-1]

    found = evaluate(learner, Spy(), n_tasks=3, meta_batch_size=3).values["accuracy"]
    for i in range(3):
        task = tree_map(lambda leaf, i=i: leaf[i], seen[0])
        logits = learner.predict(learner.adapt(task.support), task.query.x)
        hit = logits.argmax(-1) == task.query.y.argmax(-1)
        assert found[i].item() == pytest.approx(hit.double().mean().item())


def test_one_seed_one_result_and_another_seed_another():
    one, same, other = (
        evaluate(protonet(), Blobs(), n_tasks=20, seed=seed).values["accuracy"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


class Noisy(Learner[Any]):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def adapt(self, support: Examples, state: Any = None) -> Any:
        return support.y.sum(0)

    def predict(self, state: Any, x: Tensor) -> Tensor:
        return torch.randn(len(x), 3) * self.scale


def test_random_predictions_repeat_and_leave_the_random_state():
    state = torch.get_rng_state()
    one = evaluate(Noisy(), Blobs(), n_tasks=20, meta_batch_size=8)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(123)
    assert torch.equal(
        one.values["accuracy"],
        evaluate(Noisy(), Blobs(), n_tasks=20, meta_batch_size=8).values["accuracy"],
    )


def test_no_graph_is_kept_and_modes_are_restored():
    net = MLP(8, 3)
    learner = MAML(net).train()
    net.body.eval()  # as one does with a frozen backbone
    found = evaluate(learner, Blobs(), n_tasks=3)
    assert not found.values["accuracy"].requires_grad
    assert learner.training and net.training and net.head.training and not net.body.training
    assert all(p.grad is None for p in learner.parameters())


def test_modes_are_restored_after_an_error():
    def fail(prediction: Any, examples: Examples) -> Tensor:
        raise RuntimeError("no such metric")

    learner, state = protonet().train(), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no such metric"):
        evaluate(learner, Blobs(), n_tasks=3, metrics={"fail": fail})
    assert learner.training
    assert torch.equal(state, torch.get_rng_state())


def test_the_learner_is_in_evaluation_mode():
    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            modes.append(self.training)
            return x

    modes: list[bool] = []
    evaluate(PrototypicalNetwork(Spy()).train(), Blobs(), n_tasks=3)
    assert modes and not any(modes)


def test_metrics_by_name():
    def first(prediction: Tensor, examples: Examples) -> Tensor:
        return prediction[0, 0]

    found = evaluate(
        protonet(), Blobs(), n_tasks=3, metrics={"accuracy": accuracy, "first": first}
    )
    assert list(found.values) == ["accuracy", "first"]
    assert found.values["first"].dtype == torch.float64
    line = MAML(MLP(1, 1), criterion=squared_error)
    assert list(evaluate(line, Lines(), n_tasks=3).values) == ["squared_error"]


@pytest.mark.parametrize(("count", "size"), [(0, 5), (5, 0), (-1, 5)])
def test_no_tasks_is_an_error(count: int, size: int):
    with pytest.raises(ValueError, match="at least one task"):
        evaluate(protonet(), Blobs(), n_tasks=count, meta_batch_size=size)


def test_a_metric_that_is_no_number_is_an_error():
    def hits(prediction: Tensor, examples: Examples) -> Tensor:
        return (prediction.argmax(-1) == examples.y.argmax(-1)).double()

    with pytest.raises(ValueError, match=r"'hits' has shape \(12,\) on a task: make it one"):
        evaluate(protonet(), Blobs(), n_tasks=3, metrics={"hits": hits})


def test_a_better_learner_is_found_better():
    worse = evaluate(protonet(1), Blobs(), n_tasks=200)
    better = evaluate(PrototypicalNetwork(FirstHalf()), Blobs(), n_tasks=200)
    difference = better.paired_difference(worse)
    assert difference.mean > 5 * difference.interval and difference.wins > 0.8


class FirstHalf(nn.Module):
    """The features of `Blobs` that tell classes apart."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :4]
