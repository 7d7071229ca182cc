"""The library's workers: one core each, the caller's state of PyTorch, and nothing that another
thread of the caller's can see."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import quickstudy as qs
from quickstudy import runs
from quickstudy.core.workers import cores, on_cores, spread
from quickstudy.execution import choosing
from quickstudy.execution.choosing import choose, option_of
from quickstudy.testing.learners import Blobs


@pytest.fixture(autouse=True)
def two_cores() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def images(ways: int = 3) -> qs.FewShot:
    return qs.FewShot(qs.datasets.digits(size=28), ways=ways, shots=1, queries=2)


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(676, 8)
    )


def test_a_worker_has_one_core_and_knows_those_of_its_caller() -> None:
    assert on_cores(torch.get_num_threads) == 1
    assert on_cores(cores) == 2
    assert spread([torch.get_num_threads] * 3) == [1, 1, 1]
    assert on_cores(lambda: spread([cores, cores])) == [2, 2]
    assert on_cores(lambda: spread([lambda: spread([cores, cores])] * 2)) == [[2, 2]] * 2
    assert on_cores(torch.get_num_threads, 2) == 2


def test_the_state_of_the_caller_is_that_of_the_worker() -> None:
    caller = threading.get_ident()
    assert on_cores(threading.get_ident) != caller
    with torch.no_grad():
        assert not on_cores(torch.is_grad_enabled)
    with torch.inference_mode():
        assert on_cores(torch.is_inference_mode_enabled)
    with torch.autocast("cpu", torch.bfloat16):
        assert on_cores(lambda: torch.ones(1, 1) @ torch.ones(1, 1)).dtype == torch.bfloat16
    with torch.device("meta"):
        assert on_cores(lambda: torch.ones(1)).is_meta
    assert on_cores(torch.is_grad_enabled)


def test_what_belongs_to_a_thread_stays_in_it() -> None:
    def here() -> bool:
        return threading.get_ident() == caller

    caller = threading.get_ident()
    with torch.profiler.profile():
        assert on_cores(here)
    with torch.autograd.graph.save_on_cpu():
        assert on_cores(here)
    torch.func.vmap(lambda x: x if on_cores(here) else 1 / 0)(torch.ones(1))


def test_errors_come_back() -> None:
    def fail() -> None:
        raise ZeroDivisionError("in a worker")

    with pytest.raises(ZeroDivisionError, match="in a worker"):
        on_cores(fail)
    with pytest.raises(ZeroDivisionError):
        spread([fail, lambda: None])


def test_an_interrupt_waits_for_what_has_begun() -> None:
    ended: list[bool] = []

    def work() -> None:
        time.sleep(0.3)
        ended.append(True)

    def interrupt() -> None:
        time.sleep(0.1)
        import _thread

        _thread.interrupt_main()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        on_cores(work)
    assert ended


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_workers_of_its_own() -> None:
    on_cores(cores)
    child = os.fork()
    if child == 0:
        os._exit(0 if on_cores(torch.get_num_threads) == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0


def watched(work: Callable[[], Any]) -> set[int]:
    """The numbers of intra-op threads that other threads read during `work`."""
    seen: set[int] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.add(torch.get_num_threads())
            fresh = threading.Thread(target=lambda: seen.add(torch.get_num_threads()))
            fresh.start()
            fresh.join()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        work()
    finally:
        stop.set()
        thread.join()
    return seen


def test_no_thread_sees_another_number_of_threads() -> None:
    learner = qs.PrototypicalNetwork(conv_net())
    learner.execution, learner.threads = "loop", 2
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)

    def work() -> None:
        for _ in qs.train(learner, images(), optimizer, steps=5, meta_batch_size=4):
            pass
        qs.evaluate(learner, images(), n_tasks=20, meta_batch_size=10)
        qs.FewShotClassifier(learner).fit(np.zeros((2, 1, 28, 28)), [0, 1])

    assert watched(work) == {2}
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("execution", ["vmap", "loop"])
def test_predictions_during_training(execution: Any) -> None:
    """The learning rate is zero, so the answers must not change."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(16, track_running_stats=False)
    net = nn.Sequential(nn.Linear(8, 16), norm, nn.ReLU(), nn.Linear(16, 3))
    learner = qs.MAML(net, lr=0.1, steps=2)
    learner.execution = execution
    x, y = np.random.default_rng(0).normal(size=(12, 8)), np.arange(12) % 3
    classifier = qs.FewShotClassifier(learner).fit(x, y)
    expected = classifier.predict_proba(x)
    answers: list[np.ndarray] = []
    stop = threading.Event()

    def predict() -> None:
        while not stop.is_set():
            answers.append(classifier.predict_proba(x))

    threads = [threading.Thread(target=predict) for _ in range(3)]
    for thread in threads:
        thread.start()
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.0)
    learner.train()
    try:
        for _ in qs.train(learner, Blobs(), optimizer, steps=40, meta_batch_size=4):
            pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(answers) > 10
    for answer in answers:
        np.testing.assert_allclose(answer, expected, atol=1e-6)
    assert all(isinstance(p, nn.Parameter) for p in learner.parameters())


