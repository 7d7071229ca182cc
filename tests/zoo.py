"""Every learner of the library, one entry each: the list that conformance and golden numbers
run over. `declared` says what is true of a learner and not of all (`quickstudy.testing.Trait`).
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from quickstudy import MAML, Learner, PrototypicalNetwork, TaskDistribution, anil, boil, fomaml
from quickstudy.descent import SGD
from quickstudy.functional import squared_error
from quickstudy.learners.cavia import CAVIA, ContextInput, FiLM, film_conv4
from quickstudy.learners.conditional_neural_process import ConditionalNeuralProcess
from quickstudy.learners.imaml import IMAML
from quickstudy.learners.maml_pp import MAMLPlusPlus
from quickstudy.learners.meta_curvature import MetaCurvature
from quickstudy.learners.meta_sgd import MetaSGD
from quickstudy.learners.proto_maml import ProtoMAML
from quickstudy.learners.reptile import Reptile
from quickstudy.learners.ridge import RidgeRegression
from quickstudy.low_rank import lora
from quickstudy.nets import MLP, Conv4, use_batch_statistics
from quickstudy.testing import Blobs, Case, Lines, Trait

BLOBS, LINES = Blobs(), Lines()
IMAGES = Blobs(shape=(1, 16, 16))


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
BATCH: set[Trait] = {"class order matters", "padding counts"}

ZOO = {
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
    "reptile": Entry(lambda: Reptile(mlp(), lr=0.05, batch=None, optimizer=SGD), BLOBS, HEAD),
    "reptile_adam": Entry(
        lambda: Reptile(line(), lr=0.02, batch=None, criterion=squared_error),
        LINES,
        {"empty support"},
    ),
    "reptile_inductive": Entry(
        lambda: Reptile(normed(), lr=0.05, batch=None, optimizer=SGD, transductive=False),
        BLOBS,
        BATCH,
    ),
    "imaml": Entry(lambda: IMAML(mlp()), BLOBS, HEAD),
    "imaml_conv": Entry(lambda: IMAML(conv(), steps=1, cg_steps=2), IMAGES, BATCH, steps=10),
    "imaml_head": Entry(
        lambda: IMAML(mlp(), adapts=partial(operator.contains, ["head.weight", "head.bias"])),
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
    "conditional_neural_process": Entry(
        lambda: ConditionalNeuralProcess(width=16), LINES, {"additive", "empty support"}
    ),
    "ridge": Entry(lambda: RidgeRegression(MLP(8, 8)), BLOBS, {"additive", "empty support"}),
}
