"""FEAT against prototypical networks, torch's attention and sums written by hand."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy import FEAT, Examples, PrototypicalNetwork, Task
from quickstudy.core.tree import tree_map
from quickstudy.learners.metric.feat import SetToSet
from quickstudy.nets.backbones import MLP
from quickstudy.testing.learners import Blobs

pytestmark = pytest.mark.usefixtures("double")


def task(ways: int = 3, shots: int = 2) -> Task[Examples]:
    drawn = Blobs(ways=ways, shots=shots).sample(1, torch.Generator().manual_seed(3))
    return tree_map(lambda leaf: leaf[0], drawn)


def learner(**settings: float) -> FEAT:
    return FEAT(MLP(8, 4), 4, **settings).eval()


def torch_attention(attend: SetToSet) -> nn.MultiheadAttention:
    """The same attention, by torch's own module."""
    width = attend.out.in_features
    other = nn.MultiheadAttention(width, 1, batch_first=True)
    with torch.no_grad():
        other.in_proj_weight.copy_(
            torch.cat([attend.query.weight, attend.key.weight, attend.value.weight])
        )
        other.in_proj_bias.zero_()
        other.out_proj.load_state_dict(attend.out.state_dict())
    return other.eval()


def test_attention_is_that_of_torch() -> None:
    attend, x = SetToSet(6).eval(), torch.randn(5, 6)
    attention = torch_attention(attend)
    added = attention(x[None], x[None], x[None])[0][0]
    seen = torch.ones(5, dtype=torch.bool)
    torch.testing.assert_close(attend(x, seen), F.layer_norm(x + added, (6,)))

    sees = torch.rand(5, 5) > 0.5
    mask = ~(sees | torch.eye(5, dtype=torch.bool))
    added = attention(x[None], x[None], x[None], attn_mask=mask)[0][0]
    torch.testing.assert_close(attend(x, sees), F.layer_norm(x + added, (6,)))


def test_prototypes_are_adapted_together_by_attention() -> None:
    support, query = task(ways=4)
    model = learner(temperature=3.0)
    logits = model.predict(model.adapt(support), query.x)
    means = torch.stack(
        [model.embed(support.x[support.y[:, c] == 1]).mean(0) for c in range(4)]
    )
    added = torch_attention(model.set_to_set)(means[None], means[None], means[None])[0][0]
    adapted = F.layer_norm(means + added, (4,))
    for q, c in [(0, 0), (5, 1), (7, 3)]:
        distance = (model.embed(query.x[q : q + 1])[0] - adapted[c]).square().sum()
        torch.testing.assert_close(logits[q, c], -distance / 3)


@pytest.mark.parametrize("silenced", ["value", "out"])
def test_without_attention_and_norm_it_is_a_prototypical_network(silenced: str) -> None:
    support, query = task()
    model = learner(temperature=1.0, balance=0.0)
    for p in getattr(model.set_to_set, silenced).parameters():
        nn.init.zeros_(p)
    if silenced == "value":
        nn.init.zeros_(model.set_to_set.out.bias)
    model.set_to_set.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    other = PrototypicalNetwork(model.embed)
    mine, others = (m.predict(m.adapt(support), query.x) for m in (model, other))
    torch.testing.assert_close(mine, others)
    torch.testing.assert_close(model.loss(task()), other.loss(task()))


def test_the_loss_has_the_contrast_of_all_examples() -> None:
    """Class by class: examples adapted among their own kind, then compared with the means."""
    support, query = task()
    model = learner(temperature=2.0, contrast_temperature=5.0, balance=0.7)
    x = model.embed(torch.cat([support.x, query.x]))
    label = torch.cat([support.y, query.y]).argmax(-1)
    attention = torch_attention(model.set_to_set)
    centres: list[Tensor] = []
    for c in range(3):
        rows = x[label == c][None]
        attended = attention(rows, rows, rows)[0]
        centres.append(F.layer_norm(rows + attended, (4,))[0].mean(0))
    distances = (x[:, None] - torch.stack(centres)).square().sum(-1)
    contrast = F.cross_entropy(-distances / 5, label)
    logits = model.predict(model.adapt(support), query.x)
    plain = F.cross_entropy(logits, query.y.argmax(-1))
    torch.testing.assert_close(model.loss(task()), plain + 0.7 * contrast)


def test_classes_in_another_order_are_the_same_classes() -> None:
    support, query = task(ways=4)
    model, order = learner(), torch.tensor([2, 0, 3, 1])
    expected = model.predict(model.adapt(support), query.x)[:, order]
    renamed = model.adapt(support._replace(y=support.y[:, order]))
    torch.testing.assert_close(model.predict(renamed, query.x), expected)


def test_an_unseen_class_changes_nothing_of_the_others() -> None:
    support, query = task()
    model = learner()
    known = support._replace(weight=1 - support.y[:, 1])
    two = support.take(support.y[:, 1] == 0)
    two = two._replace(y=two.y[:, [0, 2]])
    logits = model.predict(model.adapt(known), query.x)
    assert (logits[:, 1] == -torch.inf).all()
    torch.testing.assert_close(logits[:, [0, 2]], model.predict(model.adapt(two), query.x))
    weighted_query = query._replace(weight=1 - query.y[:, 1])
    model.loss(Task(known, weighted_query)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_examples_that_come_later_adapt_all_prototypes() -> None:
    support, _ = task()
    model = learner()
    first = support.take(slice(2))
    rest = support.take(slice(2, None))
    state = model.adapt(rest, model.adapt(first))
    torch.testing.assert_close(state, model.adapt(support))


def test_dropout_is_for_training_only() -> None:
    model = learner(temperature=1.0)
    state, x = model.adapt(task().support), task().query.x
    torch.testing.assert_close(model.predict(state, x), model.predict(state, x))
    model.train()
    assert (model.predict(state, x) != model.predict(state, x)).any()
