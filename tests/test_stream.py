"""Following streams, and the numbers that come of it."""

import json
import math
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quickstudy import PrototypicalNetwork, datasets
from quickstudy.core.task import Examples, Task
from quickstudy.core.tree import leaves
from quickstudy.datasets.labelled import split_examples
from quickstudy.evaluation.stream_loop import run_stream
from quickstudy.evaluation.stream_measures import StreamReport
from quickstudy.evaluation.streams import evaluate_stream, stream_report
from quickstudy.learner import Learner
from quickstudy.learners.lifelong.dark_experience_replay import DarkExperienceReplay
from quickstudy.learners.lifelong.experience_replay import ExperienceReplay
from quickstudy.learners.lifelong.fine_tuning import FineTuning
from quickstudy.learners.lifelong.joint import Joint
from quickstudy.learners.lifelong.replay_buffer import sample
from quickstudy.nets.backbones import MLP
from quickstudy.storage.checkpoints import CheckpointError
from quickstudy.tasks.scenarios import class_incremental, permuted
from quickstudy.tasks.streams import Streams

TRAIN, TEST = split_examples(datasets.digits(), 0.7)
DIGITS = Streams(partial(class_incremental, TRAIN, TEST, examples=30))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), MLP(64, 10, hidden=(64,)))


class Recites(Learner[Tensor]):
    """Has answers written down: of experience j after i experiences, right with a frequency of
    `table[i, j]`, where the test of an experience are its number, over and over."""

    execution = "loop"

    def __init__(self, table: Tensor):
        super().__init__()
        self.table = table

    def adapt(self, support: Examples, state: Tensor | None = None) -> Tensor:
        before = support.weight.new_zeros(()) if state is None else state
        return before + (support.weight.sum() > 0)

    def predict(self, state: Tensor, x: Tensor) -> Tensor:
        which, place = x[:, 0].long(), x[:, 1]
        right = place < self.table[int(state)][which]
        return torch.stack([right.float(), 1 - right.float()], 1)


def recited(table: Tensor) -> list[Task[Examples]]:
    """Tests of ten queries, whose right answer is column 0."""
    y = torch.tensor([[1.0, 0.0]]).repeat(10, 1)
    place = (torch.arange(10) + 0.5) / 10
    tests = [
        Examples(torch.stack([torch.full((10,), float(j)), place], 1), y, torch.ones(10))
        for j in range(table.shape[1])
    ]
    return [Task(test, test) for test in tests]


TABLE = torch.tensor(
    [
        [0.1, 0.2, 0.1],
        [0.9, 0.4, 0.1],
        [0.5, 0.8, 0.3],
        [0.6, 0.4, 1.0],
    ]
)


def matrix_of(table: list[list[float]]) -> StreamReport:
    """A report of one stream: each experience has 4 examples and takes 2 seconds, 3 bytes."""
    matrix = torch.tensor([table]).double()
    facts = torch.ones(1, matrix.shape[-1]).double()
    return StreamReport(matrix, seconds=2 * facts, examples=4 * facts, bytes=3 * facts)


def test_forgetting_is_from_the_best_score_since_learning():
    """The first test improves after learning; the second and third have a better score before
    their experience, which does not count. NaN was not measured."""
    nan = math.nan
    table = [
        [0.1, 0.95, 0.2],
        [0.6, 0.90, 1.0],
        [0.8, 0.5, 0.9],
        [0.7, 0.3, 0.4],
    ]
    report = matrix_of(table).report
    assert round(report.mean("forgetting"), 6) == round(((0.8 - 0.7) + (0.5 - 0.3)) / 2, 6)
    assert round(report.mean("backward transfer"), 6) == round((0.1 - 0.2) / 2, 6)
    assert round(report.mean("forward transfer"), 6) == round((-0.05 + 0.7) / 2, 6)
    area = (0.6 + (0.8 + 0.5) / 2 + (0.7 + 0.3 + 0.4) / 3) / 3
    assert round(report.mean("area"), 6) == round(area, 6)
    assert report.mean("milliseconds per example") == 500
    assert report.mean("kilobytes") == 0.003
    table[2] = [nan, nan, nan]
    report = matrix_of(table).report
    assert round(report.values["area"].item(), 6) == round((0.6 + 1.4 / 3) / 2, 6)
    assert round(report.mean("backward transfer"), 6) == round(0.7 - 0.6, 6)


def test_measures_are_their_definitions():
    found = evaluate_stream(Recites(TABLE), [recited(TABLE)])
    torch.testing.assert_close(found.matrix[0], TABLE.double())
    values = {name: round(float(v[0]), 6) for name, v in found.report.values.items()}
    assert values["accuracy"] == round((0.6 + 0.4 + 1.0) / 3, 6)
    assert values["forgetting"] == round(((0.9 - 0.6) + (0.8 - 0.4)) / 2, 6)
    assert values["backward transfer"] == round(((0.6 - 0.9) + (0.4 - 0.8)) / 2, 6)
    assert values["forward transfer"] == round(((0.4 - 0.2) + (0.3 - 0.1)) / 2, 6)
    assert values["area"] == round((0.9 + (0.5 + 0.8) / 2 + (0.6 + 0.4 + 1.0) / 3) / 3, 6)
    assert values["kilobytes"] == 0.004
    assert values["milliseconds per example"] > 0


