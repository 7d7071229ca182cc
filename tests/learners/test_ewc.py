"""Elastic weight consolidation against Fisher informations and posteriors in closed form."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy import EWC, FineTuning, online_ewc
from quickstudy.core.criteria import squared_error
from quickstudy.core.parameters import Params, select_parameters
from quickstudy.core.task import Examples
from quickstudy.datasets import digits
from quickstudy.datasets.labelled import split_examples
from quickstudy.evaluation import evaluate_stream
from quickstudy.learners.lifelong.ewc import EWCState
from quickstudy.nets.backbones import MLP
from quickstudy.tasks.scenarios import permuted


def classes(size: int, ways: int = 3) -> Examples:
    """Points of random labels."""
    y = F.one_hot(torch.randint(ways, (size,)), ways).double()
    return Examples(torch.randn(size, 4), y, torch.ones(size))


def weighted() -> Examples:
    """Of which two are padding and one counts double."""
    return classes(7)._replace(weight=torch.tensor([1.0, 1, 0, 2, 1, 0, 1]))


def mean(values: Tensor, weight: Tensor) -> Tensor:
    return torch.tensordot(weight, values, 1) / weight.sum()


def equal(found: Params, expected: Params) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.usefixtures("double")
def test_fisher_information_of_a_linear_gaussian_model():
    """Of density exp(-(y - Wx - b)²): 2 X'X for every output, whatever y."""
    examples = weighted()
    learner = EWC(nn.Linear(4, 3), criterion=squared_error, fisher_batch=3)
    found = learner.fisher(examples, select_parameters(learner.net))
    expected = 2 * mean(examples.x.square(), examples.weight)
    equal(found, {"weight": expected.expand(3, 4), "bias": torch.full((3,), 2.0)})


@pytest.mark.usefixtures("double")
def test_fisher_information_of_softmax_regression():
    """p (1 - p) xx', whatever the labels."""
    examples, net = weighted(), nn.Linear(4, 3)
    found = EWC(net, fisher_batch=3).fisher(examples, select_parameters(net))
    p = net(examples.x).softmax(-1)
    spread = p * (1 - p)
    x = examples.x.square()
    weight = mean(spread[:, :, None] * x[:, None], examples.weight)
    equal(found, {"weight": weight, "bias": mean(spread, examples.weight)})


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("empirical", [False, True])
def test_fisher_information_is_the_mean_square_of_slopes(empirical: bool):
    """One example and one label after the other."""
    examples, net = weighted(), MLP(4, 3, hidden=(5,))
    params = select_parameters(net)
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    for x, y, w in zip(*examples, strict=True):
        log_probs = net(x).log_softmax(-1)
        for c, share in enumerate(y if empirical else log_probs.exp().detach()):
            grads = torch.autograd.grad(log_probs[c], [*params.values()], retain_graph=True)
            for name, grad in zip(params, grads, strict=True):
                total[name] += w * share * grad.square() / examples.weight.sum()
    found = EWC(net, empirical=empirical, fisher_batch=4).fisher(examples, params)
    equal(found, total)


def spring(at: Params, stiff: Params, params: Params) -> Tensor:
    parts = [(stiff[k] * (p - at[k]).square()).sum() / 2 for k, p in params.items()]
    return torch.stack(parts).sum()


def pulled(learner: EWC, state: EWCState, params: Params) -> Params:
    """The gradient of the penalty alone."""
    examples = classes(5)
    free = FineTuning(learner.net).batch_loss(examples, params)
    penalty = learner.objective(examples, state, params) - free
    found = torch.autograd.grad(penalty, [*params.values()])
    return dict(zip(params, found, strict=True))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("decay", [None, 0.7])
def test_the_penalty_is_that_of_springs(decay: float | None):
    net = MLP(4, 3, hidden=(5,))
    learner = EWC(net, ewc_lambda=3.0, lr=0.2, batch_size=4, decay=decay)
    one, two = classes(8), classes(8)
    first = learner.adapt(one)
    second = learner.adapt(two, first)
    stiff = [learner.fisher(e, s.params) for e, s in ((one, first), (two, second))]
    params = {k: p.detach() + torch.randn_like(p) for k, p in second.params.items()}
    params = {k: p.requires_grad_() for k, p in params.items()}
    if decay is None:
        expected = sum(
            spring(s.params, f, params) for s, f in zip((first, second), stiff, strict=True)
        )
    else:
        both = {k: decay * stiff[0][k] + stiff[1][k] for k in params}
        expected = spring(second.params, both, params)
    grads = torch.autograd.grad(3.0 * torch.as_tensor(expected), [*params.values()])
    equal(pulled(learner, second, params), dict(zip(params, grads, strict=True)))


@pytest.mark.usefixtures("double")
def test_where_all_is_quadratic_two_experiences_are_learned_as_at_once():
    """Orthogonal features: the diagonal is all of the Fisher information. Of three, the online
    one has learned all; springs at each of the weights count the first twice (Huszár, 2018,
    arXiv:1712.03847)."""
    experiences = []
    for _ in range(3):
        x = torch.linalg.qr(torch.randn(12, 4)).Q * 12**0.5 * (0.5 + torch.rand(4))
        experiences.append(Examples(x, torch.randn(12, 2), torch.ones(12)))

    def solution(number: int) -> Tensor:
        parts = experiences[:number]
        x, y = (torch.cat([getattr(e, name) for e in parts]) for name in "xy")
        return torch.linalg.lstsq(x, y).solution.T

    settings = {"lr": 0.12, "ewc_lambda": 1.0, "batch_size": 12, "epochs": 300}
    net = nn.Linear(4, 2, bias=False)
    settings["criterion"] = squared_error
    kept, online = EWC(net, **settings), online_ewc(net, decay=1.0, **settings)
    for learner, exact in ((kept, False), (online, True)):
        state = learner.adapt(experiences[1], learner.adapt(experiences[0]))
        torch.testing.assert_close(state.params["weight"], solution(2), rtol=0, atol=1e-6)
        third = learner.adapt(experiences[2], state).params["weight"]
        assert torch.allclose(third, solution(3), rtol=0, atol=1e-6) == exact


@pytest.mark.usefixtures("double")
def test_without_strength_it_is_fine_tuning():
    net = MLP(4, 3)
    settings = {"lr": 0.1, "batch_size": 4, "epochs": 2}
    state, tuned = None, None
    learner, plain = EWC(net, ewc_lambda=0.0, **settings), FineTuning(net, **settings)
    for _ in range(3):
        examples = classes(10)
        state, tuned = learner.adapt(examples, state), plain.adapt(examples, tuned)
        for name, value in tuned.items():
            assert torch.equal(value, state.params[name])


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("decay", [None, 0.5])
def test_nothing_new_changes_nothing(decay: float | None):
    learner = EWC(MLP(4, 3), decay=decay)
    state = learner.adapt(classes(10))
    nothing = classes(10)._replace(weight=torch.zeros(10))
    after = learner.adapt(nothing, state)
    for old, new in zip(state, after, strict=True):
        equal(new, old)


def test_permuted_digits_are_forgotten_less():
    make = partial(permuted, *split_examples(digits(), 0.7), tasks=3, examples=400)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), MLP(64, 10, hidden=(32,)))
    settings = {"lr": 0.1, "epochs": 2}
    tuned = evaluate_stream(FineTuning(net, **settings), [make()]).report
    protected = evaluate_stream(EWC(net, **settings), [make()]).report
    assert protected.mean("forgetting") < tuned.mean("forgetting") - 0.05
