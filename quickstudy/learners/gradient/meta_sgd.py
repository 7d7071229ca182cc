r"""Meta-SGD (Li, Zhou, Chen & Li, 2017, arXiv:1707.09835): learned rates of descent.

An initialisation $\theta$ and a rate $\alpha$ for each of its entries are meta-learned
together. The step is an elementwise product, so $\alpha$ changes its direction too (eq. 2 to
4):

$$\min_{\theta, \alpha} \; \mathbb{E}_\tau \; L^q_\tau(\phi_\tau), \qquad
  \phi_\tau = \theta - \alpha \circ \nabla L^s_\tau(\theta)$$

Differs from the paper: nothing. With equal and fixed rates it is MAML.
"""

from functools import partial

import torch
from torch import nn

from quickstudy.capabilities import Checkpointed
from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.parameters import ParameterSelection, Params
from quickstudy.core.task import Checkpoint, Examples
from quickstudy.inner_loop.descent import descend
from quickstudy.learners.gradient.descent_learner import DescentLearner


class MetaSGD(DescentLearner, Checkpointed):
    """The state of a task is the adapted parameters, by name.

    `rates` holds a learned rate for every entry of every adapted parameter, with the same names
    and shapes. A rate may become negative. Parameters that are unfrozen later have none, and
    keep the initial rate.

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
        super().__init__(net, steps, adapt_parameters, criterion)
        self.first_order, self.checkpoint = first_order, checkpoint
        self.rate = torch.empty(()).uniform_(*lr).item()
        self.rates = parameter_tree(
            {name: torch.full_like(p, self.rate) for name, p in self.initial_params().items()}
        )

    def adapt(self, support: Examples, state: Params | None = None) -> Params:
        """Take `steps` of gradient descent on the support set.

        Descent starts from `state`, or from the learned initialisation.
        """
        start = self.initial_params() if state is None else state
        return descend(
            partial(self.batch_loss, support),
            start,
            lr=dict.fromkeys(start, self.rate) | dict(self.rates.named_parameters()),
            steps=self.steps,
            first_order=self.first_order,
            checkpoint=self.checkpoint,
        )


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
