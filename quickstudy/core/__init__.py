"""What every other package is built on.

Here live tasks, functions of tensors and of nests of tensors, criteria, similarities, metric
losses, and random numbers that are functions of a key. What several families of learners share
belongs here too. A new file is a few functions of one idea; it imports torch and this package.
"""

from quickstudy.core import losses
from quickstudy.core.functional import (
    accuracy,
    cross_entropy,
    gaussian_nll,
    log_likelihood,
    squared_distance,
    squared_error,
    with_gradient,
)
from quickstudy.core.similarity import (
    ScaledSimilarity,
    cosine_similarity,
    negative_squared_distance,
)
from quickstudy.core.task import Examples, Task, TaskDistribution, batches

__all__ = [
    "Examples",
    "ScaledSimilarity",
    "Task",
    "TaskDistribution",
    "accuracy",
    "batches",
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
