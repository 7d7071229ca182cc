"""What a user's net may contain: each module works in both ways, with equal losses, gradients
and buffers, or one sentence names it and the remedy."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from quickstudy import MAML, Learner, PrototypicalNetwork, anil, evaluate
from quickstudy.core.task import TaskBatch
from quickstudy.core.tree import tree_map
from quickstudy.execution.batching import Execution
from quickstudy.nets.backbones import use_batch_statistics
from quickstudy.testing.learners import Blobs

WAYS: tuple[Execution, Execution] = ("loop", "vmap")


def batch(size: int = 3) -> TaskBatch:
    tasks = Blobs().sample(size, torch.Generator().manual_seed(0))  # x of width 8, 3 classes
    return tree_map(lambda leaf: leaf.double(), tasks)


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.RNNBase]):
        super().__init__()
        self.rnn = kind(2, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.unflatten(-1, (4, 2)))[0][:, -1])


class Sequence(nn.Module):
    """Makes a sequence of 8 vectors of each x, and means over what `mix` makes of it."""

    def __init__(self, mix: nn.Module):
        super().__init__()
        self.mix = mix
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None] * x[..., None]  # (N, 8, 8)
        if isinstance(self.mix, nn.MultiheadAttention):
            return self.head(self.mix(x, x, x)[0].mean(1))
        return self.head(self.mix(x).mean(1))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1)))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding((x > 0).long() + 2 * (x > 1).long()).mean(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).tanh()).tanh())


class Calls(nn.Module):
    """A linear layer, what `step` makes of its output, and another."""

    seen: Tensor

    def __init__(self, step: Callable[["Calls", Tensor], Tensor]):
        super().__init__()
        self.step = step
        self.first = nn.Linear(8, 8)
        self.register_buffer("seen", torch.zeros(8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.step(self, self.first(x)))


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 2 * grads[0]


def fills(net: Calls, x: Tensor) -> Tensor:
    out = torch.zeros(x.shape, dtype=x.dtype)
    out[:] = x
    return out


def fills_its_like(net: Calls, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, :4] = x[:, :4]
    return out


def adds_in_place(net: Calls, x: Tensor) -> Tensor:
    x += net.seen + 1
    return x


def counts_in_place(net: Calls, x: Tensor) -> Tensor:
    net.seen += x.detach().mean(0)
    return x


def counts(net: Calls, x: Tensor) -> Tensor:
    net.seen = net.seen + x.detach().mean(0)
    return x


def branches_on_values(net: Calls, x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def sizes_up(net: Calls, x: Tensor) -> Tensor:
    return x / x.abs().max().item()


def picks(net: Calls, x: Tensor) -> Tensor:
    return x * x[x > 0].mean()


def leaves_torch(net: Calls, x: Tensor) -> Tensor:
    return x * float(x.detach().numpy().max())


def doubles(net: Calls, x: Tensor) -> Tensor:
    return Twice.apply(x)  # pyright: ignore[reportReturnType]


def layers(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), *middle, nn.Linear(8, 3))


def half_frozen() -> nn.Module:
    net = layers(nn.ReLU())
    net[0].requires_grad_(False)
    return net


def encoder(dropout: float = 0.0) -> nn.Module:
    return Sequence(nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=True))


def tower() -> nn.Module:
    """Dots, digits and words of Python in the names."""
    inner = nn.ModuleDict({"0": nn.Linear(8, 8), "lambda": nn.Linear(8, 3)})
    net = nn.Sequential(nn.Sequential(nn.Sequential(inner["0"])), nn.ReLU(), inner["lambda"])
    net.add_module("learner", nn.Identity())
    return net


WORK: dict[str, Callable[[], nn.Module]] = {
    "batch statistics": lambda: use_batch_statistics(layers(nn.BatchNorm1d(8), nn.ReLU())),
    "GroupNorm": lambda: layers(nn.GroupNorm(2, 8), nn.ReLU()),
    "LayerNorm": lambda: layers(nn.LayerNorm(8), nn.Tanh()),
    "InstanceNorm": lambda: layers(
        nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, affine=True), nn.Flatten()
    ),
    "InstanceNorm with statistics": lambda: layers(
        nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()
    ),
    "scaled_dot_product_attention": Attention,
    "MultiheadAttention": lambda: Sequence(nn.MultiheadAttention(8, 2, batch_first=True)),
    "TransformerEncoderLayer": encoder,
    "ReLU in place": lambda: layers(nn.ReLU(inplace=True)),
    "adds in place": lambda: Calls(adds_in_place),
    "fills its like": lambda: Calls(fills_its_like),
    "tied weights": Tied,
    "frozen": half_frozen,
    "embedding": Tokens,
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 3, 2), nn.Flatten()
    ),
    "names": tower,
}


def learners() -> dict[str, Callable[[nn.Module], Learner[Any]]]:
    return {
        "proto": PrototypicalNetwork,
        "maml": lambda net: MAML(net, lr=0.3, steps=2),
        "fomaml": lambda net: MAML(net, lr=0.3, steps=2, first_order=True),
    }


def outcome(learner: Learner[Any], execution: Execution) -> list[Tensor]:
    """Losses, gradients, and buffers afterwards."""
    copied = copy.deepcopy(learner)
    copied.execution = execution
    losses = copied(batch())
    losses.sum().backward()
    slopes = [p.grad for p in copied.parameters() if p.grad is not None]
    assert slopes and any(slope.any() for slope in slopes)
    return [losses.detach(), *slopes, *copied.buffers()]


def assert_equal_ways(learner: Learner[Any]) -> None:
    torch.testing.assert_close(
        outcome(learner, "vmap"), outcome(learner, "loop"), rtol=1e-9, atol=1e-9
    )


def refusal(learner: Learner[Any], execution: Execution) -> str:
    learner.execution = execution
    with pytest.raises(ValueError) as caught:
        learner(batch())
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


@pytest.mark.parametrize("kind", learners())
@pytest.mark.parametrize("name", WORK)
def test_module_works_in_both_ways(name: str, kind: str):
    assert_equal_ways(learners()[kind](WORK[name]()).double())


def test_frozen_parameters_get_no_gradient_and_are_not_adapted():
    learner = MAML(half_frozen(), lr=0.3, steps=2).double()
    learner(batch()).sum().backward()
    assert [name for name, p in learner.net.named_parameters() if p.grad is None] == [
        "0.weight",
        "0.bias",
    ]
    assert set(learner.initial_params()) == {"2.weight", "2.bias"}


def test_tied_weights_are_adapted_as_one():
    learner = MAML(Tied(), lr=0.3, steps=1).double()
    task = tree_map(lambda leaf: leaf[0], batch())
    state = learner.adapt(task.support)
    assert "first.weight" in state and "second.weight" not in state
    net = copy.deepcopy(learner.net)
    net.load_state_dict(state, strict=False)  # sets both, as they are one tensor
    torch.testing.assert_close(learner.predict(state, task.query.x), net(task.query.x))


@pytest.mark.parametrize("kind", learners())
def test_every_task_has_dropout_of_its_own(kind: str):
    learner = learners()[kind](layers(nn.Dropout(0.5))).double()
    one = tree_map(lambda leaf: leaf[:1].expand(4, *leaf.shape[1:]), batch())
    for execution in WAYS:
        learner.execution = execution
        assert len(learner(one).unique()) == 4
    learner.eval()
    assert_equal_ways(learner)


def test_dropout_in_attention_works():
    learner = MAML(encoder(dropout=0.3), lr=0.1, steps=1).double()
    for execution in WAYS:
        learner.execution = execution
        assert learner(batch()).isfinite().all()


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(8), nn.BatchNorm1d(8, affine=False)])
def test_running_statistics_ride_along(norm: nn.Module):
    learner = PrototypicalNetwork(layers(norm)).double()
    assert_equal_ways(learner)
    before = learner.embed.get_buffer("1.running_mean").clone()
    learner(batch())
    assert not torch.equal(learner.embed.get_buffer("1.running_mean"), before)


def test_running_statistics_in_an_inner_gradient_ride_along_in_a_loop_only():
    learner = MAML(nn.Sequential(nn.Linear(8, 3), nn.Sequential(nn.BatchNorm1d(3)))).double()
    learner.execution = "loop"
    assert learner(batch()).isfinite().all()
    counted = learner.net.get_buffer("1.0.num_batches_tracked")
    assert counted == learner.steps + 1  # every task starts from a copy, their mean is kept
    sentence = refusal(learner, "vmap")
    assert sentence.startswith("BatchNorm1d at net.1.0 keeps running statistics")
    assert "use_batch_statistics(net)" in sentence and "GroupNorm" in sentence
    use_batch_statistics(learner.net)
    assert learner(batch()).isfinite().all()


def test_statistics_without_momentum_are_refused():
    learner = PrototypicalNetwork(layers(nn.BatchNorm1d(8, momentum=None))).double()
    assert "BatchNorm1d at embed.1 keeps running statistics" in refusal(learner, "vmap")


@pytest.mark.parametrize("kind", learners())
@pytest.mark.parametrize("module", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_nets_are_looped(module: type[nn.RNNBase], kind: str):
    learner = learners()[kind](Recurrent(module)).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch: slow, before it fails
        sentence = refusal(learner, "vmap")
    assert f"{module.__name__} at " in sentence and "learner.execution = 'loop'" in sentence
    assert all(x.isfinite().all() for x in outcome(learner, "loop"))


def test_the_second_order_of_a_recurrent_net_is_right():
    torch.manual_seed(0)
    learner = MAML(Recurrent(nn.GRU), lr=0.3, steps=2).double()
    learner.execution = "loop"
    weight = learner.net.get_parameter("rnn.weight_hh_l0")
    learner(batch()).sum().backward()
    slope = weight.grad
    assert slope is not None
    values = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            weight[0, 0] += step
            values.append(learner(batch()).sum())
    torch.testing.assert_close(
        slope[0, 0], (values[0] - values[1]) / 2e-5, rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("kind", ["proto", "maml"])
@pytest.mark.parametrize(
    ("step", "message"),
    [
        (fills, "writes one task's values into a tensor that all tasks share"),
        (counts, "given a value of one task"),
        (branches_on_values, "looks at a tensor's values"),
        (sizes_up, "looks at a tensor's values"),
        (picks, "looks at a tensor's values"),
        (leaves_torch, "takes a tensor out of PyTorch"),
        (doubles, "torch.autograd.Function"),
    ],
)
def test_what_cannot_be_batched_is_named(step: Any, message: str, kind: str):
    sentence = refusal(learners()[kind](Calls(step)).double(), "vmap")
    assert message in sentence
    path = "net" if kind == "maml" else "embed"
    assert f"buffer {path}.seen" in sentence or f"Calls at {path} " in sentence


@pytest.mark.parametrize("step", [branches_on_values, sizes_up, picks, fills])
def test_control_flow_can_be_looped(step: Any):
    assert all(x.isfinite().all() for x in outcome(MAML(Calls(step)).double(), "loop"))


def test_a_buffer_written_in_place_is_refused():
    assert "Calls at embed writes one task's values" in refusal(
        PrototypicalNetwork(Calls(counts_in_place)).double(), "vmap"
    )
    sentence = refusal(MAML(Calls(counts_in_place)).double(), "vmap")
    assert "Calls at net writes in place to a tensor from outside" in sentence


@pytest.mark.parametrize("execution", WAYS)
def test_an_input_changed_in_place_is_refused(execution: Execution):
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 3))
    assert "ReLU at embed.0" in refusal(PrototypicalNetwork(net).double(), execution)
    assert "ReLU at net.0" in refusal(MAML(net).double(), execution)


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.orthogonal])
def test_parametrised_weights_work(norm: Callable[[nn.Module], nn.Module]):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")  # task by task
        assert_equal_ways(MAML(norm(nn.Linear(8, 3)), lr=0.3, steps=2).double())
        assert_equal_ways(PrototypicalNetwork(norm(nn.Linear(8, 3))).double())


def test_a_missing_batching_rule_is_named():
    learner = MAML(parametrizations.spectral_norm(nn.Linear(8, 3))).double()
    sentence = refusal(learner, "vmap")
    assert "SpectralNorm at net.parametrizations.weight.0 calls aten::div" in sentence


def test_statistics_of_a_body_that_is_not_adapted():
    """They ride along: what comes before the adapted part is outside of the inner gradient."""
    net = nn.Sequential()
    net.add_module("body", nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))
    net.add_module("head", nn.Linear(8, 3))
    assert_equal_ways(anil(net).double())


def test_evaluate_explains_too():
    learner = PrototypicalNetwork(Recurrent(nn.GRU))
    with pytest.raises(ValueError, match=r"GRU at embed\.rnn has no batching rule"):
        evaluate(learner, Blobs(), n_tasks=2)
    learner.execution = "loop"
    assert evaluate(learner, Blobs(), n_tasks=2).mean("accuracy") > 0


def test_errors_of_the_user_are_named_or_left_alone():
    with pytest.raises(ValueError, match="Linear at embed does not fit the examples' shape"):
        PrototypicalNetwork(nn.Linear(7, 3)).double()(batch())
    with pytest.raises(ValueError, match="expected 4D"):
        PrototypicalNetwork(layers(nn.BatchNorm2d(8))).double()(batch())
