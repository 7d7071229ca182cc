"""PEARL against products of Gaussians, densities by integration and targets written out, and in
small tasks whose best action is known."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution
from torch.distributions.kl import kl_divergence

import quickstudy as qs
from quickstudy import runs
from quickstudy.core.tree import tree_map, unstack
from quickstudy.environments import (
    BernoulliBandit,
    Environment,
    Episodes,
    Navigation2D,
    near_goal,
    normal,
    rollout,
)
from quickstudy.learners.policies.pearl import Posterior, squashed_gaussian


class Guess(Environment):
    """One step: a number is to be guessed, of which only the reward tells, minus the squared
    error."""

    observation_size, action_size, discrete, horizon, noise_size = 1, 1, False, 1, 1

    def tasks(self, size: int, generator: Generator) -> Tensor:
        return torch.randint(2, (size,), generator=generator) * 1.2 - 0.6

    def reset(self, task: Tensor, noise: Tensor) -> Any:
        return (), torch.ones_like(noise)

    def step(self, task: Tensor, state: Any, action: Tensor, noise: Tensor) -> Any:
        reward = -(action[0] - task).square()
        return (), torch.ones_like(noise), reward, torch.ones_like(reward)


def small(environment: Environment, **options: Any) -> qs.PEARL:
    settings: dict[str, Any] = {"latent": 3, "hidden": [16], "encoder": [16], **options}
    return qs.PEARL(environment, **settings)


def batch(learner: qs.PEARL, environment: Environment, size: int = 3) -> Any:
    rollouts = qs.tasks.Rollouts(environment, learner, episodes=2)
    replayed = qs.tasks.OffPolicyTasks(rollouts, tasks=4, support=5, query=6)
    del learner.replay
    return replayed.sample(size, Generator().manual_seed(0))


def seen(episodes: int, steps: int = 4) -> Episodes:
    """Made up, with padding."""
    shape = episodes, steps
    o, a, r = torch.randn(*shape, 2), torch.randn(*shape, 2), torch.randn(shape)
    weight = (torch.rand(shape) < 0.7).to(r.dtype)
    return Episodes(o, a, r, torch.randn(*shape, 2), torch.zeros(shape), weight, extras=())


@pytest.mark.usefixtures("double")
def test_the_posterior_is_the_product_of_its_factors_in_any_order_and_split() -> None:
    learner, episodes = small(Navigation2D(), bound=0.1), seen(5)
    whole, _ = learner.adapt(episodes)
    # the density of the product on a grid, a latent at a time
    grid = torch.linspace(-30, 30, 60001)
    factors = [Normal(0.0, 1.0).log_prob(grid).expand(3, -1)]
    for e in range(5):
        for t in range(4):
            row = [episodes.observation, episodes.action / 0.1, episodes.next_observation]
            step = torch.cat([*(leaf[e, t] for leaf in row), episodes.reward[e, t, None]])
            mean, spread = learner.encoder(step).chunk(2)
            factor = Normal(mean[:, None], (1 + spread.exp()).log().sqrt()[:, None])
            if episodes.weight[e, t] > 0:
                factors.append(factor.log_prob(grid))
    density = torch.stack(factors).sum(0).softmax(-1)
    mean = (density * grid).sum(-1)
    variance = (density * (grid - mean[:, None]).square()).sum(-1)
    torch.testing.assert_close(whole.mean(), mean)
    torch.testing.assert_close(1 / whole.precision, variance)

    order = torch.randperm(5)
    shuffled, _ = learner.adapt(tree_map(lambda leaf: leaf[order].flip(1), episodes))
    state = None
    for some in (slice(3, 5), slice(0, 0), slice(0, 1), slice(1, 3)):
        state = learner.adapt(tree_map(lambda leaf, s=some: leaf[s], episodes), state)
    assert state is not None
    for found in (shuffled, state[0]):
        torch.testing.assert_close(found, whole)
    nothing = learner.adapt(tree_map(lambda leaf: leaf[:0], episodes))
    torch.testing.assert_close(nothing, learner.initial_state())


@pytest.mark.usefixtures("double")
def test_divergence_and_draws_are_those_of_the_normal_distribution() -> None:
    q = Posterior(torch.tensor([2.0, 0.5, 30.0]), torch.tensor([1.0, -3.0, 4.0]))
    same = Normal(q.weighted / q.precision, q.precision.rsqrt())
    expected = kl_divergence(same, Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(q.kl_divergence(), expected)
    drawn = torch.func.vmap(lambda e: q.sample(e))(torch.randn(20000, 3))
    torch.testing.assert_close(drawn.mean(0), same.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.std(0), same.stddev, atol=0.03, rtol=0)


@pytest.mark.usefixtures("double")
def test_squashed_actions_have_the_density_of_their_distribution() -> None:
    dist_params, eps = torch.randn(50, 6) - 1, 0.5 * torch.randn(50, 3)
    action, log_prob = squashed_gaussian(dist_params, eps)
    normals = Independent(Normal(dist_params[:, :3], dist_params[:, 3:].exp()), 1)
    other = TransformedDistribution(normals, TanhTransform())
    torch.testing.assert_close(log_prob, other.log_prob(action))
    # and it is one: integrated over actions
    dist_params, eps = torch.tensor([[0.3, -0.5]]), torch.linspace(-8, 8, 4001)[:, None]
    action, log_prob = squashed_gaussian(dist_params, eps)
    mass = torch.trapezoid(log_prob.exp(), action[:, 0])
    torch.testing.assert_close(mass, torch.tensor(1.0), atol=1e-6, rtol=0)
    far, log_prob = squashed_gaussian(
        torch.tensor([30.0, 0.0]).requires_grad_(), torch.zeros(1)
    )
    assert far == 1 and log_prob.isfinite()


@pytest.mark.usefixtures("double")
def test_loss_is_the_soft_bellman_error_the_actors_and_the_divergence() -> None:
    environment = Guess()
    settings = {"discount": 0.9, "reward_scale": 3.0, "kl": 0.2, "bound": 2.0}
    learner = small(environment, **settings)
    for average in learner.averaged.parameters():
        average.data += 0.1 * torch.randn_like(average)
    tasks = batch(learner, environment)
    steps = tasks.query._replace(done=(torch.rand(3, 1, 6) < 0.5).double())
    expected = []
    for support, query in map(tuple, unstack(qs.Task(tasks.support, steps))):
        posterior, _ = learner.adapt(support)
        eps = normal(query.extras[0])
        z = posterior.mean() + eps[0, 0, 1:] / posterior.precision.sqrt()
        total = torch.tensor(0.0)
        for i in range(6):
            s, then = query.observation[0, i], query.next_observation[0, i]

            def chosen(
                seen: Tensor, normal_noise: Tensor, z: Tensor = z
            ) -> tuple[Tensor, Tensor]:
                mean, log_std = learner.policy(torch.cat([seen, z]))
                density = Normal(mean, log_std.exp())
                u = mean + normal_noise * log_std.exp()
                return u.tanh()[None], density.log_prob(u) - (1 - u.tanh() ** 2).log()

            after, log_prob = chosen(then, eps[i, 1, 0])
            values = [net(torch.cat([then, after, z]))[0] for net in learner.averaged.nets]
            going_on = 0.9 * (1 - query.done[0, i]) * (min(values) - log_prob)
            target = 3 * query.reward[0, i] + going_on
            critic_input = torch.cat([s, query.action[0, i] / 2, z])
            total += sum((net(critic_input)[0] - target) ** 2 for net in learner.critic.nets)
            action, log_prob = chosen(s, eps[i, 0, 0])
            q_value = min(net(torch.cat([s, action, z]))[0] for net in learner.critic.nets)
            total += log_prob - q_value
        expected.append(total / 6 + 0.2 * posterior.kl_divergence())
    found = learner(qs.Task(tasks.support, steps))
    torch.testing.assert_close(found, torch.stack(expected))
    learner.execution = "loop"
    torch.testing.assert_close(learner(qs.Task(tasks.support, steps)), found)


@pytest.mark.usefixtures("double")
def test_each_net_learns_by_its_own_part_of_the_loss() -> None:
    environment = Navigation2D(horizon=5)
    learner = small(environment, bound=0.1)
    tasks = unstack(batch(learner, environment, size=1))[0]
    critic, actor, kl_divergence = parts(learner, tasks)

    def grads(loss: Tensor, net: torch.nn.Module) -> list[Tensor]:
        return list(torch.autograd.grad(loss, list(net.parameters()), retain_graph=True))

    total = learner.loss(tasks)
    owners = {learner.encoder: critic + kl_divergence, learner.critic: critic}
    for net, part in {**owners, learner.policy: actor}.items():
        for found, expected in zip(grads(total, net), grads(part, net), strict=True):
            torch.testing.assert_close(found, expected)
            assert found.abs().max() > 0
    # what must not be: the parts do touch the other nets, where nothing stops them
    assert grads(actor, learner.critic)[0].abs().max() > 0
    assert grads(actor, learner.encoder)[0].abs().max() > 0
    assert not any(p.requires_grad for p in learner.averaged.parameters())


def parts(learner: qs.PEARL, task: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Critic's, actor's and divergence's losses, with nothing stopped but the target."""
    posterior, _ = learner.adapt(task.support)
    steps = tree_map(lambda leaf: leaf[0], task.query)
    eps = normal(steps.extras)
    z = (posterior.mean() + eps[0, 0, 2:] * posterior.precision.rsqrt()).expand(6, -1)
    after = torch.cat([steps.next_observation, z], -1)
    then, log_prob = squashed_gaussian(learner.policy(after), eps[:, 1, :2])
    value = learner.averaged(torch.cat([steps.next_observation, then, z], -1)).amin(-1)
    target = 5 * steps.reward + 0.99 * (1 - steps.done) * (value - log_prob)
    q_values = learner.critic(torch.cat([steps.observation, steps.action / 0.1, z], -1))
    critic = (q_values - target.detach()[:, None]).square().sum(-1).mean()
    now, log_prob = squashed_gaussian(
        learner.policy(torch.cat([steps.observation, z], -1)), eps[:, 0, :2]
    )
    q_value = learner.critic(torch.cat([steps.observation, now, z], -1)).amin(-1)
    return critic, (log_prob - q_value).mean(), 0.1 * posterior.kl_divergence()


