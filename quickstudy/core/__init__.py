"""Tasks, functions of tensors and trees, criteria and random numbers: the base of all packages.

Here live tasks, functions of tensors and of nests of tensors, criteria, similarities, metric
losses, and random numbers that are functions of a key. What several families of learners share
belongs here too. A new file is a few functions of one idea; it imports torch and this package.
"""

from quickstudy.core import losses
from quickstudy.core.criteria import (
    accuracy,
    cross_entropy,
    gaussian_nll,
    log_likelihood,
    squared_error,
)
from quickstudy.core.gradients import with_gradient
from quickstudy.core.prototypes import Prototypes, class_logits, class_sums
from quickstudy.core.similarity import (
    ScaledSimilarity,
    cosine_similarity,
    negative_squared_distance,
    squared_distance,
)
from quickstudy.core.task import Examples, Task, TaskDistribution, batches

__all__ = [
    "Examples",
    "Prototypes",
    "ScaledSimilarity",
    "Task",
    "TaskDistribution",
    "accuracy",
    "batches",
    "class_logits",
    "class_sums",
    "cosine_similarity",
    "cross_entropy",
    "gaussian_nll",
    "log_likelihood",
    "losses",
    "negative_squared_distance",
    "squared_distance",
    "squared_error",
    "with_gradient",
]
