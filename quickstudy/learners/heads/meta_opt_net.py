r"""MetaOptNet (Lee, Maji, Ravichandran & Soatto, 2019, arXiv:1904.03758).

A task is learned by a convex problem on top of an embedding f: the support vector machine of
Crammer & Singer (2001), without intercept. In its dual (eq. 8) there are as many unknowns as
labels, however wide f is:

$$\max_\alpha \; -\tfrac12 \sum_c \lVert w_c \rVert^2 + \sum_n \alpha_{n y_n},
  \quad \alpha_{nc} \le C \, [c = y_n], \quad \sum_c \alpha_{nc} = 0,
  \qquad w_c = \sum_n \alpha_{nc} f(x_n)$$

It is differentiated by what holds at its solution, not through a solver. Logits are
$\gamma w_c^\top f(x)$; f and γ are learned.

Differs from the paper: the solver, which is our own (see `svm`), does all tasks of a batch at
once, and goes on to the precision of the numbers where the authors' stops after three steps.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Embeds
from quickstudy.core.functional import Criterion, cross_entropy
from quickstudy.core.task import Examples
from quickstudy.learner import Learner
from quickstudy.learners.heads.r2d2 import R2D2, BaseLearner, Fitted, fitted, ridge, scores


def svm(examples: Examples, C: float = 0.1, steps: int = 15) -> Tensor:
    r"""The support vector machine of Crammer & Singer (2001): its weights (D, C).

    Its dual in $P = Y - \alpha / C$, a distribution over the classes for each example, makes
    $\tfrac{C}{2} \lVert X^\top (Y - P) \rVert^2 + \sum_n p_{n y_n}$ least. Found by `steps` of
    Mehrotra's primal-dual interior-point method (1992). The gradient, of the first order only,
    is that of the optimality conditions: of one more step, whose matrix is a constant.

    Args:
        C: what a violation of the margin costs, times the example's weight.
    """
    y, weight = examples.y.T, examples.weight  # (C, S)
    x = weight[:, None] * examples.x  # (S, D)
    gram, cost = C * (x @ x.T), weight * y
    with torch.no_grad():
        p, newton = _solve(gram.detach(), y, cost, steps)
    step, _ = newton((y - p) @ gram - cost)
    return C * x.T @ (y - p - step + step.detach()).T


class MetaOptNet(Learner[Fitted], Embeds):
    """Learns the embedding `embed`: (N, *features) -> (N, D).

    Args:
        base: the base learner, from embedded examples to W (D, C): `partial(svm, C=1.0)`, or a
            differentiable function of your own.
        scale: where γ starts.
        criterion: of the meta-loss; the paper smooths its labels.
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
        self.scale = nn.Parameter(torch.tensor(scale))

    def adapt(self, support: Examples, state: Fitted | None = None) -> Fitted:
        """What the base learner makes of the examples, and of those that `state` has."""
        return fitted(self.base, support, self.embed(support.x).to(self.scale), state)

    def predict(self, state: Fitted, x: Tensor) -> Tensor:
        """Logits (Q, C)."""
        return self.scale * scores(state, self.embed(x))


def meta_opt_net_ridge(
    embed: nn.Module, *, penalty: float = 50.0, **settings: Any
) -> MetaOptNet:
    """MetaOptNet-RR: ridge regression of a fixed penalty as the base learner (eq. 10)."""
    learner = MetaOptNet(embed, base=partial(ridge, penalty=penalty), **settings)
    learner.class_axes = R2D2.class_axes
    return learner


class _Newton(NamedTuple):
    """Solves (gram + diag(d_c)) p_c + free = q_c for p (C, S), whose columns sum to 0, and
    free (S,)."""

    inverse: Tensor  # (C, S, S)  of gram + diag(d_c)
    schur: Tensor  # (S, S)  Cholesky factor of their sum

    def __call__(self, q: Tensor) -> tuple[Tensor, Tensor]:
        own = self.inverse @ q[..., None]
        free = torch.cholesky_solve(own.sum(0), self.schur)  # (S, 1)
        return (own - self.inverse @ free)[..., 0], free[:, 0]


def _newton(gram: Tensor, d: Tensor) -> _Newton:
    # scaled to eigenvalues of at least 1: d is nearly 0 here and nearly infinite there
    root = d.rsqrt()
    scaled = torch.addcmul(_eye(gram), root[..., None] * root[..., None, :], gram)
    factor = torch.linalg.cholesky_ex(scaled)[0]
    half = torch.linalg.solve_triangular(factor, root.diag_embed(), upper=False)
    inverse = half.mT @ half
    return _Newton(inverse, torch.linalg.cholesky_ex(inverse.sum(0))[0])


def _solve(gram: Tensor, y: Tensor, cost: Tensor, steps: int) -> tuple[Tensor, _Newton]:
    """The distributions p (C, S) that make |p - y|^2 / 2, as `gram` measures it, plus the sum
    of cost * p least, and the matrix of Newton's method there."""
    eps = torch.finfo(gram.dtype).eps
    rounding = 4 * eps * len(gram) * gram.diagonal().max()
    gram = gram + rounding * _eye(gram)  # definite, in spite of rounding
    least = max(eps, 1e-12)  # what p * slack becomes: at 0 a singular gram has no gradient
    p = torch.full_like(y, 1 / len(y))
    slope = (p - y) @ gram + cost
    free = 1 - slope.amin(0)  # multipliers: of the sums, and (`slack`) of p being positive
    slack = slope + free
    for _ in range(steps):
        newton = _newton(gram, slack / p)
        wrong = slack - slope - free  # 0 but for rounding
        dp, _ = newton(wrong - slack)  # towards p * slack = 0, to see how far one gets
        ds = -slack - slack / p * dp
        mean, length = (p * slack).mean(), _length(p, dp, slack, ds, 1.0)
        aim = ((1 - length) ** 3 * mean).clamp_min(least)
        curve = (1 - aim / mean).clamp_min(0) * dp * ds  # what that step left out
        change = (aim - curve) / p - slack
        dp, df = newton(wrong + change)
        ds = change - slack / p * dp
        length = _length(p, dp, slack, ds, 0.99)
        p, slack, free = p + length * dp, slack + length * ds, free + length * df
        slope = (p - y) @ gram + cost
    return p, _newton(gram, slack / p)


def _length(p: Tensor, dp: Tensor, slack: Tensor, ds: Tensor, share: float) -> Tensor:
    """`share` of the way on which both stay positive, at most the whole step."""
    return share / (-torch.minimum(dp / p, ds / slack)).amax().clamp_min(share)


def _eye(gram: Tensor) -> Tensor:
    return torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
