r"""Ridge and logistic regression as learners: R2-D2 and LR-D2 (Bertinetto, Henriques, Torr &
Vedaldi, 2019, arXiv:1805.08136).

A task is learned by a solver that has a closed form, or few steps, on top of an embedding f
that is learned through it. R2-D2 is ridge regression on one-hot labels (eq. 4), whose system is
S wide, not D, by Woodbury's identity (eq. 5); its output is scaled and shifted (eq. 6):

$$W = X^\top (X X^\top + \lambda I)^{-1} Y, \qquad \hat{Y} = \alpha f(x) W + \beta$$

λ, α and β are learned. LR-D2 is logistic regression by Newton's method, as iteratively
reweighted least squares, whose systems Woodbury makes S wide as well.

Differs from the paper: nothing; where it is silent, the authors' code is followed. A one is
appended to every embedding, so the intercept is penalised like other weights; the system is D
wide where that is smaller; LR-D2 of several classes is one against the others, for each class.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Embeds
from quickstudy.core.functional import Criterion, cross_entropy
from quickstudy.core.task import Examples
from quickstudy.learner import Learner

BaseLearner: TypeAlias = Callable[[Examples], Tensor]  # embedded examples -> W (D, C)


class Fitted(NamedTuple):
    """A linear model, and what it was fitted to: so that more examples can be added later."""

    examples: Examples  # embedded: x (N, D)
    W: Tensor  # (D, C)


class R2D2(Learner[Fitted], Embeds):
    """Learns the embedding `embed`, (N, *features) -> (N, D), and how to regress on it.

    Args:
        penalty: where λ starts, above 0.
        scale: where α starts (10 in the authors' runs on Omniglot and CIFAR-FS, 1e-4 on
            miniImageNet).
    """

    class_axes = {"examples.y": 1, "W": 1}

    def __init__(
        self,
        embed: nn.Module,
        *,
        penalty: float = 50.0,
        scale: float = 10.0,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.embed = embed
        self.log_penalty = _log(penalty)
        self.scale = nn.Parameter(torch.tensor(scale))
        self.shift = nn.Parameter(torch.tensor(0.0))

    def adapt(self, support: Examples, state: Fitted | None = None) -> Fitted:
        """Ridge regression on the examples, and on those that `state` has."""
        x = with_one(self.embed(support.x)).to(self.scale)
        return fitted(partial(ridge, penalty=self.log_penalty.exp()), support, x, state)

    def predict(self, state: Fitted, x: Tensor) -> Tensor:
        """Logits (Q, C)."""
        return self.scale * scores(state, with_one(self.embed(x))) + self.shift


class LRD2(Learner[Fitted], Embeds):
    """As `R2D2`, by logistic regression; its targets are between 0 and 1.

    Args:
        penalty: where λ starts, above 0; 1 / λ is scikit-learn's `C`.
        steps: of Newton's method, from 0 (1 and 5 in the paper).
    """

    def __init__(self, embed: nn.Module, *, penalty: float = 50.0, steps: int = 5):
        super().__init__()
        self.embed, self.steps = embed, steps
        self.log_penalty = _log(penalty)

    def adapt(self, support: Examples, state: Fitted | None = None) -> Fitted:
        """Logistic regression on the examples, and on those that `state` has."""
        x = with_one(self.embed(support.x)).to(self.log_penalty)
        base = partial(logistic, penalty=self.log_penalty.exp(), steps=self.steps)
        return fitted(base, support, x, state)

    def predict(self, state: Fitted, x: Tensor) -> Tensor:
        """Logits (Q, C): of each class against the others, taken as those of one choice."""
        return scores(state, with_one(self.embed(x)))


def ridge(examples: Examples, penalty: float | Tensor) -> Tensor:
    """The W (D, C) that makes sum_i weight_i |x_i W - y_i|^2 + penalty |W|^2 least."""
    x, weight = examples.x, examples.weight[:, None]
    wy = weight * examples.y
    if len(x) <= x.shape[1]:
        return x.T @ torch.linalg.solve(weight * (x @ x.T) + penalty * _eye(x, 0), wy)
    return torch.linalg.solve(x.T @ (weight * x) + penalty * _eye(x, 1), x.T @ wy)


def logistic(examples: Examples, penalty: float | Tensor, steps: int) -> Tensor:
    """`steps` of Newton's method, from 0, towards the W (D, C) that makes the weighted sum of
    the logistic losses of each column, plus penalty / 2 |W|^2, least."""
    x, y, weight = examples.x, examples.y.T, examples.weight
    gram, ridge = x @ x.T, penalty * _eye(x, 0)  # (S, S)
    dual = torch.zeros_like(y)  # (C, S)  W is x.T @ dual.T
    for _ in range(steps):
        p = (dual @ gram).sigmoid()
        slope = weight * (p - y) + penalty * dual
        curvature = (weight * p * (1 - p))[..., None] * gram + ridge  # (C, S, S)
        dual = dual - torch.linalg.solve(curvature, slope[..., None])[..., 0]
    return x.T @ dual.T


def fitted(base: BaseLearner, support: Examples, x: Tensor, state: Fitted | None) -> Fitted:
    """`base` on the support set, embedded as `x`, after the examples that `state` has.

    In the dtype of `x` even where training autocasts: solvers need the digits.
    """
    examples = support._replace(x=x)
    if state is not None:
        examples = Examples.cat(state.examples, examples)
    with in_full(x):
        return Fitted(examples, base(examples))


def scores(state: Fitted, x: Tensor) -> Tensor:
    """What the linear model says of embedded inputs `x` (Q, D): (Q, C)."""
    with in_full(x):
        return x.to(state.W) @ state.W


def with_one(x: Tensor) -> Tensor:
    """(N, D) -> (N, D + 1), for an intercept."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def in_full(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which nothing is cast that is computed where `x` is."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def _eye(x: Tensor, axis: int) -> Tensor:
    return torch.eye(x.shape[axis], dtype=x.dtype, device=x.device)


def _log(penalty: float) -> nn.Parameter:
    if not (penalty > 0 and math.isfinite(penalty)):
        raise ValueError(f"penalty={penalty}: give a positive number.")
    return nn.Parameter(torch.tensor(math.log(penalty)))
