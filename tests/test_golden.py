"""The losses of three steps of every learner of the zoo, and the norms of the gradients of
every actor: a change of numbers is seen.

python -m tests.test_golden    writes golden.json anew; say in the commit why numbers changed
"""

import json
from pathlib import Path

import pytest
import torch

from quickstudy.core.task import batches
from quickstudy.core.tree import tree_map
from quickstudy.training.loop import train
from tests.zoo import ACTORS, ZOO

FILE = Path(__file__).with_name("golden.json")


def losses(name: str) -> list[float]:
    """The mean loss of each of three steps, in float64 on the CPU."""
    entry = ZOO[name]
    learner = entry.learner().double()
    optimizer = torch.optim.SGD(learner.parameters(), 0.01)
    torch.manual_seed(0)  # of dropout and the like
    found = []
    for batch in batches(entry.tasks, 4, steps=3):
        exact = tree_map(lambda x: x.double() if x.is_floating_point() else x, batch)
        loss = learner(exact).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def gradient_norms(name: str) -> list[float]:
    """The norm of the gradient at each of three steps: losses on policy are 0 at first."""
    with ACTORS[name].case().exact() as (learner, _, tasks):
        optimizer = torch.optim.SGD(learner.parameters(), 0.01)
        norms = []
        for _ in train(learner, tasks, optimizer, steps=3, meta_batch_size=4):
            grads = [p.grad.flatten() for p in learner.parameters() if p.grad is not None]
            norms.append(torch.cat(grads).norm().item())
    return norms


def recorded() -> dict[str, list[float]]:
    """All numbers, by name; those of actors have "actor:" in front."""
    actors = {f"actor:{name}": gradient_norms(name) for name in ACTORS}
    return {**{name: losses(name) for name in ZOO}, **actors}


@pytest.mark.parametrize("name", ZOO)
def test_losses_are_as_recorded(name: str):
    golden = json.loads(FILE.read_text())
    assert name in golden, "run `python -m tests.test_golden`"
    assert losses(name) == pytest.approx(golden[name], rel=1e-9)


@pytest.mark.parametrize("name", ACTORS)
def test_gradients_of_actors_are_as_recorded(name: str):
    golden = json.loads(FILE.read_text())
    assert gradient_norms(name) == pytest.approx(golden[f"actor:{name}"], rel=1e-7)


def test_nothing_is_recorded_of_learners_that_are_gone():
    names = {*ZOO, *(f"actor:{name}" for name in ACTORS)}
    assert set(json.loads(FILE.read_text())) == names


if __name__ == "__main__":
    FILE.write_text(json.dumps(recorded(), indent=1) + "\n")
