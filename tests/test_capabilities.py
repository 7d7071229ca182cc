"""Capabilities are declared: an attribute of the same name is not one."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import quickstudy as qs
from quickstudy.capabilities import (
    ComparesEmbeddings,
    DescendsInSteps,
    Embeds,
    HasAttentionWeights,
    HasInitialParams,
    HasMemorySize,
)
from quickstudy.core.criteria import Criterion, cross_entropy, squared_error
from quickstudy.core.similarity import cosine_similarity
from quickstudy.core.tree import tree_map
from quickstudy.environments import BernoulliBandit
from quickstudy.estimators.widths import map_class_axes
from quickstudy.evaluation import pairwise
from quickstudy.evaluation.protocol import default_metrics, evaluate
from quickstudy.testing.learners import Blobs
from tests.zoo import ZOO

LEARNERS = {name: entry.learner() for name, entry in ZOO.items()}
CAPABILITIES = {
    Embeds: ("embed",),
    ComparesEmbeddings: ("embed", "similarity"),
    HasInitialParams: ("initial_params",),
    DescendsInSteps: ("steps",),
    HasMemorySize: ("memory_size",),
    HasAttentionWeights: ("attention_weights",),
}


@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda each: each.__name__)
def test_who_declares_a_capability_has_what_it_needs(capability: type):
    declared = [learner for learner in LEARNERS.values() if isinstance(learner, capability)]
    assert declared
    for learner in declared:
        assert all(hasattr(learner, name) for name in CAPABILITIES[capability])


def test_a_policy_with_a_layer_called_embed_does_not_compare():
    policy = qs.SNAILPolicy(BernoulliBandit(3), length=4)
    policy.embed = policy.observation_layer  # a name declares nothing
    assert not pairwise.compares(policy)
    with pytest.raises(ValueError, match="SNAILPolicy has no module `embed`"):
        pairwise.embed(policy, torch.zeros(2, 3))


@pytest.mark.parametrize("name", ["meta_net", "matching", "memory_network"])
def test_logits_that_depend_on_other_classes_are_no_similarities(name: str):
    learner = LEARNERS[name]
    assert callable(learner.similarity)
    with pytest.raises(ValueError, match="are no similarities"):
        pairwise.require_distance(learner)
    with pytest.raises(ValueError, match="are no similarities"):
        qs.FewShotClassifier(learner, unknown=-1).fit(torch.eye(8).numpy(), [0, 1] * 4)


class Cosines(qs.PrototypicalNetwork):
    similarity = staticmethod(cosine_similarity)  # pyright: ignore[reportAssignmentType]

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        del vars(self)["similarity"]  # pyright: ignore[reportIndexIssue]


def test_a_similarity_on_the_class_is_one_of_embeddings_too():
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    pairs = pairwise.similarity(Cosines(), a, b)
    torch.testing.assert_close(pairs, F.cosine_similarity(a, b))
    torch.testing.assert_close(pairwise.similarities(Cosines(), a, b).diagonal(), pairs)


def smoothed(logits: Tensor, examples: qs.Examples) -> Tensor:
    return cross_entropy(logits, examples)


smoothed.classifies = True  # pyright: ignore[reportFunctionMemberAccess]


@pytest.mark.parametrize(
    ("criterion", "metrics"),
    [
        (cross_entropy, ["accuracy"]),
        (partial(cross_entropy), ["accuracy"]),
        (smoothed, ["accuracy"]),
        (partial(partial(smoothed)), ["accuracy"]),
        (squared_error, ["squared_error"]),
        (lambda logits, examples: cross_entropy(logits, examples), ["<lambda>"]),
    ],
)
def test_accuracy_is_reported_where_predictions_are_logits(
    criterion: Criterion, metrics: list[str]
):
    assert list(default_metrics(qs.MAML(nn.Linear(8, 3), criterion=criterion))) == metrics


def test_a_learner_may_declare_that_it_classifies():
    class Margin(qs.MAML):
        @property
        def classifies(self) -> bool:
            return True

    learner: Any = Margin(nn.Linear(8, 3), criterion=squared_error)
    assert list(evaluate(learner, Blobs(), n_tasks=2).values) == ["accuracy"]


def test_one_column_of_targets_does_not_broadcast():
    learner = qs.MAML(nn.Linear(1, 3), criterion=squared_error)
    with pytest.raises(ValueError, match=r"predicts \(\d+, 3\) where the tasks' targets are"):
        evaluate(learner, qs.Sinusoid(), n_tasks=2)


@pytest.mark.parametrize(
    "name", [name for name, learner in LEARNERS.items() if learner.class_axes is not None]
)
def test_zeros_along_the_class_axes_stand_for_classes_without_examples(name: str):
    learner = LEARNERS[name].eval()
    support = ZOO[name].tasks.sample(1, torch.Generator().manual_seed(0)).support
    x, y, weight = tree_map(lambda leaf: leaf[0], support)
    few = learner.adapt(qs.Examples(x, y, weight))
    many = learner.adapt(qs.Examples(x, F.pad(y, (0, 2)), weight))
    assert learner.class_axes is not None

    def pad(leaf: Tensor, axis: int) -> Tensor:
        return F.pad(leaf, [0, 0] * (leaf.ndim - 1 - axis) + [0, 2])

    grown = map_class_axes(pad, few, learner.class_axes)
    torch.testing.assert_close(grown, many, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", [name for name, learner in LEARNERS.items() if learner.independent_classes]
)
def test_an_example_changes_its_own_class_alone(name: str):
    learner = LEARNERS[name].eval()
    x, y = torch.randn(8, 8), F.one_hot(torch.arange(8) % 4).float()
    axes, ones = learner.class_axes, torch.ones(8)
    assert axes is not None and set(axes.values()) == {0}
    before = learner.adapt(qs.Examples(x, y, ones))
    after = learner.adapt(qs.Examples(x[:1], y[:1], ones[:1]), before)
    for field in axes:
        torch.testing.assert_close(getattr(after, field)[1:], getattr(before, field)[1:])
