"""A learner that diverged has NaN for its numbers, and a warning; never those of guessing."""

import json
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.capabilities import Embeds, PredictsSimilarities
from quickstudy.core.criteria import accuracy, weighted_mean
from quickstudy.core.task import batches
from quickstudy.evaluation.presentations import accuracy_at, evaluate_presentations
from quickstudy.evaluation.protocol import HELD_OUT_RANK
from quickstudy.evaluation.report import Report
from quickstudy.evaluation.stream_measures import StreamReport
from quickstudy.learners.memory.sequence_learner import bit_errors
from quickstudy.reports.curves import draw_curves
from quickstudy.testing.learners import Blobs, Lines

BLOBS = Blobs(ways=3, shots=2, queries=4)


def net() -> nn.Module:
    torch.manual_seed(0)
    return qs.nets.MLP(8, 3, hidden=(8,))


def diverged() -> qs.Learner[Any]:
    return qs.MAML(net(), lr=1e30, steps=5)


class Spoiled(qs.PrototypicalNetwork, Embeds, PredictsSimilarities):
    """Every other task of a batch is NaN: those whose first support input is positive."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())

    def predict(self, state: Any, x: Tensor) -> Tensor:
        logits = super().predict(state, x)
        return torch.where(state.sums[0, 0] > 0, torch.nan, logits)


def examples(y: Tensor, weight: Tensor | None = None) -> qs.Examples:
    return qs.Examples(y, y, torch.ones(len(y)) if weight is None else weight)


def test_accuracy_of_an_undefined_logit_is_nan():
    y, logits = torch.eye(3), torch.eye(3)
    assert accuracy(logits, examples(y)) == 1
    for row in range(3):
        for column in range(3):
            spoiled = logits.clone()
            spoiled[row, column] = torch.nan
            assert accuracy(spoiled, examples(y)).isnan()
            padding = torch.ones(3)
            padding[row] = 0
            assert accuracy(spoiled, examples(y, padding)) == 1


def test_one_infinite_logit_is_the_largest_and_two_are_undefined():
    logits = torch.tensor([[torch.inf, 1.0, 0.0], [0.0, 1.0, torch.inf]])
    assert accuracy(logits, examples(torch.eye(3)[[0, 1]])) == 0.5
    logits[0, 1] = torch.inf
    assert accuracy(logits, examples(torch.eye(3)[[0, 1]])).isnan()


def test_a_class_that_is_excluded_has_an_accuracy():
    logits = torch.tensor([[-torch.inf, 1.0, 0.0], [2.0, -torch.inf, -torch.inf]])
    y = torch.eye(3)[[1, 2]]
    expected = accuracy_score([1, 2], logits.argmax(-1))
    assert accuracy(logits, examples(y)).item() == expected


def test_padding_counts_for_nothing_even_if_it_is_nan():
    values = torch.tensor([1.0, torch.nan, 3.0], requires_grad=True)
    mean = weighted_mean(values, torch.tensor([1.0, 0.0, 1.0]))
    mean.backward()
    assert mean == 2
    assert values.grad is not None and values.grad.tolist() == [0.5, 0, 0.5]
    assert weighted_mean(values, torch.ones(3)).isnan()


def test_weights_of_any_scale_are_one_mean():
    values, weight = torch.tensor([1.0, 5.0, 9.0]), torch.tensor([1.0, 2.0, 1.0])
    for scale in (1e-30, 1e-20, 1e-3, 1e20):
        torch.testing.assert_close(weighted_mean(values, scale * weight), torch.tensor(5.0))


def test_wrong_bits_of_nan_are_nan():
    bits = torch.ones(2, 3)
    logits = torch.tensor([[5.0, -5, torch.nan], [5, 5, 5]])
    assert bit_errors(logits, examples(bits)).isnan()
    assert bit_errors(logits, examples(bits, torch.tensor([0.0, 1.0]))) == 0
    with pytest.raises(ValueError, match="predicts"):
        bit_errors(torch.zeros(2, 1), examples(bits))


def test_evaluate_of_a_diverged_learner_warns_once_and_is_nan():
    with pytest.warns(UserWarning, match="accuracy is NaN on 20 of 20 tasks") as caught:
        report = qs.evaluate(diverged(), BLOBS, n_tasks=20)
    assert len(caught) == 1
    assert report.values["accuracy"].isnan().all()
    assert math.isnan(report.mean("accuracy")) and math.isnan(report.interval("accuracy"))
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["summary"]["accuracy"] == {"mean": None, "interval": None}


def test_the_warning_counts_the_tasks():
    batch = next(iter(batches(BLOBS, 50, steps=1, seed=1, rank=HELD_OUT_RANK)))
    sums = torch.einsum("tnc,tnd->tcd", batch.support.y, batch.support.x)
    bad = sums[:, 0, 0] > 0
    with pytest.warns(UserWarning, match=f"NaN on {int(bad.sum())} of 50 tasks"):
        report = qs.evaluate(Spoiled(), BLOBS, n_tasks=50)
    assert report.values["accuracy"].isnan().equal(bad)


def test_an_evaluation_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one metric"):
        qs.evaluate(qs.MAML(net()), BLOBS, n_tasks=2, metrics={})


def test_regression_is_nan_too():
    learner = qs.MAML(qs.nets.MLP(1, 1), lr=1e30, steps=5, criterion=qs.squared_error)
    with pytest.warns(UserWarning, match="squared_error is NaN on 5 of 5 tasks"):
        qs.evaluate(learner, Lines(), n_tasks=5)


@pytest.mark.parametrize(
    ("evaluate", "metrics"),
    [
        (qs.estimators.evaluate_verification, ["equal_error_rate", "auroc"]),
        (partial(qs.estimators.evaluate_open_set, known=2), ["auroc", "accuracy"]),
    ],
)
def test_metrics_of_scores_are_nan_where_scores_are(
    evaluate: Callable[..., Report], metrics: list[str]
):
    class Embedding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.nan

    with pytest.warns(UserWarning, match="NaN on 4 of 4 tasks"):
        report = evaluate(qs.PrototypicalNetwork(Embedding()), BLOBS, n_tasks=4)
    assert all(report.values[metric].isnan().all() for metric in metrics)


def test_clusters_of_nan_are_nan():
    class Embedding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.nan

    for known in (True, False):
        with pytest.warns(UserWarning, match="NaN on 3 of 3 tasks"):
            found = qs.estimators.evaluate_clustering(
                qs.PrototypicalNetwork(Embedding()), BLOBS, known=known, n_tasks=3
            )
        assert all(value.isnan().all() for value in found.learned.values.values())
        assert not any(value.isnan().any() for value in found.pixels.values.values())


def test_presentations_of_a_diverged_learner_are_nan_and_a_rare_class_is_refused():
    class Poison(qs.PrototypicalNetwork):
        def predict(self, state: Any, x: Tensor) -> Tensor:
            return super().predict(state, x) * torch.nan

    with pytest.warns(UserWarning, match="2nd is NaN on 4 of 4 tasks"):
        report = evaluate_presentations(Poison(nn.Identity()), BLOBS, n_tasks=4, at=(2,))
    assert report.values["2nd"].isnan().all()
    with pytest.raises(ValueError, match="no class of some task is presented so often"):
        evaluate_presentations(
            qs.PrototypicalNetwork(nn.Identity()), BLOBS, n_tasks=4, at=(50,)
        )


def test_before_the_first_example_nan_is_a_guess():
    sequence = examples(torch.eye(2)[[0, 1, 0]])
    logits = torch.tensor([[torch.nan] * 2, [0.0, 1.0], [1.0, 0.0]])
    assert accuracy_at(1)(logits, sequence) == 0.75
    logits[1] = torch.nan
    assert accuracy_at(1)(logits, sequence).isnan()


def test_a_trace_of_a_diverged_learner_shows_nan():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trace = qs.evaluation.adaptation_trace(diverged(), BLOBS, n_tasks=3)
    assert trace.after[0].mean("accuracy") > 0
    assert math.isnan(trace.after[-1].mean("accuracy"))
    layers = str(trace).split("similarity\n")[1].splitlines()
    assert all("nan" in line for line in layers)


def test_a_difference_to_nan_is_nan():
    good, bad = Report({"accuracy": torch.ones(3)}), Report({"accuracy": torch.ones(3)})
    bad.values["accuracy"][1] = torch.nan  # pyright: ignore[reportIndexIssue]
    gap = good.paired_difference(bad)
    assert all(map(math.isnan, gap))


# Streams


def stream(n_experiences: int = 3) -> list[qs.Task]:
    y = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    tests = [
        qs.Examples(torch.full((4, 1), float(j)), y, torch.ones(4))
        for j in range(n_experiences)
    ]
    return [qs.Task(test, test) for test in tests]


class Until(qs.Learner[Tensor]):
    """Is right on every test up to an experience, and NaN from there on, or only there."""

    def __init__(self, last: int, *, recovers: bool = False):
        super().__init__()
        self.last, self.recovers = last, recovers

    def adapt(self, support: qs.Examples, state: Tensor | None = None) -> Tensor:
        before = support.weight.new_zeros(()) if state is None else state
        return before + (support.weight.sum() > 0)

    def predict(self, state: Tensor, x: Tensor) -> Tensor:
        bad = (state == self.last + 1) if self.recovers else (state > self.last)
        right = torch.tensor([1.0, 0.0]).expand(len(x), 2)
        return torch.where(bad, torch.nan, right)


MEASURES = ("accuracy", "forgetting", "backward transfer", "area")


@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_stream_that_diverges_is_nan_in_every_measure(last: int):
    with pytest.warns(UserWarning, match="accuracy, area is NaN on 2 of 2 tasks") as caught:
        found = qs.evaluation.evaluate_stream(Until(last), [stream()] * 2)
    assert len(caught) == 1
    for measure in MEASURES:
        assert found.report.values[measure].isnan().all(), measure
    json.dumps(found.to_json(), allow_nan=False)
    again = StreamReport.from_json(json.loads(json.dumps(found.to_json())))
    assert again.report.values["area"].isnan().all()


def test_a_stream_that_recovers_is_nan_where_it_counts():
    """Forgetting is from the best score, which is unknown, and the area has a hole."""
    with pytest.warns(UserWarning, match="area is NaN on 1 of 1 tasks"):
        found = qs.evaluation.evaluate_stream(Until(1, recovers=True), [stream()])
    assert found.report.mean("accuracy") == 1
    assert math.isnan(found.report.mean("area"))
    assert math.isnan(found.report.mean("forgetting"))


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_what_was_not_measured_is_left_out(every: int):
    """By loops over the definitions."""
    table = torch.tensor(np.random.default_rng(0).random((6, 5)))
    numbers = range(1, 6)
    measured = [i for i in numbers if i % every == 0 or i == 5]
    matrix = table.clone()
    for i in numbers:
        if i not in measured:
            matrix[i] = torch.nan
    facts = torch.ones(1, 5).double()
    report = StreamReport(matrix[None], facts, facts, facts, every=every).report
    end = table[5]
    forgetting = [
        max(table[i, j] for i in measured if i > j).item() - end[j].item() for j in range(4)
    ]
    assert report.mean("forgetting") == pytest.approx(np.mean(forgetting))
    area = [table[i, :i].mean().item() for i in measured]
    assert report.mean("area") == pytest.approx(np.mean(area))
    risen = [(end[j] - table[j + 1, j]).item() for j in range(4) if j + 1 in measured]
    expected = np.mean(risen) if risen else math.nan
    assert report.mean("backward transfer") == pytest.approx(expected, nan_ok=True)
    ahead = [(table[j, j] - table[0, j]).item() for j in range(1, 5) if j in measured]
    expected = np.mean(ahead) if ahead else math.nan
    assert report.mean("forward transfer") == pytest.approx(expected, nan_ok=True)


def test_scores_now_and_then_need_a_stream_whose_end_is_known():
    with pytest.raises(ValueError, match="give a list of tasks"):
        qs.evaluation.evaluate_stream(Until(9), [iter(stream())], every=2)


def test_a_nan_is_never_the_best_checkpoint(tmp_path: Path):
    checkpoints = qs.storage.Checkpoints(tmp_path, keep=5)
    learner = qs.MAML(net())
    for step, score in enumerate([math.nan, 0.2, math.nan, 0.1], 1):
        checkpoints.save(step, learner, score=score)
    best = checkpoints.best()
    assert best is not None and best.name == "step-00000002"


@pytest.mark.parametrize("nothing", [None, math.nan, -math.inf])
def test_a_nan_is_never_the_best_validation(nothing: float | None):
    rows = [
        {
            "step": step,
            "loss": 1.0,
            "validation accuracy": score,
            "interval": 0.1,
            "score": score,
        }
        for step, score in enumerate([nothing, 0.2, nothing, 0.5, nothing])
    ]
    best = qs.runs.best_validation(rows)
    assert best is not None and best["step"] == 3
    assert draw_curves(rows).count("<picture>") == 2
    assert qs.runs.best_validation(rows[:1]) is None
    assert draw_curves(rows[:1]).count("<picture>") == 2


def test_a_run_that_diverges_in_validation_stores_no_nan(tmp_path: Path):
    (tmp_path / "tiny.py").write_text(
        """
import torch
import quickstudy as qs

def recipe(*, steps=2):
    learner = qs.MAML(qs.nets.MLP(1, 1), lr=0.01, steps=1, criterion=qs.squared_error)
    metrics = {"squared_error": lambda y, examples: qs.squared_error(y, examples) * torch.nan}
    tasks, adam = qs.Sinusoid(5, 5), torch.optim.Adam(learner.parameters())
    rows = {"5-shot": qs.runs.Benchmark(tasks, n_tasks=4)}
    settings = {"steps": steps, "meta_batch_size": 2, "n_validation_tasks": 2}
    return qs.runs.Experiment(
        learner, tasks, tasks, rows, adam, metrics=metrics, validate_every=1, **settings
    )
"""
    )
    run = qs.runs.start(str(tmp_path / "tiny.py"), {}, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        list(qs.runs.go(run))
        result = qs.runs.finish(run)
    json.dumps(result, allow_nan=False)
    assert [row["score"] for row in result["history"]] == [None, None]
    assert result["measured"]["5-shot"]["squared_error"]["mean"] is None
    assert result["checkpoint"] == 2
