"""A folder of `evaluate_stream` continues the same call, and refuses every other."""

import functools
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core.criteria import accuracy
from quickstudy.evaluation.stream_measures import StreamReport
from quickstudy.storage import CheckpointError
from quickstudy.storage.fingerprint import fingerprint
from quickstudy.tasks import Streams, class_incremental, permuted

TRAIN, TEST = qs.datasets.split_examples(qs.datasets.digits(), 0.7)
STREAMS = Streams(partial(class_incremental, TRAIN, TEST, examples=6))


def learner(hidden: int = 8, seed: int = 0, **settings: Any) -> qs.Learner[Any]:
    torch.manual_seed(seed)
    return qs.FineTuning(
        nn.Sequential(nn.Flatten(), qs.nets.MLP(64, 10, hidden=(hidden,))), **settings
    )


def evaluate(model: qs.Learner[Any], streams: Any = STREAMS, **settings: Any) -> StreamReport:
    return qs.evaluation.evaluate_stream(model, streams, **{"n_tasks": 2, **settings})


def half_accuracy(logits: Tensor, examples: qs.Examples) -> Tensor:
    return accuracy(logits, examples) / 2


def scaled_accuracy(logits: Tensor, examples: qs.Examples, *, factor: float) -> Tensor:
    return accuracy(logits, examples) * factor


def closure(factor: float) -> Callable[[Tensor, qs.Examples], Tensor]:
    def metric(logits: Tensor, examples: qs.Examples) -> Tensor:
        return accuracy(logits, examples) * factor

    return metric


class Scaled:
    def __init__(self, factor: float):
        self.factor = factor

    def __call__(self, logits: Tensor, examples: qs.Examples) -> Tensor:
        return accuracy(logits, examples) * self.factor


def frozen() -> qs.Learner[Any]:
    model = learner()
    next(model.parameters()).requires_grad_(False)
    return model


def with_dropout() -> qs.Learner[Any]:
    model = learner()
    net = model.get_submodule("net")
    assert isinstance(net, nn.Sequential)
    net.append(nn.Hardtanh(-9, 9))
    return model


