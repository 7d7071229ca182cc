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
    r"""An optimizer that steps along the natural gradient, as far as a KL divergence allows:

    $$\theta' = \theta - \sqrt{\frac{2 \delta}{x^\top F x}} \, x, \qquad F x = \nabla L$$

    F, the Fisher information, is the Hessian of the learner's `kl_divergence`, of the adapted
    policies if the learner adapts; conjugate gradients solve the equation. A step after which
    the divergence is above δ, or the loss is not lower, is shortened.

    It reads the tasks from the learner's call in `closure`, so it works with `train` as any
    optimizer does. It has no state, and it runs in one process.

    Args:
        learner: an actor with a `kl_divergence`.
        max_divergence: δ, a mean KL divergence in nats.
        cg_steps: steps of conjugate gradients, each a product with F.
        damping: added to F's diagonal.
        fisher_tasks: the number of tasks of a batch, the first ones, that F is computed from;
            None: all. A part of the data is enough for a direction (section 6 of the paper).
        backtrack: the factor that shortens a step.
        tries: the number of lengths to try; after that the parameters stay unchanged.

    Examples:
        >>> import quickstudy as qs
        >>> robot = qs.environments.PointRobot(horizon=5)
        >>> learner = qs.MAMLRL(robot, qs.nets.policy_net(robot, hidden=(8,)))
        >>> tasks = qs.tasks.Rollouts(robot, learner, episodes=3)
        >>> for step in qs.train(learner, tasks, TRPO(learner), steps=1, meta_batch_size=2):
        ...     print(step.loss.shape)
        torch.Size([2])
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
        super().__init__(
            [p for p in learner.parameters() if p.requires_grad],
            {
                "max_divergence": max_divergence,
                "cg_steps": cg_steps,
                "damping": damping,
                "fisher_tasks": fisher_tasks,
                "backtrack": backtrack,
                "tries": tries,
            },
        )
        self.learner = learner

    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take a step, and return the loss before it.

        Args:
            closure: computes the learner's mean loss on some tasks, and its gradient.
        """
        batches: list[Any] = []
        handle = self.learner.register_forward_pre_hook(lambda _, tasks: batches.extend(tasks))
        try:
            with torch.enable_grad():
                loss = closure().detach()
        finally:
            handle.remove()
        tasks, (group,) = batches[0], self.param_groups
        params: Params = {n: p for n, p in self.learner.named_parameters() if p.requires_grad}
        grads = {
            n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in params.items()
        }

        fisher_tasks = tree_map(lambda leaf: leaf[: group["fisher_tasks"]], tasks)
        product = self._fisher(fisher_tasks, params, group["damping"])
        direction = conjugate_gradients(product, grads, group["cg_steps"])
        # x'Fx without another product: what conjugate gradients leave over is orthogonal to x
        curvature = dot(direction, grads)
        curvature = curvature.clamp_min(torch.finfo(curvature.dtype).tiny)
        length = (2 * group["max_divergence"] / curvature).sqrt()

        before = {name: p.detach().clone() for name, p in params.items()}
        for _ in range(group["tries"]):
            self._set(params, axpy(before, -length, direction))
            with torch.no_grad():
                new_loss, divergence = self.learner(tasks).mean(), self._mean_divergence(tasks)
            if new_loss < loss and divergence <= group["max_divergence"]:
                return loss
            length = group["backtrack"] * length
        self._set(params, before)
        return loss

    def _fisher(self, tasks: Any, params: Params, damping: float) -> Callable[[Params], Params]:
        names, values = list(params), list(params.values())
        with torch.enable_grad():
            divergence = self._mean_divergence(tasks)
            grads = torch.autograd.grad(
                divergence, values, create_graph=True, materialize_grads=True
            )

        def product(vector: Params) -> Params:
            directional = dot(dict(zip(names, grads, strict=True)), vector)
            products = torch.autograd.grad(
                directional, values, retain_graph=True, materialize_grads=True
            )
            return axpy(dict(zip(names, products, strict=True)), damping, vector)

        return product

    def _mean_divergence(self, tasks: Any) -> Tensor:
        learner = self.learner
        return over_tasks(learner.kl_divergence, learner.execution, learner.chunk)(tasks).mean()

    @torch.no_grad()
    def _set(self, params: Params, values: Params) -> None:
        for name, p in params.items():
            p.copy_(values[name])
