"""Checks of learners on their nets: frozen parameters, inference mode, nests of inputs."""

from typing import TYPE_CHECKING, Any

import torch

from quickstudy.capabilities import DescendsInSteps, LendsParameters
from quickstudy.core.parameters import Params
from quickstudy.core.task import Examples
from quickstudy.testing._checks import require, require_same

if TYPE_CHECKING:
    from quickstudy.testing.learners import Case

# a check is no function to call: `check_...` runs it and shows its docstring as the remedy
__all__: list[str] = []


@torch.no_grad()
def parameters_frozen_later_stay(case: "Case") -> None:
    """A parameter of the net that was frozen after the learner was made is not adapted. Ask for
    `select_parameters(net)` in `adapt`, not in `__init__`."""
    learner = case.exact()
    if not isinstance(learner, LendsParameters):
        return
    net, params = learner.lent_parameters()
    name = next(name for name in params if net.get_parameter(name).requires_grad)
    frozen = net.get_parameter(name).requires_grad_(False)
    if all(p is frozen for p in params.values()):
        return
    require(name not in learner.lent_parameters()[1], f"{name} is frozen, and is adapted")
    state: Any = learner.adapt(case.task().support)
    adapted: Params = state if isinstance(state, dict) else getattr(state, "params", {})
    moved = [
        key
        for key, p in adapted.items()
        if f".{key}".endswith(f".{name}") and not torch.equal(p, frozen)
    ]
    require(not moved, f"{name} is frozen, and is adapted")


def inference_mode_changes_nothing(case: "Case") -> None:
    """In `torch.inference_mode()` predictions are those of `no_grad`. Take gradients inside
    `adapt` by `quickstudy.core.gradients.gradient` or `torch.func.grad`."""
    learner, task = case.exact(), case.task()
    predictions = []
    for mode in (torch.no_grad, torch.inference_mode):
        torch.manual_seed(0)
        with mode():
            predictions.append(learner.predict(learner.adapt(task.support), task.query.x))
    require_same(predictions[1], predictions[0], "predictions in inference mode differ")


def inputs_may_be_nests(case: "Case") -> None:
    """Learners that descend leave inputs to their net, which may take a dictionary. Use
    `tree_map` where `adapt` or `predict` indexes inputs."""
    learner, batch = case.exact(), case.batch(2)
    if not (isinstance(learner, LendsParameters) and isinstance(learner, DescendsInSteps)):
        return
    expected = learner(batch).detach()
    learner.lent_parameters()[0].register_forward_pre_hook(
        lambda _, args: (args[0]["x"], *args[1:]) if isinstance(args[0], dict) else args
    )

    def named(part: Examples) -> Examples:
        x: Any = {"x": part.x}
        return part._replace(x=x)

    losses = learner(batch._replace(support=named(batch.support), query=named(batch.query)))
    require_same(losses.detach(), expected, "the losses of inputs in a dictionary differ")