def test_of_a_stream_without_end_the_past_is_asked():
    def future() -> Iterator[Task[Examples]]:
        yield from recited(TABLE)
        raise AssertionError("too early")

    steps = list(islice(run_stream(Recites(TABLE), future()), 3))
    assert [step.number for step in steps] == [1, 2, 3]
    assert [len(step.scores) for step in steps] == [1, 2, 3]
    torch.testing.assert_close(steps[1].scores, TABLE[2, :2].double())
    found = evaluate_stream(Recites(TABLE), [iter(recited(TABLE))])
    assert found.matrix[0, 0].isnan().all()
    torch.testing.assert_close(found.matrix[0, 1:].tril(), TABLE[1:].double().tril())
    assert found.report.values["forward transfer"].isnan().all()
    assert math.isclose(found.report.mean("forgetting"), 0.35, abs_tol=1e-6)


def test_scores_can_be_measured_now_and_then():
    found = evaluate_stream(Recites(TABLE), [recited(TABLE)], every=2)
    assert found.matrix[0, 1].isnan().all()
    torch.testing.assert_close(found.matrix[0, 2:], TABLE[2:].double())


def test_whoever_knows_the_task_answers_none_of_another():
    """With a head that always says the last class but one, all else being zero."""
    stream = DIGITS.stream(1)

    class Says(PrototypicalNetwork):
        def predict(self, state: object, x: Tensor) -> Tensor:
            return torch.arange(10.0).expand(len(x), 10)

    learner = Says(nn.Flatten())
    blind = evaluate_stream(learner, [stream]).matrix[0, -1]
    task_known = evaluate_stream(learner, [stream], task_incremental=True).matrix[0, -1]
    share = torch.tensor(
        [float(task.query.y[:, 2 * i + 1].mean()) for i, task in enumerate(stream)]
    )
    torch.testing.assert_close(task_known, share.double())
    assert blind[:-1].tolist() == [0] * 4


def test_nearest_class_means_forget_nothing_of_what_they_know():
    found = evaluate_stream(PrototypicalNetwork(nn.Flatten()), DIGITS, n_tasks=2)
    means = PrototypicalNetwork(nn.Flatten())
    stream = DIGITS.stream(1)
    everything = Examples(*map(torch.cat, zip(*(t.support for t in stream), strict=True)))
    state = means.adapt(everything)
    for number, task in enumerate(stream):
        hit = means.predict(state, task.query.x).argmax(1) == task.query.y.argmax(1)
        assert math.isclose(found.matrix[0, -1, number], hit.double().mean(), abs_tol=1e-6)
    assert found.report.mean("accuracy") > 0.8


def test_replay_forgets_less_than_fine_tuning_and_more_than_all_at_once():
    rate, streams = {"lr": 0.1, "epochs": 5}, DIGITS
    forgetful = evaluate_stream(FineTuning(net(), **rate), streams, n_tasks=3).report
    replaying = evaluate_stream(
        ExperienceReplay(net(), memory_size=60, **rate), streams, n_tasks=3
    ).report
    knowing = evaluate_stream(Joint(net(), **rate), streams, n_tasks=3).report
    assert forgetful.mean("accuracy") < 0.35
    assert forgetful.mean("forgetting") > 0.6
    assert replaying.paired_difference(forgetful, "accuracy").mean > 0.3
    assert knowing.paired_difference(replaying, "accuracy").mean > 0.02
    assert replaying.paired_difference(forgetful, "forgetting").mean < -0.2


def test_without_a_past_replay_is_fine_tuning():
    stream = DIGITS.stream(1)
    one = stream[0].support
    first = one.take(slice(10))
    replayed = ExperienceReplay(net(), lr=0.1).adapt(first)
    tuned = FineTuning(net(), lr=0.1).adapt(first)
    for name, value in tuned.items():
        torch.testing.assert_close(value, replayed.params[name])


def test_fine_tuning_is_pytorchs_sgd():
    examples = DIGITS.stream(1)[0].support
    learned = FineTuning(net(), lr=0.1, batch_size=16, epochs=2).adapt(examples)
    other = net()
    sgd = torch.optim.SGD(other.parameters(), 0.1)
    for _ in range(2):
        for x, y in zip(examples.x.split(16), examples.y.split(16), strict=True):
            sgd.zero_grad()
            nn.functional.cross_entropy(other(x), y).backward()
            sgd.step()
    for name, value in other.named_parameters():
        torch.testing.assert_close(learned[name], value)


def test_a_stream_may_be_cut_anywhere():
    """Of learners that know no boundaries: two pieces are the whole, where mini-batches fit."""
    examples = DIGITS.stream(1)[0].support
    first, second = (examples.take(part) for part in (slice(20), slice(20, None)))
    learners: list[Learner[Any]] = [FineTuning(net()), ExperienceReplay(net(), memory_size=25)]
    for learner in learners:
        whole = learner.adapt(examples)
        pieces = learner.adapt(second, learner.adapt(first))
        for a, b in zip(leaves(whole), leaves(pieces), strict=True):
            torch.testing.assert_close(a, b)


