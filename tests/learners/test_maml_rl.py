"""Policies to be adapted against the true meta-objective of a tiny process, by enumeration of
all episodes and finite differences, and against a loop written out."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Generator, Tensor, nn

import quickstudy as qs
from quickstudy import runs
from quickstudy.core.tree import tree_map, unstack
from quickstudy.environments import Environment, Episodes, Navigation2D, one_hot
from quickstudy.learners.policies.maml_rl import MAMLRL
from quickstudy.rl.advantages import dice_surrogate, log_prob_surrogate, ratio_surrogate
from tests.worlds import gained

# a process of two states, two actions and two steps
FIRST = torch.tensor(
    [[0.3, 0.7], [0.8, 0.2]], dtype=torch.float64
)  # of the next state, by action
PAYS = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=torch.float64)  # by state and action


class Tiny(Environment):
    """The process; or, with a horizon of 1, a bandit."""

    observation_size, action_size, discrete, horizon, noise_size = 2, 2, True, 2, 1

    def __init__(self, horizon: int = 2):
        self.horizon = horizon

    def tasks(self, size: int, generator: Generator) -> Tensor:
        return torch.zeros(size)

    def reset(self, task: Tensor, noise: Tensor) -> Any:
        return torch.zeros_like(noise[0], dtype=torch.long), torch.eye(2)[0]

    def step(self, task: Tensor, state: Tensor, action: Tensor, noise: Tensor) -> Any:
        reward = (one_hot(state, 2, action.dtype) @ PAYS * action).sum()
        state = (noise[0] > (action @ FIRST)[0]).long()
        return state, one_hot(state, 2, action.dtype), reward, torch.zeros_like(reward)


class Table(nn.Module):
    """Logits by state."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([[0.2, -0.3], [0.5, 0.1]]))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.logits


def made(horizon: int = 2, **options: Any) -> MAMLRL:
    settings = {"lr": 1.5, "discount": 1.0, "normalise": False, **options}
    return MAMLRL(Tiny(horizon), Table(), **settings)


def table(learner: MAMLRL) -> nn.Parameter:
    """Its only parameter."""
    (logits,) = learner.parameters()
    return logits


def episodes(horizon: int) -> Episodes:
    """All that can happen, an episode each; what the policy said is to be filled in."""
    rows = []
    for a, s, b in itertools.product(range(2), range(2 if horizon == 2 else 1), range(2)):
        states, actions = ([0, s], [a, b]) if horizon == 2 else ([0], [b])
        if horizon == 1 and a:
            continue
        rows.append((states, actions))
    states, actions = (torch.tensor(part) for part in zip(*rows, strict=True))
    seen, action = (nn.functional.one_hot(x, 2).double() for x in (states, actions))
    zero = torch.zeros(states.shape)
    return Episodes(seen, action, PAYS[states, actions], seen, zero, zero + 1, seen)


def chances(logits: Tensor, all_: Episodes) -> Tensor:
    """Of every episode under a policy."""
    dist_params = (all_.observation @ logits).softmax(-1)
    found = (dist_params * all_.action).sum(-1).prod(-1)
    if all_.reward.shape[1] == 2:
        found = found * (all_.action[:, 0] @ FIRST * all_.observation[:, 1]).sum(-1)
    return found


def value(logits: Tensor, all_: Episodes) -> Tensor:
    """The expected return."""
    return (chances(logits, all_) * all_.reward.sum(1)).sum()


def expected(logits: Tensor, all_: Episodes) -> Episodes:
    """All episodes, each counting as often as it happens."""
    weight = chances(logits, all_).detach()[:, None].expand_as(all_.weight)
    return all_._replace(weight=weight, extras=all_.observation @ logits.detach())


