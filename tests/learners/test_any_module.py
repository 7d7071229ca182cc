"""MAML of any module: recurrent nets, encoders and low-rank factors, each against PyTorch's own
or a computation by hand, and the ways of execution against each other."""

import copy
import itertools
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import pack_sequence

from quickstudy import MAML, MetaSGD, Task, evaluate, train
from quickstudy.core.criteria import accuracy, cross_entropy
from quickstudy.core.parameters import Params
from quickstudy.core.task import Examples, TaskBatch
from quickstudy.core.tree import tree_map
from quickstudy.execution.batching import Execution
from quickstudy.nets import is_low_rank, lora, use_cells
from quickstudy.nets.backbones import MLP, Conv4, use_batch_statistics
from quickstudy.testing.learners import Blobs

LR = 0.3
WAYS: tuple[Execution, Execution] = ("vmap", "loop")


def batch(size: int = 3) -> TaskBatch:
    tasks = Blobs().sample(size, torch.Generator().manual_seed(0))  # x of width 8, 3 classes
    return tree_map(lambda leaf: leaf.double(), tasks)


def support() -> Examples:
    tasks = Blobs().sample(1, torch.Generator().manual_seed(0))
    return tree_map(lambda leaf: leaf[0], tasks.support)


class Recurrent(nn.Module):
    """Reads x as a sequence of four pairs."""

    def __init__(self, kind: Callable[..., nn.Module] = nn.GRU, width: int = 5):
        super().__init__()
        self.rnn = kind(2, width, batch_first=True)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.unflatten(-1, (4, 2)))[0][:, -1])


