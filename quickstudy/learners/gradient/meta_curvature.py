r"""Meta-Curvature (Park & Oliva, 2019, arXiv:1902.03356): learned geometry of descent.

An initialisation $\theta$ is meta-learned, and matrices that transform the gradient of every
parameter tensor: one matrix for each of its modes. A convolution's gradient $G$ has the modes
outputs, inputs and positions in the filter. With the n-mode products $\times_n$,

$$\phi_\tau = \theta - \alpha \, \mathrm{MC}(\nabla L^s_\tau(\theta)) \; \text{(repeated)},
  \qquad \mathrm{MC}(G) = G \times_1 M_o \times_2 M_i \times_3 M_f$$

which is $(M_o \otimes M_i \otimes M_f) \, \mathrm{vec}(G)$, without forming the large matrix.
All matrices start as identities, so the first meta-step is that of MAML.

Differs from the paper: the paper describes convolutions and linear layers. Here a vector, such
as a bias, has a matrix over its only mode as well.
"""

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Checkpointed
from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.parameters import ParameterSelection, Params
from quickstudy.core.task import Checkpoint, Examples
from quickstudy.inner_loop.descent import Memory, descend, steepest_descent
from quickstudy.learners.gradient.descent_learner import DescentLearner
from quickstudy.learners.gradient.meta_sgd import parameter_tree


class MetaCurvature(DescentLearner, Checkpointed):
    """The state of a task is the adapted parameters, by name.

    `curvature` holds the learned matrices by the parameters' names: `head.weight.out`,
    `head.weight.in`, and `.filter` for convolutions. Parameters that are unfrozen later have no
    matrices.

    Args:
        net: any module of one input. Adaptation starts from its parameters.
        lr: learning rate of the inner loop.
        steps: number of inner steps.
        first_order: treat the inner gradient as a constant; the matrices' own gradient stays.
        adapt_parameters: the parameters that adaptation changes; see `MAML`.
        checkpoint: how much of the inner steps is stored for the meta-gradient; see `MAML`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> _ = torch.manual_seed(0)
        >>> learner = qs.MetaCurvature(qs.nets.MLP(1, 2), lr=0.1)
        >>> state = learner.adapt(support)
        >>> learner.predict(state, torch.tensor([[-3.0], [3.0]])).argmax(-1)
        tensor([0, 1])
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.01,
        steps: int = 5,
        first_order: bool = False,
        adapt_parameters: ParameterSelection = None,
        checkpoint: Checkpoint | None = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(net, steps, adapt_parameters, criterion)
        self.lr, self.first_order, self.checkpoint = lr, first_order, checkpoint
        self.curvature = parameter_tree(
            {
                f"{name}.{mode}": torch.eye(size, dtype=p.dtype, device=p.device)
                for name, p in self.initial_params().items()
                for mode, size in modes(p).items()
            }
        )

    def adapt(self, support: Examples, state: Params | None = None) -> Params:
        """Take `steps` of gradient descent on the support set.

        Descent starts from `state`, or from the learned initialisation.
        """

        return descend(
            partial(self.batch_loss, support),
            self.initial_params() if state is None else state,
            lr=self.lr,
            steps=self.steps,
            first_order=self.first_order,
            optimizer=steepest_descent._replace(update=self.update),
            checkpoint=self.checkpoint,
        )

    def update(self, grads: Params, memory: Memory) -> tuple[Params, Memory]:
        """Return the transformed gradients: the `update` of an `InnerOptimizer`."""
        matrices = dict(self.curvature.named_modules())
        return {
            name: transform(grad, matrices[name].parameters()) if name in matrices else grad
            for name, grad in grads.items()
        }, memory


def modes(p: Tensor) -> dict[str, int]:
    """Return the sizes of a parameter's modes; all positions in a filter are one mode.

    Examples:
        >>> import torch
        >>> modes(torch.zeros(8, 3, 5, 5))
        {'out': 8, 'in': 3, 'filter': 25}
        >>> modes(torch.zeros(8))
        {'out': 8}
    """
    sizes = [*p.shape[:2], math.prod(p.shape[2:])] if p.ndim > 2 else p.shape or [1]
    return dict(zip(("out", "in", "filter"), sizes, strict=False))


def transform(gradient: Tensor, matrices: Iterable[Tensor]) -> Tensor:
    """Return the n-mode product of a gradient with a square matrix for each of its modes.

    Examples:
        >>> import torch
        >>> transform(torch.tensor([[1.0, 2.0]]), [torch.eye(1) * 10, torch.eye(2).flip(0)])
        tensor([[20., 10.]])
    """
    matrices = list(matrices)
    product = gradient.reshape([len(matrix) for matrix in matrices])
    for matrix in matrices:  # removes the first axis and appends the transformed one
        product = product.movedim(0, -1) @ matrix.mT
    return product.reshape(gradient.shape)
