"""Memory: exact counts, gradients by chunks, and what limits are obeyed."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy import (
    MAML,
    Examples,
    PrototypicalNetwork,
    anil,
    cross_entropy,
    evaluate,
    plan,
    train,
)
from quickstudy.core.task import Checkpoint
from quickstudy.core.tree import tree_map
from quickstudy.execution.ram import parse, peak, ran_out, readable
from quickstudy.inner_loop.descent import adam, descend
from quickstudy.learners.gradient.cavia import CAVIA, ContextInput
from quickstudy.learners.gradient.meta_curvature import MetaCurvature
from quickstudy.learners.gradient.meta_sgd import MetaSGD
from quickstudy.learners.gradient.proto_maml import ProtoMAML
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

TASKS = Blobs().sample(7, torch.Generator().manual_seed(0))


def gradient(learner: nn.Module, weights: Tensor, tasks: Any = TASKS) -> list[Tensor]:
    torch.manual_seed(1)
    losses = learner(tasks)
    grads = torch.autograd.grad(losses @ weights, list(learner.parameters()))
    return [losses.detach(), *grads]


def test_the_peak_is_the_most_bytes_at_any_moment():
    def work() -> Tensor:
        a = torch.zeros(1000)
        b = a.exp()  # a and b: 8000 bytes
        del a
        return b

    assert peak(work, "cpu") == 8000
    assert peak(lambda: None, "cpu") == 0


def test_the_peak_counts_what_autograd_keeps():
    x = torch.ones(1000, requires_grad=True)
    kept = peak(lambda: x.exp().exp().exp(), "cpu")
    assert kept >= 3 * 4000
    with torch.no_grad():
        assert peak(lambda: x.exp().exp().exp(), "cpu") == 2 * 4000


@pytest.mark.parametrize(
    ("text", "size"), [("8GiB", 2**33), ("1.5 MB", 1_500_000), ("7k", 7000), (12, 12)]
)
def test_amounts_of_memory(text: Any, size: int):
    assert parse(text) == size


def test_what_is_no_amount_of_memory_is_refused():
    with pytest.raises(ValueError, match="write it as '8GiB'"):
        parse("much")
    assert readable(3 * 2**30) == "3 GiB"
    assert readable(3 * 2**19) == "1.5 MiB"


def test_which_errors_are_of_memory():
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory."))
    assert ran_out(RuntimeError("DefaultCPUAllocator: can't allocate memory: 7 bytes"))
    assert not ran_out(RuntimeError("a shape"))


LEARNERS: dict[str, Callable[[], Any]] = {
    "maml": lambda: MAML(MLP(8, 3, hidden=(5,)), lr=0.1, steps=2),
    "anil": lambda: anil(MLP(8, 3, hidden=(5,)), lr=0.1, steps=3, checkpoint="mixed"),
    "prototypical": lambda: PrototypicalNetwork(MLP(8, 4, hidden=(5,))),
    "dropout": lambda: MAML(
        nn.Sequential(nn.Linear(8, 6), nn.Dropout(0.3), nn.Linear(6, 3)), lr=0.1, steps=2
    ),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("execution", ["loop", "vmap"])
@pytest.mark.parametrize("name", ["maml", "anil", "prototypical"])
def test_chunks_change_no_gradient(name: str, execution: Any, weighted: bool, double: None):
    tasks = tree_map(lambda leaf: leaf.double(), TASKS)
    learner = LEARNERS[name]()
    learner.execution = execution
    weights = torch.rand(7) if weighted else torch.full((7,), 1 / 7)
    expected = gradient(learner, weights, tasks)
    for chunk in (1, 3, 7, 9):
        learner.chunk = chunk
        found = gradient(learner, weights, tasks)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_losses_that_count_differently_are_of_the_same_random_numbers():
    learner = LEARNERS["dropout"]()
    learner.chunk = 3
    ones = gradient(learner, torch.ones(7))
    nearly = gradient(learner, torch.ones(7) + torch.tensor([1e-5] + [0] * 6))  # by other means
    torch.testing.assert_close(nearly, ones, rtol=1e-3, atol=1e-4)


def test_chunks_of_a_learner_with_lent_parameters(double: None):
    tasks = tree_map(lambda leaf: leaf.double(), TASKS)
    learner = LEARNERS["maml"]()
    learner.chunk = 2
    params = dict(learner.named_parameters())
    scale = torch.ones((), requires_grad=True)
    for weights in (torch.ones(7), torch.rand(7)):
        lent = {name: scale * p.detach() for name, p in params.items()}
        losses = functional_call(learner, lent, (tasks,))
        (found,) = torch.autograd.grad(losses @ weights, scale)
        _, *grads = gradient(learner, weights, tasks)
        expected = sum((p * g).sum() for p, g in zip(params.values(), grads, strict=True))
        torch.testing.assert_close(found, expected)


def test_a_gradient_that_chunks_would_lose_is_refused():
    temperature = torch.ones((), requires_grad=True)

    def criterion(logits: Tensor, examples: Examples) -> Tensor:
        return cross_entropy(logits * temperature, examples)

    learner = MAML(MLP(8, 3), criterion=criterion)
    learner.chunk = 2
    with pytest.raises(ValueError, match="no parameter of the learner"):
        learner(TASKS)
    learner.chunk = None
    learner(TASKS).sum().backward()
    assert temperature.grad is not None


def taken(learner: nn.Module, tasks: Any = TASKS) -> int:
    """Bytes that a meta-step takes."""
    learner(tasks).mean().backward()  # makes .grad and caches
    return peak(lambda: learner(tasks).mean().backward(), "cpu")


def test_chunks_bound_memory():
    tasks = Blobs().sample(12, torch.Generator().manual_seed(0))
    learner = MAML(MLP(8, 3, hidden=(30, 30)), lr=0.1, steps=3)
    for execution in ("loop", "vmap"):
        learner.execution, learner.chunk = execution, None
        whole = taken(learner, tasks)
        learner.chunk = 1
        assert taken(learner, tasks) < whole / 6


def inner(steps: int, checkpoint: Checkpoint | None, **more: Any) -> int:
    """Bytes that a meta-gradient of one task takes."""
    weight = torch.randn(50, 50, requires_grad=True)
    x = torch.randn(200, 50)

    def work() -> None:
        end = descend(
            lambda fast: (x @ fast["w"]).sin().cos().sin().mean(),
            {"w": weight},
            lr=0.1,
            steps=steps,
            checkpoint=checkpoint,
            **more,
        )
        torch.autograd.grad(end["w"].sum(), weight)

    work()
    return peak(work, "cpu")


PARAMETERS = 50 * 50 * 4  # bytes


def test_memory_by_inner_steps():
    one, four, nine, sixteen = (inner(steps, None) for steps in (1, 4, 9, 16))
    assert sixteen - nine == pytest.approx(7 * (nine - four) / 5, rel=0.01)  # grows as steps do
    step = (sixteen - nine) / 7

    for steps in (4, 16, 64):  # grows as their square root does
        root = steps**0.5
        assert inner(steps, "sqrt") < one + root * (step + 2 * PARAMETERS)
    for checkpoint in ("steps", "mixed"):  # grows by the parameters of each
        at_rest = inner(4, checkpoint)
        for steps in (5, 16, 64):
            assert inner(steps, checkpoint) <= at_rest + (steps - 4) * PARAMETERS
    assert inner(4, "steps") <= one + 6 * PARAMETERS
    for checkpoint in ("sqrt", "steps", "mixed"):
        assert inner(16, checkpoint) < sixteen / 3


def test_memory_of_truncated_steps_does_not_grow():
    assert inner(32, None, truncate=2) == inner(8, None, truncate=2) < inner(8, None) / 2


def test_memory_of_adam_by_mixed_modes():
    grown = (inner(24, "mixed", optimizer=adam()) - inner(8, "mixed", optimizer=adam())) / 16
    assert grown <= 14 * PARAMETERS  # what the rule itself remembers


@pytest.mark.parametrize("execution", ["loop", "vmap"])
def test_evaluation_keeps_no_graph(execution: Any):
    def evaluated(steps: int) -> int:
        learner = MAML(MLP(8, 3, hidden=(30,)), lr=0.1, steps=steps)
        learner.execution = execution
        return peak(lambda: evaluate(learner, Blobs(), n_tasks=8, meta_batch_size=8), "cpu")

    evaluated(1)
    assert evaluated(30) <= evaluated(3) * 1.02


MANY = Blobs(shots=30).sample(6, torch.Generator().manual_seed(0))


def deep(steps: int = 5) -> MAML:
    return MAML(MLP(8, 3, hidden=(30, 30)), lr=0.1, steps=steps)


def test_a_plan_stays_below_a_limit():
    learner = deep()
    limit = taken(learner, MANY) // 3
    found = plan(learner, MANY, memory_limit=limit, repeats=1)
    assert (learner.execution, learner.chunk, learner.checkpoint) == ("vmap", None, None)
    for way in found.options:
        assert way.memory is not None
        assert way.memory <= limit or way.note.endswith("takes more than " + readable(limit))
    kept = {way.checkpoint: way.chunk for way in found.options if way.execution == "vmap"}
    assert (kept[None] or 0) < (kept["steps"] or 6)
    head, *_, last = str(found).splitlines()
    assert head.endswith("memory")
    assert last == f"chosen: {min(found.options, key=lambda way: way.seconds or 9)}"
    found.apply(learner)
    assert learner.checkpoint == found.checkpoint
    assert taken(learner, MANY) <= limit


def test_a_plan_with_a_high_limit_is_of_all_tasks_at_once():
    rows = plan(deep(1), MANY, memory_limit="1GiB", repeats=1, chunks=()).options
    assert len(rows) == 2 * 4 and all(way.chunk is None for way in rows)
    rows = plan(
        PrototypicalNetwork(MLP(8, 4)), MANY, memory_limit="1GiB", repeats=1, chunks=()
    ).options
    assert [way.checkpoint for way in rows] == [None, None]  # it has no inner steps


def test_a_limit_below_one_task_is_refused():
    with pytest.raises(ValueError, match=r"One task takes .* fewer inner steps"):
        plan(deep(), MANY, memory_limit="1kB")


def test_what_would_fit_is_said_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch):
    times = [1]

    def criterion(logits: Tensor, examples: Examples) -> Tensor:
        if times:
            times.pop()
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return cross_entropy(logits, examples)

    learner = deep()
    room = taken(learner, MANY) // 3
    monkeypatch.setattr("quickstudy.execution.fit_memory.available", lambda device: room)
    learner.criterion = criterion
    with pytest.raises(ValueError) as caught:
        learner(MANY)
    found = re.fullmatch(
        r"6 tasks at once do not fit into memory: set learner.chunk = (\d+), or "
        r"set learner.checkpoint = 'steps' and learner.chunk = (\d+)\.",
        str(caught.value),
    )
    assert found is not None
    for checkpoint, chunk in zip((None, "steps"), found.groups(), strict=True):
        learner.checkpoint, learner.chunk = checkpoint, int(chunk)
        assert taken(learner, MANY) <= room

    times.append(1)
    monkeypatch.setattr("quickstudy.execution.fit_memory.available", lambda device: 1000)
    with pytest.raises(ValueError, match="do fewer inner steps"):
        learner(MANY)


def test_memory_that_runs_out_in_training_is_explained():
    def fail(grad: Tensor) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    learner = deep(1)
    hook = next(learner.parameters()).register_hook(fail)
    steps = train(
        learner, Blobs(), torch.optim.Adam(learner.parameters()), steps=1, meta_batch_size=4
    )
    with pytest.raises(ValueError, match="4 tasks at once do not fit into memory: set"):
        next(steps)
    hook.remove()


@pytest.mark.parametrize("checkpoint", ["sqrt", "steps", "mixed"])
@pytest.mark.parametrize("name", ["meta_sgd", "meta_curvature", "cavia", "proto_maml"])
def test_learners_that_descend_take_a_checkpoint(name: str, checkpoint: Any, double: None):
    make: Callable[..., Any] = {
        "meta_sgd": lambda **more: MetaSGD(MLP(8, 3, hidden=(5,)), steps=3, **more),
        "meta_curvature": lambda **more: MetaCurvature(
            MLP(8, 3, hidden=(5,)), lr=0.1, steps=3, **more
        ),
        "cavia": lambda **more: CAVIA(
            ContextInput(MLP(12, 3, hidden=(5,))), context=4, steps=3, **more
        ),
        "proto_maml": lambda **more: ProtoMAML(MLP(8, 4, hidden=(5,)), lr=0.1, steps=3, **more),
    }[name]
    tasks = tree_map(lambda leaf: leaf.double(), TASKS)
    found = []
    for settings in {}, {"checkpoint": checkpoint}:
        torch.manual_seed(0)
        found.append(gradient(make(**settings), torch.ones(7), tasks))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)
