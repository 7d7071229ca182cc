"""Tasks of another dtype or shape than the net takes, and batches of no task, are refused."""

from typing import Any

import pytest
import torch
from torch import nn

import quickstudy as qs
from quickstudy.core.tree import tree_map
from quickstudy.learners.heads import MetaOptNet
from quickstudy.learners.lifelong import FineTuning
from quickstudy.learners.metric import SiameseNetwork, WeightedL1
from quickstudy.testing import Blobs

LEARNERS: dict[str, Any] = {
    "maml": lambda: qs.MAML(nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3))),
    "fine_tuning": lambda: FineTuning(nn.Linear(8, 3)),
    "prototypical": lambda: qs.PrototypicalNetwork(nn.Linear(8, 4)),
    "convolution": lambda: qs.PrototypicalNetwork(
        nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 2, 3), nn.Flatten())
    ),
    "siamese": lambda: SiameseNetwork(nn.Linear(8, 4), WeightedL1(4)),
    "ridge": lambda: qs.RidgeRegression(nn.Linear(8, 4)),
    "support vectors": lambda: MetaOptNet(nn.Linear(8, 4)),
}


def batch() -> qs.Task[qs.Examples]:
    return Blobs().sample(2, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("execution", ["vmap", "loop"])
@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bool])
def test_inputs_of_another_dtype(name: str, dtype: torch.dtype, execution: Any) -> None:
    learner = LEARNERS[name]()
    learner.execution = execution
    tasks = qs.Task(*(part._replace(x=part.x.to(dtype)) for part in batch()))
    with pytest.raises(ValueError, match=r"several dtypes: give x, y and weight"):
        learner(tasks)


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
@pytest.mark.parametrize("field", ["y", "weight"])
def test_labels_and_weights_of_another_dtype(name: str, dtype: torch.dtype, field: str) -> None:
    """Right, or refused in words."""
    learner = LEARNERS[name]()
    expected = learner(batch())
    tasks = qs.Task(
        *(part._replace(**{field: getattr(part, field).to(dtype)}) for part in batch())
    )
    try:
        found = learner(tasks)
    except ValueError as error:
        assert "several dtypes" in str(error)
    else:
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", LEARNERS)
def test_inputs_of_another_width(name: str) -> None:
    tasks = qs.Task(*(part._replace(x=part.x[..., :5]) for part in batch()))
    with pytest.raises((ValueError, RuntimeError), match=r"does not fit|unflatten"):
        LEARNERS[name]()(tasks)


@pytest.mark.parametrize("name", LEARNERS)
def test_no_task(name: str) -> None:
    with pytest.raises(ValueError, match="no task: draw one or more"):
        LEARNERS[name]()(tree_map(lambda leaf: leaf[:0], batch()))