def test_averages_follow_the_critics_once_a_step() -> None:
    environment = Navigation2D(horizon=5)
    learner = small(environment, tau=0.25)
    rollouts = qs.tasks.Rollouts(environment, learner, episodes=1)
    replayed = qs.tasks.OffPolicyTasks(rollouts, tasks=2, support=3, query=3)
    optimizer = torch.optim.Adam(learner.parameters(), 0.1)
    (name, weight), *_ = learner.critic.named_parameters()
    average = learner.averaged.get_parameter(name)
    expected = weight.detach().clone()
    for _ in qs.train(learner, replayed, optimizer, steps=3, meta_batch_size=2):
        expected = expected + 0.25 * (weight.detach() - expected)
        torch.testing.assert_close(average, expected)
    assert not torch.equal(weight, expected)
    learner.set_step(2)  # a pure function of the step
    torch.testing.assert_close(average, expected)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("trial", [False, True])
def test_z_is_drawn_for_an_episode_and_held(trial: bool) -> None:
    environment = Navigation2D(horizon=4)
    learner = small(environment, bound=0.1)
    state, memory = (
        tree_map(lambda x: x.expand(2, *x.shape), part) for part in learner.initial_state()
    )

    def act(*inputs: Any) -> Any:
        memory, action, _ = learner.act(*inputs)
        return memory, action, memory.z

    found = rollout(
        environment,
        environment.tasks(2, Generator().manual_seed(0)) + 9,
        act,
        Generator().manual_seed(1),
        episodes=3,
        state=state,
        memory=memory,
        trial=trial,
        extra_noise_size=learner.extra_noise_size,
    )
    z = found.extras
    assert torch.equal(z, z[:, :, :1].expand_as(z))
    assert len(z[:, :, 0].unique()) == 2 * 3 * 3
    assert found.action.abs().max() < 0.1


