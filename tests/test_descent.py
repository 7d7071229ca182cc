"""Inner optimisers against torch.optim, and derivatives against finite differences: of what is
computed again in the backward pass, too."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call, grad, vmap

from quickstudy import MAML, anil
from quickstudy.core.criteria import cross_entropy
from quickstudy.core.parameters import Params
from quickstudy.core.task import Checkpoint, Examples, Task
from quickstudy.core.tree import tree_map
from quickstudy.execution.batching import over_tasks
from quickstudy.inner_loop import InnerOptimizer, adam, descend, momentum, steepest_descent
from quickstudy.learners.gradient.meta_curvature import MetaCurvature
from quickstudy.nets.backbones import MLP, Conv4, use_batch_statistics
from quickstudy.testing.learners import Blobs

Rule = tuple[InnerOptimizer, Callable[[list[Tensor]], torch.optim.Optimizer]]
RULES: dict[str, Rule] = {
    "sgd": (steepest_descent, lambda ps: torch.optim.SGD(ps, 0.05)),
    "momentum": (momentum(0.8), lambda ps: torch.optim.SGD(ps, 0.05, momentum=0.8)),
    "nesterov": (
        momentum(0.8, nesterov=True),
        lambda ps: torch.optim.SGD(ps, 0.05, momentum=0.8, nesterov=True),
    ),
    "adam": (adam((0.5, 0.9)), lambda ps: torch.optim.Adam(ps, 0.05, betas=(0.5, 0.9))),
}


def bowl(params: Params) -> Tensor:
    return (params["a"].cos() * params["b"]).sum() + params["b"].pow(4).mean()


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_that_of_torch_optim(rule: str, double: None) -> None:
    ours, theirs = RULES[rule]
    start = {"a": torch.randn(3), "b": torch.randn(3)}
    params = {name: p.clone().requires_grad_() for name, p in start.items()}
    optimizer = theirs(list(params.values()))
    for _ in range(7):
        optimizer.zero_grad()
        bowl(params).backward()
        optimizer.step()
    found = descend(bowl, start, lr=0.05, steps=7, optimizer=ours)
    for name, p in params.items():
        torch.testing.assert_close(found[name], p.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_can_be_differentiated(rule: str, double: None) -> None:
    ours, _ = RULES[rule]

    def after(a: Tensor, b: Tensor) -> Tensor:
        end = descend(bowl, {"a": a, "b": b}, lr=0.05, steps=4, optimizer=ours)
        return torch.cat([end["a"], end["b"]])

    start = [torch.randn(3, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(after, start)


def test_adam_can_be_differentiated_where_a_slope_is_zero(double: None) -> None:
    def half(params: Params) -> Tensor:  # "b" is not in it
        return params["a"].square().sum()

    def after(a: Tensor) -> Tensor:
        end = descend(half, {"a": a, "b": a}, lr=0.1, steps=3, optimizer=adam())
        return end["b"].sum() + end["a"].square().sum()

    assert grad(after)(torch.randn(3)).isfinite().all()


CHECKPOINTS: tuple[Checkpoint, ...] = ("sqrt", "steps", "mixed")


def blobs(*shape: int) -> Task[Examples]:
    drawn = Blobs(shape=shape or (8,)).sample(3, torch.Generator().manual_seed(0))
    return tree_map(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, drawn)


def agree(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    torch.testing.assert_close(list(found), list(expected), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("execution", ["loop", "vmap"])
def test_checkpoints_change_no_derivative(execution: Any, rule: str, double: None) -> None:
    # with respect to the start, parameters that are not adapted, learned rates and inputs, all
    # of which the closure reads
    net, (support, query) = MLP(8, 3, hidden=(5,), activation=nn.Tanh), blobs()
    head = {n: p for n, p in net.named_parameters() if n.startswith("head")}
    rates = {n: torch.full_like(p, 0.3).requires_grad_() for n, p in head.items()}
    stretch = torch.ones(8, requires_grad=True)
    x = support.x.clone().requires_grad_()
    wanted = [*net.parameters(), *rates.values(), stretch, x]

    def gradients(checkpoint: Checkpoint | None, lr: Any, names: Sequence[str]) -> list[Tensor]:
        def one(x: Tensor, y: Tensor, weight: Tensor, query_x: Tensor) -> Tensor:
            x = x * stretch
            shown = Examples(x, y, weight)
            start: Params = {n: p for n, p in net.named_parameters() if n in names}
            end = descend(
                lambda fast: cross_entropy(functional_call(net, fast, (x,)), shown),
                start,
                lr=lr,
                steps=5,
                optimizer=RULES[rule][0],
                checkpoint=checkpoint,
            )
            return functional_call(net, end, (query_x,)).square().sum()

        losses = over_tasks(one, execution)(x, support.y, support.weight, query.x)
        found = torch.autograd.grad(losses.sum(), wanted, allow_unused=True)
        given = [slope for slope in found if slope is not None]
        assert len(given) == len(wanted) - (0 if lr is rates else len(rates))
        return [losses, *given]

    everything = [n for n, _ in net.named_parameters()]
    for lr, names in (rates, list(head)), (0.3, everything):
        expected = gradients(None, lr, names)
        for checkpoint in CHECKPOINTS:
            agree(gradients(checkpoint, lr, names), expected)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("rule", RULES)
def test_checkpoints_against_finite_differences(
    rule: str, checkpoint: Checkpoint, double: None
) -> None:
    def after(a: Tensor, b: Tensor) -> Tensor:
        end = descend(
            lambda params: bowl({**params, "b": b}),
            {"a": a},
            lr=0.05,
            steps=5,
            optimizer=RULES[rule][0],
            checkpoint=checkpoint,
        )
        return end["a"]

    start = [torch.randn(3, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(after, start)
    if rule == "sgd":
        assert torch.autograd.gradgradcheck(after, start)


class LastState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


class Cube(Function):
    """Has no forward derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * slopes[0]


