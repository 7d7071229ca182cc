"""Whether a net computes with the parameters that adaptation lends to it."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from quickstudy.capabilities import LendsParameters
from quickstudy.core.parameters import Params
from quickstudy.core.stateless import functional_call
from quickstudy.core.torch_private import in_transform, tree_leaves
from quickstudy.core.tree import tree_map


def require_lent_parameters(learner: nn.Module, inputs: Any) -> None:
    """Call the learner's net twice with perturbed parameters, when it is first used.

    A net that ignores what is lent to it (a parameter in a global name, a copy of one, a net of
    another framework) would never adapt. All parameters are perturbed, so that a layer that is
    initialised to zero hides none. No random number, buffer or mode changes. Warns of single
    parameters that no gradient reaches.

    Args:
        inputs: a batch of inputs (N, ...) of one task, or a nest of these.

    Raises:
        ValueError: the outputs do not depend on any parameter that adapts.

    Examples:
        >>> import quickstudy as qs
        >>> class Fixed(nn.Linear):
        ...     def forward(self, x):
        ...         return x @ self.weight.data
        >>> learner = qs.MAML(Fixed(2, 2))
        >>> require_lent_parameters(learner, torch.ones(1, 2))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: The outputs of Fixed do not change with the parameters that MAML ...
    """
    unable = in_transform() or torch.is_inference_mode_enabled()
    if unable or not isinstance(learner, LendsParameters):
        return
    net, adapted = learner.lent_parameters()
    reference = next(iter(net.parameters()), None)
    if reference is None or reference.is_meta:
        return
    checked: set[str] = _CHECKED.get(reference) or set()
    if adapted.keys() <= checked:
        return
    try:
        with torch.enable_grad(), torch.random.fork_rng(_cuda_devices(reference)):
            base = _perturbed(net.named_parameters())
            other = base | _perturbed((name, base[name]) for name in adapted)
            first, second = (_outputs(net, params, inputs) for params in (base, other))
            missed = _without_gradient(first, {name: base[name] for name in adapted})
    except Exception:  # the learner's own call explains it
        first, second, missed = [], [], []
    finite = first and all(bool(leaf.isfinite().all()) for leaf in first + second)
    kind, remedy = type(net).__name__, "by an attribute of its module, such as self.weight"
    if finite and (all(map(torch.equal, first, second)) or len(missed) == len(adapted)):
        raise ValueError(
            f"The outputs of {kind} do not change with the parameters that "
            f"{type(learner).__name__} adapts ({_few(adapted)}): let its forward read them "
            f"{remedy}, not from a copy or a global name, and without no_grad or detach."
        )
    _CHECKED[reference] = checked | adapted.keys()
    if finite and missed:
        warnings.warn(
            f"The outputs of {kind} do not depend on {_few(missed)}, which "
            f"{type(learner).__name__} adapts: let its forward read them {remedy}, or freeze "
            "what is not used by requires_grad_(False).",
            stacklevel=2,
        )


_CHECKED: WeakIdKeyDictionary = WeakIdKeyDictionary()  # names, by the first parameter of a net


def _outputs(net: nn.Module, params: Params, inputs: Any) -> list[Tensor]:
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    attributes = [(module, dict(vars(module))) for module in net.modules()]
    torch.manual_seed(0)  # the same dropout
    try:
        outputs = functional_call(net, params | buffers, (tree_map(torch.clone, inputs),))
    finally:
        for module, before in attributes:
            for name in vars(module).keys() - before.keys():
                del vars(module)[name]
            vars(module).update(before)
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _perturbed(params: Iterable[tuple[str, Tensor]]) -> Params:
    """The parameters, and on top numbers of their size that are the same at every call."""
    perturbed: Params = {}
    for name, p in params:
        noise = torch.arange(p.numel(), dtype=torch.float64, device=p.device).add(1).sin()
        scale = 0.1 + p.detach().abs().mean()
        perturbed[name] = (p.detach() + scale * noise.view(p.shape).to(p.dtype)).to(p.dtype)
    return {name: p.requires_grad_(p.is_floating_point()) for name, p in perturbed.items()}


def _without_gradient(outputs: list[Tensor], params: Params) -> list[str]:
    total = [leaf.sin().sum() for leaf in outputs if leaf.requires_grad]
    if not total:
        return list(params)
    grads = torch.autograd.grad(total, list(params.values()), allow_unused=True)
    return [name for name, grad in zip(params, grads, strict=True) if grad is None]


def _cuda_devices(p: Tensor) -> list[torch.device]:
    return [p.device] if p.device.type == "cuda" else []


def _few(names: Iterable[str]) -> str:
    first, more = [*names][:3], len([*names]) > 3
    return ", ".join(first) + (" ..." if more else "")
