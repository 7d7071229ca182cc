"""Threads that use one learner answer as one thread does, and change nothing."""

import functools
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core.replicas import evaluation_copy, replica
from quickstudy.core.threads import FORKED_RANDOM_STATE, MATH_ATTENTION, seeded
from quickstudy.evaluation.protocol import evaluating
from quickstudy.testing.learners import Blobs, Lines

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 8)).astype("f4"), np.arange(40) % 4
QUERIES = RNG.normal(size=(50, 8)).astype("f4")


def net(outputs: int = 16) -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
    return nn.Sequential(body, nn.Linear(16, outputs))


class Draws(qs.Learner[Tensor]):
    """Predicts random numbers, so only the seed decides."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def adapt(self, support: qs.Examples, state: Any = None) -> Tensor:
        return support.y.sum(0)

    def predict(self, state: Tensor, x: Tensor) -> Tensor:
        return self.scale * torch.rand(len(x), len(state))


LEARNERS: dict[str, Callable[[], qs.Learner[Any]]] = {
    "prototypes": lambda: qs.PrototypicalNetwork(net()),
    "MAML": lambda: qs.MAML(net(4), lr=0.1, steps=2),
    "R2D2": lambda: qs.R2D2(net()),
    "draws": Draws,
}


def in_threads(*calls: Callable[[], Any], repeats: int = 10) -> list[list[Any]]:
    """Return the results of calls, each repeated in a thread of its own; all start at once."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> list[Any]:
        start.wait()
        return [call() for _ in range(repeats)]

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def snapshot(learner: nn.Module) -> tuple[dict[str, Tensor], list[bool], Tensor, bool, bool]:
    return (
        {name: value.clone() for name, value in learner.state_dict().items()},
        [module.training for module in learner.modules()],
        torch.get_rng_state(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
    )


def assert_unchanged(learner: nn.Module, before: Any) -> None:
    tensors, modes, random, *flags = snapshot(learner)
    assert all(torch.equal(value, before[0][name]) for name, value in tensors.items())
    assert modes == before[1]
    assert torch.equal(random, before[2])
    assert tuple(flags) == before[3:]


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("estimator", [qs.FewShotClassifier, qs.LifelongClassifier])
def test_predictions(name: str, estimator: Callable[..., Any]) -> None:
    base = LEARNERS[name]().train()
    model = estimator(base, random_state=0).fit(X, Y)
    right, before = model.predict_proba(QUERIES), snapshot(base)
    for answers in in_threads(*[lambda: model.predict_proba(QUERIES)] * 4):
        for answer in answers:
            np.testing.assert_allclose(answer, right, atol=1e-6)
    assert_unchanged(base, before)


def test_a_prediction_leaves_the_numbers_of_another_thread_alone() -> None:
    model = qs.FewShotClassifier(qs.PrototypicalNetwork(net())).fit(X, Y)
    torch.manual_seed(0)
    right = torch.stack([torch.rand(3) for _ in range(200)])
    torch.manual_seed(0)
    drawn, _ = in_threads(lambda: torch.rand(3), lambda: model.predict(QUERIES), repeats=200)
    assert torch.equal(torch.stack(drawn), right)


def test_regressors_and_verifiers() -> None:
    base = qs.RidgeRegression(net())
    regressor = qs.FewShotRegressor(base).fit(X, X[:, 0])
    other = qs.triplet_siamese(net())
    verifier = qs.FewShotVerifier(other).fit(X, Y)
    values, scores = regressor.predict(QUERIES), verifier.decision_function(X[:20], X[20:])
    before = snapshot(base), snapshot(other)
    calls = [
        lambda: regressor.predict(QUERIES),
        lambda: verifier.decision_function(X[:20], X[20:]),
    ]
    for answers, right in zip(in_threads(*calls, *calls), [values, scores] * 2, strict=True):
        for answer in answers:
            np.testing.assert_allclose(answer, right, atol=1e-5)
    assert_unchanged(base, before[0])
    assert_unchanged(other, before[1])


@pytest.mark.parametrize("name", LEARNERS)
def test_fits_that_share_a_base(name: str) -> None:
    base = LEARNERS[name]().train()
    labels = [Y, Y[::-1].copy(), np.roll(Y, 1)]

    def answers(y: np.ndarray) -> np.ndarray:
        model = qs.FewShotClassifier(base, random_state=0).fit(X, y)
        return model.predict_proba(QUERIES)

    right, before = [answers(y) for y in labels], snapshot(base)
    calls = [functools.partial(answers, y) for y in labels]
    for found, expected in zip(in_threads(*calls), right, strict=True):
        for answer in found:
            np.testing.assert_allclose(answer, expected, atol=1e-6)
    assert_unchanged(base, before)


def test_an_evaluation_beside_predictions() -> None:
    torch.manual_seed(0)
    base = qs.PrototypicalNetwork(qs.nets.Conv4(channels=4, pool="stride")).train()
    tasks = qs.FewShot(qs.datasets.digits(size=16), ways=3, shots=2, queries=3)
    images = qs.datasets.digits(size=16).x.numpy()
    model = qs.FewShotClassifier(base).fit(images[:30], np.arange(30) % 3)

    def evaluation() -> Tensor:
        return qs.evaluate(base, tasks, n_tasks=6, meta_batch_size=3).values["accuracy"]

    def prediction() -> np.ndarray:
        return model.predict_proba(images[30:50])

    right, before = (evaluation(), prediction()), snapshot(base)
    strides = [p.stride() for p in base.parameters()]
    runs = in_threads(evaluation, prediction, evaluation, prediction, repeats=4)
    for answers, expected in zip(runs, right * 2, strict=True):
        for answer in answers:
            np.testing.assert_allclose(answer, expected, atol=1e-6)
    assert_unchanged(base, before)
    assert [p.stride() for p in base.parameters()] == strides


def test_an_evaluation_does_not_undo_a_step_of_an_optimizer() -> None:
    learner = qs.PrototypicalNetwork(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()))
    tasks = qs.FewShot(qs.datasets.digits(), ways=3, shots=1, queries=1)

    def step(done: int) -> None:
        with torch.no_grad():
            for p in learner.parameters():
                p.add_(1)

    before = [p.detach().clone() for p in learner.parameters()]
    qs.evaluate(learner, tasks, n_tasks=2, meta_batch_size=1, progress=step)
    for p, old in zip(learner.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old + 2)


