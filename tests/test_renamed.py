"""Names that 0.1.0 stored are found under today's, and today's under those of 0.1.0."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from quickstudy import MAML, PrototypicalNetwork, Task, load, save
from quickstudy.nets import MLP
from quickstudy.storage import CheckpointError, renamed
from quickstudy.storage.state_file import learner_ids, state_types


class Net(nn.Module):
    def __init__(self, name: str):
        super().__init__()
        self.add_module(name, nn.Linear(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return next(self.children())(x)


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Paired(PrototypicalNetwork):
    pass


def test_a_checkpoint_with_other_names_of_parameters_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    old, new = MAML(Net("layer")), MAML(Net("linear"))
    optimizers = [torch.optim.SGD(learner.parameters(), 0.1) for learner in (old, new)]
    save(tmp_path, old, optimizers[0], step=1)
    with pytest.raises(CheckpointError, match=r"lacks net\.linear"):
        load(tmp_path, new)
    monkeypatch.setitem(renamed.PARAMETERS, "Net", {"layer": "linear"})
    assert load(tmp_path, new, optimizers[1]) == {"step": 1}
    for a, b in zip(old.parameters(), new.parameters(), strict=True):
        assert torch.equal(a, b)
    assert learner_ids(old)[0] in learner_ids(new)


@pytest.mark.parametrize(
    ("stored", "today"),
    [
        ("norms.body/1/weight", "norms.blocks/1/weight"),
        ("rates.body.1.weight", "rates.blocks.1.weight"),
        ("learner.norms.body/1/weight", "learner.norms.blocks/1/weight"),
        ("embed.body.1.weight", "embed.body.1.weight"),
    ],
)
def test_keys_that_are_made_of_names_of_parameters(
    monkeypatch: pytest.MonkeyPatch, stored: str, today: str
):
    monkeypatch.setitem(renamed.PARAMETERS, "MLP", {"body": "blocks"})
    learner = MAML(MLP(2, 2))
    assert renamed.parameters(learner, [stored], [today]) == {stored: today}
    assert renamed.stored_parameters(learner, [today]) == {today: stored}


def test_states_are_found_by_stored_names_and_fields(monkeypatch: pytest.MonkeyPatch):
    learner = Paired(MLP(2, 2))
    assert ("Pair", "first", "second") in state_types(learner)
    monkeypatch.setitem(renamed.STATES, "Paired", {"Both": "Pair"})
    monkeypatch.setitem(renamed.FIELDS, "Paired", {"Pair": {"one": "first"}})
    types = state_types(learner)
    assert types["Both", "one", "second"] is types["Pair", "one", "second"] is Pair
    assert types["Task", "support", "query"] is Task  # of a file that this one uses


def test_a_recipe_that_is_there_keeps_its_name_and_settings():
    stored = {"embeddings": "full", "size": 2, "steps": 3}
    assert renamed.recipe("omniglot_matching", stored) == (
        "omniglot_metric",
        {"learner": "matching_full", "meta_batch_size": 2, "steps": 3},
    )
    known = ["omniglot_matching", "embeddings", "size"]
    assert renamed.recipe("omniglot_matching", stored, known) == ("omniglot_matching", stored)