def test_joint_training_is_of_everything_whatever_the_order_of_learning():
    stream = DIGITS.stream(1)
    learner = Joint(net(), lr=0.1)
    state = learner.adapt(stream[1].support, learner.adapt(stream[0].support))
    both = Examples.cat(stream[0].support, stream[1].support)
    for name, value in learner.adapt(both).params.items():
        torch.testing.assert_close(value, state.params[name])


def test_an_interrupted_evaluation_goes_on(tmp_path: Path):
    learner = ExperienceReplay(net(), lr=0.1, memory_size=20)
    whole = evaluate_stream(learner, DIGITS, n_tasks=2)
    calls = 0

    def stop(report: StreamReport) -> None:
        nonlocal calls
        calls += 1
        if calls in (3, 8):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            evaluate_stream(learner, DIGITS, n_tasks=2, folder=tmp_path, progress=stop)
    found = evaluate_stream(learner, DIGITS, n_tasks=2, folder=tmp_path)
    torch.testing.assert_close(found.matrix, whole.matrix, equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(found.bytes, whole.bytes)
    with pytest.raises(CheckpointError, match="choose another folder"):
        evaluate_stream(learner, DIGITS, n_tasks=2, folder=tmp_path, seed=5)
    file = tmp_path / "stream-1.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        evaluate_stream(learner, DIGITS, n_tasks=2, folder=tmp_path)


def test_a_report_is_json_and_pictures():
    import matplotlib.pyplot as plt

    found = evaluate_stream(Recites(TABLE), [iter(recited(TABLE)), recited(TABLE)])
    again = StreamReport.from_json(json.loads(json.dumps(found.to_json())))
    torch.testing.assert_close(again.matrix, found.matrix, equal_nan=True)
    assert again.card == found.card
    figure, axes = plt.subplots(1, 2)
    again.plot(axes[0], 1)
    again.plot_forgetting(axes[1], 1)
    assert axes[0].images[0].get_array().shape == (4, 3)
    plt.close(figure)


def test_as_the_judge_of_a_recipe():
    report = stream_report(
        PrototypicalNetwork(nn.Flatten()),
        DIGITS,
        n_tasks=2,
        meta_batch_size=50,
        seed=1,
        metrics=None,
    )
    assert report.card["tasks"] == "class-incremental"
    assert report.card["streams"] == 2
    assert len(report.values["accuracy"]) == 2


def test_permuted_features_are_forgotten():
    streams = Streams(partial(permuted, TRAIN, TEST, tasks=4, examples=500))
    found = evaluate_stream(FineTuning(net(), lr=0.1), streams, n_tasks=1).matrix[0]
    assert (found[1:].diagonal() > 0.45).all()
    assert found[-1, 0] < found[1, 0] - 0.1


def test_nothing_to_follow_is_said():
    with pytest.raises(ValueError, match="at least 1"):
        evaluate_stream(Recites(TABLE), DIGITS, n_tasks=0)
    with pytest.raises(ValueError, match="one metric"):
        evaluate_stream(Recites(TABLE), DIGITS, metrics={})


def test_streams_of_one_size_are_followed_at_once_with_the_same_result(tmp_path: Path):
    streams = Streams(partial(permuted, TRAIN, TEST, tasks=3, examples=40))
    learner = ExperienceReplay(net(), memory_size=20)
    alone = evaluate_stream(learner, streams, n_tasks=3, meta_batch_size=1)
    together = evaluate_stream(learner, streams, n_tasks=3, meta_batch_size=2, folder=tmp_path)
    torch.testing.assert_close(together.matrix, alone.matrix)
    torch.testing.assert_close(together.bytes, alone.bytes)
    assert together.card == alone.card
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "stream-3.safetensors",
        "streams-1-2.safetensors",
    ]
    again = evaluate_stream(learner, streams, n_tasks=3, meta_batch_size=2, folder=tmp_path)
    torch.testing.assert_close(again.matrix, together.matrix)


def test_later_passes_draw_other_examples_each_time(monkeypatch: pytest.MonkeyPatch):
    """Two steps with one draw would see the same past."""
    from quickstudy.learners.lifelong import dark_experience_replay, experience_replay

    drawn: list[tuple[int, int]] = []

    def noting(buffer: Any, size: int, *, salt: int) -> Any:
        drawn.append((int(buffer.seen), salt))
        return sample(buffer, size, salt=salt)

    examples = DIGITS.stream(1)[0].support
    for module, learner in (
        (experience_replay, ExperienceReplay(net(), epochs=5)),
        (dark_experience_replay, DarkExperienceReplay(net(), epochs=5)),
    ):
        monkeypatch.setattr(module, "sample", noting)
        drawn.clear()
        learner.adapt(examples)
        assert len(drawn) >= 30
        assert len(set(drawn)) == len(drawn)
