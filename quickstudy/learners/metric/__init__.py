"""Learners: metric."""

from quickstudy.learners.metric.feat import FEAT
from quickstudy.learners.metric.matching import FullContext, MatchingNetwork
from quickstudy.learners.metric.prototypical import PrototypicalNetwork, cosine_prototypical
from quickstudy.learners.metric.relation import (
    RelationNetwork,
    relation_embedding,
    relation_module,
)
from quickstudy.learners.metric.relation_reasoning import RelationReasoning
from quickstudy.learners.metric.semi_supervised_prototypical import (
    SemiSupervisedPrototypicalNetwork,
)
from quickstudy.learners.metric.siamese import (
    SiameseNetwork,
    WeightedL1,
    contrastive_siamese,
    triplet_siamese,
)

__all__ = [
    "FEAT",
    "FullContext",
    "MatchingNetwork",
    "PrototypicalNetwork",
    "RelationNetwork",
    "RelationReasoning",
    "SemiSupervisedPrototypicalNetwork",
    "SiameseNetwork",
    "WeightedL1",
    "contrastive_siamese",
    "cosine_prototypical",
    "relation_embedding",
    "relation_module",
    "triplet_siamese",
]
