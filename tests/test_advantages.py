"""Advantages against sums written out, and the limits of λ."""

from typing import Any

import pytest
import torch

from quickstudy.rl.advantages import clipped_surrogate, discounted_returns, gae

pytestmark = pytest.mark.usefixtures("double")


def numbers() -> tuple[Any, Any, Any, Any]:
    torch.manual_seed(0)
    done = torch.zeros(3, 7)
    done[0, 2] = done[1, 6] = 1
    return torch.randn(3, 7), torch.randn(3, 7), done, torch.randn(3)


def test_returns_are_the_sum_of_later_rewards_of_the_episode() -> None:
    reward, _, done, after = numbers()
    found = discounted_returns(reward, discount=0.9, done=done, after=after)
    for row in range(3):
        for t in range(7):
            total, factor = 0.0, 1.0
            for s in range(t, 7):
                total, factor = total + factor * reward[row, s], factor * 0.9
                if done[row, s]:
                    factor = 0.0
                    break
            torch.testing.assert_close(found[row, t], total + factor * after[row])


def test_advantages_are_the_decayed_sum_of_errors() -> None:
    reward, value, done, after = numbers()
    found = gae(reward, value, discount=0.9, gae_lambda=0.7, done=done, after=after)
    following = torch.cat([value[:, 1:], after[:, None]], 1)
    error = reward + 0.9 * (1 - done) * following - value
    for row in range(3):
        for t in range(7):
            total, factor = 0.0, 1.0
            for s in range(t, 7):
                total, factor = total + factor * error[row, s], factor * 0.63
                if done[row, s]:
                    break
            torch.testing.assert_close(found[row, t], torch.as_tensor(total))
    torch.testing.assert_close(
        gae(reward, value, discount=0.9, gae_lambda=0.0, done=done, after=after), error
    )


def test_a_decay_of_1_trusts_rewards_alone() -> None:
    reward, value, done, after = numbers()
    options: Any = {"discount": 0.9, "done": done, "after": after}
    returns = discounted_returns(reward, **options)
    torch.testing.assert_close(gae(reward, value, gae_lambda=1.0, **options), returns - value)


def test_padding_at_the_end_adds_nothing() -> None:
    reward, value, _, _ = numbers()
    reward[:, 5:] = value[:, 5:] = 0
    found = gae(reward, value, discount=0.9, gae_lambda=0.7)
    torch.testing.assert_close(
        found[:, :5], gae(reward[:, :5], value[:, :5], discount=0.9, gae_lambda=0.7)
    )
    assert not found[:, 5:].any()


def test_clipping_rewards_no_change_beyond_its_bound_and_forgives_none() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1], requires_grad=True)
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0, 3.0])
    found = clipped_surrogate(ratio.log(), advantage, 0.2)
    torch.testing.assert_close(found, torch.tensor([2.4, -3.0, 1.0, -1.6, 3.3]))
    (grads,) = torch.autograd.grad(found.sum(), ratio)
    torch.testing.assert_close(grads, torch.tensor([0.0, -2.0, 2.0, 0.0, 3.0]))
