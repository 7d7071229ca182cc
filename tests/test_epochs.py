"""Several steps on a batch."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR

import quickstudy as qs
from quickstudy.core.tree import tree_map


def made() -> tuple[qs.RidgeRegression, qs.training.MultiEpoch, ExponentialLR]:
    torch.manual_seed(0)
    learner = qs.RidgeRegression(qs.nets.MLP(1, 4, hidden=(8,)))
    optimizer = qs.training.MultiEpoch(torch.optim.Adam(learner.parameters(), 0.01), 3)
    return learner, optimizer, ExponentialLR(optimizer, 0.5)


def test_steps_are_those_of_the_optimizer_inside() -> None:
    weights = [nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2)]
    losses = []
    adaptation_trace = [torch.optim.Adam([weight], 0.1) for weight in weights]
    several = qs.training.MultiEpoch(adaptation_trace[0], 3)
    for optimizer, weight, times in (
        (several, weights[0], 1),
        (adaptation_trace[1], weights[1], 3),
    ):

        def closure(optimizer=optimizer, weight=weight):
            optimizer.zero_grad()
            (loss := weight.square().sum()).backward()
            return loss

        losses.append([optimizer.step(closure) for _ in range(times)][0])  # noqa: RUF015
    assert torch.equal(*weights) and losses[0] == losses[1] == 5.0
    with pytest.raises(ValueError, match="give 1 or more"):
        qs.training.MultiEpoch(adaptation_trace[0], 0)


def test_each_time_there_is_a_step_on_every_part() -> None:
    """Against a loop over the same tasks, divided by hand."""
    parts, whole = made(), made()
    optimizer = qs.training.MultiEpoch(parts[1].optimizer, 2, minibatches=2)
    tasks, clip = qs.Sinusoid(), 0.1
    (step,) = qs.train(parts[0], tasks, optimizer, steps=1, meta_batch_size=5, clip=clip)
    (batch,) = qs.batches(tasks, 5, steps=1)
    learner, adaptation_trace, losses = whole[0], whole[1].optimizer, []
    for rows in (slice(3), slice(3, 5)) * 2:
        adaptation_trace.zero_grad()
        minibatch = tree_map(lambda leaf: leaf[rows], batch)  # noqa: B023
        losses.append(learner(minibatch))
        losses[-1].mean().backward()
        nn.utils.clip_grad_norm_(learner.parameters(), clip)
        adaptation_trace.step()
    torch.testing.assert_close(step.loss, torch.cat(losses[:2]))
    for one, other in zip(parts[0].parameters(), learner.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_resumed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def go(
        parts: tuple[qs.RidgeRegression, qs.training.MultiEpoch, ExponentialLR], start: int
    ) -> None:
        learner, optimizer, scheduler = parts
        for step in qs.train(
            learner, qs.Sinusoid(), optimizer, steps=4, meta_batch_size=2, start=start
        ):
            scheduler.step()
            if start == 0 and step.number == 2:
                qs.save(tmp_path, *parts)

    whole, again = made(), made()
    go(whole, 0)
    qs.load(tmp_path, *again)
    go(again, 2)
    assert whole[1].optimizer.param_groups[0]["lr"] == 0.01 / 16
    assert again[1].optimizer.param_groups[0]["lr"] == 0.01 / 16
    for one, other in zip(whole[0].parameters(), again[0].parameters(), strict=True):
        assert torch.equal(one, other)
