import torch
from torch import Generator

from quickstudy.core.tree import leaves
from quickstudy.tasks import Presentations
from quickstudy.testing import Blobs


def test_presentations_mix_the_same_examples():
    plain, mixed = Blobs(), Presentations(Blobs())
    first, other = (tasks.sample(4, Generator().manual_seed(5)) for tasks in (plain, mixed))
    assert [leaf.shape for leaf in leaves(first)] == [leaf.shape for leaf in leaves(other)]
    rows = [torch.cat([each.support.x, each.query.x], 1)[2] for each in (first, other)]
    a, b = (torch.tensor(sorted(each.tolist())) for each in rows)
    assert torch.equal(a, b) and not torch.equal(*rows)
    assert len(other.support.y.sum(1).unique()) > 1  # no longer two of every class
    assert mixed.card() == {**plain.card(), "mixed": True}
