"""Every learner of the library, one entry each: the list that conformance and golden numbers
run over. `declared` says what is true of a learner and not of all (`quickstudy.testing.Trait`).
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from quickstudy import (
    MAML,
    FewShot,
    Learner,
    PrototypicalNetwork,
    Sinusoid,
    TaskDistribution,
    anil,
    boil,
    fomaml,
)
from quickstudy.core.criteria import squared_error
from quickstudy.core.similarity import ScaledSimilarity
from quickstudy.datasets import Labelled
from quickstudy.environments import BernoulliBandit, Environment, HiddenGoal, PointRobot
from quickstudy.inner_loop.descent import steepest_descent
from quickstudy.learners.amortised.conditional_neural_process import ConditionalNeuralProcess
from quickstudy.learners.amortised.snail import SNAIL
from quickstudy.learners.gradient.cavia import CAVIA, ContextInput, FiLM, film_conv4
from quickstudy.learners.gradient.imaml import IMAML
from quickstudy.learners.gradient.maml_pp import MAMLPlusPlus
from quickstudy.learners.gradient.meta_curvature import MetaCurvature
from quickstudy.learners.gradient.meta_sgd import MetaSGD
from quickstudy.learners.gradient.proto_maml import ProtoMAML
from quickstudy.learners.gradient.reptile import Reptile
from quickstudy.learners.heads.meta_opt_net import MetaOptNet, meta_opt_net_ridge
from quickstudy.learners.heads.r2d2 import LRD2, R2D2
from quickstudy.learners.heads.ridge import RidgeRegression
from quickstudy.learners.lifelong.a_gem import AGEM
from quickstudy.learners.lifelong.anml import anml
from quickstudy.learners.lifelong.dark_experience_replay import DarkExperienceReplay
from quickstudy.learners.lifelong.ewc import EWC, online_ewc
from quickstudy.learners.lifelong.experience_replay import ExperienceReplay
from quickstudy.learners.lifelong.fine_tuning import FineTuning
from quickstudy.learners.lifelong.gdumb import GDumb
from quickstudy.learners.lifelong.joint import Joint
from quickstudy.learners.lifelong.la_maml import LaMAML, c_maml, sync_la_maml
from quickstudy.learners.lifelong.learning_without_forgetting import LearningWithoutForgetting
from quickstudy.learners.lifelong.mer import MER
from quickstudy.learners.lifelong.oml import OML
from quickstudy.learners.lifelong.streaming_lda import StreamingLDA
from quickstudy.learners.lifelong.synaptic_intelligence import SynapticIntelligence
from quickstudy.learners.memory.life_long_memory import LifeLongMemory
from quickstudy.learners.memory.mann import LRUA, MANN
from quickstudy.learners.memory.memory_network import (
    few_shot_memory_network,
    story_memory_network,
)
from quickstudy.learners.memory.meta_net import MetaNet
from quickstudy.learners.memory.sequence_learner import SequenceLearner
from quickstudy.learners.metric.feat import FEAT
from quickstudy.learners.metric.matching import FullContext, MatchingNetwork
from quickstudy.learners.metric.prototypical import cosine_prototypical
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
from quickstudy.learners.policies import MAMLRL, PEARL, RL2, SNAILPolicy, VariBAD, e_maml, promp
from quickstudy.learners.transfer.baseline import baseline, baseline_pp
from quickstudy.learners.transfer.simple_shot import SimpleShot
from quickstudy.learners.transfer.tim import TIM
from quickstudy.learners.transfer.transductive_fine_tuning import TransductiveFineTuning
from quickstudy.nets import policy_net
from quickstudy.nets.backbones import MLP, Conv4, use_batch_statistics
from quickstudy.nets.cells import NTM, FeedForward, StackedLSTM
from quickstudy.nets.low_rank import lora
from quickstudy.recall.task_memory import TaskMemory
from quickstudy.rl.actor import Actor
from quickstudy.tasks import (
    Classification,
    Copy,
    Fixed,
    GaussianProcess,
    Line,
    Mixture,
    OffPolicyTasks,
    OnlineTrajectoryTasks,
    Parabola,
    Presentations,
    RepeatCopy,
    Rollouts,
    Stories,
)
from quickstudy.testing import Blobs, Case, Lines, TaskTrait, Trait
from quickstudy.testing.actors import ActorCase
from tests.worlds import Uneven

BLOBS, LINES = Blobs(), Lines()
HALF_LABELLED = Blobs(shots=1, unlabelled=3)
STORIES = Stories(1, sentences=(1, 5))
WORDS = Copy(4, length=(2, 3))
IMAGES = Blobs(shape=(1, 16, 16))


def clouds() -> Labelled:
    """Five of the classes that `Blobs` draws, to stay the same in every task."""
    drawn = Blobs(ways=5, queries=40).sample(1, torch.Generator().manual_seed(0)).query
    return Labelled(drawn.x[0], drawn.y[0].argmax(-1), tuple("abcde"), name="clouds")


CLOUDS = Classification(clouds(), 20)
FEW_CLOUDS = Classification(clouds(), 8)
ALL_CLOUDS = OnlineTrajectoryTasks(clouds(), ways=5, shots=3, replay_examples=16)


def with_past() -> TaskMemory:
    """That knows two tasks by what they were before any meta-training."""
    memory = TaskMemory(MAML(mlp(), lr=0.1), capacity=3, temperature=10)
    memory.remember(BLOBS.sample(2, torch.Generator().manual_seed(0)))
    return memory


class Entry(NamedTuple):
    make: Callable[[], Learner[Any]]
    tasks: TaskDistribution
    declared: set[Trait]
    steps: int = 40
    lr: float = 1e-2

    def learner(self) -> Learner[Any]:
        """The same at every call."""
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            return self.make()

    def case(self) -> Case:
        return Case(self.learner(), self.tasks, self.declared, steps=self.steps, lr=self.lr)


def mlp() -> MLP:
    return MLP(8, 3, hidden=(16,))


def line() -> MLP:
    return MLP(1, 1, hidden=(16,))


def conv() -> Conv4:
    return use_batch_statistics(Conv4(3, channels=4, size=16))


def normed() -> nn.Module:
    layers = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)
    return use_batch_statistics(nn.Sequential(*layers))


def film() -> FiLM:
    return use_batch_statistics(film_conv4(3, context=16, channels=8, size=16, pool="stride"))


HEAD: set[Trait] = {"class order matters", "empty support"}
MEMORY: set[Trait] = {"additive", "empty support", "order matters"}
STREAM: set[Trait] = {"class order matters", "empty support", "order matters"}
BATCH: set[Trait] = {"class order matters", "padding counts"}

ZOO = {
    "fine_tuning": Entry(lambda: FineTuning(mlp(), batch_size=5), BLOBS, STREAM),
    "experience_replay": Entry(
        lambda: ExperienceReplay(mlp(), batch_size=5, memory_size=10), BLOBS, STREAM
    ),
    "ewc": Entry(lambda: EWC(mlp(), batch_size=5), BLOBS, STREAM),
    "ewc_empirical": Entry(lambda: EWC(mlp(), batch_size=5, empirical=True), BLOBS, STREAM),
    "ewc_online": Entry(lambda: online_ewc(mlp(), batch_size=5), BLOBS, STREAM),
    "synaptic_intelligence": Entry(
        lambda: SynapticIntelligence(mlp(), batch_size=5), BLOBS, STREAM
    ),
    "learning_without_forgetting": Entry(
        lambda: LearningWithoutForgetting(mlp(), batch_size=5), BLOBS, STREAM
    ),
    "dark_experience_replay": Entry(
        lambda: DarkExperienceReplay(mlp(), batch_size=3), BLOBS, STREAM
    ),
    "gdumb": Entry(
        lambda: GDumb(mlp(), batch_size=2, memory_size=4, epochs=3), BLOBS, STREAM | MEMORY
    ),
    "la_maml": Entry(lambda: LaMAML(mlp(), batch_size=3, glances=2), BLOBS, STREAM),
    "la_maml_exact": Entry(
        lambda: LaMAML(mlp(), batch_size=3, glances=2, first_order=False), BLOBS, STREAM
    ),
    "sync_la_maml": Entry(lambda: sync_la_maml(mlp(), batch_size=3, glances=1), BLOBS, STREAM),
    "c_maml": Entry(lambda: c_maml(mlp(), batch_size=3, glances=1), BLOBS, STREAM),
    "mer": Entry(
        lambda: MER(mlp(), beta=0.5, n_batches=2, replay_batch_size=1), BLOBS, STREAM | MEMORY
    ),
    "a_gem": Entry(lambda: AGEM(mlp(), batch_size=5, memory_size=10), BLOBS, STREAM),
    "joint": Entry(lambda: Joint(mlp(), batch_size=5, epochs=2), BLOBS, STREAM | MEMORY),
    "maml": Entry(lambda: MAML(mlp(), lr=0.1), BLOBS, HEAD),
    "maml_conv": Entry(lambda: MAML(conv(), lr=0.1, steps=1), IMAGES, BATCH, steps=20),
    "maml_line": Entry(
        lambda: MAML(line(), lr=0.05, criterion=squared_error), LINES, {"empty support"}
    ),
    "fomaml": Entry(lambda: fomaml(mlp(), lr=0.1), BLOBS, HEAD),
    "anil": Entry(lambda: anil(mlp(), lr=0.1), BLOBS, HEAD),
    "boil": Entry(lambda: boil(mlp(), lr=0.1), BLOBS, HEAD),
    "maml_lora": Entry(lambda: MAML(lora(mlp(), 2), lr=0.1), BLOBS, HEAD),
    "maml_pp": Entry(lambda: MAMLPlusPlus(mlp(), steps=3, multi_step_until=30), BLOBS, HEAD),
    "maml_pp_conv": Entry(
        lambda: MAMLPlusPlus(conv(), steps=2, multi_step_until=2, first_order_until=1),
        IMAGES,
        BATCH,
        steps=20,
    ),
    "cavia": Entry(
        lambda: CAVIA(ContextInput(MLP(8 + 16, 3)), context=16, steps=3), BLOBS, HEAD, lr=3e-2
    ),
    "cavia_line": Entry(
        lambda: CAVIA(ContextInput(MLP(1 + 2, 1)), context=2, criterion=squared_error),
        LINES,
        {"empty support"},
    ),
    "cavia_film": Entry(lambda: CAVIA(film(), context=16, steps=2), IMAGES, BATCH),
    "proto_maml": Entry(lambda: ProtoMAML(MLP(8, 8), steps=3), BLOBS, set()),
    "reptile": Entry(
        lambda: Reptile(mlp(), lr=0.05, batch_size=None, optimizer=steepest_descent),
        BLOBS,
        HEAD,
    ),
    "reptile_adam": Entry(
        lambda: Reptile(line(), lr=0.02, batch_size=None, criterion=squared_error),
        LINES,
        {"empty support"},
    ),
    "reptile_inductive": Entry(
        lambda: Reptile(
            normed(), lr=0.05, batch_size=None, optimizer=steepest_descent, transductive=False
        ),
        BLOBS,
        BATCH,
    ),
    "imaml": Entry(lambda: IMAML(mlp()), BLOBS, HEAD),
    "imaml_conv": Entry(lambda: IMAML(conv(), steps=1, cg_steps=2), IMAGES, BATCH, steps=10),
    "imaml_head": Entry(
        lambda: IMAML(
            mlp(), adapt_parameters=partial(operator.contains, ["head.weight", "head.bias"])
        ),
        BLOBS,
        HEAD,
    ),
    "meta_sgd": Entry(lambda: MetaSGD(mlp()), BLOBS, HEAD),
    "meta_sgd_conv": Entry(lambda: MetaSGD(conv()), IMAGES, BATCH, steps=20),
    "meta_curvature": Entry(lambda: MetaCurvature(mlp(), lr=0.1), BLOBS, HEAD),
    "meta_curvature_conv": Entry(
        lambda: MetaCurvature(conv(), lr=0.1, steps=1), IMAGES, BATCH, steps=20
    ),
    "prototypical": Entry(lambda: PrototypicalNetwork(MLP(8, 8)), BLOBS, {"additive"}),
    "cosine_prototypical": Entry(lambda: cosine_prototypical(MLP(8, 8)), BLOBS, {"additive"}),
    "semi_supervised": Entry(
        lambda: SemiSupervisedPrototypicalNetwork(MLP(8, 8)), HALF_LABELLED, {"additive"}
    ),
    "semi_supervised_distractors": Entry(
        lambda: SemiSupervisedPrototypicalNetwork(MLP(8, 8), distractors=True),
        HALF_LABELLED,
        {"additive"},
    ),
    "matching": Entry(lambda: MatchingNetwork(MLP(8, 8)), BLOBS, {"additive"}),
    "matching_fce": Entry(
        lambda: MatchingNetwork(
            MLP(8, 8), similarity=ScaledSimilarity(), context=FullContext(8, steps=2)
        ),
        BLOBS,
        {"additive", "order matters"},
    ),
    "conditional_neural_process": Entry(
        lambda: ConditionalNeuralProcess(width=16), LINES, {"additive", "empty support"}
    ),
    "siamese": Entry(lambda: SiameseNetwork(MLP(8, 8), WeightedL1(8)), BLOBS, {"additive"}),
    "siamese_contrastive": Entry(
        lambda: contrastive_siamese(MLP(8, 8), margin=2.0), BLOBS, {"additive"}
    ),
    "siamese_triplet": Entry(lambda: triplet_siamese(MLP(8, 8)), BLOBS, {"additive"}),
    "relation": Entry(lambda: RelationNetwork(MLP(8, 8), MLP(16, 1)), BLOBS, {"additive"}),
    "relation_conv": Entry(
        lambda: RelationNetwork(relation_embedding(4), relation_module(4, size=4, hidden=32)),
        Blobs(shape=(1, 24, 24)),
        {"additive"},
        steps=25,
    ),
    "relation_reasoning": Entry(
        lambda: RelationReasoning(MLP(8, 8), 8, units=16), BLOBS, {"additive"}
    ),
    "feat": Entry(
        lambda: FEAT(MLP(8, 8), 8, temperature=1, contrast_temperature=1), BLOBS, {"additive"}
    ),
    "r2d2": Entry(lambda: R2D2(MLP(8, 8)), BLOBS, {"additive", "empty support"}),
    "lrd2": Entry(lambda: LRD2(MLP(8, 8)), BLOBS, {"additive", "empty support"}),
    "meta_opt_net": Entry(lambda: MetaOptNet(MLP(8, 8)), BLOBS, {"additive"}),
    "meta_opt_net_ridge": Entry(
        lambda: meta_opt_net_ridge(MLP(8, 8)), BLOBS, {"additive", "empty support"}
    ),
    "ridge": Entry(lambda: RidgeRegression(MLP(8, 8)), BLOBS, {"additive", "empty support"}),
    "baseline": Entry(lambda: baseline(MLP(8, 8), 8, 5), CLOUDS, set()),
    "baseline_pp": Entry(lambda: baseline_pp(MLP(8, 8), 8, 5), CLOUDS, set()),
    "simple_shot": Entry(lambda: SimpleShot(MLP(8, 8), nn.Linear(8, 5)), CLOUDS, {"additive"}),
    "tim": Entry(
        lambda: TIM(MLP(8, 8), nn.Linear(8, 5), lr=0.01, steps=10), CLOUDS, {"additive"}
    ),
    "transductive_fine_tuning": Entry(
        lambda: TransductiveFineTuning(MLP(8, 5), steps=5), CLOUDS, {"additive"}
    ),
    "mann": Entry(
        lambda: MANN(MLP(8, 8), LRUA(13, 5, hidden=16, slots=8, width=8, heads=2)),
        FEW_CLOUDS,
        MEMORY | HEAD,
    ),
    "mann_lstm": Entry(
        lambda: MANN(MLP(8, 8), StackedLSTM(13, 5, hidden=16, layers=1)),
        FEW_CLOUDS,
        MEMORY | HEAD,
    ),
    "snail": Entry(
        lambda: SNAIL(nn.Linear(8, 8), 8, 3, length=7, blocks=((32, 16), 8, (32, 16))),
        BLOBS,
        MEMORY | HEAD,
        steps=60,
    ),
    "snail_no_attention": Entry(
        lambda: SNAIL(MLP(8, 8), 8, 5, length=9, blocks=(8,)), FEW_CLOUDS, MEMORY | HEAD
    ),
    "life_long_memory": Entry(
        lambda: LifeLongMemory(MLP(8, 8), memory_size=20), BLOBS, {"additive", "order matters"}
    ),
    "task_memory": Entry(with_past, BLOBS, HEAD),
    "task_memory_cavia": Entry(
        lambda: TaskMemory(
            CAVIA(ContextInput(MLP(1 + 2, 1)), context=2, criterion=squared_error)
        ),
        LINES,
        {"empty support"},
    ),
    "ntm": Entry(
        lambda: SequenceLearner(NTM(5, 4, hidden=16, slots=6, width=5)), WORDS, MEMORY
    ),
    "ntm_repeat": Entry(
        lambda: SequenceLearner(
            NTM(4, 3, hidden=16, slots=5, width=4, reads=2, writes=2, controller=FeedForward)
        ),
        RepeatCopy(2, length=(1, 2), repeats=(1, 2), ragged=True),
        MEMORY,
    ),
    "ntm_lstm": Entry(
        lambda: SequenceLearner(StackedLSTM(5, 4, hidden=16, layers=2)), WORDS, MEMORY
    ),
    "memory_network": Entry(
        lambda: few_shot_memory_network(MLP(8, 8), 8, hops=2), BLOBS, {"additive"}
    ),
    "memory_network_stories": Entry(
        lambda: story_memory_network(len(Stories.words), width=8, hops=2, latest=4),
        STORIES,
        MEMORY,
    ),
    "meta_net": Entry(
        lambda: MetaNet(MLP(8, 16), MLP(8, 16), 16, 3, hidden=8, units=4),
        BLOBS,
        {"class order matters", "order matters"},
    ),
    "oml": Entry(lambda: OML(MLP(8, 8), 8, 3, lr=0.3), BLOBS, MEMORY),
    "oml_classes": Entry(lambda: OML(MLP(8, 8), 8, 5, lr=0.1), ALL_CLOUDS, MEMORY),
    "oml_first_order": Entry(
        lambda: OML(MLP(8, 8), 8, 3, lr=0.3, first_order=True), BLOBS, MEMORY
    ),
    "anml": Entry(lambda: anml(MLP(8, 8), MLP(8, 8), 8, 3, lr=0.3), BLOBS, MEMORY),
    "anml_deep": Entry(
        lambda: anml(MLP(8, 8), MLP(8, 8), 8, 3, lr=0.3, adapt_parameters=["embed"]),
        BLOBS,
        MEMORY,
    ),
    "streaming_lda": Entry(lambda: StreamingLDA(MLP(8, 8), shrinkage=0.1), BLOBS, {"additive"}),
}


def pictures() -> Labelled:
    """Random images of 4 x 4 pixels, 8 of each of 6 classes, in two groups."""
    x = torch.randint(256, (48, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    y, names = torch.arange(48) % 6, tuple("abcdef")
    groups = {"groups": torch.arange(6) // 3, "group_names": ("x", "y")}
    return Labelled(x.byte(), y, names, **groups)


# Every task distribution of the library, and its traits (`quickstudy.testing.TaskTrait`).
# `Streams` has no batches of tasks, and `OffPolicyTasks` changes with every batch by design.
TASKS: dict[str, tuple[Callable[[], TaskDistribution], set[TaskTrait]]] = {
    "blobs": (Blobs, set()),
    "blobs_unlabelled": (lambda: Blobs(unlabelled=2), set()),
    "lines": (Lines, {"values"}),
    "few_shot": (lambda: FewShot(pictures(), 5, 2, 3), set()),
    "few_shot_ragged": (
        lambda: FewShot(pictures(), (2, 4), (1, 3), 2, imbalanced=True, rotations="random"),
        set(),
    ),
    "few_shot_unlabelled": (
        lambda: FewShot(pictures(), 3, 1, 2, unlabelled=2, distractors=1, rotations="classes"),
        set(),
    ),
    "few_shot_groups": (lambda: FewShot(pictures(), 3, 1, 2, within_groups=True), set()),
    "classification": (lambda: Classification(pictures(), 8, rotations="classes"), set()),
    "online_trajectory": (lambda: OnlineTrajectoryTasks(pictures(), 2, 3, 8), set()),
    "presentations": (lambda: Presentations(FewShot(pictures(), 3, 2, 2)), set()),
    "fixed": (
        lambda: Fixed(Blobs().sample(4, torch.Generator().manual_seed(0))),
        {"fixed"},
    ),
    "sinusoid": (Sinusoid, {"values"}),
    "sinusoid_grid": (lambda: Sinusoid(grid=True), {"values"}),
    "line": (Line, {"values"}),
    "parabola": (lambda: Parabola(grid=True), {"values"}),
    "mixture": (lambda: Mixture(Sinusoid(), Line(), Parabola()), {"values"}),
    "mixture_together": (lambda: Mixture(Copy(), RepeatCopy(), together=True), {"values"}),
    "gaussian_process": (GaussianProcess, {"values"}),
    "gaussian_process_ragged": (lambda: GaussianProcess("periodic", ragged=True), {"values"}),
    "copy": (Copy, {"values"}),
    "copy_ragged": (lambda: Copy(ragged=True), {"values"}),
    "repeat_copy": (RepeatCopy, {"values"}),
    "repeat_copy_ragged": (lambda: RepeatCopy(ragged=True), {"values"}),
    "stories": (lambda: Stories(2, questions=2), set()),
    "rollouts": (
        lambda: Rollouts(
            BernoulliBandit(2), RL2(BernoulliBandit(2), hidden=4), episodes=3, trial=True
        ),
        set(),
    ),
}


class ActorEntry(NamedTuple):
    """An actor, and where it acts."""

    make: Callable[[Environment], Actor]
    environment: Environment
    episodes: int = 2
    trial: bool = True
    off_policy: bool = False

    def case(self) -> ActorCase:
        """A new learner with its rollouts, and the tasks of its loss."""
        torch.manual_seed(0)
        learner = self.make(self.environment)
        options: dict[str, Any] = {"episodes": self.episodes, "trial": self.trial}
        rollouts = Rollouts(self.environment, learner, **options)
        if not self.off_policy:
            return ActorCase(rollouts, rollouts)
        sizes: dict[str, Any] = {
            "tasks": 5,
            "every": 2,
            "collect": 2,
            "support": 4,
            "query": 6,
            "capacity": 16,
        }
        return ActorCase(rollouts, OffPolicyTasks(rollouts, **sizes))


CELLS, POINT = HiddenGoal(3, horizon=4), PointRobot(horizon=4)

ACTORS: dict[str, ActorEntry] = {
    "rl2": ActorEntry(lambda e: RL2(e, hidden=8), CELLS),
    "rl2_numbers": ActorEntry(lambda e: RL2(e, hidden=8, timescale=8), POINT),
    "rl2_uneven": ActorEntry(lambda e: RL2(e, hidden=8), Uneven()),
    "snail_policy": ActorEntry(
        lambda e: SNAILPolicy(e, length=8, width=8, blocks=(8, (8, 8))), CELLS
    ),
    "varibad": ActorEntry(lambda e: VariBAD(e, latent=2, hidden=8), CELLS),
    "pearl": ActorEntry(
        lambda e: PEARL(e, latent=2, hidden=(8, 8), encoder=(8,)), POINT, 1, False, True
    ),
    "maml_rl": ActorEntry(lambda e: MAMLRL(e, policy_net(e, hidden=(8,))), CELLS, 3, False),
    "e_maml": ActorEntry(lambda e: e_maml(e, policy_net(e, hidden=(8,))), POINT, 3, False),
    "promp": ActorEntry(lambda e: promp(e, policy_net(e, hidden=(8,))), CELLS, 3, False),
}