def test_evaluations_are_equal_on_any_number_of_cores() -> None:
    learner = qs.PrototypicalNetwork(conv_net())
    both = qs.evaluate(learner, images(), n_tasks=15, meta_batch_size=5)
    torch.set_num_threads(1)
    one = qs.evaluate(learner, images(), n_tasks=15, meta_batch_size=5)
    assert torch.equal(both.values["accuracy"], one.values["accuracy"])


def test_a_learner_that_draws_is_evaluated_as_on_one_core() -> None:
    class Draws(qs.PrototypicalNetwork):
        def predict(self, state: Any, x: torch.Tensor) -> torch.Tensor:
            return super().predict(state, x + torch.randn_like(x))

    learner = Draws(conv_net())
    reports = []
    for number in (2, 1):
        torch.set_num_threads(number)
        reports.append(qs.evaluate(learner, images(), n_tasks=20, meta_batch_size=10))
    assert torch.equal(*[report.values["accuracy"] for report in reports])


def test_a_short_training_is_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    learner = qs.PrototypicalNetwork(conv_net())
    batch = images().sample(4, torch.Generator().manual_seed(0))
    assert choose(learner, batch, steps=20) == option_of(learner)
    assert (learner.execution, learner.threads) == ("loop", 2)
    assert "untimed" in capsys.readouterr().err


def test_timing_changes_nothing_but_the_execution(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    learner = qs.PrototypicalNetwork(net)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    random = torch.get_rng_state()
    batch = Blobs().sample(8, torch.Generator().manual_seed(0))
    chosen = choose(learner, batch, steps=100_000)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(v, before[name]) for name, v in learner.state_dict().items())
    assert chosen == option_of(learner)
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "tasks/s" in line and str(chosen) in line


def test_the_fastest_that_agrees_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ways that take a known time; one of them computes another loss."""
    seconds = {"vmap": 3.0, "vmap, 2 threads": 1.0, "loop": 2.0, "loop, 2 threads": 4.0}

    def outcome(learner: Any, batch: Any) -> list[torch.Tensor]:
        wrong = str(option_of(learner)) == "vmap, 2 threads"
        return [torch.full((2,), 5.0 if wrong else 1.0)]

    monkeypatch.setattr(choosing, "outcome", outcome)
    monkeypatch.setattr(
        choosing, "_seconds", lambda learner, _: seconds.get(str(option_of(learner)), 9.0)
    )
    learner = qs.PrototypicalNetwork(nn.Linear(8, 2))
    batch = Blobs().sample(4, torch.Generator().manual_seed(0))
    assert str(choose(learner, batch, steps=10_000)) == "loop"


def test_a_way_may_be_as_far_from_double_precision_as_the_first_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gradients before a normalisation cancel, so float32 has few digits of them."""
    numbers = {"vmap": 1.01, "vmap, 2 threads": 0.97, "loop": 1.1, "loop, 2 threads": 1.1}

    def outcome(learner: Any, batch: Any) -> list[torch.Tensor]:
        if next(learner.parameters()).dtype == torch.float64:
            return [torch.ones(2)]
        return [torch.full((2,), numbers.get(str(option_of(learner)), 1.1))]

    tried: list[str] = []
    monkeypatch.setattr(choosing, "outcome", outcome)
    monkeypatch.setattr(
        choosing, "_seconds", lambda learner, _: tried.append(str(option_of(learner))) or 1.0
    )
    learner = qs.PrototypicalNetwork(nn.Linear(8, 2))
    choose(learner, Blobs().sample(4, torch.Generator().manual_seed(0)), steps=10_000)
    assert set(tried) == {"vmap", "vmap, 2 threads"}


def test_a_learner_that_cannot_be_copied_is_trained_as_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    learner = qs.PrototypicalNetwork(nn.Linear(8, 2))
    learner.lock = threading.Lock()  # type: ignore[assignment]
    chosen = choose(learner, Blobs().sample(4, torch.Generator().manual_seed(0)), steps=10_000)
    assert str(chosen) == "vmap" and "untimed" in capsys.readouterr().err


def test_a_run_goes_on_in_its_way_in_the_same_process(tmp_path: Path) -> None:
    run = runs.start("glyphs_fomaml", {"steps": 3}, tmp_path)
    statuses = runs.go(run)
    next(statuses)
    statuses.close()
    assert run.execution is not None and run.execution["threads"] == 2


def test_random_learners_are_not_spread(capsys: pytest.CaptureFixture[str]) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 4), nn.Dropout(0.5))
    learner = qs.PrototypicalNetwork(nn.Sequential(nn.Conv2d(1, 1, 1), net))
    choose(learner, images().sample(4, torch.Generator().manual_seed(0)), steps=20)
    assert learner.threads == 1


def test_a_resumed_run_keeps_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(folder: Path, stop: int) -> list[float]:
        found = []
        for status in runs.go(runs.start("glyphs_fomaml", {"steps": 4, "seed": 3}, folder)):
            found.append(status.loss)
            if len(found) == stop:
                break
        return found

    whole = losses(tmp_path / "whole", 4)
    first = losses(tmp_path / "parts", 2)
    stored = runs.start("glyphs_fomaml", {"steps": 4, "seed": 3}, tmp_path / "parts").execution
    assert stored is not None and stored["threads"] == 2
    torch.set_num_threads(1)  # another machine
    monkeypatch.setattr(choosing, "choose", lambda *_: pytest.fail("chosen again"))
    assert first + losses(tmp_path / "parts", 2) == whole
