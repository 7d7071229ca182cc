r"""Trust region policy optimisation, TRPO (Schulman et al., 2015, arXiv:1502.05477)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from quickstudy.core.linear import axpy, conjugate_gradients, dot
from quickstudy.core.parameters import Params
from quickstudy.core.tree import tree_map
from quickstudy.execution.batching import over_tasks
from quickstudy.rl.actor import Actor


class TRPO(Optimizer):
    r"""Steps as far as policies may move, in the direction of the natural gradient:

    $$\theta' = \theta - \sqrt{\frac{2 \delta}{x^\top F x}} \, x, \qquad F x = \nabla L$$

    F, the Fisher information, is the Hessian of the learner's `divergence`, of the adapted
    policies where there are such; the equation is solved by conjugate gradients. A step after
    which the divergence is above δ, or the loss no lower, is made shorter.

    It sees the tasks by what `closure` gives the learner, so it works with `train` as any
    optimizer does. It has no state, and is for one process.

    Args:
        learner: an actor with a `divergence`.
        max_divergence: δ, a mean KL divergence in nats.
        cg_steps: of conjugate gradients, each a product with F.
        damping: added to F's diagonal.
        fisher_tasks: how many tasks of a batch F is computed from, the first ones; None: all.
            A part of the data is enough for a direction (section 6 of the paper).
        backtrack: by how much a step is made shorter.
        tries: lengths to try; then it stays where it is.
    """

    def __init__(
        self,
        learner: Actor,
        *,
        max_divergence: float = 0.01,
        cg_steps: int = 10,
        damping: float = 1e-5,
        fisher_tasks: int | None = None,
        backtrack: float = 0.8,
        tries: int = 15,
    ):
        settings = {
            "max_divergence": max_divergence,
            "cg_steps": cg_steps,
            "damping": damping,
            "fisher_tasks": fisher_tasks,
            "backtrack": backtrack,
            "tries": tries,
        }
        super().__init__([p for p in learner.parameters() if p.requires_grad], settings)
        self.learner = learner

    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The loss before the step.

        Args:
            closure: computes the learner's mean loss on some tasks, and its gradient.
        """
        seen: list[Any] = []
        noting = self.learner.register_forward_pre_hook(lambda _, tasks: seen.extend(tasks))
        try:
            with torch.enable_grad():
                loss = closure().detach()
        finally:
            noting.remove()
        tasks, (group,) = seen[0], self.param_groups
        params: Params = {n: p for n, p in self.learner.named_parameters() if p.requires_grad}
        grads = {
            n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in params.items()
        }

        some = tree_map(lambda leaf: leaf[: group["fisher_tasks"]], tasks)
        product = self._fisher(some, params, group["damping"])
        direction = conjugate_gradients(product, grads, group["cg_steps"])
        # x'Fx without another product: what conjugate gradients leave over is orthogonal to x
        curvature = dot(direction, grads).clamp_min(1e-30)
        length = (2 * group["max_divergence"] / curvature).sqrt()

        before = {name: p.detach().clone() for name, p in params.items()}
        for _ in range(group["tries"]):
            self._set(params, axpy(before, -length, direction))
            after, far = self._judged(tasks)
            if after < loss and far <= group["max_divergence"]:
                return loss
            length = group["backtrack"] * length
        self._set(params, before)
        return loss

    def _fisher(self, tasks: Any, params: Params, damping: float) -> Callable[[Params], Params]:
        names, values = list(params), list(params.values())
        with torch.enable_grad():
            far = self._divergence(tasks)
            grads = torch.autograd.grad(far, values, create_graph=True, materialize_grads=True)

        def product(vector: Params) -> Params:
            along = dot(dict(zip(names, grads, strict=True)), vector)
            found = torch.autograd.grad(
                along, values, retain_graph=True, materialize_grads=True
            )
            return axpy(dict(zip(names, found, strict=True)), damping, vector)

        return product

    @torch.no_grad()
    def _judged(self, tasks: Any) -> tuple[Tensor, Tensor]:
        return self.learner(tasks).mean(), self._divergence(tasks)

    def _divergence(self, tasks: Any) -> Tensor:
        learner = self.learner
        return over_tasks(learner.divergence, learner.execution, learner.chunk)(tasks).mean()

    @torch.no_grad()
    def _set(self, params: Params, values: Params) -> None:
        for name, p in params.items():
            p.copy_(values[name])
