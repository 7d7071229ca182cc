r"""MetaOptNet (Lee, Maji, Ravichandran & Soatto, 2019, arXiv:1904.03758).

Adaptation solves a convex problem on top of an embedding f: the support vector machine of
Crammer & Singer (2001), without intercept. Its dual (eq. 8) has S x C unknowns, for any width
of f:

$$\max_\alpha \; -\tfrac12 \sum_c \lVert w_c \rVert^2 + \sum_n \alpha_{n y_n},
  \quad \alpha_{nc} \le C \, [c = y_n], \quad \sum_c \alpha_{nc} = 0,
  \qquad w_c = \sum_n \alpha_{nc} f(x_n)$$

The gradient follows from the optimality conditions, not from the solver's steps. Logits are
$\gamma w_c^\top f(x)$; f and γ are learned.

Differs from the paper: the solver (see `svm`) handles all tasks of a batch at once and
continues to machine precision; the authors' solver stops after three steps.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Embeds
from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.linear import nonzero
from quickstudy.core.task import Examples
from quickstudy.learner import Learner
from quickstudy.learners.heads.r2d2 import (
    R2D2,
    BaseLearner,
    FittedHead,
    fit,
    identity_matrix,
    ridge,
    scores,
)


def svm(examples: Examples, C: float = 0.1, steps: int = 15) -> Tensor:
    r"""Return the weights (D, C) of the support vector machine of Crammer & Singer (2001).

    With $P = Y - \alpha / C$, a distribution over the classes for each example, the dual
    minimises $\tfrac{C}{2} \lVert X^\top (Y - P) \rVert^2 + \sum_n p_{n y_n}$. The solver takes
    `steps` of Mehrotra's primal-dual interior-point method (1992). The gradient is that of the
    optimality conditions: of one more step with a constant matrix. It has no second order.

    Args:
        examples: embedded, x (S, D).
        C: cost of a violation of the margin, multiplied by the example's weight.
        steps: of the solver.

    Raises:
        ValueError: there is no example.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.eye(2)
        >>> W = qs.learners.heads.svm(qs.Examples(x, y, torch.ones(2)))
        >>> (x @ W).argmax(-1)
        tensor([0, 1])
    """
    if not len(examples.x):
        raise ValueError("A support vector machine needs an example: give one or more.")
    largest = nonzero(examples.weight.amax())  # moved to C, as products of weights underflow
    y, weight, unit_cost = examples.y.T, examples.weight / largest, C * largest  # y (C, S)
    x = weight[:, None] * examples.x  # (S, D)
    gram, cost = unit_cost * (x @ x.T), weight * y
    with torch.no_grad():
        p, newton = _solve(gram.detach(), y, cost, steps)
    step, _ = newton((y - p) @ gram - cost)
    return unit_cost * x.T @ (y - p - step + step.detach()).T


class MetaOptNet(Learner[FittedHead], Embeds):
    """Learns the embedding `embed`: (N, *features) -> (N, D).

    Args:
        embed: the embedding.
        base: the base learner, a differentiable function from embedded examples to W (D, C),
            such as `partial(svm, C=1.0)`.
        scale: initial value of γ.
        criterion: of the meta-loss; the paper smooths its labels.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> learner = qs.MetaOptNet(torch.nn.Identity())
        >>> learner.predict(learner.adapt(support), torch.tensor([[-3.0], [3.0]])).argmax(-1)
        tensor([0, 1])
    """

    def __init__(
        self,
        embed: nn.Module,
        *,
        base: BaseLearner = svm,
        scale: float = 1.0,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.embed, self.base = embed, base
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def adapt(self, support: Examples, state: FittedHead | None = None) -> FittedHead:
        """Fit the base learner to the examples and those of `state`."""
        return fit(self.base, support, self.embed(support.x).to(self.scale), state)

    def predict(self, state: FittedHead, x: Tensor) -> Tensor:
        """Return logits (Q, C)."""
        return self.scale * scores(state, self.embed(x))


def meta_opt_net_ridge(
    embed: nn.Module, *, penalty: float = 50.0, **settings: Any
) -> MetaOptNet:
    """Return MetaOptNet-RR: ridge regression with a fixed penalty as the base learner (eq. 10).

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> learner = qs.meta_opt_net_ridge(torch.nn.Identity(), penalty=1.0)
        >>> learner.adapt(qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))).W
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])
    """
    learner = MetaOptNet(embed, base=partial(ridge, penalty=penalty), **settings)
    learner.class_axes = R2D2.class_axes
    return learner


class _Newton(NamedTuple):
    """Solves (gram + diag(d_c)) p_c + nu = q_c for p (C, S), with columns that sum to 0, and
    the multipliers nu (S,)."""

    inverse: Tensor  # (C, S, S)  of gram + diag(d_c)
    schur: Tensor  # (S, S)  Cholesky factor of the sum of these

    def __call__(self, q: Tensor) -> tuple[Tensor, Tensor]:
        unconstrained = self.inverse @ q[..., None]
        nu = torch.cholesky_solve(unconstrained.sum(0), self.schur)  # (S, 1)
        return (unconstrained - self.inverse @ nu)[..., 0], nu[:, 0]


def _newton(gram: Tensor, d: Tensor) -> _Newton:
    # scale to eigenvalues of at least 1: entries of d range from nearly 0 to nearly infinite
    root = d.rsqrt()
    scaled = torch.addcmul(identity_matrix(gram), root[..., None] * root[..., None, :], gram)
    factor = torch.linalg.cholesky_ex(scaled)[0]
    half = torch.linalg.solve_triangular(factor, root.diag_embed(), upper=False)
    inverse = half.mT @ half
    return _Newton(inverse, torch.linalg.cholesky_ex(inverse.sum(0))[0])


def _solve(gram: Tensor, y: Tensor, cost: Tensor, steps: int) -> tuple[Tensor, _Newton]:
    """Minimise |p - y|^2 / 2 in the norm of `gram`, plus the sum of cost * p.

    Returns:
        The distributions p (C, S), and the matrix of Newton's method at the solution.
    """
    eps = torch.finfo(gram.dtype).eps
    rounding = 4 * eps * len(gram) * gram.diagonal().max()
    gram = gram + rounding * identity_matrix(gram)  # positive definite in spite of rounding
    smallest_gap = max(eps, 1e-12)  # of p * slack: at 0 a singular gram has no gradient
    p = torch.full_like(y, 1 / len(y))
    grad = (p - y) @ gram + cost
    nu = 1 - grad.amin(0)  # multipliers of the sums; `slack` has those of p >= 0
    slack = grad + nu
    for _ in range(steps):
        newton = _newton(gram, slack / p)
        residual = slack - grad - nu  # 0 up to rounding
        dp, _ = newton(residual - slack)  # predictor: towards p * slack = 0
        ds = -slack - slack / p * dp
        gap, length = (p * slack).mean(), _length(p, dp, slack, ds, 1.0)
        target = ((1 - length) ** 3 * gap).clamp_min(smallest_gap)
        second_order = (1 - target / gap).clamp_min(0) * dp * ds
        change = (target - second_order) / p - slack
        dp, dnu = newton(residual + change)  # corrector
        ds = change - slack / p * dp
        length = _length(p, dp, slack, ds, 0.99)
        p, slack, nu = p + length * dp, slack + length * ds, nu + length * dnu
        grad = (p - y) @ gram + cost
    return p, _newton(gram, slack / p)


def _length(p: Tensor, dp: Tensor, slack: Tensor, ds: Tensor, share: float) -> Tensor:
    """Return `share` of the step length that keeps both positive, at most 1."""
    return share / (-torch.minimum(dp / p, ds / slack)).amax().clamp_min(share)
