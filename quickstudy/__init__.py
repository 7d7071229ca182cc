"""quickstudy: learning to learn, on PyTorch."""

from quickstudy import datasets, nets
from quickstudy.checkpoint import CheckpointError, Checkpoints, load, save
from quickstudy.descent import SGD, InnerOptimizer, adam, descend, momentum
from quickstudy.distributions.few_shot import FewShot
from quickstudy.distributions.gaussian_process import GaussianProcess
from quickstudy.distributions.sinusoid import Sinusoid
from quickstudy.embedding import embed_once
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
from quickstudy.inside import Inside, inside
from quickstudy.learner import Learner
from quickstudy.learners.cavia import CAVIA, ContextInput, FiLM, film_conv4
from quickstudy.learners.conditional_neural_process import ConditionalNeuralProcess, Gaussian
from quickstudy.learners.imaml import IMAML
from quickstudy.learners.maml import MAML, anil, boil, fomaml
from quickstudy.learners.maml_pp import MAMLPlusPlus
from quickstudy.learners.meta_curvature import MetaCurvature
from quickstudy.learners.meta_sgd import MetaSGD
from quickstudy.learners.proto_maml import ProtoMAML
from quickstudy.learners.prototypical import PrototypicalNetwork
from quickstudy.learners.reptile import Reptile
from quickstudy.learners.ridge import RidgeRegression
from quickstudy.low_rank import is_low_rank, lora
from quickstudy.nets import use_batch_statistics
from quickstudy.recurrent import use_cells
from quickstudy.task import Examples, Task, TaskDistribution, batches
from quickstudy.train import Step, train

__version__ = "0.1.0"

__all__ = [
    "CAVIA",
    "IMAML",
    "MAML",
    "SGD",
    "CheckpointError",
    "Checkpoints",
    "ConditionalNeuralProcess",
    "ContextInput",
    "Difference",
    "Examples",
    "FewShot",
    "FewShotClassifier",
    "FewShotRegressor",
    "FiLM",
    "Gaussian",
    "GaussianProcess",
    "InnerOptimizer",
    "Inside",
    "Learner",
    "MAMLPlusPlus",
    "MetaCurvature",
    "MetaSGD",
    "Plan",
    "ProtoMAML",
    "PrototypicalNetwork",
    "Report",
    "Reptile",
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
    "embed_once",
    "evaluate",
    "film_conv4",
    "fomaml",
    "gaussian_nll",
    "inside",
    "is_low_rank",
    "load",
    "log_likelihood",
    "lora",
    "momentum",
    "nets",
    "over_tasks",
    "plan",
    "save",
    "squared_distance",
    "squared_error",
    "train",
    "use_batch_statistics",
    "use_cells",
    "with_gradient",
]
