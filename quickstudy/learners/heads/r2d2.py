r"""Ridge and logistic regression as learners: R2-D2 and LR-D2 (Bertinetto, Henriques, Torr &
Vedaldi, 2019, arXiv:1805.08136).

Adaptation is a solver with a closed form, or with few steps, on top of an embedding f. The
meta-gradient flows through the solver. R2-D2 is ridge regression on one-hot labels (eq. 4). By
Woodbury's identity its system is S wide, not D (eq. 5). Its output is scaled and shifted (eq.
6):

$$W = X^\top (X X^\top + \lambda I)^{-1} Y, \qquad \hat{Y} = \alpha f(x) W + \beta$$

λ, α and β are learned. LR-D2 is logistic regression by Newton's method (iteratively reweighted
least squares). Woodbury's identity makes its systems S wide as well.

Differs from the paper: nothing. Details that the paper leaves open follow the authors' code: a
one is appended to every embedding, so the intercept is penalised like other weights; the system
is D wide where D is smaller; LR-D2 with several classes fits each class against the others.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Embeds
from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.linear import double, without_autocast
from quickstudy.core.parameters import log_parameter
from quickstudy.core.task import Examples
from quickstudy.core.tree import append
from quickstudy.learner import Learner

BaseLearner: TypeAlias = Callable[[Examples], Tensor]  # embedded examples -> W (D, C)


class FittedHead(NamedTuple):
    """A linear model, and the examples it was fitted to, so that more can be added.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.R2D2(torch.nn.Identity()).adapt(support)
        >>> state.W.shape, state.examples.x.shape
        (torch.Size([3, 2]), torch.Size([2, 3]))
    """

    examples: Examples  # embedded: x (N, D)
    W: Tensor  # (D, C)


class R2D2(Learner[FittedHead], Embeds):
    """Learns the embedding `embed`, (N, *features) -> (N, D), and λ, α and β.

    Args:
        embed: the embedding.
        penalty: initial value of λ, above 0.
        scale: initial value of α (10 in the authors' runs on Omniglot and CIFAR-FS, 1e-4 on
            miniImageNet).

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> learner = qs.R2D2(torch.nn.Identity())
        >>> learner.predict(learner.adapt(support), torch.tensor([[-3.0], [3.0]])).argmax(-1)
        tensor([0, 1])
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
        self.log_penalty = log_parameter("penalty", penalty)
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.shift = nn.Parameter(torch.tensor(0.0))

    def adapt(self, support: Examples, state: FittedHead | None = None) -> FittedHead:
        """Fit ridge regression to the examples and those of `state`."""
        x = append_one(self.embed(support.x)).to(self.scale)
        return fit(partial(ridge, penalty=self.log_penalty.exp()), support, x, state)

    def predict(self, state: FittedHead, x: Tensor) -> Tensor:
        """Return logits (Q, C)."""
        return self.scale * scores(state, append_one(self.embed(x))) + self.shift


class LRD2(Learner[FittedHead], Embeds):
    """R2-D2 with logistic regression; targets are between 0 and 1.

    Args:
        embed: the embedding, (N, *features) -> (N, D).
        penalty: initial value of λ, above 0; 1 / λ is scikit-learn's `C`.
        steps: of Newton's method, from 0 (1 and 5 in the paper).

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> learner = qs.LRD2(torch.nn.Identity())
        >>> learner.predict(learner.adapt(support), torch.tensor([[-3.0], [3.0]])).argmax(-1)
        tensor([0, 1])
    """

    def __init__(self, embed: nn.Module, *, penalty: float = 50.0, steps: int = 5):
        super().__init__()
        self.embed, self.steps = embed, steps
        self.log_penalty = log_parameter("penalty", penalty)

    def adapt(self, support: Examples, state: FittedHead | None = None) -> FittedHead:
        """Fit logistic regression to the examples and those of `state`."""
        x = append_one(self.embed(support.x)).to(self.log_penalty)
        base = partial(logistic, penalty=self.log_penalty.exp(), steps=self.steps)
        return fit(base, support, x, state)

    def predict(self, state: FittedHead, x: Tensor) -> Tensor:
        """Return logits (Q, C): those of each class against the others."""
        return scores(state, append_one(self.embed(x)))


def ridge(examples: Examples, penalty: float | Tensor) -> Tensor:
    """Return the W (D, C) that minimises sum_i weight_i |x_i W - y_i|^2 + penalty |W|^2.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> ridge(qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2)), penalty=3.0)
        tensor([[0.2500, 0.0000],
                [0.0000, 0.2500]])
    """
    x, weight = examples.x, examples.weight[:, None]
    wy = weight * examples.y
    if len(x) <= x.shape[1]:
        return x.T @ torch.linalg.solve(weight * (x @ x.T) + penalty * identity_matrix(x), wy)
    return torch.linalg.solve(x.T @ (weight * x) + penalty * identity_matrix(x, 1), x.T @ wy)


def logistic(examples: Examples, penalty: float | Tensor, steps: int) -> Tensor:
    """Take `steps` of Newton's method, from 0, on the penalised logistic loss; return W (D, C).

    The loss is the weighted sum of the logistic losses of each column, plus penalty / 2 |W|^2.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.0], [1.0]])
        >>> logistic(qs.Examples(x, y, torch.ones(2)), penalty=0.5, steps=1)
        tensor([[1.]])
    """
    x, y, weight = examples.x, examples.y.T, examples.weight
    gram, ridge = x @ x.T, penalty * identity_matrix(x)  # (S, S)
    dual = torch.zeros_like(y)  # (C, S)  W is x.T @ dual.T
    for _ in range(steps):
        p = (dual @ gram).sigmoid()
        grad = weight * (p - y) + penalty * dual
        hessian = (weight * p * (1 - p))[..., None] * gram + ridge  # (C, S, S)
        dual = dual - torch.linalg.solve(hessian, grad[..., None])[..., 0]
    return x.T @ dual.T


def fit(
    base: BaseLearner, support: Examples, x: Tensor, state: FittedHead | None
) -> FittedHead:
    """Apply `base` to the examples of `state` and the support set, embedded as `x`.

    It computes in float64, even under autocast: products of embeddings far from the origin are
    nearly equal. W has the dtype of `x`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = fit(partial(ridge, penalty=1.0), support, 2 * support.x, None)
        >>> state.W.shape, state.examples.x.shape
        (torch.Size([2, 2]), torch.Size([2, 2]))
    """
    examples = append(state and state.examples, support._replace(x=x))
    with without_autocast(x):
        return FittedHead(examples, base(Examples(*map(double, examples))).to(x))


def scores(state: FittedHead, x: Tensor) -> Tensor:
    """Return the outputs (Q, C) of the linear model for embedded inputs `x` (Q, D).

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> examples = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> scores(FittedHead(examples, W=3 * torch.eye(2)), torch.tensor([[1.0, 2.0]]))
        tensor([[3., 6.]])
    """
    with without_autocast(x):
        return (double(x) @ double(state.W)).to(state.W)


def append_one(x: Tensor) -> Tensor:
    """Append a column of ones for the intercept: (N, D) -> (N, D + 1).

    Examples:
        >>> import torch
        >>> append_one(torch.zeros(1, 2))
        tensor([[0., 0., 1.]])
    """
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def identity_matrix(x: Tensor, axis: int = 0) -> Tensor:
    """Return the identity matrix of the size of an axis of `x`.

    Examples:
        >>> import torch
        >>> identity_matrix(torch.zeros(2, 3))
        tensor([[1., 0.],
                [0., 1.]])
    """
    return torch.eye(x.shape[axis], dtype=x.dtype, device=x.device)