def differences(objective: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The gradient, by central differences."""
    found = torch.zeros_like(at)
    for place in itertools.product(*map(range, at.shape)):
        step = torch.zeros_like(at)
        step[place] = 1e-5
        found[place] = (objective(at + step) - objective(at - step)) / 2e-5
    return found


def grad(learner: MAMLRL, tasks: list[tuple[float, Any]]) -> Tensor:
    """Of minus the loss, summed with the chances of the tasks."""
    learner.zero_grad()
    for chance, task in tasks:
        (-chance * learner.loss(task)).backward()
    found = table(learner).grad
    assert found is not None
    return found


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("surrogate", "horizon", "exact"),
    [
        (log_prob_surrogate, 2, False),
        (ratio_surrogate, 2, False),
        (dice_surrogate, 2, True),
        (log_prob_surrogate, 1, False),
        (ratio_surrogate, 1, True),
    ],
)
def test_curvature_credits_what_is_done_before_adaptation(
    surrogate: Any, horizon: int, exact: bool
) -> None:
    """Of the inner step with the expected gradient. DiCE's is right, LVC's where nothing is
    later."""
    learner, all_ = made(horizon, surrogate=surrogate), episodes(horizon)
    start = table(learner).detach().clone()

    def objective(logits: Tensor) -> Tensor:
        logits = logits.clone().requires_grad_()
        (up,) = torch.autograd.grad(value(logits, all_), logits)
        return value((logits + 1.5 * up / horizon).detach(), all_) / horizon

    support = expected(start, all_)
    fast, _ = learner.adapt(support)
    task = qs.Task(support, expected(fast["logits"], all_))
    found, true = grad(learner, [(1.0, task)]), differences(objective, start)
    assert torch.allclose(found, true, atol=1e-8) == exact
    assert found.abs().max() > 0.01


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("surrogate", "exploration", "exact"),
    [
        (log_prob_surrogate, 1.0, True),
        (log_prob_surrogate, 0.0, False),
        (ratio_surrogate, 1.0, False),
        (dice_surrogate, 1.0, False),
    ],
)
def test_e_mamls_term_makes_the_gradient_that_of_what_is_done_with_samples(
    surrogate: Any, exploration: float, exact: bool
) -> None:
    """Of the inner step with two episodes, all pairs of which are enumerated: baseline, update
    and all."""
    learner, all_ = made(surrogate=surrogate, exploration=exploration), episodes(2)
    logits = table(learner)
    start = logits.detach().clone()

    def supports() -> list[tuple[Tensor, Episodes]]:
        chance, dist_params = chances(logits, all_), all_.observation @ logits.detach()
        known = all_._replace(extras=dist_params)
        return [
            (chance[i] * chance[j], tree_map(lambda leaf, pair=[i, j]: leaf[pair], known))
            for i, j in itertools.product(range(8), repeat=2)
        ]

    @torch.no_grad()
    def objective(at: Tensor) -> Tensor:
        logits.copy_(at)
        earned = [c * value(learner.adapt(s)[0]["logits"], all_) / 2 for c, s in supports()]
        logits.copy_(start)
        return torch.stack(earned).sum()

    tasks = [
        (c.item(), qs.Task(s, expected(learner.adapt(s)[0]["logits"], all_)))
        for c, s in supports()
    ]
    found, true = grad(learner, tasks), differences(objective, start)
    assert torch.allclose(found, true, atol=1e-8) == exact
    assert (found - true).abs().max() > 1e-3 or exact


def acted(**options: Any) -> tuple[MAMLRL, Any]:
    torch.manual_seed(0)
    environment = Navigation2D(horizon=7)
    net = qs.nets.policy_net(environment, hidden=(6,), std=0.1)
    learner = MAMLRL(environment, net, **options)
    return learner, qs.tasks.Rollouts(environment, learner, episodes=4).sample(
        3, Generator().manual_seed(0)
    )


def advantages(seen: Any) -> Tensor:
    """By least squares of NumPy's kind, and sums."""
    returns = torch.zeros(4, 7)
    for t in reversed(range(7)):
        returns[:, t] = seen.reward[:, t] + (0.99 * returns[:, t + 1] if t < 6 else 0)
    time = (torch.arange(7.0) / 100).expand(4, 7)[..., None]
    parts = [seen.observation, seen.observation**2, time, time**2, time**3, time**0]
    x = torch.cat(parts, -1)[seen.weight > 0]
    small = math.sqrt(1e-5 * len(x)) * torch.eye(x.shape[1])
    target = torch.cat([returns[seen.weight > 0], torch.zeros(x.shape[1])])
    w = torch.linalg.lstsq(torch.cat([x, small]), target[:, None]).solution[:, 0]
    found = returns[seen.weight > 0] - x @ w
    return (found - found.mean()) / found.std(unbiased=False)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("execution", ["vmap", "loop"])
def test_the_meta_gradient_is_that_of_a_naive_loop(execution: Any) -> None:
    learner, task = acted()
    learner.execution = execution
    task.query.weight[0, 1, 5:] = 0  # as if it had ended
    task.query.reward[0, 1, 5:] = 0
    learner(task).mean().backward()
    net: Any = learner.net

    def gain(seen: Any, weights: list[Tensor], old: bool) -> Tensor:
        w1, b1, w2, b2 = weights[1:]
        real = seen.weight > 0
        policy = torch.distributions.Normal(
            torch.tanh(seen.observation[real] @ w1.T + b1) @ w2.T + b2, weights[0].exp()
        )
        likely = policy.log_prob(seen.action[real]).sum(-1)
        likely = (likely - likely.detach()).exp() if old else likely
        return (likely * advantages(seen)).mean()

    start = [net.log_std, *net.mean.parameters()]
    total = torch.tensor(0.0)
    for single in unstack(task):
        up = torch.autograd.grad(gain(single.support, start, False), start, create_graph=True)
        fast = [p + 0.1 * grad for p, grad in zip(start, up, strict=True)]
        total = total - gain(single.query, fast, True)
    for p, expected_ in zip(start, torch.autograd.grad(total / 3, start), strict=True):
        torch.testing.assert_close(p.grad, expected_)


@pytest.mark.usefixtures("double")
def test_the_first_order_is_the_gradient_at_the_adapted_policy() -> None:
    learner, task = acted(first_order=True)
    learner(task).mean().backward()
    found = [p.grad for p in learner.parameters()]
    total = [torch.zeros_like(p) for p in learner.parameters()]
    for single in unstack(task):
        fast, _ = learner.adapt(single.support)
        fast = {name: p.detach().requires_grad_() for name, p in fast.items()}
        dist_params = learner.predict((fast, ()), single.query.observation)
        likely = learner.actions.log_prob(dist_params, single.query.action)
        loss = -(likely.flatten() * advantages(single.query)).mean()
        for p, part in zip(total, torch.autograd.grad(loss, list(fast.values())), strict=True):
            p += part / 3
    torch.testing.assert_close(found, total)


@pytest.mark.usefixtures("double")
def test_what_was_said_is_said_again_by_the_adapted_policy() -> None:
    learner, task = acted()
    fast = qs.execution.over_tasks(learner.adapt)(task.support)
    again = qs.execution.over_tasks(learner.predict)(fast, task.query.observation)
    torch.testing.assert_close(task.query.extras, again)
    torch.testing.assert_close(
        task.support.extras, learner.predict(learner.initial_state(), task.support.observation)
    )
    far = qs.execution.over_tasks(learner.kl_divergence)(task)
    torch.testing.assert_close(far, torch.zeros(3))
    with torch.no_grad():
        learner.net.get_parameter("log_std").add_(1)
    assert (qs.execution.over_tasks(learner.kl_divergence)(task) > 0.1).all()


def test_ppo_learns_a_policy_that_one_step_takes_to_either_side() -> None:
    def outside(learner: MAMLRL) -> qs.training.MultiEpoch:
        return qs.training.MultiEpoch(torch.optim.Adam(learner.parameters(), 0.02), 5)

    for gain, before in gained(lambda e, net: MAMLRL(e, net, clip=0.3), outside, 15):
        assert gain.mean - gain.interval > 0.3, gain
        assert abs(before) < 0.5  # nobody knows the side


@pytest.mark.parametrize("name", ["maml_trpo", "promp", "untrained"])
def test_the_recipe_is_carried_out(name: str, tmp_path: Path) -> None:
    settings = {"learner": name, "steps": 2, "meta_batch_size": 3, "episodes": 2}
    run = runs.start("rl_navigation", settings, tmp_path)
    run.experiment.n_validation_tasks = 3
    done = [status.step for status in runs.go(run)]
    assert done == ([] if name == "untrained" else [1, 2])
    found = runs.finish(run, n_tasks=3)
    row = found["measured"][runs.find("rl_navigation").ROW]
    assert found["name"] == f"rl_navigation_{name}_0" and row["return after"]["mean"] < 0
    assert ("return after" in found["paper"].get("new goals, 1 step", {})) == ("trpo" in name)


def test_the_recipes_learners_are_adapted_alike_and_no_other_is_known() -> None:
    module = runs.find("rl_navigation")
    for name in get_args(module.Name):
        chosen = module.recipe(learner=name)
        (test,) = chosen.benchmarks.values()
        assert test.settings == {"lr": 0.1} and test.tasks.learner is chosen.learner
        assert chosen.learner.lr == (0.0 if name == "pretrained" else 0.1)
    with pytest.raises(ValueError, match="choose one of"):
        runs.find("rl_navigation").recipe(learner="mamel")


@pytest.mark.usefixtures("double")
def test_e_mamls_term_is_that_of_two_loops() -> None:
    """With query episodes of several lengths and a policy that has moved: the expectation alone
    knows neither the sign of the baseline nor the number of query episodes."""
    learner, task = acted(exploration=0.7)
    without, _ = acted()
    task.query.weight[:, 1, 5:] = 0  # as if it had ended
    task.query.reward[:, 1, 5:] = 0
    with torch.no_grad():
        for p, q in zip(learner.parameters(), without.parameters(), strict=True):
            p.add_(0.05 * torch.randn_like(p))
            q.copy_(p)
    for single in unstack(task):
        support, query = single
        mean_return = query.reward.sum() / 4
        params = learner.predict(learner.initial_state(), support.observation)
        total = torch.tensor(0.0)
        for e, t in itertools.product(range(4), range(7)):
            new, old = (
                torch.distributions.Normal(row[:2], row[2:].exp())
                .log_prob(support.action[e, t])
                .sum()
                for row in (params[e, t], support.extras[e, t])
            )
            before = support.reward[e, :t].sum()
            others = support.reward.sum() - support.reward[e].sum()
            baseline = (others + before) / 4
            total = total + (new - old) * (mean_return - baseline)
        steps_per_episode = query.weight.sum() / 4
        term = total / steps_per_episode / learner._advantages(query)[1]
        expected_ = without.loss(single) - 0.7 * term
        torch.testing.assert_close(learner.loss(single), expected_)
        assert (0.7 * term).abs() > 0.01
