r"""Model-agnostic meta-learning (Finn, Abbeel & Levine, 2017, arXiv:1703.03400).

Learn the initialisation of gradient descent (eq. 1 and 4):

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

from quickstudy.capabilities import Checkpointed
from quickstudy.core.criteria import Criterion, cross_entropy
from quickstudy.core.parameters import (
    ParameterSelection,
    Params,
    parameters_in,
)
from quickstudy.core.stateless import functional_call
from quickstudy.core.task import Checkpoint, Examples
from quickstudy.inner_loop.descent import InnerOptimizer, descend, steepest_descent
from quickstudy.learners.gradient.descent_learner import DescentLearner


class MAML(DescentLearner, Checkpointed):
    """The state of a task is the adapted parameters, by name.

    Args:
        net: any module of one input. Adaptation starts from its parameters.
        lr: learning rate of the inner loop.
        steps: number of inner steps.
        first_order: treat the inner gradient as a constant (FOMAML).
        adapt_parameters: the parameters that adaptation changes: names of modules and
            parameters, such as `["head", "body.0.bias"]`, or a predicate of a parameter's name.
            None: all.
        optimizer: of the inner loop (`momentum()`, `adam()`); reset at each `adapt`.
        checkpoint: how much of the inner steps is stored for the meta-gradient (None, "sqrt" or
            "mixed"; see `descend`). Less memory takes more time; the gradient is the same.
        truncate: number of last inner steps that are differentiated (None: all).

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> support = qs.Examples(x, y, torch.ones(4))
        >>> _ = torch.manual_seed(0)
        >>> learner = qs.MAML(qs.nets.MLP(1, 2), lr=0.1)
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
        optimizer: InnerOptimizer = steepest_descent,
        checkpoint: Checkpoint | None = None,
        truncate: int | None = None,
        criterion: Criterion = cross_entropy,
    ):
        super().__init__(net, steps, adapt_parameters, criterion)
        self.lr, self.first_order, self.checkpoint = lr, first_order, checkpoint
        self.optimizer, self.truncate = optimizer, truncate

    def adapt(self, support: Examples, state: Params | None = None) -> Params:
        """Take `steps` of gradient descent on the support set.

        Descent starts from `state`, or from the learned initialisation.
        """
        start = self.initial_params() if state is None else state
        predict = _head_only(self.net, start, support.x) or partial(self.predict, x=support.x)
        return descend(
            lambda fast: self.criterion(predict(fast), support),
            start,
            lr=self.lr,
            steps=self.steps,
            first_order=self.first_order,
            optimizer=self.optimizer,
            checkpoint=self.checkpoint,
            truncate=self.truncate,
        )


def fomaml(net: nn.Module, **settings: Any) -> MAML:
    """Return first-order MAML (section 5.2): the inner gradient is a constant.

    Examples:
        >>> import quickstudy as qs
        >>> qs.fomaml(qs.nets.MLP(1, 1)).first_order
        True
    """
    return MAML(net, first_order=True, **settings)


def anil(net: nn.Module, *, head: str = "head", **settings: Any) -> MAML:
    """Return MAML that adapts the parameters of `net.<head>` only (Raghu et al., 2020).

    Examples:
        >>> import quickstudy as qs
        >>> sorted(qs.anil(qs.nets.MLP(1, 1)).initial_params())
        ['head.bias', 'head.weight']
    """
    return MAML(net, adapt_parameters=[head], **settings)


def boil(net: nn.Module, *, head: str = "head", **settings: Any) -> MAML:
    """Return MAML that adapts all parameters except those of `net.<head>` (Oh et al., 2021).

    Examples:
        >>> import quickstudy as qs
        >>> sorted(qs.boil(qs.nets.MLP(1, 1, hidden=(8,))).initial_params())
        ['body.0.bias', 'body.0.weight']
    """
    head_names = parameters_in(net, [head])
    body = [name for name, _ in net.named_parameters() if name not in head_names]
    return MAML(net, adapt_parameters=body, **settings)


def _head_only(net: nn.Module, params: Params, x: Tensor) -> Callable[[Params], Tensor] | None:
    """Return the outputs for `x` as a function of the adapted parameters of the last module.

    If all adapted parameters belong to the module that ends the net (ANIL), the body runs once,
    here. Otherwise return None.
    """
    parts = zip(*(name.split(".")[:-1] for name in params), strict=False)
    path = ".".join(part[0] for part in takewhile(lambda part: len(set(part)) == 1, parts))
    if not path or torch.compiler.is_compiling():  # compilers see that themselves
        return None
    all_params = dict(net.named_parameters(remove_duplicate=False))
    adapted = {id(all_params[name]) for name in params}
    if any(id(p) in adapted and not n.startswith(f"{path}.") for n, p in all_params.items()):
        return None  # a tensor that is tied to one of the body
    head, calls = net.get_submodule(path), []

    def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls.append((args, kwargs, output))

    with head.register_forward_hook(record, with_kwargs=True):
        outputs = functional_call(net, params, (x,))
    args, kwargs, head_output = calls[-1] if len(calls) == 1 else ((), {}, None)
    if head_output is not outputs:  # the net goes on after the head
        return None

    def predict(fast: Params) -> Tensor:
        head_params = {name.removeprefix(f"{path}."): p for name, p in fast.items()}
        return functional_call(head, head_params, args, kwargs)

    return predict
