"""The parameters of a module: where they are, and which of them adaptation changes."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from quickstudy.hints import suggest

Params: TypeAlias = dict[str, Tensor]
ParameterSelection: TypeAlias = (
    Callable[[str], bool] | Sequence[str] | None
)  # of `select_parameters`


def select_parameters(net: nn.Module, adapt_parameters: ParameterSelection = None) -> Params:
    """Return the parameters of `net` that adaptation changes, by name; all require a gradient.

    Args:
        net: any module.
        adapt_parameters: names of modules and parameters, or a function of a parameter's name
            that returns whether to adapt it; None: all.

    Raises:
        ValueError: the net lacks a name, has lazy layers that it was not called with yet, or no
            parameter is left to adapt.

    Examples:
        >>> import quickstudy as qs
        >>> list(select_parameters(qs.nets.MLP(2, 1, hidden=(3,)), ["head"]))
        ['head.weight', 'head.bias']
    """
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in net.parameters()):
        raise ValueError(
            "The net has lazy layers, whose parameters have no sizes yet: call it once, on "
            "inputs like those of the tasks, before it is given to a learner."
        )
    if adapt_parameters is not None and not callable(adapt_parameters):
        adapt_parameters = parameters_in(net, adapt_parameters).__contains__
    params = dict(net.named_parameters())
    selected = {
        name: p
        for name, p in params.items()
        if is_trainable(p) and (adapt_parameters is None or adapt_parameters(name))
    }
    if not selected:
        raise ValueError(
            "There is no trainable parameter to adapt (that `adapt_parameters` picks). "
            f"The net has: {', '.join(params) or 'none'}."
        )
    return selected


def is_trainable(p: Tensor) -> bool:
    """Return whether a parameter, or a tensor lent in its place, is not frozen.

    Examples:
        >>> is_trainable(torch.ones(1)), is_trainable(nn.Parameter(torch.ones(1), False))
        (True, False)
    """
    return p.requires_grad or not isinstance(p, nn.Parameter)


def parameters_in(net: nn.Module, places: Sequence[str]) -> frozenset[str]:
    """Return the names of the parameters in `places`, names of modules or parameters.

    Examples:
        >>> import quickstudy as qs
        >>> sorted(parameters_in(qs.nets.MLP(2, 1, hidden=(3,)), ["body", "head.bias"]))
        ['body.0.bias', 'body.0.weight', 'head.bias']
    """
    selected: set[str] = set()
    places = [places] if isinstance(places, str) else places
    # of a tensor that has several names, the net's own list has the first
    names = {p: name for name, p in net.named_parameters()}
    named = [*net.named_parameters(remove_duplicate=False)]
    paths = [*(name for name, _ in net.named_modules() if name), *(name for name, _ in named)]
    for place in places:
        if place not in paths:
            hint = suggest(place, paths, f"It has: {', '.join(paths)}.")
            raise ValueError(f"The net has no module or parameter {place!r}. {hint}")
        selected |= {names[p] for name, p in named if f"{name}.".startswith(f"{place}.")}
    return frozenset(selected)


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the parameters of `module`; the CPU if it has none.

    Examples:
        >>> device_of(torch.nn.Linear(2, 1)), device_of(torch.nn.ReLU())
        (device(type='cpu'), device(type='cpu'))
    """
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def log_parameter(name: str, value: float) -> nn.Parameter:
    """Return the logarithm of a positive number as a parameter, whose name is for the error.

    Raises:
        ValueError: the value is not positive and finite.

    Examples:
        >>> log_parameter("penalty", 1.0)
        Parameter containing:
        tensor(0., requires_grad=True)
    """
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}={value}: give a positive number.")
    return nn.Parameter(torch.tensor(math.log(value)))
