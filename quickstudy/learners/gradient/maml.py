r"""Model-agnostic meta-learning (Finn, Abbeel & Levine, 2017, arXiv:1703.03400).

Learn where gradient descent should start (eq. 1 and 4):

$$\min_\theta \; \mathbb{E}_\tau \; L^q_\tau(\phi_\tau), \qquad
  \phi_\tau = \theta - \alpha \nabla L^s_\tau(\theta) \; \text{(repeated)}$$

Differs from the paper: nothing. `fomaml` is its section 5.2; `anil` is Raghu et al. (2020,
arXiv:1909.09157); `boil` is Oh, Yoo, Kim & Yun (2021, arXiv:2008.08882).
"""

from collections.abc import Callable
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.capabilities import Checkpointed, DescendsInSteps, HasInitialParams
from quickstudy.core.functional import (
    Criterion,
    ParameterSelection,
    Params,
    cross_entropy,
    parameters_in,
    select_parameters,
)
from quickstudy.core.task import Checkpoint, Examples
from quickstudy.inner_loop.descent import InnerOptimizer, descend, steepest_descent
from quickstudy.learner import Learner


class MAML(Learner[Params], Checkpointed, DescendsInSteps, HasInitialParams):
    """A state is the network's adapted parameters, by name.

    Args:
        net: any module of one input; its parameters are where adaptation starts.
        lr: of the inner gradient descent.
        steps: of the inner gradient descent.
        first_order: treats the inner gradient as a constant (FOMAML).
        adapts: what adaptation changes: names of modules and parameters, such as `["head",
            "body.0.bias"]`, or a function that says so of a parameter's name; None: everything.
        optimizer: of the inner descent (`momentum()`, `adam()`); starts afresh at each `adapt`.
        checkpoint: what of the inner steps is kept for the meta-gradient, which it does not
            change: less memory for more time (None, "sqrt" or "mixed", as in `descend`).
        truncate: how many of the last inner steps are differentiated (None: all).
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float = 0.01,
        steps: int = 5,
        first_order: bool = False,
        adapt_parameters: ParameterSelection = None,
        optimizer: InnerOptimizer = steepest_descent,
        checkpoint: Checkpoint | None = None,
        truncate: int | None = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(criterion)
        self.net = net
        self.lr, self.steps, self.first_order = lr, steps, first_order
        self.names = frozenset(select_parameters(net, adapt_parameters))
        self.optimizer, self.truncate = optimizer, truncate
        self.checkpoint: Checkpoint | None = checkpoint

    def adapt(self, support: Examples, state: Params | None = None) -> Params:
        """`steps` of gradient descent on the support set, from the learned start or `state`."""
        start = self.initial_params() if state is None else state
        predict = _tail(self.net, start, support.x) or partial(self.predict, x=support.x)

        def misfit(fast: Params) -> Tensor:
            return self.criterion(predict(fast), support)

        return descend(
            misfit,
            start,
            lr=self.lr,
            steps=self.steps,
            first_order=self.first_order,
            optimizer=self.optimizer,
            checkpoint=self.checkpoint,
            truncate=self.truncate,
        )

    def predict(self, state: Params, x: Tensor) -> Tensor:
        """What the adapted network says of `x`."""
        return functional_call(self.net, state, (x,))

    def initial_params(self) -> Params:
        """The parameters that adaptation changes."""
        return {name: p for name, p in self.net.named_parameters() if name in self.names}


def fomaml(net: nn.Module, **settings: Any) -> MAML:
    """First-order MAML (section 5.2): the inner gradient counts as a constant."""
    return MAML(net, first_order=True, **settings)


def anil(net: nn.Module, *, head: str = "head", **settings: Any) -> MAML:
    """MAML that adapts the parameters of `net.<head>` only (Raghu et al., 2020)."""
    return MAML(net, adapt_parameters=[head], **settings)


def boil(net: nn.Module, *, head: str = "head", **settings: Any) -> MAML:
    """MAML that adapts everything but the parameters of `net.<head>` (Oh et al., 2021)."""
    held = parameters_in(net, [head])
    body = [name for name, _ in net.named_parameters() if name not in held]
    return MAML(net, adapt_parameters=body, **settings)


def _tail(net: nn.Module, params: Params, x: Tensor) -> Callable[[Params], Tensor] | None:
    """What `net` says of `x` as a function of `params`, where these are all of one module, by
    which the net ends: what comes before it is computed once. None: it is not so."""
    parts = zip(*(name.split(".")[:-1] for name in params), strict=False)
    place = ".".join(part[0] for part in takewhile(lambda part: len(set(part)) == 1, parts))
    if not place or torch.compiler.is_compiling():  # compilers see that themselves
        return None
    known = dict(net.named_parameters(remove_duplicate=False))
    adapted = {id(known[name]) for name in params}
    if any(id(p) in adapted and not n.startswith(f"{place}.") for n, p in known.items()):
        return None  # a tensor that the rest has too
    module, calls = net.get_submodule(place), []

    def note(module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
        calls.append((inputs, named, output))

    with module.register_forward_hook(note, with_kwargs=True):
        whole = functional_call(net, params, (x,))
    inputs, named, output = calls[-1] if len(calls) == 1 else ((), {}, None)
    if output is not whole:
        return None

    def predict(fast: Params) -> Tensor:
        own = {name.removeprefix(f"{place}."): p for name, p in fast.items()}
        return functional_call(module, own, inputs, named)

    return predict