def test_streams_and_traces_leave_a_learner_as_it_was() -> None:
    learner = qs.MAML(
        nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), steps=2
    )
    before = snapshot(learner.train())
    calls = [
        lambda: qs.evaluation.adaptation_trace(learner, Blobs(), n_tasks=2, meta_batch_size=2),
        lambda: qs.evaluate(learner, Blobs(), n_tasks=4),
    ]
    in_threads(*calls, *calls, repeats=2)
    assert learner.steps == 2
    assert_unchanged(learner, before)


def test_a_library_is_read_by_several_threads(tmp_path: Path) -> None:
    learner = qs.MAML(net(3), lr=0.1, steps=2).train()
    batch = Blobs().sample(3, torch.Generator().manual_seed(0))
    supports = [qs.Examples(*(leaf[i] for leaf in batch.support)) for i in range(3)]
    library = qs.MappingLibrary(tmp_path, learner)
    for number, support in enumerate(supports):
        library.add(str(number), support)
    right, before = [library.attention(support) for support in supports], snapshot(learner)
    calls = [functools.partial(library.attention, support) for support in supports]
    for answers, expected in zip(in_threads(*calls), right, strict=True):
        for answer in answers:
            assert [name for name, _ in answer] == [name for name, _ in expected]
            np.testing.assert_allclose(
                [s for _, s in answer], [s for _, s in expected], atol=1e-5
            )
    assert_unchanged(learner, before)


