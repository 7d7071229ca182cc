"""What every other package is built on: tasks, functions of tensors and trees, metric losses, counter-based random numbers."""

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
from quickstudy.core.prototypes import Prototypes, class_logits, class_sums
from quickstudy.core.similarity import (
    ScaledSimilarity,
    cosine_similarity,
    negative_squared_distance,
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
