"""The few functions that learners are written with."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import grad

from quickstudy.core.task import Examples
from quickstudy.core.torch_private import in_transform
from quickstudy.hints import suggest

Params: TypeAlias = dict[str, Tensor]
Criterion: TypeAlias = Callable[[Any, Examples], Tensor]
ParameterSelection: TypeAlias = (
    Callable[[str], bool] | Sequence[str] | None
)  # of `select_parameters`


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of `values` (N,), an example counting `weight` (N,) times."""
    return (values * weight).sum() / weight.sum().clamp_min(1e-12)


class OutputMismatch(ValueError):
    """Predictions have another shape than the targets. `outputs` is their number of columns.

    Examples:
        >>> import torch, quickstudy as qs
        >>> one_target = qs.Examples(torch.zeros(2, 4), torch.zeros(2, 1), torch.ones(2))
        >>> try:
        ...     qs.squared_error(torch.zeros(2, 3), one_target)
        ... except OutputMismatch as error:
        ...     print(str(error)[:67], error.outputs)
        The learner predicts (2, 3) where the tasks' targets are (2, 1): gi 3
    """

    def __init__(self, prediction: Tensor, y: Tensor):
        super().__init__(
            f"The learner predicts {tuple(prediction.shape)} where the tasks' targets are "
            f"{tuple(y.shape)}: give its net as many outputs as the tasks have ways, or draw "
            "tasks of as many ways as it has outputs."
        )
        self.outputs = prediction.shape[-1]


def _check(prediction: Tensor, y: Tensor) -> None:
    if prediction.shape != y.shape:
        raise OutputMismatch(prediction, y)


def cross_entropy(logits: Tensor, examples: Examples) -> Tensor:
    """Mean negative log-probability, in nats, of the labels; a logit may be -inf where no
    label is, or one of padding."""
    _check(logits, examples.y)
    counts = (examples.y > 0) & (examples.weight > 0)[:, None]
    says = torch.where(counts, examples.y * logits.log_softmax(-1), 0)  # (N, C)
    return weighted_mean(-says.sum(-1), examples.weight)


def squared_error(prediction: Tensor, examples: Examples) -> Tensor:
    """Mean over examples of the squared error, summed over the target's dimensions."""
    _check(prediction, examples.y)
    return weighted_mean((prediction - examples.y).square().sum(-1), examples.weight)


def gaussian_nll(prediction: Any, examples: Examples) -> Tensor:
    """Mean negative log-density, in nats, of the targets.

    `prediction` has a `mean` and a `scale` (the standard deviation), both (N, C).
    """
    _check(prediction.mean, examples.y)
    z = (examples.y - prediction.mean) / prediction.scale
    nll = 0.5 * z.square() + prediction.scale.log() + 0.5 * math.log(2 * math.pi)
    return weighted_mean(nll.sum(-1), examples.weight)


def log_likelihood(prediction: Any, examples: Examples) -> Tensor:
    """Mean log-density, in nats, of a target: `gaussian_nll` as a metric to be large."""
    return -gaussian_nll(prediction, examples)


def accuracy(logits: Tensor, examples: Examples) -> Tensor:
    """Share of examples whose largest logit is their label's."""
    _check(logits, examples.y)
    hit = logits.argmax(-1) == examples.y.argmax(-1)
    return weighted_mean(hit.to(logits.dtype), examples.weight)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distance of every row of (A, D) to every row of (B, D): (A, B)."""
    return (a[:, None] - b[None]).square().sum(-1)


def gradient(fn: Callable[[Params], Tensor]) -> Callable[[Params], Params]:
    """As `torch.func.grad`, at half its price where no transform of torch.func is at work.

    Differentiable itself where gradients are enabled; zero where `fn` does not look.
    """

    def slopes(params: Params) -> Params:
        if torch.compiler.is_compiling() or in_transform():
            return grad(fn)(params)
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            # each by itself: one of them may have been computed from another
            params = {
                name: p.view_as(p) if again and p.requires_grad else p.detach().requires_grad_()
                for name, p in params.items()
            }
            found = torch.autograd.grad(
                fn(params),
                list(params.values()),
                create_graph=again,
                allow_unused=True,
                materialize_grads=True,
            )
        return dict(zip(params, found, strict=True))

    return slopes


def with_gradient(value: Tensor, params: Params, slopes: Params) -> Tensor:
    """`value`, with `slopes` as its gradient with respect to `params`.

    For meta-gradients that are not the derivative of a loss: Reptile's difference, an
    implicit gradient, an evolution strategy's estimate.
    """
    tilt = [((p - p.detach()) * slopes[name].detach()).sum() for name, p in params.items()]
    return value.detach() + torch.stack(tilt).sum()


def select_parameters(net: nn.Module, adapt_parameters: ParameterSelection = None) -> Params:
    """The parameters of `net` that adaptation changes, by name; all require a gradient.

    Args:
        net: any module.
        adapts: names of modules and parameters, or a function that says so of a parameter's
            name; None: all.

    Raises:
        ValueError: a name that the net has not, or nothing is left to adapt.
    """
    params = dict(net.named_parameters())
    if adapt_parameters is not None and not callable(adapt_parameters):
        adapt_parameters = parameters_in(net, adapt_parameters).__contains__
    found: Params = {
        name: p
        for name, p in params.items()
        if p.requires_grad and (adapt_parameters is None or adapt_parameters(name))
    }
    if not found:
        raise ValueError(
            "There is no trainable parameter to adapt (that `adapt_parameters` picks). The net has: "
            f"{', '.join(params) or 'none'}."
        )
    return found


def parameters_in(net: nn.Module, places: Sequence[str]) -> frozenset[str]:
    """The names of the parameters in `places`, which are names of modules or parameters."""
    found: set[str] = set()
    places = [places] if isinstance(places, str) else places
    # of a tensor that has several names, the net's own list has the first
    names = {p: name for name, p in net.named_parameters()}
    called = [*net.named_parameters(remove_duplicate=False)]
    known = [*(name for name, _ in net.named_modules() if name), *(name for name, _ in called)]
    for place in places:
        if place not in known:
            hint = suggest(place, known, f"It has: {', '.join(known)}.")
            raise ValueError(f"The net has no module or parameter {place!r}. {hint}")
        found |= {names[p] for name, p in called if f"{name}.".startswith(f"{place}.")}
    return frozenset(found)


def tree_map(fn: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Applies `fn` to the tensors of nested tuples and dictionaries."""
    if isinstance(tree, dict):
        return {key: tree_map(fn, *(t[key] for t in (tree, *others))) for key in tree}
    if isinstance(tree, tuple):
        parts = (tree_map(fn, *part) for part in zip(tree, *others, strict=True))
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return fn(tree, *others)


def leaves(tree: Any) -> list[Tensor]:
    """The tensors of nested tuples and dictionaries, in order."""
    found: list[Tensor] = []
    tree_map(found.append, tree)
    return found


def unflatten(like: Any, tensors: Iterable[Tensor]) -> Any:
    """Return a tree of the structure of `like` with `tensors` in order; undoes `leaves`.

    Examples:
        >>> unflatten({"a": torch.zeros(1), "b": ()}, [torch.ones(2)])
        {'a': tensor([1., 1.]), 'b': ()}
    """
    stream = iter(tensors)
    return tree_map(lambda _: next(stream), like)


def unstack(tree: Any) -> list[Any]:
    """A tree of tensors with a leading axis T -> T trees."""
    size = len(leaves(tree)[0])
    return [tree_map(lambda leaf, i=i: leaf[i], tree) for i in range(size)]