class Encoder(nn.Module):
    """Reads x as a sequence of eight numbers at eight places."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.place = nn.Parameter(torch.randn(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x[..., None] * self.place).mean(1))


def conv() -> nn.Module:
    net = use_batch_statistics(Conv4(3, channels=4, size=16))
    return nn.Sequential(nn.Linear(8, 256), nn.Unflatten(-1, (1, 16, 16)), net)


NETS: dict[str, Callable[[], nn.Module]] = {
    "GRU": lambda: use_cells(Recurrent(nn.GRU)),
    "LSTM": lambda: use_cells(Recurrent(nn.LSTM)),
    "RNN": lambda: use_cells(Recurrent(nn.RNN)),
    "encoder": Encoder,
    "factors": lambda: lora(MLP(8, 3, hidden=(6,)), 2),
    "factors of an encoder": lambda: lora(Encoder(), 2),
    "factors of convolutions": lambda: lora(conv(), 2),
}


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_vmap_and_loop_have_equal_losses_and_gradients(name: str, first_order: bool):
    learner = MAML(NETS[name](), lr=LR, steps=2, first_order=first_order).double()
    found = []
    for execution in WAYS:
        learner.execution = execution
        wanted = [p for p in learner.parameters() if p.requires_grad]
        losses = learner(batch())
        grads = torch.autograd.grad(losses.sum(), wanted)
        assert all(grad.any() for grad in grads[-2:])
        found.append([losses.detach(), *grads])
    torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", NETS)
def test_training_and_evaluation_work_in_both_ways(name: str):
    # warnings are errors: so nothing is done task by task behind the user's back
    numbers = []
    for execution in WAYS:
        torch.manual_seed(0)
        learner = MAML(NETS[name](), lr=LR, steps=1)
        learner.execution = execution
        optimizer = torch.optim.Adam(learner.parameters(), 3e-3)
        for _ in train(learner, Blobs(), optimizer, steps=2, meta_batch_size=3):
            pass
        numbers.append(evaluate(learner, Blobs(), n_tasks=6, metrics={"loss": cross_entropy}))
    losses = [number.values["loss"] for number in numbers]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["GRU", "encoder", "factors"])
def test_training_lowers_the_loss(name: str):
    learner = MAML(NETS[name](), lr=LR, steps=2)
    metrics = {"loss": cross_entropy, "accuracy": accuracy}
    before = evaluate(learner, Blobs(), n_tasks=100, metrics=metrics)
    optimizer = torch.optim.Adam(learner.parameters(), 1e-2)
    for _ in train(learner, Blobs(), optimizer, steps=30, meta_batch_size=8):
        pass
    change = evaluate(learner, Blobs(), n_tasks=100, metrics=metrics).paired_difference(
        before, "loss"
    )
    assert change.mean + change.interval < 0


# Cells


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("layers", [1, 2])
def test_cells_compute_what_torch_does(kind: Callable[..., nn.Module], layers: int):
    for first, both, bias in itertools.product((False, True), repeat=3):
        theirs = kind(3, 4, layers, bias=bias, batch_first=first, bidirectional=both).double()
        cells = use_cells(copy.deepcopy(theirs))
        x = torch.randn(5, 6, 3).double()
        start = torch.randn(layers * (1 + both), 5 if first else 6, 4).double()
        given = (start, start.cos()) if kind is nn.LSTM else start
        alone = tree_map(lambda part: part[:, 0], given)
        for inputs in [(x,), (x, given), (x[0],), (x[0], alone)]:
            torch.testing.assert_close(cells(*inputs), theirs(*inputs))


def test_cells_of_relu_compute_what_torch_does():
    theirs = nn.RNN(3, 4, nonlinearity="relu").double()
    x = torch.randn(5, 6, 3).double()
    torch.testing.assert_close(use_cells(copy.deepcopy(theirs))(x), theirs(x))


def test_the_meta_gradient_of_cells_is_that_of_torch():
    theirs = MAML(Recurrent(nn.GRU), lr=LR, steps=2).double()
    cells = copy.deepcopy(theirs)
    use_cells(cells)
    theirs.execution = "loop"
    grads = [
        torch.autograd.grad(learner(batch()).sum(), list(learner.parameters()))
        for learner in (theirs, cells)
    ]
    torch.testing.assert_close(grads[0], grads[1])


def test_cells_keep_names_files_and_dropout():
    net = nn.LSTM(3, 4, 2, dropout=0.9)
    names = [name for name, _ in net.named_parameters()]
    cells = use_cells(net)
    assert cells is net and [name for name, _ in cells.named_parameters()] == names
    nn.LSTM(3, 4, 2).load_state_dict(cells.state_dict())
    x = torch.randn(5, 6, 3)
    copied = pickle.loads(pickle.dumps(cells))
    assert not torch.equal(cells(x)[0], cells(x)[0])
    torch.testing.assert_close(copied.eval()(x), cells.eval()(x))


def test_what_cells_can_not_do_is_said():
    with pytest.raises(ValueError, match=r"^rnn projects its states .* put a linear layer"):
        use_cells(nn.ModuleDict({"rnn": nn.LSTM(3, 4, proj_size=2)}))
    with pytest.raises(ValueError, match="packed sequence: give them the padded one"):
        use_cells(nn.GRU(3, 4))(pack_sequence([torch.zeros(2, 3)]))


# Low-rank factors


def matrices(net: nn.Module) -> Params:
    """What a net with factors of scale 0.7 is without any: products added to matrices."""
    params = dict(net.named_parameters())
    summed: Params = {name: p for name, p in params.items() if not is_low_rank(name)}
    for name in params:
        if name.endswith("lora_A"):
            place = name.removesuffix("lora_A")
            matrix = f"{place}in_proj_weight"
            matrix = matrix if matrix in params else f"{place}weight"
            added = params[f"{place}lora_B"] @ params[name]
            summed[matrix] = params[matrix] + 0.7 * added.view_as(params[matrix])
    return summed


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: MLP(8, 3), (4, 8)),
    "vectors of any rank": (lambda: nn.Linear(8, 3), (2, 4, 8)),
    "Conv1d": (lambda: nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular"), (5, 2, 6)),
    "Conv2d": (lambda: nn.Conv2d(2, 4, (3, 2), stride=2, bias=False), (5, 2, 6, 6)),
    "Conv2d of groups": (lambda: nn.Conv2d(2, 4, 3, groups=2), (5, 2, 6, 6)),
    "Conv2d of one image": (lambda: nn.Conv2d(2, 4, 3), (2, 6, 6)),
    "Conv3d": (lambda: nn.Conv3d(2, 4, 3, dilation=2), (2, 2, 6, 6, 6)),
    "encoder": (Encoder, (4, 8)),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_factors_add_their_product(kind: str, training: bool):
    make, shape = KINDS[kind]
    plain = make().double().train(training)
    net = lora(copy.deepcopy(plain), 2, scale=0.7)
    x = torch.randn(shape).double()
    torch.testing.assert_close(net(x), plain(x))  # B is zero at first
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("lora_B"):
                p.normal_()
        expected = functional_call(plain, matrices(net), (x,))
        assert not torch.allclose(expected, plain(x), atol=1e-3)
        torch.testing.assert_close(net(x), expected)  # torch's fused encoder layers, too
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("execution", ["vmap", "loop"])
def test_adapting_factors_is_descent_on_them_by_hand(execution: Execution):
    plain = MLP(8, 3, hidden=(6,), activation=nn.Tanh).double()
    learner = MAML(lora(copy.deepcopy(plain), 2, scale=0.7), lr=LR, steps=3)
    learner.execution = execution
    with torch.no_grad():
        for p in learner.parameters():
            if p.requires_grad:
                p.normal_()
    names = [name for name, p in learner.net.named_parameters() if p.requires_grad]
    start: list[Tensor] = [p for p in learner.net.parameters() if p.requires_grad]
    assert [n.rpartition(".")[2] for n in names] == ["lora_A", "lora_B"] * 2

    def run(factors: list[Tensor], x: Tensor) -> Tensor:
        a, b, c, d = factors
        hidden, head = plain.body[0], plain.head
        assert isinstance(hidden, nn.Linear)
        x = (x @ (hidden.weight + 0.7 * b @ a).T + hidden.bias).tanh()
        return x @ (head.weight + 0.7 * d @ c).T + head.bias

    def loss(task: Task) -> Tensor:
        factors = list(start)
        for _ in range(3):
            inner_loss = nn.functional.cross_entropy(
                run(factors, task.support.x), task.support.y
            )
            grads = torch.autograd.grad(inner_loss, factors, create_graph=True)
            factors = [p - LR * grad for p, grad in zip(factors, grads, strict=True)]
        return nn.functional.cross_entropy(run(factors, task.query.x), task.query.y)

    expected = torch.stack(
        [loss(tree_map(lambda leaf, i=i: leaf[i], batch())) for i in range(3)]
    )
    losses = learner(batch())
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(
        torch.autograd.grad(losses.sum(), start), torch.autograd.grad(expected.sum(), start)
    )


def test_training_changes_factors_only():
    learner = MAML(lora(Encoder(), 2), lr=LR, steps=1)
    before = {name: p.detach().clone() for name, p in learner.net.named_parameters()}
    optimizer = torch.optim.Adam(learner.parameters(), 1e-2)
    for _ in train(learner, Blobs(), optimizer, steps=2, meta_batch_size=3):
        pass
    for name, p in learner.net.named_parameters():
        assert torch.equal(p, before[name]) is not is_low_rank(name), name
    state = learner.adapt(support())
    assert all(map(is_low_rank, state))


def test_factors_of_full_rank_reach_what_the_matrix_does():
    # with B = I held, W + A descends as W does
    plain = nn.Linear(8, 3, bias=False).double()
    net = lora(copy.deepcopy(plain), 3)
    with torch.no_grad():
        net.lora_B.copy_(torch.eye(3))  # pyright: ignore[reportCallIssue]
        net.lora_A.zero_()  # pyright: ignore[reportCallIssue]
    by_matrix = MAML(plain, lr=LR, steps=3)
    by_factor = MAML(net, lr=LR, steps=3, adapt_parameters=["lora_A"])
    torch.testing.assert_close(by_factor(batch()), by_matrix(batch()))


def test_all_is_meta_learned_and_factors_alone_are_adapted():
    net = lora(MLP(8, 3), 2, freeze=False)
    learner = MAML(net, adapt_parameters=is_low_rank)
    initial = learner.initial_params()
    assert all(map(is_low_rank, initial)) and len(initial) == 6
    assert all(p.requires_grad for p in learner.parameters())
    assert all(map(is_low_rank, MetaSGD(lora(MLP(8, 3), 2)).adapt(support())))


def test_layers_are_chosen_by_name_and_a_head_can_be_learned_too():
    net = lora(MLP(8, 3, hidden=(6, 6)), 2, layers=["body.0", "body"])
    assert isinstance(net.head, nn.Linear) and "head.lora_A" not in dict(net.named_parameters())
    net.head.requires_grad_(True)
    assert list(MAML(net).initial_params()) == [
        *("body.0.lora_A", "body.0.lora_B", "body.2.lora_A", "body.2.lora_B"),
        *("head.weight", "head.bias"),
    ]


def test_pretrained_files_still_fit():
    plain = MLP(8, 3)
    net = lora(MLP(8, 3), 2)
    left = net.load_state_dict(plain.state_dict(), strict=False)
    assert all(map(is_low_rank, left.missing_keys)) and not left.unexpected_keys
    x = torch.randn(4, 8)
    torch.testing.assert_close(pickle.loads(pickle.dumps(net))(x), net(x))


def test_a_rank_is_at_most_that_of_the_matrix():
    net = lora(nn.Linear(8, 3), 100)
    assert net.lora_A.shape == (3, 8) and net.lora_B.shape == (3, 3)


def test_what_factors_can_not_do_is_said():
    with pytest.raises(ValueError, match=r"^rank=0: a product of two thin matrices"):
        lora(MLP(8, 3), 0)
    with pytest.raises(ValueError, match=r"no module 'haed'\. Did you mean 'head'\?"):
        lora(MLP(8, 3), layers=["haed"])
    net = Recurrent()
    with pytest.raises(ValueError, match=r"^The module 'rnn' has no linear layer, .* build it"):
        lora(net, layers=["head", "rnn"])
    assert all(p.requires_grad for p in net.parameters())  # nothing was begun
    assert not any(map(is_low_rank, dict(net.named_parameters())))
    with pytest.raises(ValueError, match=r"^The net has no linear layer, .* without factors"):
        lora(lora(nn.Linear(8, 3)))
