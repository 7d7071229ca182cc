"""Meta-World as a family, where it is installed."""

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import quickstudy as qs
from quickstudy.core.tree import unstack
from quickstudy.environments import meta_world, rollout
from quickstudy.evaluation import success_rate

metaworld: Any = pytest.importorskip(
    "metaworld", reason="Meta-World is not installed: pip install 'quickstudy[rl]'"
)


def reach(state: Tensor, memory: Any, policy_input: Any, noise: Tensor) -> Any:
    """Goes where it is told."""
    move = (10 * (state - policy_input.observation[:3])).clamp(-1, 1)
    return memory, torch.cat([move, noise[:1]]), ()


@pytest.mark.slow
def test_reaching_is_a_success_and_the_goal_is_not_seen() -> None:
    with meta_world("reach-v3", horizon=60, workers=1) as family:
        benchmark = metaworld.ML1("reach-v3", seed=0)
        tasks, env = torch.tensor([3, 7]), benchmark.train_classes["reach-v3"]()
        goals = []
        for number in tasks.tolist():
            env.set_task(benchmark.train_tasks[number])
            env.reset(seed=0)
            goals.append(torch.from_numpy(env._target_pos).float())
        found = rollout(family, tasks, reach, Generator(), state=torch.stack(goals))
        assert found.observation.shape == (2, 1, 60, 39) and found.weight.all()
        assert (found.observation[..., -3:] == 0).all()
        assert [success_rate(qs.Task(single, single)) for single in unstack(found)] == [1, 1]
        missed = rollout(family, tasks, reach, Generator(), state=torch.stack(goals) * -1)
        assert [success_rate(qs.Task(single, single)) for single in unstack(missed)] == [0, 0]
        # as its own environment has it
        env.set_task(benchmark.train_tasks[3])
        seen, _ = env.reset(seed=0)
        for step in range(5):
            at = found.observation[0, 0, step]
            torch.testing.assert_close(at, torch.from_numpy(seen).float())
            seen, paid, *_ = env.step(found.action[0, 0, step].numpy())
            assert found.reward[0, 0, step].item() == pytest.approx(paid, rel=1e-5)


def test_an_unknown_benchmark_is_refused() -> None:
    with pytest.raises(ValueError, match="has no 'ML11'"):
        meta_world("ML11")
