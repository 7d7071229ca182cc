r"""Meta-Curvature (Park & Oliva, 2019, arXiv:1902.03356): learned geometry of descent.

Beside a start $\theta$, matrices are meta-learned that transform the gradient of every
parameter tensor, one matrix for each of its modes. For a convolution's $G$ of outputs x inputs
x places in the filter, with the n-mode products $\times_n$,

$$\phi_\tau = \theta - \alpha \, \mathrm{MC}(\nabla L^s_\tau(\theta)) \; \text{(repeated)},
  \qquad \mathrm{MC}(G) = G \times_1 M_o \times_2 M_i \times_3 M_f$$

which is $(M_o \otimes M_i \otimes M_f) \, \mathrm{vec}(G)$: a large matrix that is never made.
All start as identities, so that the first meta-step is MAML's.

Differs from the paper: nothing that is known to us. It describes convolutions and linear
layers; a vector has a matrix here as well, over its only mode.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.capabilities import Checkpointed, DescendsInSteps, HasInitialParams
from quickstudy.core.functional import (
    Criterion,
    ParameterSelection,
    Params,
    cross_entropy,
    select_parameters,
)
from quickstudy.core.task import Checkpoint, Examples
from quickstudy.inner_loop.descent import Memory, descend, steepest_descent
from quickstudy.learner import Learner
from quickstudy.learners.gradient.meta_sgd import holder


class MetaCurvature(Learner[Params], Checkpointed, DescendsInSteps, HasInitialParams):
    """A state is the network's adapted parameters, by name.

    `curvature` has the learned matrices by the parameters' names: `head.weight.out`, `.in`, and
    for convolutions `.filter`.

    Args:
        net: any module of one input; its parameters are where adaptation starts.
        lr: of the inner gradient descent.
        steps: of the inner gradient descent.
        first_order: treats the inner gradient as a constant; the matrices are learned exactly.
        adapts: what adaptation changes, as in `MAML`.
        checkpoint: what of the inner steps is kept for the meta-gradient, as in `MAML`.
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
        super().__init__(criterion)
        self.net = net
        self.lr, self.steps, self.first_order = lr, steps, first_order
        self.checkpoint: Checkpoint | None = checkpoint
        start = select_parameters(net, adapt_parameters)
        self.names = frozenset(start)
        self.curvature = holder(
            {
                f"{name}.{mode}": torch.eye(size, dtype=p.dtype, device=p.device)
                for name, p in start.items()
                for mode, size in modes(p).items()
            }
        )

    def adapt(self, support: Examples, state: Params | None = None) -> Params:
        """`steps` of gradient descent on the support set, from the learned start or `state`."""

        def misfit(fast: Params) -> Tensor:
            return self.criterion(self.predict(fast, support.x), support)

        start = self.initial_params() if state is None else state
        return descend(
            misfit,
            start,
            lr=self.lr,
            steps=self.steps,
            first_order=self.first_order,
            optimizer=steepest_descent._replace(update=self.update),
            checkpoint=self.checkpoint,
        )

    def predict(self, state: Params, x: Tensor) -> Tensor:
        """What the adapted network says of `x`."""
        return functional_call(self.net, state, (x,))

    def initial_params(self) -> Params:
        """The parameters that adaptation changes."""
        return {name: p for name, p in self.net.named_parameters() if name in self.names}

    def update(self, slopes: Params, memory: Memory) -> tuple[Params, Memory]:
        """The transformed gradients, as an `InnerOptimizer` gives them."""
        return {
            name: transform(slope, self.curvature.get_submodule(name).parameters())
            for name, slope in slopes.items()
        }, memory


def modes(p: Tensor) -> dict[str, int]:
    """The sizes of a parameter's modes: places in a filter, of any dimensions, are one."""
    sizes = [*p.shape[:2], math.prod(p.shape[2:])] if p.ndim > 2 else p.shape or [1]
    return dict(zip(("out", "in", "filter"), sizes, strict=False))


def transform(gradient: Tensor, matrices: Iterable[Tensor]) -> Tensor:
    """The n-mode product of a gradient with a square matrix for each of its modes."""
    matrices = list(matrices)
    product = gradient.reshape([len(matrix) for matrix in matrices])
    for matrix in matrices:  # each takes the first axis away and adds one at the end
        product = product.movedim(0, -1) @ matrix.mT
    return product.reshape(gradient.shape)
