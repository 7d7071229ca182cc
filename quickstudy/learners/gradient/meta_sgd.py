r"""Meta-SGD (Li, Zhou, Chen & Li, 2017, arXiv:1707.09835): learned rates of descent.

An initialisation $\theta$ and a rate $\alpha$ for each of its entries are meta-learned
together. The step is an elementwise product, so $\alpha$ changes its direction too (eq. 2 to
4):

$$\min_{\theta, \alpha} \; \mathbb{E}_\tau \; L^q_\tau(\phi_\tau), \qquad
  \phi_\tau = \theta - \alpha \circ \nabla L^s_\tau(\theta)$$

Differs from the paper: nothing. With equal and fixed rates it is MAML.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.capabilities import Checkpointed, DescendsInSteps, HasInitialParams
from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.parameters import ParameterSelection, Params, select_parameters
from quickstudy.core.task import Checkpoint, Examples
from quickstudy.inner_loop.descent import descend
from quickstudy.learner import Learner


class MetaSGD(Learner[Params], Checkpointed, DescendsInSteps, HasInitialParams):
    """The state of a task is the adapted parameters, by name.

    `rates` holds a learned rate for every entry of every adapted parameter, with the same names
    and shapes. A rate may become negative.

    Args:
        net: any module of one input. Adaptation starts from its parameters.
        lr: range of the initial value; it is drawn once and shared by all rates.
        steps: number of inner steps.
        first_order: treat the inner gradient as a constant.
        adapt_parameters: the parameters that adaptation changes; see `MAML`.
        checkpoint: how much of the inner steps is stored for the meta-gradient; see `MAML`.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> _ = torch.manual_seed(0)
        >>> learner = qs.MetaSGD(qs.nets.MLP(1, 2), lr=(0.5, 0.5))
        >>> state = learner.adapt(support)
        >>> learner.predict(state, torch.tensor([[-3.0], [3.0]])).argmax(-1)
        tensor([0, 1])
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: tuple[float, float] = (0.005, 0.1),
        steps: int = 1,
        first_order: bool = False,
        adapt_parameters: ParameterSelection = None,
        checkpoint: Checkpoint | None = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net = net
        self.steps, self.first_order = steps, first_order
        self.checkpoint: Checkpoint | None = checkpoint
        start = select_parameters(net, adapt_parameters)
        rate = torch.empty(()).uniform_(*lr).item()
        self.rates = parameter_tree({n: torch.full_like(p, rate) for n, p in start.items()})

    def adapt(self, support: Examples, state: Params | None = None) -> Params:
        """Take `steps` of gradient descent on the support set.

        Descent starts from `state`, or from the learned initialisation.
        """

        def support_loss(fast: Params) -> Tensor:
            return self.criterion(self.predict(fast, support.x), support)

        rates = dict(self.rates.named_parameters())
        start = self.initial_params() if state is None else state
        return descend(
            support_loss,
            start,
            lr=rates,
            steps=self.steps,
            first_order=self.first_order,
            checkpoint=self.checkpoint,
        )

    def predict(self, state: Params, x: Tensor) -> Tensor:
        """Return the outputs of the adapted network for `x`."""
        return functional_call(self.net, state, (x,))

    def initial_params(self) -> Params:
        """Return the parameters that adaptation changes, by name; each has a rate."""
        rates = dict(self.rates.named_parameters())
        return {name: p for name, p in self.net.named_parameters() if name in rates}


def parameter_tree(values: Params) -> nn.Module:
    """Return a module whose parameters have these names and values.

    Examples:
        >>> import torch
        >>> tree = parameter_tree({"body.0.bias": torch.ones(2)})
        >>> [name for name, _ in tree.named_parameters()]
        ['body.0.bias']
    """
    root = nn.Module()
    for name, value in values.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, nn.Parameter(value.detach().clone()))
    return root
