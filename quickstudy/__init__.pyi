from . import capabilities as capabilities
from . import core as core
from . import datasets as datasets
from . import environments as environments
from . import estimators as estimators
from . import evaluation as evaluation
from . import execution as execution
from . import inner_loop as inner_loop
from . import learners as learners
from . import nets as nets
from . import recall as recall
from . import reports as reports
from . import rl as rl
from . import runs as runs
from . import storage as storage
from . import tasks as tasks
from . import testing as testing
from . import training as training
from .core.functional import accuracy as accuracy
from .core.functional import cross_entropy as cross_entropy
from .core.functional import squared_error as squared_error
from .core.task import Examples as Examples
from .core.task import Task as Task
from .core.task import TaskDistribution as TaskDistribution
from .core.task import batches as batches
from .estimators.classifier import FewShotClassifier as FewShotClassifier
from .estimators.lifelong_classifier import LifelongClassifier as LifelongClassifier
from .estimators.regressor import FewShotRegressor as FewShotRegressor
from .estimators.verifier import FewShotVerifier as FewShotVerifier
from .evaluation.protocol import evaluate as evaluate
from .evaluation.report import Report as Report
from .execution.diagnosis import diagnose as diagnose
from .execution.planning import plan as plan
from .learner import Learner as Learner
from .learners.amortised.conditional_neural_process import (
    ConditionalNeuralProcess as ConditionalNeuralProcess,
)
from .learners.amortised.snail import SNAIL as SNAIL
from .learners.gradient.cavia import CAVIA as CAVIA
from .learners.gradient.imaml import IMAML as IMAML
from .learners.gradient.maml import MAML as MAML
from .learners.gradient.maml import anil as anil
from .learners.gradient.maml import boil as boil
from .learners.gradient.maml import fomaml as fomaml
from .learners.gradient.maml_pp import MAMLPlusPlus as MAMLPlusPlus
from .learners.gradient.meta_curvature import MetaCurvature as MetaCurvature
from .learners.gradient.meta_sgd import MetaSGD as MetaSGD
from .learners.gradient.proto_maml import ProtoMAML as ProtoMAML
from .learners.gradient.reptile import Reptile as Reptile
from .learners.heads.meta_opt_net import MetaOptNet as MetaOptNet
from .learners.heads.meta_opt_net import meta_opt_net_ridge as meta_opt_net_ridge
from .learners.heads.r2d2 import LRD2 as LRD2
from .learners.heads.r2d2 import R2D2 as R2D2
from .learners.heads.ridge import RidgeRegression as RidgeRegression
from .learners.lifelong.a_gem import AGEM as AGEM
from .learners.lifelong.anml import anml as anml
from .learners.lifelong.dark_experience_replay import (
    DarkExperienceReplay as DarkExperienceReplay,
)
from .learners.lifelong.ewc import EWC as EWC
from .learners.lifelong.ewc import online_ewc as online_ewc
from .learners.lifelong.experience_replay import ExperienceReplay as ExperienceReplay
from .learners.lifelong.fine_tuning import FineTuning as FineTuning
from .learners.lifelong.gdumb import GDumb as GDumb
from .learners.lifelong.joint import Joint as Joint
from .learners.lifelong.la_maml import LaMAML as LaMAML
from .learners.lifelong.la_maml import c_maml as c_maml
from .learners.lifelong.la_maml import sync_la_maml as sync_la_maml
from .learners.lifelong.learning_without_forgetting import (
    LearningWithoutForgetting as LearningWithoutForgetting,
)
from .learners.lifelong.mer import MER as MER
from .learners.lifelong.oml import OML as OML
from .learners.lifelong.streaming_lda import StreamingLDA as StreamingLDA
from .learners.lifelong.synaptic_intelligence import (
    SynapticIntelligence as SynapticIntelligence,
)
from .learners.memory.life_long_memory import LifeLongMemory as LifeLongMemory
from .learners.memory.mann import MANN as MANN
from .learners.memory.memory_network import MemoryNetwork as MemoryNetwork
from .learners.memory.memory_network import few_shot_memory_network as few_shot_memory_network
from .learners.memory.memory_network import story_memory_network as story_memory_network
from .learners.memory.meta_net import MetaNet as MetaNet
from .learners.memory.sequence_learner import SequenceLearner as SequenceLearner
from .learners.metric.feat import FEAT as FEAT
from .learners.metric.matching import MatchingNetwork as MatchingNetwork
from .learners.metric.prototypical import PrototypicalNetwork as PrototypicalNetwork
from .learners.metric.prototypical import cosine_prototypical as cosine_prototypical
from .learners.metric.relation import RelationNetwork as RelationNetwork
from .learners.metric.relation_reasoning import RelationReasoning as RelationReasoning
from .learners.metric.semi_supervised_prototypical import (
    SemiSupervisedPrototypicalNetwork as SemiSupervisedPrototypicalNetwork,
)
from .learners.metric.siamese import SiameseNetwork as SiameseNetwork
from .learners.metric.siamese import contrastive_siamese as contrastive_siamese
from .learners.metric.siamese import triplet_siamese as triplet_siamese
from .learners.policies.maml_rl import MAMLRL as MAMLRL
from .learners.policies.maml_rl import e_maml as e_maml
from .learners.policies.pearl import PEARL as PEARL
from .learners.policies.promp import promp as promp
from .learners.policies.rl2 import RL2 as RL2
from .learners.policies.snail_policy import SNAILPolicy as SNAILPolicy
from .learners.policies.varibad import VariBAD as VariBAD
from .learners.transfer.baseline import Baseline as Baseline
from .learners.transfer.baseline import baseline as baseline
from .learners.transfer.baseline import baseline_pp as baseline_pp
from .learners.transfer.simple_shot import SimpleShot as SimpleShot
from .learners.transfer.tim import TIM as TIM
from .learners.transfer.transductive_fine_tuning import (
    TransductiveFineTuning as TransductiveFineTuning,
)
from .recall.mapping_library import MappingLibrary as MappingLibrary
from .recall.task_memory import TaskMemory as TaskMemory
from .rl.actor import Actor as Actor
from .storage.checkpoints import load as load
from .storage.checkpoints import save as save
from .tasks.few_shot import FewShot as FewShot
from .tasks.sinusoid import Sinusoid as Sinusoid
from .training.loop import train as train

__version__: str
