"""The losses of three steps of every learner of the zoo: a change of numbers is seen.

python -m tests.test_golden    writes golden.json anew; say in the commit why numbers changed
"""

import json
from pathlib import Path

import pytest
import torch

from quickstudy.core.task import batches
from quickstudy.core.tree import tree_map
from tests.zoo import ZOO

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


@pytest.mark.parametrize("name", ZOO)
def test_losses_are_as_recorded(name: str):
    golden = json.loads(FILE.read_text())
    assert name in golden, "run `python -m tests.test_golden`"
    assert losses(name) == pytest.approx(golden[name], rel=1e-9)


def test_nothing_is_recorded_of_learners_that_are_gone():
    assert set(json.loads(FILE.read_text())) == set(ZOO)


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: losses(name) for name in ZOO}, indent=1) + "\n")
