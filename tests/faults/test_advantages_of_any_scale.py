"""Advantages are right far from the origin of observations, and for rewards of any size."""

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

import quickstudy as qs
from quickstudy.environments import PointRobot
from quickstudy.rl.advantages import linear_baseline


def ridge(observation: Tensor, reward: Tensor, weight: Tensor, discount: float) -> np.ndarray:
    """The baseline by naive loops and NumPy, in float64."""
    rows, returns, weights = [], [], []
    for o, r, w in zip(observation.double(), reward.double(), weight.double(), strict=True):
        for t in range(len(r)):
            seen, time = o[t].clamp(-10, 10).numpy(), t / 100
            rows.append([*seen, *seen**2, time, time**2, time**3, 1.0])
            returns.append(sum(discount**k * r[t + k].item() for k in range(len(r) - t)))
            weights.append(w[t].item())
    x, y, share = np.array(rows), np.array(returns), np.array(weights) / sum(weights)
    gram = (x.T * share) @ x + 1e-5 * np.eye(x.shape[1])
    value = x @ np.linalg.solve(gram, (x.T * share) @ y)
    return value.reshape(reward.shape) * (weight > 0).numpy()


@pytest.mark.parametrize("offset", [0.0, 5.0, 9.0, -9.0])
@pytest.mark.parametrize("level", [0.0, 100.0])
def test_the_baseline_far_from_the_origin(offset: float, level: float) -> None:
    generator = Generator().manual_seed(0)
    observation = offset + 0.01 * torch.randn(10, 50, 3, generator=generator)
    weight = (torch.arange(50) < torch.randint(30, 50, (10, 1), generator=generator)).float()
    reward = (level + torch.randn(10, 50, generator=generator)) * weight
    value = linear_baseline(observation, reward, weight, discount=0.9)
    right = ridge(observation, reward, weight, 0.9)
    assert value.dtype == torch.float32
    assert np.abs(value.numpy() - right).max() < 1e-4 * max(1.0, np.abs(right).max())


@pytest.mark.parametrize("scale", [1e-15, 1e-9, 1e-4, 1e4, 1e9])
def test_the_size_of_rewards_changes_no_gradient(scale: float) -> None:
    torch.manual_seed(0)
    robot = PointRobot(horizon=5)
    learner = qs.MAMLRL(robot, qs.nets.policy_net(robot, hidden=(8,)))
    tasks = qs.tasks.Rollouts(robot, learner, episodes=4)
    batch = tasks.sample(3, Generator().manual_seed(0))
    scaled = qs.Task(*(part._replace(reward=part.reward * scale) for part in batch))

    def gradient(task: qs.Task) -> Tensor:
        learner.zero_grad()
        learner(task).mean().backward()
        return torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])

    torch.testing.assert_close(gradient(scaled), gradient(batch), rtol=1e-3, atol=1e-5)


def test_equal_returns_have_no_advantage() -> None:
    robot = PointRobot(horizon=1)
    learner = qs.MAMLRL(robot, qs.nets.policy_net(robot, hidden=(8,)))
    for value in (0.0, 1.0):
        batch = qs.tasks.Rollouts(robot, learner, episodes=4).sample(2, Generator())
        flat = qs.Task(
            *(part._replace(reward=torch.full_like(part.reward, value)) for part in batch)
        )
        assert learner(flat).isfinite().all()