def test_threads_that_open_a_lifelong_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    right = qs.LifelongClassifier(path=path).fit(X, Y).predict(QUERIES)
    for _ in range(5):
        model = qs.LifelongClassifier(path=path)
        for answers in in_threads(*[lambda m=model: m.predict(QUERIES)] * 4, repeats=1):
            np.testing.assert_array_equal(answers[0], right)


def test_settings_of_the_process_are_restored_by_the_last_thread() -> None:
    before = torch.backends.cuda.flash_sdp_enabled()
    MATH_ATTENTION.__enter__()
    with MATH_ATTENTION:
        assert not torch.backends.cuda.flash_sdp_enabled()
    assert not torch.backends.cuda.flash_sdp_enabled()
    MATH_ATTENTION.__exit__()
    assert torch.backends.cuda.flash_sdp_enabled() == before
    random = torch.get_rng_state()
    with FORKED_RANDOM_STATE, FORKED_RANDOM_STATE, seeded(0):
        torch.rand(1)
    assert torch.equal(torch.get_rng_state(), random)


class Merges(nn.Linear):
    """Writes to its weight in `train`, as low-rank adapters do that merge."""

    merged = False

    def train(self, mode: bool = True) -> "Merges":
        super().train(mode)
        if not mode and not self.merged:
            self.weight.data += 1
            self.merged = True
        return self

    def forward(self, input: Tensor) -> Tensor:
        added = 0 if self.merged else input.sum(-1, keepdim=True)
        return super().forward(input) + added


class RefersToItself(nn.Module):
    """Its hooks, bound methods and containers lead to its own modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.call, self.parts = functools.partial(self.through), [self.norm, {"a": self.a}]
        self.a.register_forward_hook(self.hook)

    def hook(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return self.norm(output)

    def through(self, x: Tensor) -> Tensor:
        return self.norm(self.a(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x) + self.parts[0](x) + self.parts[1]["a"](x)


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(8, 8))


def compiled_in_place() -> nn.Module:
    module = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    module.compile(backend="eager")
    return module


def script() -> Any:
    traced: Any = torch.jit.trace(net().eval(), torch.zeros(2, 8))
    return traced.train()


SHARED = nn.Linear(8, 8)
NETS: dict[str, Callable[[], nn.Module]] = {
    "plain": net,
    "tied": lambda: nn.Sequential(SHARED, nn.BatchNorm1d(8), SHARED),
    "merges": lambda: Merges(8, 8),
    "refers to itself": RefersToItself,
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
    "old weight norm": old_weight_norm,
    "traced": lambda: torch.fx.symbolic_trace(
        nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    ),
    "script": script,
    "compiled": lambda: torch.compile(net(), backend="eager"),  # pyright: ignore
    "compiled in place": compiled_in_place,
    "encoder": lambda: nn.TransformerEncoderLayer(8, 2, batch_first=True),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_copy_computes_what_the_net_does_in_evaluation_mode(name: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(NETS[name](), nn.Dropout()).train()
    x = torch.randn(5, 1, 8) if name == "encoder" else torch.randn(5, 8)
    before = snapshot(module)
    with torch.no_grad():
        found = evaluation_copy(module)(x)
    assert_unchanged(module, before)
    with torch.no_grad():
        torch.testing.assert_close(found, module.eval()(x), rtol=1e-5, atol=1e-6)


def test_a_copy_shares_tensors_and_nothing_else() -> None:
    module = net()
    other = replica(module)
    assert all(a is b for a, b in zip(module.parameters(), other.parameters(), strict=True))
    assert not {id(part) for part in module.modules()} & {id(part) for part in other.modules()}
    other.get_submodule("1")._parameters["weight"] = None
    other.register_forward_hook(lambda *_: None)
    assert module.get_parameter("1.weight") is not None and not module._forward_hooks


class Remembers(nn.Module):
    """Counts calls, and keeps what it computes in the first of them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.modes, self.scale = 0, list[bool](), None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.modes.append(self.training)
        self.scale = 2.0 if self.scale is None else self.scale
        return self.scale * x


