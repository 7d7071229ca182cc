r"""MAML++ (Antoniou, Edwards & Storkey, 2019, arXiv:1810.09502): MAML made stable.

Every inner step $i$ of $K$ has a learned rate $\alpha_{i,l}$ for each parameter tensor $l$, and
learned weights and biases $\gamma_i$ of normalisation. The query loss is computed after every
step:

$$\phi_{i+1,l} = \phi_{i,l} - \alpha_{i,l} \nabla_l L^s(\phi_i, \gamma_i), \qquad
  \min_{\theta, \alpha, \gamma} \; \mathbb{E}_\tau \sum_{i=0}^{K-1} v_i
  L^q(\phi_{i+1}, \gamma_i), \qquad \sum_i v_i = 1$$

During training the weights $v$ move from $1/K$ for each step to 1 for the last step. The first
meta-steps may be of the first order. The meta learning rate follows a cosine.

Differs from the paper: the paper collects running statistics of normalisation for every step.
Here all passes normalise by the batch. So does the released code, which never reads them.
"""

import torch
from torch import Tensor, nn

from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.parameters import Params
from quickstudy.core.task import Examples, Task
from quickstudy.core.torch_private import RunningStatisticsNorm
from quickstudy.inner_loop.descent import descend
from quickstudy.learners.gradient.descent_learner import DescentLearner


class MAMLPlusPlus(DescentLearner):
    """The state of a task is the network's parameters, with the normalisation of the last step.

    With `multi_step_until=0, learn_rates=False, per_step_norm=False` this is MAML. `steps` may
    be raised at test time: steps beyond the rows of `rates` use the last row.

    Args:
        net: any module of one input. Adaptation starts from its trainable parameters. With
            `per_step_norm`, the parameters of its normalisation layers initialise those of
            every step, and are frozen.
        lr: initial value of the rates.
        steps: number of inner steps.
        multi_step_until: the meta-step at which the last inner step carries all weight of the
            query losses (0: from the beginning). Before, the weight moves linearly from equal
            weights.
        learn_rates: learn `rates`, with a row for every inner step and a column for every
            parameter tensor; those that are unfrozen later keep `lr`.
        per_step_norm: every inner step has its own weights and biases of normalisation
            layers. They are meta-learned, not adapted.
        first_order_until: the meta-step after which derivatives are of the second order.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> _ = torch.manual_seed(0)
        >>> learner = qs.MAMLPlusPlus(qs.nets.MLP(1, 2))
        >>> state = learner.adapt(support)
        >>> learner.predict(state, torch.tensor([[-3.0], [3.0]])).argmax(-1)
        tensor([0, 1])
    """

    share: Tensor  # ()  share of the weight that has moved to the last inner step

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.1,
        steps: int = 5,
        multi_step_until: int = 5000,
        learn_rates: bool = True,
        per_step_norm: bool = True,
        first_order_until: int = 0,
        criterion: Criterion = cross_entropy,
    ):
        if steps < 1:
            raise ValueError(f"steps={steps}: MAML++ needs at least one inner step.")
        super().__init__(net, steps, None, criterion)
        self.lr, self.multi_step_until = lr, multi_step_until
        self.first_order_until = first_order_until
        self.norms = nn.ParameterDict()
        for name, p in _of_norms(net).items() if per_step_norm else ():
            self.norms[name.replace(".", "/")] = p.detach().expand(steps, *p.shape).clone()
            p.requires_grad_(False)
        self.adapted = list(super().initial_params())
        rates = torch.full((steps, len(self.adapted)), lr)
        self.rates = nn.Parameter(rates, requires_grad=learn_rates)
        self.register_buffer("share", torch.zeros(()), persistent=False)
        self.set_step(0)

    def set_step(self, done: int) -> None:
        """Set the weights of the query losses and the order of derivatives for this step."""
        self.is_first_order = done < self.first_order_until
        self.is_multi_step = done < self.multi_step_until
        self.share.fill_(done / self.multi_step_until if self.is_multi_step else 1)

    def adapt(self, support: Examples, state: Params | None = None) -> Params:
        """Take all inner steps on the support set, from the initialisation or from `state`."""
        state = self.initial_params() if state is None else state
        for number in range(self.steps):
            state = self.step(number, support, state)
        return state

    def loss(self, task: Task[Examples]) -> Tensor:
        """Return the weighted sum of the query losses after every inner step."""
        if not self.is_multi_step:
            return super().loss(task)
        state, losses = self.initial_params(), []
        for number in range(self.steps):
            state = self.step(number, task.support, state)
            losses.append(self.batch_loss(task.query, state))
        return (1 - self.share) * torch.stack(losses).mean() + self.share * losses[-1]

    def step(self, number: int, support: Examples, state: Params) -> Params:
        """Return the state after inner step `number`, counted from 0."""
        row = min(number, len(self.rates) - 1)
        norm = self.norm(row)
        start = {name: p for name, p in state.items() if name not in norm}
        rates = dict(zip(self.adapted, self.rates[row], strict=True))
        return norm | descend(
            lambda fast: self.batch_loss(support, fast | norm),
            start,
            lr=dict.fromkeys(start, self.lr) | rates,
            steps=1,
            first_order=self.is_first_order,
        )

    def norm(self, row: int) -> Params:
        """Return the parameters of the normalisation layers in an inner step."""
        return {name.replace("/", "."): p[row] for name, p in self.norms.items()}

    def initial_params(self) -> Params:
        """Return the state before the first inner step."""
        norm = self.norm(0)
        return norm | super().initial_params() | norm


def _of_norms(net: nn.Module) -> Params:
    """Return the trainable parameters of the normalisation layers, by name."""
    return {
        f"{path}.{name}" if path else name: p
        for path, module in net.named_modules()
        if isinstance(module, RunningStatisticsNorm | nn.GroupNorm | nn.LayerNorm)
        for name, p in module.named_parameters(recurse=False)
        if p.requires_grad
    }
