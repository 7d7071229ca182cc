r"""MAML++ (Antoniou, Edwards & Storkey, 2019, arXiv:1810.09502): MAML made stable.

Every inner step $i$ of $K$ has a rate $\alpha_{i,l}$ for each parameter tensor $l$ and weights
and biases $\gamma_i$ of normalisation, all learned; the query loss is taken after every step:

$$\phi_{i+1,l} = \phi_{i,l} - \alpha_{i,l} \nabla_l L^s(\phi_i, \gamma_i), \qquad
  \min_{\theta, \alpha, \gamma} \; \mathbb{E}_\tau \sum_{i=0}^{K-1} v_i
  L^q(\phi_{i+1}, \gamma_i), \qquad \sum_i v_i = 1$$

In the course of training the weights $v$ go from $1/K$ each to all on the last step. The
first meta-steps may be of the first order. The meta rate falls by a cosine.

Differs from the paper: it collects running statistics of normalisation for every step; here,
as in effect in its released code, which never reads these, all passes normalise by the batch.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.capabilities import DescendsInSteps, HasInitialParams
from quickstudy.core.functional import Criterion, Params, cross_entropy
from quickstudy.core.task import Examples, Task
from quickstudy.core.torch_private import RunningStatisticsNorm
from quickstudy.inner_loop.descent import descend
from quickstudy.learner import Learner


class MAMLPlusPlus(Learner[Params], DescendsInSteps, HasInitialParams):
    """A state is the network's parameters, those of normalisation being the last step's.

    With `multi_step_until=0, learn_rates=False, per_step_norm=False` this is MAML. More inner
    steps than `rates` has rows, as `steps` may be set to at test, use the last row again.

    Args:
        net: any module of one input; its trainable parameters are where adaptation starts.
            With `per_step_norm`, those of its normalisation layers are where the ones of every
            step start, and are frozen themselves.
        lr: where the rates start.
        steps: of the inner gradient descent.
        multi_step_until: the meta-step by which the weight of the query losses has moved from
            all inner steps alike to the last one (0: it alone counts from the beginning).
        learn_rates: of every inner step and parameter tensor, as rows and columns of `rates`.
        per_step_norm: every inner step has its own weights and biases of normalisation
            layers. They are meta-learned, not adapted.
        first_order_until: the meta-step after which derivatives are of the second order.
    """

    share: Tensor  # ()  of the query losses' weight, moved to the last inner step so far

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
        super().__init__(criterion)
        if steps < 1:
            raise ValueError(f"steps={steps}: MAML++ learns the rate of each, so have some.")
        self.net, self.steps = net, steps
        self.multi_step_until, self.first_order_until = multi_step_until, first_order_until
        self.norms = nn.ParameterDict()
        for name, p in _of_norms(net).items() if per_step_norm else ():
            self.norms[name.replace(".", "/")] = p.detach().expand(steps, *p.shape).clone()
            p.requires_grad_(False)
        self.adapted = [name for name, p in net.named_parameters() if p.requires_grad]
        if not self.adapted:
            raise ValueError("The net has nothing that adaptation could change: unfreeze some.")
        rates = torch.full((steps, len(self.adapted)), lr)
        self.rates = nn.Parameter(rates, requires_grad=learn_rates)
        self.register_buffer("share", torch.zeros(()), persistent=False)
        self.set_step(0)

    def set_step(self, done: int) -> None:
        """Sets the weights of the query losses and the order of derivatives to what they are
        after `done` meta-steps."""
        self.is_first_order = done < self.first_order_until
        self.is_multi_step = done < self.multi_step_until
        self.share.fill_(done / self.multi_step_until if self.is_multi_step else 1)

    def adapt(self, support: Examples, state: Params | None = None) -> Params:
        """All inner steps on the support set, from the learned start or `state`."""
        state = self.initial_params() if state is None else state
        for number in range(self.steps):
            state = self.step(number, support, state)
        return state

    def predict(self, state: Params, x: Tensor) -> Tensor:
        """What the adapted network says of `x`."""
        return functional_call(self.net, state, (x,))

    def loss(self, task: Task[Examples]) -> Tensor:
        """The weighted sum of the query losses after every inner step."""
        if not self.is_multi_step:
            return super().loss(task)
        state, losses = self.initial_params(), []
        for number in range(self.steps):
            state = self.step(number, task.support, state)
            losses.append(self.criterion(self.predict(state, task.query.x), task.query))
        return (1 - self.share) * torch.stack(losses).mean() + self.share * losses[-1]

    def step(self, number: int, support: Examples, state: Params) -> Params:
        """The state after one more inner step, the one of that `number`."""
        row = min(number, len(self.rates) - 1)
        norm = self.norm(row)

        def misfit(fast: Params) -> Tensor:
            return self.criterion(self.predict(fast | norm, support.x), support)

        return norm | descend(
            misfit,
            {name: state[name] for name in self.adapted},
            lr=dict(zip(self.adapted, self.rates[row], strict=True)),
            steps=1,
            first_order=self.is_first_order,
        )

    def norm(self, row: int) -> Params:
        """The parameters of normalisation layers in an inner step."""
        return {name.replace("/", "."): each[row] for name, each in self.norms.items()}

    def initial_params(self) -> Params:
        """The state before the first inner step."""
        params = dict(self.net.named_parameters())
        return self.norm(0) | {name: params[name] for name in self.adapted}


def _of_norms(net: nn.Module) -> Params:
    """The trainable parameters of the normalisation layers."""
    return {
        f"{path}.{name}" if path else name: p
        for path, module in net.named_modules()
        if isinstance(module, RunningStatisticsNorm | nn.GroupNorm | nn.LayerNorm)
        for name, p in module.named_parameters(recurse=False)
        if p.requires_grad
    }
