r"""Meta-learning with implicit gradients (Rajeswaran, Finn, Kakade & Levine, 2019,
arXiv:1909.04630).

A task is learned by minimising its loss near the start (eq. 3). At the minimum the
meta-gradient depends on where descent ended, not on how it came there (eq. 6):

$$\phi_\tau = \arg\min_\phi \; L^s_\tau(\phi) + \tfrac{\lambda}{2} \|\phi - \theta\|^2, \qquad
  \Big(I + \tfrac{1}{\lambda} \nabla^2 L^s_\tau(\phi_\tau)\Big) \, g_\tau
  = \nabla L^q_\tau(\phi_\tau)$$

The minimum is approached by gradient descent that keeps no graph, and the linear equation by
conjugate gradients (algorithm 2), so memory does not grow with the number of steps.

Differs from the paper: conjugate gradients end where the curvature is not positive, where they
would diverge. The authors' code solves a damped equation, and so does this.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vjp

from quickstudy.capabilities import DescendsInSteps, HasInitialParams
from quickstudy.core.functional import (
    Criterion,
    ParameterSelection,
    Params,
    cross_entropy,
    select_parameters,
    tree_map,
    with_gradient,
)
from quickstudy.core.task import Examples, Task
from quickstudy.inner_loop.descent import descend
from quickstudy.learner import Learner


class IMAML(Learner[Params], DescendsInSteps, HasInitialParams):
    """A state is the network's adapted parameters, by name.

    The meta-gradient g solves ((1 + cg_damping) I + H / (strength + strength_damping)) g =
    gradient of the query loss, H being the Hessian of the support loss. Both dampings 0: the
    paper's equation.

    Args:
        net: any module of one input; its parameters are where adaptation starts.
        lr: of the inner gradient descent; stable where lr * (strength + curvature) < 2.
        steps: of the inner gradient descent.
        strength: λ, how strongly what is adapted is pulled to the start; in training above 0.
        cg_steps: of conjugate gradients, each a product with H.
        cg_damping: added to 1.
        strength_damping: added to λ in the equation, not in the descent.
        adapts: what adaptation changes, as in `MAML`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        steps: int = 16,
        strength: float = 2.0,
        cg_steps: int = 5,
        cg_damping: float = 1.0,
        strength_damping: float = 10.0,
        adapt_parameters: ParameterSelection = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net = net
        self.lr, self.steps, self.strength = lr, steps, strength
        self.cg_steps, self.cg_damping = cg_steps, cg_damping
        self.strength_damping = strength_damping
        self.names = frozenset(select_parameters(net, adapt_parameters))

    def adapt(self, support: Examples, state: Params | None = None) -> Params:
        """`steps` of gradient descent on the support set, pulled to the learned start, from
        there or from `state`; constants all."""
        centre = {name: p.detach() for name, p in self.initial_params().items()}

        def pulled(params: Params) -> Tensor:
            away = [(p - centre[name]).square().sum() for name, p in params.items()]
            return self._misfit(params, support) + self.strength / 2 * torch.stack(away).sum()

        start = centre if state is None else tree_map(torch.detach, state)
        return descend(pulled, start, lr=self.lr, steps=self.steps, first_order=True)

    def predict(self, state: Params, x: Tensor) -> Tensor:
        """What the adapted network says of `x`."""
        return functional_call(self.net, state, (x,))

    def loss(self, task: Task[Examples]) -> Tensor:
        """The adapted network's loss on the query set; its gradient is the implicit one."""

        def learning(params: Params) -> Tensor:
            return self._misfit(params, task.support)

        def judged(params: Params) -> Tensor:
            return self._misfit(params, task.query)

        strength = self.strength + self.strength_damping

        def times(vector: Params) -> Params:
            own = tree_map(lambda v: (1 + self.cg_damping) * v, vector)
            return plus(own, 1 / strength, product(vector)[0])

        start = self.initial_params()
        with torch.no_grad():
            params = self.adapt(task.support)
            slopes, value = grad_and_value(judged)(params)
            product = vjp(grad(learning), params)[1]  # the Hessian is its own transpose
            implicit = conjugate_gradients(times, slopes, self.cg_steps)
        loss = with_gradient(value, start, implicit)
        if len(start) == len(select_parameters(self.net)):
            return loss
        # parameters that are not adapted: directly, and by how they move the minimum
        moved = dot(implicit, grad(learning)(params)) / strength
        rest = judged(params) - moved
        return loss + rest - rest.detach()

    def initial_params(self) -> Params:
        """The parameters that adaptation changes."""
        return {name: p for name, p in self.net.named_parameters() if name in self.names}

    def _misfit(self, params: Params, examples: Examples) -> Tensor:
        return self.criterion(self.predict(params, examples.x), examples)


def conjugate_gradients(
    times: Callable[[Params], Params], target: Params, steps: int
) -> Params:
    """x after `steps` towards A x = `target`, from 0; `times(v)` is A v, A symmetric.

    Exact after as many steps as A has different eigenvalues; what is then left is rounding,
    and further steps do nothing. They end, too, where A turns out not to be positive definite
    (Steihaug, 1983), as a Hessian away from the optimum may be.
    """
    x = tree_map(torch.zeros_like, target)
    residual = direction = target
    size = dot(residual, residual)
    rounding = size * torch.finfo(size.dtype).eps ** 2
    tiny = torch.finfo(size.dtype).tiny
    goes_on = size > rounding
    for _ in range(steps):
        image = times(direction)
        curvature = dot(direction, image)
        goes_on = goes_on & (size > rounding) & (curvature > 0)
        length = torch.where(goes_on, size / torch.where(goes_on, curvature, 1), 0)
        x = plus(x, length, direction)
        residual = plus(residual, -length, image)
        before, size = size, dot(residual, residual)
        direction = plus(residual, size / before.clamp_min(tiny), direction)
    return x


def dot(a: Params, b: Params) -> Tensor:
    """The sum over all entries of a * b."""
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def plus(a: Params, factor: float | Tensor, b: Params) -> Params:
    """a + factor * b."""
    return {name: value + factor * b[name] for name, value in a.items()}
