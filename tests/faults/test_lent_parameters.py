"""Tensors lent in the place of parameters adapt, also where no gradient is recorded."""

import pytest
import torch
from torch import nn

import quickstudy as qs
from quickstudy.execution.batching import Execution
from quickstudy.testing.learners import Blobs

TASKS = Blobs().sample(2, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("execution", ["vmap", "loop"])
def test_lent_tensors_of_convolutions_adapt_without_gradients(execution: Execution):
    torch.manual_seed(0)
    conv = nn.Sequential(
        nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(9, 3)
    )
    learner = qs.MAML(conv, lr=0.5, steps=2)
    learner.execution = execution
    with torch.no_grad():
        losses = learner(TASKS)
    torch.testing.assert_close(losses, learner(TASKS).detach())