def test_what_a_net_keeps_for_itself_is_kept() -> None:
    module = Remembers()
    learner = qs.PrototypicalNetwork(module)
    model = qs.FewShotClassifier(learner).fit(X, Y)
    calls = module.calls
    model.predict(QUERIES)
    assert module.calls == calls + 1 and module.scale == 2.0
    assert set(module.modes) == {False} and len(module.modes) == module.calls
    assert module.training


def test_evaluating_yields_a_copy() -> None:
    learner = qs.PrototypicalNetwork(net()).train()
    with evaluating(learner) as copy:
        assert learner.training and not copy.training
        assert isinstance(copy, qs.PrototypicalNetwork)


def test_rollouts_are_those_of_the_learner_in_evaluation_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modes, act = set[bool](), qs.RL2.act

    def recorded(learner: qs.RL2, *inputs: Any) -> Any:
        modes.add(learner.training)
        return act(learner, *inputs)

    monkeypatch.setattr(qs.RL2, "act", recorded)
    bandit = qs.environments.BernoulliBandit(arms=2)
    learner = qs.RL2(bandit, hidden=4).train()
    tasks = qs.tasks.Rollouts(bandit, learner, episodes=3, trial=True)
    qs.evaluation.evaluate_rollouts(learner, tasks, n_tasks=4)
    assert modes == {False}
    assert learner.training and tasks.learner is learner


@pytest.mark.parametrize("name", ["prototypes", "MAML", "R2D2"])
def test_a_learner_whose_methods_threads_call(name: str) -> None:
    learner = LEARNERS[name]().train()
    classifier = qs.FewShotClassifier(learner).fit(X, Y)
    labels = [Y, Y[::-1].copy(), np.roll(Y, 1)]
    examples = [
        qs.Examples(torch.tensor(X), torch.eye(4)[torch.tensor(y)], torch.ones(40))
        for y in labels
    ]

    def answer(support: qs.Examples) -> np.ndarray:
        with evaluating(learner) as copy:
            return copy.predict(copy.adapt(support), torch.tensor(QUERIES)).numpy()

    right = [answer(support) for support in examples] + [classifier.predict_proba(QUERIES)]
    before = snapshot(learner)
    calls = [functools.partial(answer, support) for support in examples]
    runs = in_threads(*calls, lambda: classifier.predict_proba(QUERIES), repeats=20)
    for answers, expected in zip(runs, right, strict=True):
        for found in answers:
            np.testing.assert_allclose(found, expected, atol=1e-5)
    assert_unchanged(learner, before)


@pytest.mark.parametrize("name", ["prototypes", "MAML", "R2D2"])
def test_one_learner_that_threads_call_directly(name: str) -> None:
    learner = LEARNERS[name]().eval()
    x = torch.tensor(QUERIES)
    examples = [
        qs.Examples(torch.tensor(X), torch.eye(4)[torch.tensor(y)], torch.ones(40))
        for y in (Y, Y[::-1].copy(), np.roll(Y, 1))
    ]

    def answer(support: qs.Examples) -> Tensor:
        return learner.predict(learner.adapt(support), x).detach()

    right = [answer(support) for support in examples]
    before = snapshot(learner)
    runs = in_threads(*[functools.partial(answer, e) for e in examples], repeats=40)
    for answers, expected in zip(runs, right, strict=True):
        for found in answers:
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert_unchanged(learner, before)


def test_lines_in_threads() -> None:
    learner = qs.MAML(qs.nets.MLP(1, 1), criterion=qs.squared_error, steps=1)
    right = qs.evaluate(learner, Lines(), n_tasks=4).values["squared_error"]
    for answers in in_threads(
        *[lambda: qs.evaluate(learner, Lines(), n_tasks=4)] * 3, repeats=3
    ):
        for report in answers:
            torch.testing.assert_close(report.values["squared_error"], right)
