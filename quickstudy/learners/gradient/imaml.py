r"""Meta-learning with implicit gradients (Rajeswaran, Finn, Kakade & Levine, 2019,
arXiv:1909.04630).

Adaptation minimises the support loss plus a penalty on the distance to the initialisation
(eq. 3). The meta-gradient depends on the minimum only, not on the path of descent (eq. 6):

$$\phi_\tau = \arg\min_\phi \; L^s_\tau(\phi) + \tfrac{\lambda}{2} \|\phi - \theta\|^2, \qquad
  \Big(I + \tfrac{1}{\lambda} \nabla^2 L^s_\tau(\phi_\tau)\Big) \, g_\tau
  = \nabla L^q_\tau(\phi_\tau)$$

Gradient descent without a graph approximates the minimum, and conjugate gradients solve the
linear equation (algorithm 2). So memory does not grow with the number of steps.

Differs from the paper: conjugate gradients stop where the curvature is not positive, because
they would diverge. Like the authors' code, this solves a damped equation.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.func import grad, grad_and_value, vjp

from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.gradients import with_gradient
from quickstudy.core.linear import axpy, conjugate_gradients, dot
from quickstudy.core.parameters import ParameterSelection, Params, select_parameters
from quickstudy.core.task import Examples, Task
from quickstudy.core.tree import tree_map
from quickstudy.inner_loop.descent import descend
from quickstudy.learners.gradient.descent_learner import DescentLearner


class IMAML(DescentLearner):
    """The state of a task is the adapted parameters, by name.

    The meta-gradient g solves ((1 + cg_damping) I + H / (strength + strength_damping)) g =
    gradient of the query loss, where H is the Hessian of the support loss. With both dampings 0
    this is the paper's equation.

    Args:
        net: any module of one input. Adaptation starts from its parameters.
        lr: learning rate of the inner loop; stable if lr * (strength + curvature) < 2.
        steps: number of inner steps.
        strength: λ, weight of the penalty on the distance to the initialisation; above 0 in
            training.
        cg_steps: steps of conjugate gradients; each is a product with H.
        cg_damping: added to 1 in the equation.
        strength_damping: added to λ in the equation, not in the descent.
        adapt_parameters: the parameters that adaptation changes; see `MAML`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> _ = torch.manual_seed(0)
        >>> learner = qs.IMAML(qs.nets.MLP(1, 2), strength=0.1)
        >>> state = learner.adapt(support)
        >>> learner.predict(state, torch.tensor([[-3.0], [3.0]])).argmax(-1)
        tensor([0, 1])
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
        super().__init__(net, steps, adapt_parameters, criterion)
        self.lr, self.strength, self.strength_damping = lr, strength, strength_damping
        self.cg_steps, self.cg_damping = cg_steps, cg_damping

    def adapt(self, support: Examples, state: Params | None = None) -> Params:
        """Take `steps` of gradient descent on the penalised support loss.

        Descent starts from `state`, or from the learned initialisation. The result is a
        constant.
        """
        initial = {name: p.detach() for name, p in self.initial_params().items()}

        def penalised_loss(params: Params) -> Tensor:
            squares = [(p - initial[name]).square().sum() for name, p in params.items()]
            penalty = self.strength / 2 * torch.stack(squares).sum()
            return self.batch_loss(support, params) + penalty

        start = initial if state is None else tree_map(torch.detach, state)
        return descend(penalised_loss, start, lr=self.lr, steps=self.steps, first_order=True)

    def loss(self, task: Task[Examples]) -> Tensor:
        """Return the query loss of the adapted network, with the implicit gradient."""
        support_loss = partial(self.batch_loss, task.support)
        query_loss = partial(self.batch_loss, task.query)
        strength = self.strength + self.strength_damping

        def matrix_product(vector: Params) -> Params:
            damped = tree_map(lambda v: (1 + self.cg_damping) * v, vector)
            return axpy(damped, 1 / strength, hessian_product(vector)[0])

        initial = self.initial_params()
        with torch.no_grad():
            params = self.adapt(task.support)
            grads, value = grad_and_value(query_loss)(params)
            hessian_product = vjp(grad(support_loss), params)[1]  # the Hessian is symmetric
            implicit = conjugate_gradients(matrix_product, grads, self.cg_steps)
        loss = with_gradient(value, initial, implicit)
        if len(initial) == len(select_parameters(self.net)):
            return loss
        # parameters that are not adapted act on the loss directly and through the minimum
        through_minimum = dot(implicit, grad(support_loss)(params)) / strength
        unadapted = query_loss(params) - through_minimum
        return loss + unadapted - unadapted.detach()
