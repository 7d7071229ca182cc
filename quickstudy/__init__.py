"""quickstudy: learning to learn, on PyTorch."""

from quickstudy import datasets, environments, losses, nets
from quickstudy.acting import evaluate_rollouts, success_rate
from quickstudy.actor import Actor
from quickstudy.checkpoint import CheckpointError, Checkpoints, load, save
from quickstudy.clustering import Clustering, cluster, embeddings, evaluate_clustering
from quickstudy.descent import SGD, InnerOptimizer, adam, descend, momentum
from quickstudy.distributions.classification import Classification
from quickstudy.distributions.copying import Copy, RepeatCopy
from quickstudy.distributions.few_shot import FewShot
from quickstudy.distributions.fixed import Fixed
from quickstudy.distributions.functions import Line, Parabola
from quickstudy.distributions.gaussian_process import GaussianProcess
from quickstudy.distributions.mixture import Mixture
from quickstudy.distributions.presentations import Presentations
from quickstudy.distributions.replayed import Replayed
from quickstudy.distributions.rollouts import Rollouts
from quickstudy.distributions.sinusoid import Sinusoid
from quickstudy.distributions.stories import Stories
from quickstudy.distributions.stream import (
    Stream,
    Streams,
    class_incremental,
    permuted,
    recurring,
    rotated,
    split_domains,
)
from quickstudy.distributions.trajectory import Trajectories
from quickstudy.embedding import EmbedTogether, embed_once
from quickstudy.epochs import Epochs
from quickstudy.estimator import FewShotClassifier, FewShotRegressor
from quickstudy.evaluate import Difference, Report, evaluate
from quickstudy.execution import over_tasks
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
from quickstudy.learners.a_gem import AGEM
from quickstudy.learners.anml import Gated, anml
from quickstudy.learners.baseline import Baseline, baseline, baseline_pp
from quickstudy.learners.cavia import CAVIA, ContextInput, FiLM, film_conv4
from quickstudy.learners.conditional_neural_process import ConditionalNeuralProcess, Gaussian
from quickstudy.learners.dark_experience_replay import DarkExperienceReplay
from quickstudy.learners.ewc import EWC, online_ewc
from quickstudy.learners.experience_replay import ExperienceReplay
from quickstudy.learners.feat import FEAT
from quickstudy.learners.fine_tuning import FineTuning
from quickstudy.learners.gdumb import GDumb
from quickstudy.learners.imaml import IMAML
from quickstudy.learners.joint import Joint
from quickstudy.learners.la_maml import LaMAML, c_maml, sync_la_maml
from quickstudy.learners.learning_without_forgetting import LearningWithoutForgetting
from quickstudy.learners.life_long_memory import LifeLongMemory
from quickstudy.learners.maml import MAML, anil, boil, fomaml
from quickstudy.learners.maml_pp import MAMLPlusPlus
from quickstudy.learners.maml_rl import MAMLRL, e_maml
from quickstudy.learners.mann import LRUA, MANN
from quickstudy.learners.matching import FullContext, MatchingNetwork
from quickstudy.learners.memory_network import (
    MemoryNetwork,
    few_shot_memory_network,
    story_memory_network,
)
from quickstudy.learners.mer import MER
from quickstudy.learners.meta_curvature import MetaCurvature
from quickstudy.learners.meta_net import MetaNet
from quickstudy.learners.meta_opt_net import MetaOptNet, meta_opt_net_ridge, svm
from quickstudy.learners.meta_sgd import MetaSGD
from quickstudy.learners.ntm import SequenceLearner, bit_cross_entropy, bit_errors
from quickstudy.learners.oml import OML
from quickstudy.learners.pearl import PEARL
from quickstudy.learners.promp import adapt_penalty, promp
from quickstudy.learners.proto_maml import ProtoMAML
from quickstudy.learners.prototypical import PrototypicalNetwork, cosine_prototypical
from quickstudy.learners.r2d2 import LRD2, R2D2
from quickstudy.learners.relation import (
    RelationNetwork,
    relation_embedding,
    relation_module,
)
from quickstudy.learners.relation_reasoning import RelationReasoning
from quickstudy.learners.reptile import Reptile
from quickstudy.learners.ridge import RidgeRegression
from quickstudy.learners.rl2 import RL2
from quickstudy.learners.semi_supervised_prototypical import SemiSupervisedPrototypicalNetwork
from quickstudy.learners.siamese import (
    SiameseNetwork,
    WeightedL1,
    contrastive_siamese,
    triplet_siamese,
)
from quickstudy.learners.simple_shot import SimpleShot
from quickstudy.learners.snail import SNAIL
from quickstudy.learners.snail_rl import SNAILPolicy
from quickstudy.learners.streaming_lda import StreamingLDA
from quickstudy.learners.synaptic_intelligence import SynapticIntelligence
from quickstudy.learners.tim import TIM
from quickstudy.learners.transductive_fine_tuning import TransductiveFineTuning
from quickstudy.learners.varibad import VariBAD
from quickstudy.lifelong_classifier import LifelongClassifier
from quickstudy.low_rank import is_low_rank, lora
from quickstudy.mapping_library import LearnedMapping, MappingLibrary
from quickstudy.nets import use_batch_statistics
from quickstudy.ntm import NTM, StackedLSTM
from quickstudy.planning import Plan, Way, doctor, plan
from quickstudy.presentations import evaluate_presentations
from quickstudy.recurrent import use_cells
from quickstudy.similarity import Scaled, cosine_similarity, negative_squared_distance
from quickstudy.stream import StreamReport, evaluate_stream, follow, judge_stream
from quickstudy.task import Examples, Task, TaskDistribution, batches
from quickstudy.task_memory import TaskMemory
from quickstudy.train import Step, train
from quickstudy.trust_region import TRPO
from quickstudy.verification import (
    ROC,
    FewShotVerifier,
    equal_error_rate,
    evaluate_open_set,
    evaluate_verification,
    roc,
)

