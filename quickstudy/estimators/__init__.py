"""Learners as scikit-learn estimators: classifiers, regressors, verifiers, clusters.

`base` has what all share (checks of inputs, adaptation, files), `widths` the number of classes
and its growth, `open_set` and `roc` the thresholds. A new estimator is a file with one subclass
of `FewShotEstimator` that writes its own facts in `_metadata`, and an executed example.
"""

from quickstudy.estimators.base import read_model
from quickstudy.estimators.classifier import FewShotClassifier
from quickstudy.estimators.clustering import (
    Clustering,
    cluster,
    embeddings,
    evaluate_clustering,
)
from quickstudy.estimators.error_rates import ROC, equal_error_rate, roc
from quickstudy.estimators.lifelong_classifier import LifelongClassifier
from quickstudy.estimators.regressor import FewShotRegressor
from quickstudy.estimators.verification import evaluate_open_set, evaluate_verification
from quickstudy.estimators.verifier import FewShotVerifier

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
    "read_model",
    "roc",
]
