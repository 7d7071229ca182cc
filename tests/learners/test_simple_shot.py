"""SimpleShot against prototypical networks and numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from quickstudy import Examples, PrototypicalNetwork, SimpleShot, Task, load, save
from quickstudy.core.tree import tree_map
from quickstudy.execution.batching import Execution
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def batch(size: int = 3) -> Task[Examples]:
    drawn = Blobs(ways=4, shots=3).sample(size, torch.Generator().manual_seed(3))
    return tree_map(lambda leaf: leaf.double(), drawn)


def task() -> Task[Examples]:
    return tree_map(lambda leaf: leaf[0], batch())


def learner(**settings: Any) -> SimpleShot:
    made = SimpleShot(MLP(8, 5), nn.Linear(5, 4), **settings).eval()
    made.centre.running_mean = torch.randn(5)
    return made


def test_untransformed_it_is_a_prototypical_network():
    support, query = task()
    mine = learner(transform="UN")
    other = PrototypicalNetwork(mine.embed)
    torch.testing.assert_close(
        mine.predict(mine.adapt(support), query.x), other.predict(other.adapt(support), query.x)
    )


@pytest.mark.parametrize("transform", ["L2N", "CL2N"])
def test_transformed_by_hand(transform: Any):
    support, query = task()
    mine = learner(transform=transform)
    assert mine.centre.running_mean is not None
    centre = mine.centre.running_mean.numpy() if transform == "CL2N" else 0.0

    def transformed(x: torch.Tensor) -> np.ndarray:
        z = mine.embed(x).detach().numpy() - centre
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    z, label = transformed(support.x), support.y.argmax(-1).numpy()
    means = np.stack([z[label == c].mean(0) for c in range(4)])
    distance = np.linalg.norm(transformed(query.x)[:, None] - means, axis=-1)
    found = mine.predict(mine.adapt(support), query.x).detach()
    np.testing.assert_allclose(found, -(distance**2), rtol=1e-10)


@pytest.mark.parametrize("execution", ["vmap", "loop"])
def test_training_takes_note_of_the_mean(execution: Execution):
    mine, tasks = learner().train(), batch()
    mine.centre.running_mean, mine.execution = torch.zeros(5), execution
    mine(tasks).mean().backward()
    mean = mine.embed(tasks.query.x.flatten(0, 1)).mean(0).detach()
    torch.testing.assert_close(mine.centre.running_mean, 0.01 * mean)
    mine.eval()(tasks)
    torch.testing.assert_close(mine.centre.running_mean, 0.01 * mean)


def test_the_mean_is_saved(tmp_path: Path):
    mine, other = learner(), learner()
    save(tmp_path / "kept", mine)
    load(tmp_path / "kept", other)
    torch.testing.assert_close(other.centre.running_mean, mine.centre.running_mean)


def test_the_loss_is_the_classifiers():
    support, query = task()
    mine = learner()
    logits = mine.head(mine.embed(query.x))
    expected = nn.functional.cross_entropy(logits, query.y.argmax(-1))
    torch.testing.assert_close(mine.loss(Task(support, query)), expected)


def test_another_transform_is_refused():
    with pytest.raises(ValueError, match="is not 'UN', 'L2N' or 'CL2N'"):
        learner(transform="L1N")
