"""Learners as scikit-learn estimators."""

from quickstudy.estimators.clustering import (
    Clustering,
    cluster,
    embeddings,
    evaluate_clustering,
)
from quickstudy.estimators.few_shot import FewShotClassifier, FewShotRegressor
from quickstudy.estimators.lifelong_classifier import LifelongClassifier
from quickstudy.estimators.verification import (
    ROC,
    FewShotVerifier,
    equal_error_rate,
    evaluate_open_set,
    evaluate_verification,
    roc,
)

__all__ = [
    "ROC",
    "Clustering",
    "FewShotClassifier",
    "FewShotRegressor",
    "FewShotVerifier",
    "LifelongClassifier",
    "cluster",
    "embeddings",
    "equal_error_rate",
    "evaluate_clustering",
    "evaluate_open_set",
    "evaluate_verification",
    "roc",
]
