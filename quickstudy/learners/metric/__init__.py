"""Learners that compare embeddings: prototypes, pairs, votes and learned relations.

All embed the support set in `adapt` and compare queries with it in `predict`, so states grow by
more examples. `quickstudy.core.prototypes` and `quickstudy.core.similarity` are shared. A new
file holds one learner: docstring with the equation, state, class, helpers, variants.
"""

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
