"""How everything stored in `0.1.0` is built, one line each, under the names it is stored by.

What was trained is loaded over what is built here, so that shapes and settings count and random
numbers do not. Of every learner the first entry says which inputs it is asked about: those of
that name in `inputs.safetensors`.
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

import quickstudy as qs
from quickstudy.core.similarity import ScaledSimilarity
from quickstudy.core.task import Examples
from quickstudy.datasets import Labelled
from quickstudy.environments import BernoulliBandit, Environment, HiddenGoal, PointRobot
from quickstudy.nets import (
    MLP,
    NTM,
    Conv4,
    FeedForward,
    StackedLSTM,
    policy_net,
    use_batch_statistics,
)
from quickstudy.testing.learners import Blobs

Make = Callable[..., Any]


# Nets


def mlp() -> MLP:
    return MLP(8, 3, hidden=(16,))


def line() -> MLP:
    return MLP(1, 1, hidden=(16,))


def embed(width: int = 8) -> MLP:
    return MLP(8, width, hidden=(16,))


def conv() -> Conv4:
    return use_batch_statistics(Conv4(3, channels=4, size=16))


def normed() -> nn.Module:
    layers = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)
    return use_batch_statistics(nn.Sequential(*layers))


def film() -> nn.Module:
    return use_batch_statistics(
        qs.learners.gradient.film_conv4(3, context=4, channels=4, size=16, pool="stride")
    )


# Learners, by the name of the folder in `checkpoints`

LEARNERS: dict[str, tuple[str, Make]] = {
    # of streams
    "fine_tuning": ("blobs", lambda: qs.FineTuning(mlp(), batch_size=5)),
    "experience_replay": (
        "blobs",
        lambda: qs.ExperienceReplay(mlp(), batch_size=5, memory_size=4),
    ),
    "ewc": ("blobs", lambda: qs.EWC(mlp(), batch_size=5)),
    "ewc_empirical": ("blobs", lambda: qs.EWC(mlp(), batch_size=5, empirical=True)),
    "ewc_online": ("blobs", lambda: qs.online_ewc(mlp(), batch_size=5)),
    "synaptic_intelligence": ("blobs", lambda: qs.SynapticIntelligence(mlp(), batch_size=5)),
    "learning_without_forgetting": (
        "blobs",
        lambda: qs.LearningWithoutForgetting(mlp(), batch_size=5),
    ),
    "dark_experience_replay": (
        "blobs",
        lambda: qs.DarkExperienceReplay(mlp(), batch_size=3, memory_size=4),
    ),
    "dark_experience_replay_without_labels": (
        "blobs",
        lambda: qs.DarkExperienceReplay(mlp(), batch_size=3, memory_size=4, beta=0.0),
    ),
    "gdumb": ("blobs", lambda: qs.GDumb(mlp(), batch_size=2, memory_size=4, epochs=3)),
    "la_maml": ("blobs", lambda: qs.LaMAML(mlp(), batch_size=3, glances=2, memory_size=4)),
    "la_maml_exact": (
        "blobs",
        lambda: qs.LaMAML(mlp(), batch_size=3, glances=2, memory_size=4, first_order=False),
    ),
    "sync_la_maml": (
        "blobs",
        lambda: qs.sync_la_maml(mlp(), batch_size=3, glances=1, memory_size=4),
    ),
    "c_maml": ("blobs", lambda: qs.c_maml(mlp(), batch_size=3, glances=1, memory_size=4)),
    "mer": (
        "blobs",
        lambda: qs.MER(mlp(), beta=0.5, n_batches=2, replay_batch_size=1, memory_size=4),
    ),
    "a_gem": ("blobs", lambda: qs.AGEM(mlp(), batch_size=5, memory_size=4)),
    "joint": ("blobs", lambda: qs.Joint(mlp(), batch_size=5, epochs=2)),
    "streaming_lda": ("blobs", lambda: qs.StreamingLDA(embed(), shrinkage=0.1)),
    "oml": ("blobs", lambda: qs.OML(embed(), 8, 3, lr=0.3)),
    "oml_first_order": ("blobs", lambda: qs.OML(embed(), 8, 3, lr=0.3, first_order=True)),
    "oml_classes": ("all_clouds", lambda: qs.OML(embed(), 8, 5, lr=0.1)),
    "anml": ("blobs", lambda: qs.anml(embed(), embed(), 8, 3, lr=0.3)),
    "anml_deep": (
        "blobs",
        lambda: qs.anml(embed(), embed(), 8, 3, lr=0.3, adapt_parameters=["embed"]),
    ),
    "life_long_memory": ("blobs", lambda: qs.LifeLongMemory(embed(), memory_size=20)),
    # by descent
    "maml": ("blobs", lambda: qs.MAML(mlp(), lr=0.1)),
    "maml_conv": ("images", lambda: qs.MAML(conv(), lr=0.1, steps=1)),
    "maml_line": ("lines", lambda: qs.MAML(line(), lr=0.05, criterion=qs.squared_error)),
    "maml_lora": ("blobs", lambda: qs.MAML(qs.nets.lora(mlp(), 2), lr=0.1)),
    "maml_momentum": (
        "blobs",
        lambda: qs.MAML(mlp(), lr=0.1, optimizer=qs.inner_loop.momentum()),
    ),
    "maml_adam": ("blobs", lambda: qs.MAML(mlp(), lr=0.1, optimizer=qs.inner_loop.adam())),
    "fomaml": ("blobs", lambda: qs.fomaml(mlp(), lr=0.1)),
    "anil": ("blobs", lambda: qs.anil(mlp(), lr=0.1)),
    "boil": ("blobs", lambda: qs.boil(mlp(), lr=0.1)),
    "maml_pp": ("blobs", lambda: qs.MAMLPlusPlus(mlp(), steps=3, multi_step_until=30)),
    "maml_pp_conv": (
        "images",
        lambda: qs.MAMLPlusPlus(conv(), steps=2, multi_step_until=2, first_order_until=1),
    ),
    "cavia": (
        "blobs",
        lambda: qs.CAVIA(
            qs.learners.gradient.ContextInput(MLP(8 + 4, 3, hidden=(16,))), context=4, steps=3
        ),
    ),
    "cavia_line": (
        "lines",
        lambda: qs.CAVIA(
            qs.learners.gradient.ContextInput(MLP(1 + 2, 1, hidden=(16,))),
            context=2,
            criterion=qs.squared_error,
        ),
    ),
    "cavia_film": ("images", lambda: qs.CAVIA(film(), context=4, steps=2)),
    "proto_maml": ("blobs", lambda: qs.ProtoMAML(embed(), steps=3)),
    "reptile": (
        "blobs",
        lambda: qs.Reptile(
            mlp(), lr=0.05, batch_size=None, optimizer=qs.inner_loop.steepest_descent
        ),
    ),
    "reptile_adam": (
        "lines",
        lambda: qs.Reptile(line(), lr=0.02, batch_size=None, criterion=qs.squared_error),
    ),
    "reptile_inductive": (
        "blobs",
        lambda: qs.Reptile(
            normed(),
            lr=0.05,
            batch_size=None,
            optimizer=qs.inner_loop.steepest_descent,
            transductive=False,
        ),
    ),
    "imaml": ("blobs", lambda: qs.IMAML(mlp())),
    "imaml_conv": ("images", lambda: qs.IMAML(conv(), steps=1, cg_steps=2)),
    "imaml_head": (
        "blobs",
        lambda: qs.IMAML(
            mlp(), adapt_parameters=partial(operator.contains, ["head.weight", "head.bias"])
        ),
    ),
    "meta_sgd": ("blobs", lambda: qs.MetaSGD(mlp())),
    "meta_sgd_conv": ("images", lambda: qs.MetaSGD(conv())),
    "meta_curvature": ("blobs", lambda: qs.MetaCurvature(mlp(), lr=0.1)),
    "meta_curvature_conv": ("images", lambda: qs.MetaCurvature(conv(), lr=0.1, steps=1)),
    # that compare
    "prototypical": ("blobs", lambda: qs.PrototypicalNetwork(embed())),
    "prototypical_conv": (
        "images",
        lambda: qs.PrototypicalNetwork(Conv4(channels=4, size=16)),
    ),
    "cosine_prototypical": ("blobs", lambda: qs.cosine_prototypical(embed())),
    "semi_supervised": (
        "half_labelled",
        lambda: qs.SemiSupervisedPrototypicalNetwork(embed()),
    ),
    "semi_supervised_distractors": (
        "half_labelled",
        lambda: qs.SemiSupervisedPrototypicalNetwork(embed(), distractors=True),
    ),
    "matching": ("blobs", lambda: qs.MatchingNetwork(embed())),
    "matching_fce": (
        "blobs",
        lambda: qs.MatchingNetwork(
            embed(),
            similarity=ScaledSimilarity(),
            context=qs.learners.metric.FullContext(8, steps=2),
        ),
    ),
    "conditional_neural_process": ("lines", lambda: qs.ConditionalNeuralProcess(width=16)),
    "siamese": ("blobs", lambda: qs.SiameseNetwork(embed(), qs.learners.metric.WeightedL1(8))),
    "siamese_contrastive": ("blobs", lambda: qs.contrastive_siamese(embed(), margin=2.0)),
    "siamese_triplet": ("blobs", lambda: qs.triplet_siamese(embed())),
    "relation": (
        "blobs",
        lambda: qs.RelationNetwork(embed(), MLP(16, 1, hidden=(16,))),
    ),
    "relation_conv": (
        "larger_images",
        lambda: qs.RelationNetwork(
            qs.learners.metric.relation_embedding(4),
            qs.learners.metric.relation_module(4, size=4, hidden=16),
        ),
    ),
    "relation_reasoning": ("blobs", lambda: qs.RelationReasoning(embed(), 8, units=16)),
    "feat": ("blobs", lambda: qs.FEAT(embed(), 8, temperature=1, contrast_temperature=1)),
    # with a solver
    "r2d2": ("blobs", lambda: qs.R2D2(embed())),
    "lrd2": ("blobs", lambda: qs.LRD2(embed())),
    "meta_opt_net": ("blobs", lambda: qs.MetaOptNet(embed())),
    "meta_opt_net_ridge": ("blobs", lambda: qs.meta_opt_net_ridge(embed())),
    "ridge": ("blobs", lambda: qs.RidgeRegression(embed())),
    "ridge_line": (
        "lines",
        lambda: qs.RidgeRegression(MLP(1, 8, hidden=(16,)), criterion=qs.squared_error),
    ),
    # from a classifier
    "baseline": ("clouds", lambda: qs.baseline(embed(), 8, 5)),
    "baseline_pp": ("clouds", lambda: qs.baseline_pp(embed(), 8, 5)),
    "simple_shot": ("clouds", lambda: qs.SimpleShot(embed(), nn.Linear(8, 5))),
    "tim": ("clouds", lambda: qs.TIM(embed(), nn.Linear(8, 5), lr=0.01, steps=10)),
    "transductive_fine_tuning": (
        "clouds",
        lambda: qs.TransductiveFineTuning(embed(5), steps=5),
    ),
    # with a memory
    "mann": (
        "few_clouds",
        lambda: qs.MANN(
            embed(), qs.learners.memory.LRUA(13, 5, hidden=16, slots=8, width=8, heads=2)
        ),
    ),
    "mann_lstm": (
        "few_clouds",
        lambda: qs.MANN(embed(), StackedLSTM(13, 5, hidden=16, layers=1)),
    ),
    "snail": (
        "blobs",
        lambda: qs.SNAIL(nn.Linear(8, 4), 4, 3, length=7, blocks=((8, 4), 4, (8, 4))),
    ),
    "snail_no_attention": (
        "few_clouds",
        lambda: qs.SNAIL(embed(), 8, 5, length=9, blocks=(8,)),
    ),
    "task_memory": (
        "blobs",
        lambda: qs.TaskMemory(qs.MAML(mlp(), lr=0.1), capacity=3, temperature=10),
    ),
    "task_memory_cavia": (
        "lines",
        lambda: qs.TaskMemory(
            qs.CAVIA(
                qs.learners.gradient.ContextInput(MLP(1 + 2, 1, hidden=(16,))),
                context=2,
                criterion=qs.squared_error,
            ),
            capacity=8,
        ),
    ),
    "ntm": (
        "words",
        lambda: qs.SequenceLearner(NTM(5, 4, hidden=16, slots=6, width=5)),
    ),
    "ntm_repeat": (
        "repeated_words",
        lambda: qs.SequenceLearner(
            NTM(4, 3, hidden=16, slots=5, width=4, reads=2, writes=2, controller=FeedForward)
        ),
    ),
    "ntm_lstm": (
        "words",
        lambda: qs.SequenceLearner(StackedLSTM(5, 4, hidden=16, layers=2)),
    ),
    "memory_network": ("blobs", lambda: qs.few_shot_memory_network(embed(), 8, hops=2)),
    "memory_network_stories": (
        "stories",
        lambda: qs.story_memory_network(len(qs.tasks.Stories.words), width=8, hops=2, latest=4),
    ),
    "meta_net": (
        "blobs",
        lambda: qs.MetaNet(embed(16), embed(16), 16, 3, hidden=8, units=4),
    ),
}


# Learners that act, in `checkpoints` too: (environment, whether episodes are a trial, learner)

ACTORS: dict[str, tuple[Callable[[], Environment], bool, Make]] = {
    "maml_rl": (
        lambda: BernoulliBandit(3),
        False,
        lambda world: qs.MAMLRL(world, policy_net(world, hidden=(4,))),
    ),
    "maml_rl_gaussian": (
        lambda: PointRobot(horizon=5),
        False,
        lambda world: qs.MAMLRL(world, policy_net(world, hidden=(4,)), clip=0.3),
    ),
    "e_maml": (
        lambda: BernoulliBandit(3),
        False,
        lambda world: qs.e_maml(world, policy_net(world, hidden=(4,))),
    ),
    "promp": (
        lambda: PointRobot(horizon=5),
        False,
        lambda world: qs.promp(world, policy_net(world, hidden=(4,))),
    ),
    "rl2": (lambda: BernoulliBandit(3), True, lambda world: qs.RL2(world, hidden=6)),
    "varibad": (
        lambda: BernoulliBandit(3),
        True,
        lambda world: qs.VariBAD(world, latent=2, hidden=6, policy=(4,), decoder=(4, 4)),
    ),
    "varibad_observations": (
        lambda: HiddenGoal(3, horizon=3),
        True,
        lambda world: qs.VariBAD(
            world, latent=2, hidden=6, policy=(4,), decoder=(4,), observations=True
        ),
    ),
    "snail_policy": (
        lambda: BernoulliBandit(3),
        True,
        lambda world: qs.SNAILPolicy(world, length=4, width=4, blocks=(3, (4, 3))),
    ),
    "pearl": (
        lambda: PointRobot(horizon=5),
        False,
        lambda world: qs.PEARL(world, latent=2, hidden=(6,), encoder=(6,)),
    ),
}


def replayed(world: Environment, learner: Any) -> Any:
    """The tasks that "pearl" was trained on, which give it its `replay`."""
    rollouts = qs.tasks.Rollouts(world, learner, episodes=2)
    return qs.tasks.OffPolicyTasks(
        rollouts, tasks=3, every=5, collect=1, support=6, query=4, capacity=20
    )


# Optimizers and schedulers, in the checkpoints of the same names; others have none

OPTIMIZERS: dict[str, Make] = {
    "maml": lambda learner: torch.optim.Adam(learner.parameters(), 1e-2),
    "prototypical": lambda learner: torch.optim.SGD(learner.parameters(), 1e-2, momentum=0.9),
    "maml_pp": lambda learner: torch.optim.AdamW(learner.parameters(), 1e-2),
    "rl2": lambda learner: qs.training.MultiEpoch(
        torch.optim.Adam(learner.parameters(), 1e-2), 2
    ),
    "e_maml": lambda learner: qs.training.TRPO(learner),
    "promp": lambda learner: qs.training.MultiEpoch(
        torch.optim.SGD(learner.parameters(), 1e-2), 3
    ),
    "pearl": lambda learner: torch.optim.Adam(learner.parameters(), 1e-3),
}
SCHEDULERS: dict[str, Make] = {
    "maml": lambda optimizer: CosineAnnealingLR(optimizer, 10),
    "prototypical": lambda optimizer: MultiStepLR(optimizer, [1, 5]),
    "rl2": lambda optimizer: CosineAnnealingLR(optimizer, 10),
}


# Estimators, in the folders of the same names in `adapted`; a file there is called after its
# learner, or "default", or "LEARNER+SPECIALITY"

ESTIMATORS: dict[str, Any] = {
    "classifier": qs.FewShotClassifier,
    "regressor": qs.FewShotRegressor,
    "verifier": qs.FewShotVerifier,
}

# Learners in `lifelong` and `streams`; "default" is what an estimator takes of itself, and is
# in `lifelong` only

LIFELONG = (
    "default", "fine_tuning", "experience_replay", "ewc", "ewc_empirical", "ewc_online",
    "synaptic_intelligence", "learning_without_forgetting", "dark_experience_replay",
    "dark_experience_replay_without_labels", "gdumb", "la_maml", "la_maml_exact",
    "sync_la_maml", "c_maml", "mer", "a_gem", "joint", "streaming_lda", "oml",
    "oml_first_order", "anml", "anml_deep", "life_long_memory", "prototypical",
    "cosine_prototypical",
)  # fmt: skip

STREAMS_OF_TASKS = ("ewc", "experience_replay", "prototypical")


def lifelong(learner: Any, path: Any) -> Any:
    return qs.LifelongClassifier(learner, path=path, random_state=0)


def streams(train: Labelled, test: Labelled) -> Any:
    """What learners in `streams` were interrupted in."""
    return qs.tasks.Streams(partial(qs.tasks.class_incremental, train, test, per_task=1))


# Libraries of mappings, by the name of the folder in `libraries`: (learner, what embeds a task)


def mean_of_examples(support: Examples) -> Tensor:
    return support.x.double().flatten(1).mean(0)


class Projected(nn.Module):
    """A module, of which a library stores the class and the parameters' sha256."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.linspace(-1, 1, 24).reshape(8, 3))

    def forward(self, support: Examples) -> Tensor:
        return support.x.mean(0) @ self.get_buffer("rows")