OTHERS: dict[str, Callable[[Path | None], StreamReport]] = {
    "rate": lambda folder: evaluate(learner(lr=1e-6), folder=folder),
    "width": lambda folder: evaluate(learner(hidden=16), folder=folder),
    "weights": lambda folder: evaluate(learner(seed=1), folder=folder),
    "frozen parameter": lambda folder: evaluate(frozen(), folder=folder),
    "further layer": lambda folder: evaluate(with_dropout(), folder=folder),
    "criterion": lambda folder: evaluate(
        learner(criterion=partial(qs.cross_entropy)), folder=folder
    ),
    "class": lambda folder: evaluate(qs.Joint(learner().get_submodule("net")), folder=folder),
    "metric": lambda folder: evaluate(
        learner(), metrics={"accuracy": half_accuracy}, folder=folder
    ),
    "name of the metric": lambda folder: evaluate(
        learner(), metrics={"share": accuracy}, folder=folder
    ),
    "every": lambda folder: evaluate(learner(), every=2, folder=folder),
    "known task": lambda folder: evaluate(learner(), task_incremental=True, folder=folder),
    "seed": lambda folder: evaluate(learner(), seed=3, folder=folder),
    "selection": lambda folder: evaluate(learner(), selection="best", folder=folder),
    "other streams": lambda folder: evaluate(
        learner(), Streams(partial(class_incremental, TRAIN, TEST, examples=7)), folder=folder
    ),
    "streams that do not say so": lambda folder: evaluate(
        learner(), [list(STREAMS.stream(3)), list(STREAMS.stream(4))], folder=folder
    ),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    evaluate(learner(), folder=folder)
    return folder


@pytest.mark.parametrize("name", OTHERS)
def test_another_call_is_refused(name: str, stored: Path):
    before = {file.name: file.read_bytes() for file in stored.iterdir()}
    with pytest.raises(CheckpointError, match="choose another folder"):
        OTHERS[name](stored)
    assert {file.name: file.read_bytes() for file in stored.iterdir()} == before


def test_the_same_call_gets_the_same_numbers_and_learns_nothing(
    stored: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = evaluate(learner())

    def adapt(*_: Any) -> Any:
        raise AssertionError("it learned")

    monkeypatch.setattr(qs.FineTuning, "adapt", adapt)
    monkeypatch.setattr("quickstudy.evaluation.stream_loop.is_transductive", adapt)
    found = evaluate(learner().eval(), folder=stored)
    assert found.matrix.equal(expected.matrix)
    assert found.every == expected.every == 1


def test_streams_of_equal_cards_are_told_apart_by_what_they_hold(tmp_path: Path):
    streams = [list(STREAMS.stream(1))]
    evaluate(learner(), streams, folder=tmp_path)
    evaluate(learner(), [list(STREAMS.stream(1))], folder=tmp_path)
    task = streams[0][-1]
    other = task._replace(query=task.query._replace(x=task.query.x.flip(0)))
    with pytest.raises(CheckpointError, match="another streams"):
        evaluate(learner(), [[*streams[0][:-1], other]], folder=tmp_path)


def test_a_card_of_tuples_is_the_same_card(tmp_path: Path):
    class Carded(Streams):
        def card(self) -> dict[str, Any]:
            return {**super().card(), "shape": (8, 8)}

    streams = Carded(STREAMS.make)
    first = evaluate(learner(), streams, n_tasks=1, folder=tmp_path)
    again = evaluate(learner(), streams, n_tasks=1, folder=tmp_path)
    assert again.matrix.equal(first.matrix)


def test_scores_after_every_zeroth_experience_are_refused():
    with pytest.raises(ValueError, match="every=0"):
        evaluate(learner(), every=0)


METRICS: dict[str, Callable[[float], Callable[[Tensor, qs.Examples], Tensor]]] = {
    "partial": lambda factor: partial(scaled_accuracy, factor=factor),
    "closure": closure,
    "object": Scaled,
    "method": lambda factor: Scaled(factor).__call__,
    "lambda with a default": lambda factor: (
        lambda logits, examples, f=factor: accuracy(logits, examples) * f
    ),
}


@pytest.mark.parametrize("kind", METRICS)
def test_a_metric_is_what_it_holds(kind: str, tmp_path: Path):
    def run(factor: float) -> StreamReport:
        metrics = {"share": METRICS[kind](factor)}
        return evaluate(learner(), n_tasks=1, metrics=metrics, folder=tmp_path)

    first = run(1.0)
    assert run(1.0).matrix.equal(first.matrix)
    with pytest.raises(CheckpointError, match="another metric"):
        run(0.5)


def test_two_lambdas_of_other_code_are_two_metrics(tmp_path: Path):
    metrics = {"share": lambda logits, examples: accuracy(logits, examples)}
    evaluate(learner(), n_tasks=1, metrics=metrics, folder=tmp_path)
    metrics = {"share": lambda logits, examples: accuracy(logits, examples) / 2}
    with pytest.raises(CheckpointError, match="another metric"):
        evaluate(learner(), n_tasks=1, metrics=metrics, folder=tmp_path)


def test_a_method_that_was_edited_makes_another_learner(tmp_path: Path):
    def defined(sign: int) -> qs.Learner[Any]:
        source = f"""
class Edited(base):
    def predict(self, state, x):
        return {sign} * super().predict(state, x)
"""
        names: dict[str, Any] = {"base": qs.FineTuning, "__name__": "__main__"}
        exec(source, names)
        torch.manual_seed(0)
        return names["Edited"](nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))

    evaluate(defined(1), n_tasks=1, folder=tmp_path)
    evaluate(defined(1), n_tasks=1, folder=tmp_path)
    with pytest.raises(CheckpointError, match="another learner"):
        evaluate(defined(-1), n_tasks=1, folder=tmp_path)


def test_what_cannot_be_recognised_is_refused(tmp_path: Path):
    with (
        (tmp_path / "log").open("w") as file,
        pytest.raises(CheckpointError, match="cannot be recognised"),
    ):
        evaluate(
            learner(),
            metrics={"share": lambda logits, examples, log=file: accuracy(logits, examples)},
            folder=tmp_path,
        )


def test_iterators_are_refused_where_they_would_have_to_be_read_twice(tmp_path: Path):
    def generate() -> Iterator[qs.Task]:
        yield from STREAMS.stream(1)

    with pytest.raises(ValueError, match="give a list of tasks"):
        evaluate(learner(), [generate()], folder=tmp_path)
    assert not list(tmp_path.iterdir())
    assert evaluate(learner(), [generate()]).report.mean("accuracy") > 0


class Generated:
    """An iterable that can be read again, and has no length."""

    def __iter__(self) -> Iterator[qs.Task]:
        yield from STREAMS.stream(1)


def test_what_can_be_read_again_continues_to_the_same_numbers(tmp_path: Path):
    def stop(report: StreamReport) -> None:
        if int((~report.seconds.isnan()).sum()) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(learner(), [Generated()], folder=tmp_path, progress=stop)
    resumed = evaluate(learner(), [Generated()], folder=tmp_path)
    torch.testing.assert_close(
        resumed.matrix, evaluate(learner(), [Generated()]).matrix, equal_nan=True
    )


class Noisy(qs.FineTuning):
    """Draws from torch's generator as it learns and predicts."""

    def adapt(self, support: qs.Examples, state: Any = None) -> Any:
        params = super().adapt(support, state)
        return {name: p + 0.1 * torch.randn_like(p) for name, p in params.items()}

    def predict(self, state: Any, x: Tensor) -> Tensor:
        return super().predict(state, x) + 0.1 * torch.randn(len(x), 1)


def test_noise_resumes_too(tmp_path: Path):
    torch.manual_seed(0)
    model = Noisy(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    whole = evaluate(model)
    calls = 0

    def stop(report: StreamReport) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, folder=tmp_path, progress=stop)
    torch.manual_seed(123)
    assert evaluate(model, folder=tmp_path).matrix.equal(whole.matrix)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_are_refused(seed: int, tmp_path: Path):
    """Cut short, or with bytes changed, swapped, zeroed or inserted."""
    one = Streams(partial(permuted, TRAIN, TEST, tasks=2, examples=6))
    model = qs.PrototypicalNetwork(nn.Flatten())
    expected = evaluate(model, one, n_tasks=1, folder=tmp_path)
    (file,) = tmp_path.iterdir()
    data, rng = file.read_bytes(), random.Random(seed)
    header = 8 + int.from_bytes(data[:8], "little")
    for _ in range(60):
        place = rng.randrange(header if rng.random() < 0.5 else len(data))
        damaged = rng.choice(
            [
                data[:place],
                data[:place]
                + bytes([data[place] ^ (1 << rng.randrange(8))])
                + data[place + 1 :],
                data[:place] + b"\0" * min(16, len(data) - place) + data[place + 16 :],
                data[:place] + rng.randbytes(4) + data[place:],
                data[:place] + data[place + 1 :],
            ]
        )
        if damaged == data:
            continue
        file.write_bytes(damaged)
        try:
            found = evaluate(model, one, n_tasks=1, folder=tmp_path)
        except CheckpointError as error:
            assert str(file) in str(error)
        else:
            raise AssertionError(
                f"{place} of {len(data)}: {found.matrix} for {expected.matrix}"
            )
    file.write_bytes(data)
    assert evaluate(model, one, n_tasks=1, folder=tmp_path).matrix.equal(expected.matrix)


PROGRAM = """
import torch
from functools import partial
from torch import nn
import quickstudy as qs
from quickstudy.storage.fingerprint import fingerprint
torch.manual_seed(0)
net = nn.Sequential(nn.Flatten(), nn.LSTM(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
criterion = lambda logits, examples: logits.sum() * 2 + {1: 2, "a": {3, 4}}[1]
learner = qs.MAML(net, criterion=criterion)
print(fingerprint((learner, partial(criterion, None), torch.relu, torch.float64, {"x", "y"})))
"""


def test_a_fingerprint_is_the_same_in_every_process():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1


def test_a_fingerprint_of_objects_that_hold_each_other():
    first, second = Scaled(1.0), Scaled(2.0)
    first.other, second.other = second, first  # pyright: ignore[reportAttributeAccessIssue]
    assert fingerprint(first) != fingerprint(second)
    assert fingerprint([first, first]) != fingerprint([first, second])


SCALE = 1.0


def global_scale(x: Tensor) -> Tensor:
    return x * SCALE


def user_class(**attributes: Any) -> type[Any]:
    return type("Net", (nn.Module,), {"__module__": __name__, **attributes})


def returns(value: float) -> Callable[..., float]:
    return eval(f"lambda *_: {value}")


KINDS_OF_ATTRIBUTES: dict[str, Callable[[float], Any]] = {
    "constant": lambda value: value,
    "property": lambda value: property(returns(value)),
    "cached property": lambda value: functools.cached_property(returns(value)),
    "static method": lambda value: staticmethod(returns(value)),
    "class method": lambda value: classmethod(returns(value)),
    "method": returns,
    "partial method": lambda value: functools.partialmethod(returns(0.0), value),
}


@pytest.mark.parametrize("kind", KINDS_OF_ATTRIBUTES)
def test_a_class_counts_by_all_its_attributes(kind: str) -> None:
    make = KINDS_OF_ATTRIBUTES[kind]
    one, same, other = (user_class(scale=make(value))() for value in (1.0, 1.0, 2.0))
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)


def test_global_constants_count(monkeypatch: pytest.MonkeyPatch) -> None:
    nested = lambda: [global_scale(torch.ones(1))]  # noqa: E731
    before = fingerprint(global_scale), fingerprint(nested)
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    after = fingerprint(global_scale), fingerprint(nested)
    assert before[0] != after[0] and before[1] != after[1]
    monkeypatch.undo()
    assert (fingerprint(global_scale), fingerprint(nested)) == before
