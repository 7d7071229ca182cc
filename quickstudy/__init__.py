"""quickstudy: learning to learn, on PyTorch."""

from quickstudy import datasets, nets
from quickstudy.checkpoint import CheckpointError, Checkpoints, load, save
from quickstudy.descent import SGD, InnerOptimizer, adam, descend, momentum
from quickstudy.distributions.few_shot import FewShot
from quickstudy.distributions.gaussian_process import GaussianProcess
from quickstudy.distributions.sinusoid import Sinusoid
from quickstudy.estimator import FewShotClassifier, FewShotRegressor
from quickstudy.evaluate import Difference, Report, evaluate
from quickstudy.execution import Plan, Way, doctor, over_tasks, plan
from quickstudy.functional import (
    accuracy,
    cross_entropy,
    gaussian_nll,
    log_likelihood,
    squared_distance,
    squared_error,
    with_gradient,
)
from quickstudy.learner import Learner
from quickstudy.learners.conditional_neural_process import ConditionalNeuralProcess, Gaussian
from quickstudy.learners.maml import MAML, anil, boil, fomaml
from quickstudy.learners.maml_pp import MAMLPlusPlus
from quickstudy.learners.prototypical import PrototypicalNetwork
from quickstudy.learners.ridge import RidgeRegression
from quickstudy.nets import use_batch_statistics
from quickstudy.task import Examples, Task, TaskDistribution, batches
from quickstudy.train import Step, train

__version__ = "0.1.0"

__all__ = [
    "MAML",
    "MAMLPlusPlus",
    "SGD",
    "CheckpointError",
    "Checkpoints",
    "ConditionalNeuralProcess",
    "Difference",
    "Examples",
    "FewShot",
    "FewShotClassifier",
    "FewShotRegressor",
    "Gaussian",
    "GaussianProcess",
    "InnerOptimizer",
    "Learner",
    "Plan",
    "PrototypicalNetwork",
    "Report",
    "RidgeRegression",
    "Sinusoid",
    "Step",
    "Task",
    "TaskDistribution",
    "Way",
    "accuracy",
    "adam",
    "anil",
    "batches",
    "boil",
    "cross_entropy",
    "datasets",
    "descend",
    "doctor",
    "evaluate",
    "fomaml",
    "gaussian_nll",
    "load",
    "log_likelihood",
    "momentum",
    "nets",
    "over_tasks",
    "plan",
    "save",
    "squared_distance",
    "squared_error",
    "train",
    "use_batch_statistics",
    "with_gradient",
]