__version__ = "0.1.0"

__all__ = [
    "AGEM",
    "CAVIA",
    "EWC",
    "FEAT",
    "IMAML",
    "LRD2",
    "LRUA",
    "MAML",
    "MAMLRL",
    "MANN",
    "MER",
    "NTM",
    "OML",
    "PEARL",
    "R2D2",
    "RL2",
    "ROC",
    "SGD",
    "SNAIL",
    "TIM",
    "TRPO",
    "Actor",
    "Baseline",
    "CheckpointError",
    "Checkpoints",
    "Classification",
    "Clustering",
    "ConditionalNeuralProcess",
    "ContextInput",
    "Copy",
    "DarkExperienceReplay",
    "Difference",
    "EmbedTogether",
    "Epochs",
    "Examples",
    "ExperienceReplay",
    "FewShot",
    "FewShotClassifier",
    "FewShotRegressor",
    "FewShotVerifier",
    "FiLM",
    "FineTuning",
    "Fixed",
    "FullContext",
    "GDumb",
    "Gated",
    "Gaussian",
    "GaussianProcess",
    "InnerOptimizer",
    "Inside",
    "Joint",
    "LaMAML",
    "LearnedMapping",
    "Learner",
    "LearningWithoutForgetting",
    "LifeLongMemory",
    "LifelongClassifier",
    "Line",
    "MAMLPlusPlus",
    "MappingLibrary",
    "MatchingNetwork",
    "MemoryNetwork",
    "MetaCurvature",
    "MetaNet",
    "MetaOptNet",
    "MetaSGD",
    "Mixture",
    "Parabola",
    "Plan",
    "Presentations",
    "ProtoMAML",
    "PrototypicalNetwork",
    "RelationNetwork",
    "RelationReasoning",
    "RepeatCopy",
    "Replayed",
    "Report",
    "Reptile",
    "RidgeRegression",
    "Rollouts",
    "SNAILPolicy",
    "Scaled",
    "SemiSupervisedPrototypicalNetwork",
    "SequenceLearner",
    "SiameseNetwork",
    "SimpleShot",
    "Sinusoid",
    "StackedLSTM",
    "Step",
    "Stories",
    "Stream",
    "StreamReport",
    "StreamingLDA",
    "Streams",
    "SynapticIntelligence",
    "Task",
    "TaskDistribution",
    "TaskMemory",
    "Trajectories",
    "TransductiveFineTuning",
    "VariBAD",
    "Way",
    "WeightedL1",
    "accuracy",
    "adam",
    "adapt_penalty",
    "anil",
    "anml",
    "baseline",
    "baseline_pp",
    "batches",
    "bit_cross_entropy",
    "bit_errors",
    "boil",
    "c_maml",
    "class_incremental",
    "cluster",
    "contrastive_siamese",
    "cosine_prototypical",
    "cosine_similarity",
    "cross_entropy",
    "datasets",
    "descend",
    "doctor",
    "e_maml",
    "embed_once",
    "embeddings",
    "environments",
    "equal_error_rate",
    "evaluate",
    "evaluate_clustering",
    "evaluate_open_set",
    "evaluate_presentations",
    "evaluate_rollouts",
    "evaluate_stream",
    "evaluate_verification",
    "few_shot_memory_network",
    "film_conv4",
    "follow",
    "fomaml",
    "gaussian_nll",
    "inside",
    "is_low_rank",
    "judge_stream",
    "load",
    "log_likelihood",
    "lora",
    "losses",
    "meta_opt_net_ridge",
    "momentum",
    "negative_squared_distance",
    "nets",
    "online_ewc",
    "over_tasks",
    "permuted",
    "plan",
    "promp",
    "recurring",
    "relation_embedding",
    "relation_module",
    "roc",
    "rotated",
    "save",
    "split_domains",
    "squared_distance",
    "squared_error",
    "story_memory_network",
    "success_rate",
    "svm",
    "sync_la_maml",
    "train",
    "triplet_siamese",
    "use_batch_statistics",
    "use_cells",
    "with_gradient",
]
