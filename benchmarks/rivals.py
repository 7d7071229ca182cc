"""The gradient of a meta-step by other libraries, which need not be installed."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.workloads import Net, Step, Workload, gradient, surrogate
from quickstudy import Examples, Task
from quickstudy.core.criteria import squared_error
from quickstudy.core.tree import unstack
from quickstudy.nets.backbones import MLP


def by_higher(work: Workload, net: Net, tasks: Task) -> Step:
    import higher  # pyright: ignore[reportMissingImports]

    _second_order_of_all(work)
    optimizer = torch.optim.SGD(net.parameters(), work.lr)

    def step() -> list[Tensor]:
        count = len(tasks.query.x)
        for support, query in unstack(tasks):
            with higher.innerloop_ctx(net, optimizer, copy_initial_weights=False) as (
                fast,
                inner,
            ):
                for _ in range(work.steps):
                    inner.step(work.criterion(fast(support.x), support))
                (work.criterion(fast(query.x), query) / count).backward()
        return gradient(net)

    return step


def by_torchopt(work: Workload, net: Net, tasks: Task) -> Step:
    import torchopt  # pyright: ignore[reportMissingImports]

    _second_order_of_all(work)
    inner = torchopt.MetaSGD(net, lr=work.lr)

    def step() -> list[Tensor]:
        before = torchopt.extract_state_dict(net, by="reference")
        fresh = torchopt.extract_state_dict(inner, by="reference")
        start = list(net.parameters())
        found: list[Tensor] = []
        count = len(tasks.query.x)
        for support, query in unstack(tasks):
            for _ in range(work.steps):
                inner.step(work.criterion(net(support.x), support))
            grads = torch.autograd.grad(work.criterion(net(query.x), query) / count, start)
            found = [a + b for a, b in zip(found, grads, strict=True)] if found else [*grads]
            torchopt.recover_state_dict(net, before)
            torchopt.recover_state_dict(inner, fresh)
        return found

    return step


def by_metalearn(work: Workload, net: Net, tasks: Task) -> Step:
    from metalearn.algorithms import MAML as Theirs  # pyright: ignore[reportMissingImports]
    from metalearn.inner_optimizers import InnerSGD  # pyright: ignore[reportMissingImports]
    from metalearn.loss import BaseLoss  # pyright: ignore[reportMissingImports]
    from metalearn.model_wrappers import MAML_Model  # pyright: ignore[reportMissingImports]

    _second_order_of_all(work)

    class Part(nn.Module):  # their modules are called with more than x
        def __init__(self, part: nn.Module):
            super().__init__()
            self.part = part

        def forward(self, x: Tensor, **_: Any) -> Tensor:
            return self.part(x)

    class Criterion(BaseLoss):
        def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
            self, out_dict: Any, targets: Tensor, **_: Any
        ) -> tuple[Tensor, Tensor]:
            examples = Examples(targets, targets, torch.ones(len(targets)))
            loss = work.criterion(out_dict["logits"], examples)
            return loss, loss.detach()

    model = MAML_Model(Part(net.body), Part(net.head))
    theirs = Theirs(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.0),  # it steps; the start stays
        inner_optimizer=InnerSGD(model.get_fast_weights(), inner_lr=work.lr, learn_lr=False),
        support_loss_fn=Criterion(),
        inner_steps=work.steps,
        device=torch.device("cpu"),
    )
    batch = (tasks.support.x, tasks.support.y, tasks.query.x, tasks.query.y)

    def step() -> list[Tensor]:
        theirs.step(iter([batch]))
        return gradient(net)

    return step


def _second_order_of_all(work: Workload) -> None:
    if work.first_order or work.head_only:
        raise ImportError("rivals are measured on the second order of all parameters")


def by_jax(work: Workload, net: Net, tasks: Task) -> Step:
    """JAX: `vmap` of the tasks, `jit` of the gradient of their mean loss, on one core."""
    import jax  # pyright: ignore[reportMissingImports]
    import jax.numpy as jnp  # pyright: ignore[reportMissingImports]

    _second_order_of_all(work)
    if not isinstance(net, MLP):
        raise ImportError("it is written for nets of linear layers")
    precision = np.dtype(str(tasks.support.x.dtype).removeprefix("torch."))
    jax.config.update("jax_enable_x64", precision == np.float64)
    tanh = any(isinstance(module, nn.Tanh) for module in net.modules())
    activation = jnp.tanh if tanh else jax.nn.relu
    start = [jnp.asarray(p.detach().numpy()) for p in net.parameters()]
    batch = [
        jnp.asarray(t.numpy())
        for t in (tasks.support.x, tasks.support.y, tasks.query.x, tasks.query.y)
    ]

    def loss(params: Any, x: Any, y: Any) -> Any:
        for layer in range(0, len(params) - 2, 2):
            x = activation(x @ params[layer].T + params[layer + 1])
        x = x @ params[-2].T + params[-1]
        if work.criterion is squared_error:
            return ((x - y) ** 2).mean()
        return (0.5 * ((y[:, :6] - x) ** 2).sum(-1) * y[:, 6]).mean()

    def task_loss(params: Any, *task: Any) -> Any:
        for _ in range(work.steps):
            grads = jax.grad(loss)(params, *task[:2])
            params = [p - work.lr * grad for p, grad in zip(params, grads, strict=True)]
        return loss(params, *task[2:])

    def mean_loss(params: Any, *batch: Any) -> Any:
        return jax.vmap(task_loss, in_axes=(None, 0, 0, 0, 0))(params, *batch).mean()

    if work.criterion not in (squared_error, surrogate):
        raise ImportError("it is written for squared errors and the surrogate")
    meta_gradient = jax.jit(jax.grad(mean_loss))

    def step() -> list[Tensor]:
        grads = jax.block_until_ready(meta_gradient(start, *batch))
        return [torch.from_numpy(np.array(grad)) for grad in grads]

    return step