def test_greedy_is_without_noise_but_that_of_z() -> None:
    environment = Navigation2D(horizon=4)
    learner = small(environment, bound=0.1)
    sure = Posterior(torch.full((3,), 1e12), torch.full((3,), 0.5e12))
    policy_input = qs.environments.PolicyInput(torch.ones(2), torch.zeros(2), *torch.zeros(2))
    _, nothing = learner.initial_state()
    learner.greedy = True
    _, first, _ = learner.act(sure, nothing, policy_input, torch.full((5,), 0.3))
    _, second, _ = learner.act(sure, nothing, policy_input, torch.full((5,), 0.9))
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(learner.predict((sure, nothing), torch.ones(1, 2))[0], first)
    learner.greedy = False
    _, third, _ = learner.act(sure, nothing, policy_input, torch.full((5,), 0.9))
    assert not torch.allclose(third, first)


def test_what_is_told_of_rewards_is_for_the_context_alone() -> None:
    torch.manual_seed(0)
    learner, context = small(Navigation2D()), seen(3)
    torch.manual_seed(0)
    sparse = small(Navigation2D(), reward_transform=near_goal)
    found = sparse.adapt(context)[0]
    less = context._replace(reward=near_goal(context.reward))
    torch.testing.assert_close(found, learner.adapt(less)[0])
    assert not torch.allclose(found.weighted, learner.adapt(context)[0].weighted)


