"""Gradients as functions, and values with a given gradient."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad

from quickstudy.core.parameters import Params
from quickstudy.core.torch_private import in_transform


def gradient(fn: Callable[[Params], Tensor]) -> Callable[[Params], Params]:
    """Return the gradient of `fn` as a function, as `torch.func.grad` does.

    Outside of torch.func's transforms, it costs half as much.

    Differentiable itself where gradients are enabled; zero for parameters that `fn` ignores.

    Examples:
        >>> params = {"a": torch.tensor(3.0), "b": torch.ones(1)}
        >>> with torch.no_grad():
        ...     gradient(lambda params: params["a"] ** 2)(params)
        {'a': tensor(6.), 'b': tensor([0.])}
    """

    def grads(params: Params) -> Params:
        compiling = torch.compiler.is_compiling()
        if compiling or in_transform() or torch.is_inference_mode_enabled():
            return grad(fn)(params)
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            # views or detached: one of them may have been computed from another
            params = {
                name: p.view_as(p)
                if create_graph and p.requires_grad
                else p.detach().requires_grad_()
                for name, p in params.items()
            }
            values = torch.autograd.grad(
                fn(params),
                list(params.values()),
                create_graph=create_graph,
                allow_unused=True,
                materialize_grads=True,
            )
        return dict(zip(params, values, strict=True))

    return grads


def with_gradient(value: Tensor, params: Params, grads: Params) -> Tensor:
    """Return `value` with `grads` as its gradient with respect to `params`.

    For meta-gradients that are not the derivative of a loss: Reptile's difference, an
    implicit gradient, an evolution strategy's estimate. The term (p - p.detach()) * grad is
    zero and has the gradient `grad`, as in DiCE (Foerster et al., 2018, arXiv:1802.05098).

    Examples:
        >>> p = torch.tensor(1.0, requires_grad=True)
        >>> value = with_gradient(torch.tensor(7.0), {"p": p}, {"p": torch.tensor(3.0)})
        >>> value.item(), torch.autograd.grad(value, p)
        (7.0, (tensor(3.),))
    """
    terms = [((p - p.detach()) * grads[name].detach()).sum() for name, p in params.items()]
    return value.detach() + torch.stack(terms).sum()