LIBRARIES: dict[str, tuple[str, Make]] = {
    "maml_line": ("maml_line", lambda: None),
    "cavia_line": ("cavia_line", lambda: None),
    "maml": ("maml", lambda: None),
    "prototypical": ("prototypical", lambda: None),
    "prototypical_projected": ("prototypical", Projected),
    "ntm": ("ntm", lambda: mean_of_examples),
    "memory_network_stories": ("memory_network_stories", lambda: mean_of_examples),
}

# Reports, by the name of the file in `reports`: (learner, tasks)

REPORTS: dict[str, tuple[str, Make]] = {
    "maml_line": ("maml_line", lambda: qs.Sinusoid(5, 5)),
    "prototypical": ("prototypical", lambda: Blobs()),
}

# Runs, by the name of the folder in `runs`: (recipe, settings)

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "sinusoid_maml": ("sinusoid", {"learner": "maml", "steps": 3, "meta_batch_size": 2}),
    "sinusoid_maml_interrupted": (
        "sinusoid",
        {"learner": "maml", "steps": 4, "meta_batch_size": 2},
    ),
    "glyphs_protonet": (
        "glyphs_protonet",
        {"ways": 5, "queries": 2, "steps": 2, "channels": 4},
    ),
    "rl_bandit_snail": (
        "rl_bandit",
        {
            "learner": "snail",
            "arms": 2,
            "pulls": 3,
            "steps": 2,
            "meta_batch_size": 4,
            "hidden": 8,
        },
    ),
    "rl_bandit_rl2_interrupted": (
        "rl_bandit",
        {
            "learner": "rl2",
            "arms": 2,
            "pulls": 3,
            "steps": 4,
            "meta_batch_size": 4,
            "hidden": 4,
        },
    ),
    "streams_nearest_mean": ("streams", {"learner": "nearest_mean", "count": 2}),
    "streams_interrupted": ("streams", {"learner": "experience_replay", "count": 2}),
}