class Cubes(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return cast(Tensor, Cube.apply(super().forward(input)))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv": (lambda: use_batch_statistics(Conv4(3, channels=2, size=16)), (1, 16, 16)),
    "gru": (LastState, (6, 4)),
    "attention and dropout": (Attention, (6, 4)),
    "its own derivative": (lambda: nn.Sequential(nn.Linear(8, 4), Cubes(4, 3)), (8,)),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("execution", ["loop", "vmap"])
def test_checkpoints_of_any_net(execution: Any, name: str, double: None) -> None:
    make, shape = NETS[name]
    if (name, execution) == ("gru", "vmap"):
        pytest.skip("nn.GRU has no batching rule")
    outcomes = []
    for checkpoint in (None, *CHECKPOINTS):
        torch.manual_seed(1)
        learner = MAML(make(), lr=0.1, steps=3, checkpoint=checkpoint)
        learner.execution = execution
        losses = learner(blobs(*shape))
        if (name, checkpoint) == ("its own derivative", "mixed"):
            with pytest.raises(ValueError, match="needs a forward derivative"):
                losses.sum().backward()
            continue
        if (name, execution, checkpoint) == ("attention and dropout", "loop", "mixed"):
            continue  # PyTorch draws other numbers under torch.func.grad
        drawn = torch.rand(())  # as many random numbers were drawn
        slopes = torch.autograd.grad(losses.sum(), list(learner.parameters()))
        outcomes.append([losses, drawn, *slopes])
    if (name, execution) == ("attention and dropout", "loop"):
        del outcomes[0]  # transforms of torch.func draw other masks than plain autograd
    for outcome in outcomes[1:]:
        agree(outcome, outcomes[0])


def test_a_learned_rule_is_learned_with_checkpoints(double: None) -> None:
    learner = MetaCurvature(MLP(8, 3, hidden=(5,)), lr=0.1, steps=3)
    with torch.no_grad():
        for p in learner.parameters():
            p += 0.1 * torch.randn_like(p)
    support = tree_map(lambda leaf: leaf[0], blobs()).support

    def gradients(checkpoint: Checkpoint | None) -> tuple[Tensor, ...]:
        end = descend(
            lambda fast: cross_entropy(learner.predict(fast, support.x), support),
            learner.initial_params(),
            lr=0.1,
            steps=3,
            optimizer=steepest_descent._replace(update=learner.update),
            checkpoint=checkpoint,
        )
        total = torch.stack([p.square().sum() for p in end.values()]).sum()
        return torch.autograd.grad(total, list(learner.parameters()))

    expected = gradients(None)
    for checkpoint in CHECKPOINTS:
        agree(gradients(checkpoint), expected)


def test_checkpoints_can_be_nested(double: None) -> None:
    a, b = torch.randn(2, 3, requires_grad=True), torch.randn(3, requires_grad=True)

    def gradients(
        outside: Checkpoint | None, adaptation_trace: Checkpoint | None
    ) -> tuple[Tensor, ...]:
        def one(a: Tensor, b: Tensor) -> Tensor:
            def outer(params: Params) -> Tensor:
                def inner(fast: Params) -> Tensor:
                    return (fast["p"] * params["p"] * b).sin().sum() + (fast["p"] - a).pow(
                        4
                    ).sum()

                fast = descend(inner, params, lr=0.1, steps=2, checkpoint=adaptation_trace)
                return (fast["p"] * a).cos().sum() + (b * params["p"]).square().sum()

            end = descend(outer, {"p": a}, lr=0.1, steps=4, checkpoint=outside)
            return end["p"].sin().sum()

        return torch.autograd.grad(vmap(one, (0, None))(a, b).sum(), (a, b))

    expected = gradients(None, None)
    for outside, adaptation_trace in itertools.product(CHECKPOINTS, CHECKPOINTS):
        adaptation_trace = None if outside == "mixed" else adaptation_trace
        agree(gradients(outside, adaptation_trace), expected)


def test_checkpoints_under_transforms(double: None) -> None:
    def after(checkpoint: Any, a: Tensor) -> Tensor:
        end = descend(bowl, {"a": a, "b": a}, lr=0.1, steps=5, checkpoint=checkpoint)
        return end["a"].sum() * end["b"].prod()

    a = torch.randn(2, 3)
    for checkpoint in CHECKPOINTS:
        for transform in (grad, lambda fn: grad(lambda a: grad(fn)(a).square().sum())):
            found = vmap(transform(lambda a, way=checkpoint: after(way, a)))(a)
            expected = vmap(transform(lambda a: after(None, a)))(a)
            agree([found], [expected])


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_checkpoints_leave_first_order_as_it_is(checkpoint: Checkpoint) -> None:
    learners = [anil(MLP(8, 3), first_order=True, checkpoint=c) for c in (None, checkpoint)]
    learners[1].load_state_dict(learners[0].state_dict())
    tasks = tree_map(Tensor.float, blobs())
    one, other = (
        torch.autograd.grad(learner(tasks).sum(), list(learner.parameters()))
        for learner in learners
    )
    assert all(map(torch.equal, one, other))


def test_truncation_is_between_the_orders(double: None) -> None:
    # the slopes of the first steps are constants: so the derivative is that of the last steps,
    # from where the first ones led
    start = {"a": torch.randn(3), "b": torch.randn(3)}

    def gradients(start: Params, steps: int, **more: Any) -> Params:
        def after(start: Params) -> Tensor:
            return bowl(descend(bowl, start, lr=0.1, steps=steps, **more))

        return grad(after)(start)

    middle = descend(bowl, start, lr=0.1, steps=3)
    for checkpoint in (None, *CHECKPOINTS):
        found = gradients(start, 5, truncate=2, checkpoint=checkpoint)
        torch.testing.assert_close(found, gradients(middle, 2))
    torch.testing.assert_close(gradients(start, 5, truncate=9), gradients(start, 5))
    torch.testing.assert_close(
        gradients(start, 5, truncate=0), gradients(start, 5, first_order=True)
    )


@pytest.mark.parametrize("execution", ["loop", "vmap"])
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_checkpoints_with_lent_parameters(checkpoint: Checkpoint, execution: Any) -> None:
    # what is not adapted is read from the net once more, after its lender has taken it back; in
    # a loop over convolutions on a CPU, the learner itself lends others
    learner = anil(use_batch_statistics(Conv4(3, channels=2, size=16)), lr=0.1, steps=3)
    learner.double()
    learner.execution = execution
    tasks = blobs(1, 16, 16)
    lent = {n: (p.detach() * 1.1).requires_grad_() for n, p in learner.named_parameters()}

    def gradients(checkpoint: Checkpoint | None) -> tuple[Tensor, ...]:
        learner.checkpoint = checkpoint
        learner_grads = torch.autograd.grad(learner(tasks).sum(), list(learner.parameters()))
        losses = functional_call(learner, lent, (tasks,))
        return *learner_grads, *torch.autograd.grad(losses.sum(), list(lent.values()))

    agree(gradients(checkpoint), gradients(None))


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_a_loss_that_reads_other_tensors_later_is_refused(checkpoint: Checkpoint) -> None:
    scales = [torch.ones((), requires_grad=True) for _ in range(9)]
    start = {"a": torch.ones(3, requires_grad=True), "b": torch.ones(3, requires_grad=True)}
    with pytest.raises(ValueError, match="read the same tensors at every call"):
        descend(
            lambda params: bowl(params) * scales.pop(),
            start,
            lr=0.1,
            steps=4,
            checkpoint=checkpoint,
        )


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_running_statistics_would_be_written_twice(checkpoint: Checkpoint) -> None:
    learner = MAML(Conv4(3, channels=2, size=16), steps=2, checkpoint=checkpoint)
    learner.execution = "loop"
    with pytest.raises(ValueError, match="must change no tensor in place"):
        learner(tree_map(Tensor.float, blobs(1, 16, 16)))


def test_an_unknown_checkpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="is none of"):
        descend(bowl, {"a": torch.ones(1), "b": torch.ones(1)}, lr=1, steps=1, checkpoint="x")  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler itself
def test_a_compiled_step_of_one_task_has_its_rate() -> None:
    """PyTorch's compiler forgets the `alpha` of an addition to a matrix product."""

    def loss(w: Tensor, x: Tensor) -> Tensor:
        def error(params: Params) -> Tensor:
            return (x @ params["w"]).square().sum()

        return error(descend(error, {"w": w}, lr=0.01, steps=2))

    w, x = torch.randn(3, 2), torch.randn(5, 3)
    torch.testing.assert_close(torch.compile(loss)(w, x), loss(w, x))
