"""Functions that are computed again in the backward pass, instead of being remembered.

PyTorch's own checkpoints (`torch.utils.checkpoint`) work neither around `torch.func.grad` nor
inside of `vmap`. These do, and can be nested. Losses are closures: a first call, without a
graph, finds the tensors that one reads, so that they can become inputs that have gradients.
"""

import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor, peek_interpreter_stack
from torch.autograd import Function
from torch.func import grad, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.stateless import _reparametrize_module
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._pytree import tree_leaves, tree_map_only

from quickstudy.core.functional import Params, leaves, tree_map


class Reads(NamedTuple):
    """What a function depends on besides its argument."""

    tensors: Sequence[Tensor]
    random: bool  # whether it draws random numbers


def checkpointed(fn: Callable[[Any], Any], reads: Reads) -> Callable[[Any], Any]:
    """`fn`, a function from a tree of tensors to one of the same structure, of which only the
    input is remembered: differentiating it computes it once more.

    Args:
        reads: what `find_reads` found of `fn`.
    """

    def run(tree: Any) -> Any:
        shape = tree_map(lambda _: None, tree)  # to hold on to no tensor

        def flat(*inputs: Tensor) -> tuple[Tensor, ...]:
            with _Instead(reads.tensors, inputs):
                return tuple(leaves(fn(_tree(shape, inputs))))

        conditions = Conditions(tree, reads.random)
        return _tree(tree, _Checkpoint.apply(flat, conditions, *_seen(tree, reads.tensors)))

    return run


def mixed_slopes(loss: Callable[[Params], Tensor], reads: Reads) -> Callable[[Params], Params]:
    """`torch.func.grad(loss)`, of which only the point is remembered.

    Its derivative is that of mixed modes (Kemaev et al., 2025, arXiv:2505.00793): the forward
    derivative, in the direction of the cotangent, of the gradient with respect to all that
    `loss` reads. As second derivatives are symmetric, this is the product with the Hessian,
    and the cross terms.

    Args:
        reads: what `find_reads` found of `loss`.
    """

    def run(params: Params) -> Params:
        shape = tree_map(lambda _: None, params)

        def flat(*inputs: Tensor) -> Tensor:
            with _Instead(reads.tensors, inputs):
                return loss(_tree(shape, inputs))

        conditions = Conditions(params, reads.random)
        inputs = _seen(params, reads.tensors)
        return _tree(params, _MixedSlopes.apply(flat, conditions, len(params), *inputs))

    return run


def find_reads(fn: Callable[[Any], Any], like: Any) -> Reads:
    """What `fn`, called with a tree as `like`, takes from elsewhere."""
    if torch.compiler.is_compiling():
        raise NotImplementedError("`checkpoint` cannot be compiled: set checkpoint=None.")
    recorded, conditions = _Recorded(), Conditions(like)
    point = tree_map(torch.Tensor.detach, like)  # other objects: `fn` may read `like` itself
    recorded.made = _ids(leaves(point))
    with torch.no_grad(), conditions.again():
        with recorded:
            fn(point)
        random = conditions.drawn()
    tensors: list[Tensor] = []
    for reference, version in recorded.met.values():
        leaf = reference()
        if leaf is None or id(leaf) in recorded.made:
            continue
        if _version(leaf) != version:
            raise ValueError(
                "With `checkpoint` an inner loss must change no tensor in place, as it is done "
                "again in the backward pass: set checkpoint=None; for running statistics, call "
                "use_batch_statistics(net) or use GroupNorm."
            )
        tensors.append(leaf)
    return Reads(tensors, random)


def _version(leaf: Tensor) -> int:
    return 0 if leaf.is_inference() else leaf._version