def test_actions_that_are_one_of_several_are_refused() -> None:
    with pytest.raises(ValueError, match="use RL2"):
        qs.PEARL(BernoulliBandit(2))


def trained(seed: int, tasks: int, count: int = 200) -> Any:
    """A learner of `tasks` numbers, its rollouts, and what they earned before and earn now."""
    torch.manual_seed(seed)
    learner = small(Guess(), latent=1, hidden=[32, 32], reward_scale=20.0)
    rollouts = qs.tasks.Rollouts(Guess(), learner, episodes=4)
    replayed = qs.tasks.OffPolicyTasks(
        rollouts, tasks=tasks, every=10, support=8, query=32, seed=seed
    )
    before = qs.evaluation.evaluate_rollouts(
        learner, rollouts, n_tasks=200, meta_batch_size=200
    )
    optimizer = torch.optim.Adam(learner.parameters(), 0.01)
    for _ in qs.train(learner, replayed, optimizer, steps=count, meta_batch_size=8, seed=seed):
        pass
    now = qs.evaluation.evaluate_rollouts(learner, rollouts, n_tasks=200, meta_batch_size=200)
    return learner, replayed, before, now


def test_of_one_task_it_learns_the_best_policy_and_its_values() -> None:
    """The policy is exp(20 r), but for the bounds: normal around the number."""
    learner, replayed, _, _ = trained(0, 1, 400)
    number, seen = replayed.tasks[0], torch.ones(200, 1)
    z = torch.zeros(200, 1)
    guess = number + torch.linspace(-0.25, 0.25, 200)[:, None]  # likely ones
    q_value = learner.critic(torch.cat([seen, guess, z], -1))
    expected = (-20 * (guess - number).square()).expand(-1, 2)
    torch.testing.assert_close(q_value, expected, atol=0.5, rtol=0)
    policy_params = learner.policy(torch.cat([seen, z], -1))
    action, _ = squashed_gaussian(policy_params, torch.randn(200, 1))
    torch.testing.assert_close(action.mean(), number, atol=0.05, rtol=0)
    torch.testing.assert_close(action.std(), torch.tensor(1 / 40).sqrt(), atol=0.05, rtol=0)


def test_learns_to_infer_the_number_and_then_to_say_it() -> None:
    for seed in range(3):
        _, _, before, now = trained(seed, 20)
        gain = now.paired_difference(before, "return after")
        assert gain.mean - gain.interval > 0.2, gain
        # who knows the number loses 1/40 by chance; who does not, 0.36 at best
        assert now.mean("return after") + now.interval("return after") > -0.15, now
        assert now.mean("return before") < -0.3


def test_the_recipe_is_carried_out(tmp_path: Path) -> None:
    settings = {"steps": 2, "meta_batch_size": 2, "hidden": 4, "tasks": 3}
    for environment in ("navigation", "point_robot"):
        run = runs.start(
            "rl_pearl", {**settings, "environment": environment}, tmp_path / environment
        )
        run.experiment.n_validation_tasks = 4
        assert [status.step for status in runs.go(run)] == [1, 2]
        found = runs.finish(run, n_tasks=3)
        measured = found["measured"]["new goals"]
        assert set(measured) == {"return after", "return before", "card"}
        assert (measured["return after"]["mean"] >= 0) == (environment == "point_robot")
