"""Relational reasoning against a loop over pairs, and a limit that is known by hand."""

import pytest
import torch
from torch import Tensor, nn

from quickstudy import Examples, RelationReasoning, Task
from quickstudy.core.tree import tree_map
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def task(ways: int = 3, shots: int = 2) -> Task[Examples]:
    drawn = Blobs(ways=ways, shots=shots).sample(1, torch.Generator().manual_seed(3))
    return tree_map(lambda leaf: leaf[0], drawn)


def learner() -> RelationReasoning:
    return RelationReasoning(MLP(8, 4), 4, units=6)


def by_hand(learner: RelationReasoning, task: Task[Examples]) -> Tensor:
    """Logits (Q, C), one pair after the other."""
    support, query = task
    logits = torch.zeros(len(query.x), support.y.shape[1])
    for q in range(logits.shape[0]):
        for c in range(logits.shape[1]):
            total = torch.zeros(6)
            for x, y, weight in zip(*support, strict=True):
                same_class = torch.tensor([1.0 if y.argmax() == c else 0.0])
                pair = [
                    learner.embed(x[None])[0],
                    learner.embed(query.x[q : q + 1])[0],
                    same_class,
                ]
                total = total + weight * learner.g(torch.cat(pair)[None])[0]
            logits[q, c] = learner.f(total[None]).squeeze()
    return logits


@pytest.mark.parametrize("ways", [2, 4])
def test_logits_are_those_of_a_loop_over_pairs(ways: int) -> None:
    model, drawn = learner(), task(ways)
    weight = torch.arange(1.0, 2 * ways + 1)  # of which one counts for several examples
    drawn = drawn._replace(support=drawn.support._replace(weight=weight))
    with torch.no_grad():
        logits = model.predict(model.adapt(drawn.support), drawn.query.x)
        torch.testing.assert_close(logits, by_hand(model, drawn))


class ProductIfOwn(nn.Module):
    """The inner product of support and query, of the asked class only."""

    def forward(self, pair: Tensor) -> Tensor:
        support, query, same_class = pair[..., :8], pair[..., 8:16], pair[..., 16:]
        return same_class * (support * query).sum(-1, keepdim=True)


def test_a_g_that_multiplies_makes_votes_by_inner_product() -> None:
    support, query = task()
    model = RelationReasoning(nn.Identity(), 8)
    model.g, model.f = nn.Sequential(ProductIfOwn()), nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    logits = model.predict(model.adapt(support), query.x)
    torch.testing.assert_close(logits, query.x @ support.x.T @ support.y)


def test_examples_of_other_classes_count() -> None:
    support, query = task()
    model = learner()
    last = support.y[:, 2] == 1
    moved = support._replace(x=support.x + last[:, None])
    with torch.no_grad():
        before, after = (model.predict(model.adapt(s), query.x) for s in (support, moved))
    assert ((before - after)[:, 0].abs() > 1e-9).all()


def test_examples_may_come_in_parts_and_unseen_classes_are_out() -> None:
    support, query = task()
    model = learner()
    first = support.take(slice(2))
    rest = support.take(slice(2, None))
    state = model.adapt(rest, model.adapt(first))
    torch.testing.assert_close(state, model.adapt(support))
    known = support._replace(weight=1 - support.y[:, 1])
    logits = model.predict(model.adapt(known), query.x)
    assert (logits[:, 1] == -torch.inf).all() and logits[:, [0, 2]].isfinite().all()


def test_the_nets_have_the_sizes_of_the_paper() -> None:
    model = RelationReasoning(nn.Identity(), 64)

    def widths(net: nn.Module) -> list[int]:
        return [each.out_features for each in net.modules() if isinstance(each, nn.Linear)]

    assert widths(model.g) == [256] * 4 and widths(model.f) == [256, 256, 1]