class Conditions:
    """What, besides its inputs, decides what a function gives: to be the same `again`."""

    def __init__(self, tree: Any, random: bool = True):
        device = leaves(tree)[0].device
        self.devices = [device] if device.type == "cuda" and random else []
        self.states = _random_states(self.devices) if random else []
        enabled = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type)
        self.autocast = partial(torch.autocast, device.type, dtype, enabled)
        self.modes = _get_current_function_mode_stack()
        self.lent = _LENT.get()

    @contextmanager
    def again(self) -> Iterator[None]:
        """A context in which they are as they were."""
        with ExitStack() as stack:
            if self.states:
                stack.enter_context(torch.random.fork_rng(self.devices))
                torch.set_rng_state(self.states[0])
            for device, state in zip(self.devices, self.states[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            stack.enter_context(self.autocast())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # as in `over_tasks`
            for mode in self.modes:
                stack.enter_context(mode)
            for module, tensors in self.lent:
                stack.enter_context(_reparametrize_module(module, tensors))
            yield

    def drawn(self) -> bool:
        """Whether random numbers were drawn since."""
        return not all(map(torch.equal, self.states, _random_states(self.devices)))


_LENT: ContextVar[tuple[tuple[nn.Module, Params], ...]] = ContextVar("lent", default=())


@contextmanager
def lasting(module: nn.Module) -> Iterator[None]:
    """A context of which what is computed once more, later, finds the parameters of `module` as
    they are now: those that `functional_call` lends it, for example."""
    tensors: Params = dict(module.named_parameters(remove_duplicate=False))
    token = _LENT.set((*_LENT.get(), (module, tensors)))
    try:
        yield
    finally:
        _LENT.reset(token)


def _random_states(devices: Sequence[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]


class _Checkpoint(Function):
    @staticmethod
    def forward(
        fn: Callable[..., tuple[Tensor, ...]], conditions: Conditions, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        return fn(*map(torch.Tensor.detach, inputs))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.fn, ctx.conditions, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
        inputs = ctx.saved_tensors
        fn, points = _of(ctx.fn, inputs, wanted), [inputs[i] for i in wanted]
        with ctx.conditions.again():
            if peek_interpreter_stack() is not None:
                found = vjp(fn, *points)[1](cotangents)
            else:
                found = _pulled_back(fn, points, cotangents)
        return None, None, *_placed(found, wanted, len(inputs))

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: Any, fn: Any, conditions: Conditions, *inputs: Tensor
    ) -> Any:
        over = vmap(fn, in_dims[2:], randomness=info.randomness)
        found = _Checkpoint.apply(over, conditions, *inputs)
        return found, (0,) * len(found)


def _pulled_back(
    fn: Callable[..., Any], points: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    """`torch.func.vjp` by plain autograd, which takes less memory."""
    again = torch.is_grad_enabled()  # a derivative of higher order is to follow
    points = points if again else [point.detach().requires_grad_() for point in points]
    with torch.enable_grad():
        ends = zip(fn(*points), cotangents, strict=True)
        moving, slopes = zip(*((end, v) for end, v in ends if end.requires_grad), strict=True)
        return torch.autograd.grad(
            moving, points, slopes, create_graph=again, allow_unused=True
        )


class _MixedSlopes(Function):
    @staticmethod
    def forward(
        fn: Callable[..., Tensor], conditions: Conditions, size: int, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        return grad(fn, tuple(range(size)))(*map(torch.Tensor.detach, inputs))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.fn, ctx.conditions, ctx.size, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        inputs, needed = ctx.saved_tensors, ctx.needs_input_grad[3:]
        wanted = [i for i in range(len(inputs)) if i < ctx.size or needed[i]]
        # a tangent has its point's layout, which must not be that of `expand`
        params = tuple(p.clone() if 0 in p.stride() else p for p in inputs[: ctx.size])
        others = [inputs[i] for i in wanted[ctx.size :]]
        gradient = grad(_of(ctx.fn, inputs, wanted), tuple(range(len(wanted))))

        def along(*params: Tensor) -> tuple[Tensor, ...]:
            return gradient(*params, *others)

        with ctx.conditions.again():
            try:
                found = _jvp()(along, params, cotangents)[1]
            except (NotImplementedError, AssertionError) as error:
                raise ValueError(
                    "With checkpoint='mixed', what the inner loss calls needs a forward "
                    "derivative, which some of it does not have: set checkpoint='steps'."
                ) from error
        return None, None, None, *_placed(found, wanted, len(inputs))

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: Any, fn: Any, conditions: Conditions, size: int, *inputs: Tensor
    ) -> Any:
        # every task has its own point, so that the gradient of the sum is that of each task
        own = [
            p.expand(info.batch_size, *p.shape) if dim is None else p.movedim(dim, 0)
            for p, dim in zip(inputs[:size], in_dims[3:], strict=False)
        ]
        dims = (*[0] * size, *in_dims[3 + size :])
        over = vmap(fn, dims, randomness=info.randomness)

        def total(*inputs: Tensor) -> Tensor:
            return over(*inputs).sum()

        found = _MixedSlopes.apply(total, conditions, size, *own, *inputs[size:])
        return found, (0,) * size


class _Recorded(TorchFunctionMode):
    """Collects the tensors that functions are given here, and that none of them made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: set[int] = set()
        self.met: dict[int, tuple[weakref.ref[Tensor], int]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and id(leaf) not in self.made:
                # weakly: what dies was no one's to keep
                self.met.setdefault(id(leaf), (weakref.ref(leaf), _version(leaf)))
        result = func(*args, **(kwargs or {}))
        self.made |= _ids(result) - self.met.keys()  # `add_` gives what it was given
        return result


class _Instead(TorchFunctionMode):
    """Gives functions the last of `inputs` where they ask for tensors of a closure."""

    def __init__(self, reads: Sequence[Tensor], inputs: Sequence[Tensor]):
        super().__init__()
        given = inputs[len(inputs) - len(reads) :]
        self.given = {id(own): own for own in inputs}
        self.given |= {id(read): other for read, other in zip(reads, given, strict=True)}
        self.made: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map_only(Tensor, self._of, (args, kwargs or {}))
        result = func(*args, **kwargs)
        self.made |= _ids(result)
        return result

    def _of(self, leaf: Tensor) -> Tensor:
        other = self.given.get(id(leaf))
        if other is not None:
            return other
        own = id(leaf) in self.made or is_functorch_wrapped_tensor(leaf)
        if not own and leaf.requires_grad and leaf.is_leaf:
            raise ValueError(
                "With `checkpoint` an inner loss must read the same tensors at every call, in "
                "the backward pass too: set checkpoint=None, or have the backward pass done "
                "before functional_call takes back the parameters that it lent."
            )
        return leaf


def _ids(tree: Any) -> set[int]:
    return {id(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}


def _seen(tree: Any, reads: Sequence[Tensor]) -> list[Tensor]:
    """The inputs, as they look to an outer function that is itself given other tensors."""
    return [leaf.view_as(leaf) for leaf in (*leaves(tree), *reads)]


def _tree(like: Any, tensors: Sequence[Tensor]) -> Any:
    """The first of `tensors` as a tree of the structure of `like`."""
    stream = iter(tensors)
    return tree_map(lambda _: next(stream), like)


def _of(fn: Callable[..., Any], inputs: Sequence[Tensor], wanted: Sequence[int]) -> Any:
    """`fn` as a function of the wanted ones of its inputs; the others stay."""

    def of(*chosen: Tensor) -> Any:
        every = dict(enumerate(inputs)) | dict(zip(wanted, chosen, strict=True))
        return fn(*every.values())

    return of


def _placed(
    found: Sequence[Tensor | None], wanted: Sequence[int], size: int
) -> list[Tensor | None]:
    """The gradients of all inputs, from those of the wanted ones."""
    every = dict(zip(wanted, found, strict=True))
    return [every.get(i) for i in range(size)]


@cache
def _jvp() -> Any:
    """`torch.func.jvp`, whose first call loads scripts, which PyTorch itself warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        jvp(torch.sin, (torch.zeros(()),), (torch.zeros(()),))
    return jvp
