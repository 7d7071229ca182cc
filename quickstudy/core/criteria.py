"""Criteria, which are minimised, and metrics, which are reported: functions of a prediction.

Predictions and targets are (N, C), or (N, ..., C) if an example has several: a class of every
pixel (N, H, W, C), of every step of a sequence (N, L, C), the values of a signal. Classes, or
dimensions, are the last axis. Axes in the middle are averaged over, so each example counts by
its weight, whatever their sizes.

A criterion is NaN if a prediction is, and so is `accuracy`. Examples of weight 0 never count.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from quickstudy.core.linear import nonzero
from quickstudy.core.task import Examples
from quickstudy.core.torch_private import all_tasks

Criterion: TypeAlias = Callable[[Any, Examples], Tensor]


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of `values` (N, ...), an example counting `weight` (N,) times.

    What an example of weight 0 has does not count, even if it is NaN. The mean of nothing is 0.

    Args:
        values: further axes than those of `weight` are averaged over.
        weight: of any shape, not negative.

    Raises:
        ValueError: the first axes of `values` are not those of `weight`.

    Examples:
        >>> weighted_mean(torch.tensor([1.0, 5.0]), torch.tensor([1.0, 0.0]))
        tensor(1.)
        >>> weighted_mean(torch.tensor([[1.0, 3.0], [5.0, 5.0]]), torch.ones(2))
        tensor(3.5000)
    """
    if values.shape[: weight.ndim] != weight.shape:
        raise ValueError(
            f"Values {tuple(values.shape)} do not begin with the axes of their weights "
            f"{tuple(weight.shape)}: give a weight to each example."
        )
    if values.ndim > weight.ndim:
        values = values.flatten(weight.ndim).mean(-1)
    weighted = torch.where(weight != 0, values * weight, 0)  # NaN stays NaN
    return weighted.sum() / nonzero(weight.sum())


class OutputMismatch(ValueError):
    """Predictions have another shape than the targets. `outputs` is their number of columns.

    Examples:
        >>> import quickstudy as qs
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


def check_outputs(prediction: Tensor, y: Tensor, *, classes: bool = False) -> None:
    """Raise an error if predictions do not fit the targets.

    Args:
        classes: whether the last axis is that of classes.

    Raises:
        OutputMismatch: their shapes differ.
        ValueError: labels (N, ..., C) of one example sum to more than 1, so that the classes
            are on another axis.

    Examples:
        >>> check_outputs(torch.zeros(2, 3), torch.eye(3)[:2], classes=True)
    """
    if prediction.shape != y.shape:
        raise OutputMismatch(prediction, y)
    if not classes or y.ndim == 2 or torch.compiler.is_compiling() or y.is_meta:
        return
    if (all_tasks(y.sum(-1)) > 1.001).any():
        raise ValueError(
            f"Labels {tuple(y.shape)} have several classes in a row of the last axis: put the "
            "axis of classes last, in the net's outputs too, such as by `movedim(1, -1)`."
        )


def cross_entropy(logits: Tensor, examples: Examples) -> Tensor:
    """Return the mean negative log-probability, in nats, of the labels.

    Both are (N, ..., C). A logit may be -inf if no label, or only a label of padding, has its
    class.

    Examples:
        >>> examples = Examples(torch.zeros(2, 1), torch.eye(2), torch.ones(2))
        >>> cross_entropy(torch.zeros(2, 2), examples)
        tensor(0.6931)
    """
    y, weight = examples.y, examples.weight
    check_outputs(logits, y, classes=True)
    labelled = (y != 0) & (weight != 0).view(len(y), *[1] * (y.ndim - 1))
    log_prob = torch.where(labelled, y * logits.log_softmax(-1), 0)  # (N, ..., C)
    return weighted_mean(-log_prob.sum(-1), weight)


def squared_error(prediction: Tensor, examples: Examples) -> Tensor:
    """Return the mean over examples of the squared error, summed over the target's dimensions.

    Both are (N, ..., C), of which C is summed over.

    Examples:
        >>> examples = Examples(torch.zeros(2, 1), torch.tensor([[1.0], [3.0]]), torch.ones(2))
        >>> squared_error(torch.zeros(2, 1), examples)
        tensor(5.)
    """
    check_outputs(prediction, examples.y)
    return weighted_mean((prediction - examples.y).square().sum(-1), examples.weight)


def gaussian_nll(prediction: Any, examples: Examples) -> Tensor:
    """Return the mean negative log-density, in nats, of the targets.

    `prediction` has a `mean` and a `scale` (the standard deviation), both (N, ..., C), of which
    C is summed over.

    Examples:
        >>> from types import SimpleNamespace
        >>> examples = Examples(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1))
        >>> normal = SimpleNamespace(mean=torch.zeros(1, 1), scale=torch.ones(1, 1))
        >>> gaussian_nll(normal, examples)
        tensor(0.9189)
    """
    check_outputs(prediction.mean, examples.y)
    z = (examples.y - prediction.mean) / prediction.scale
    nll = 0.5 * z.square() + prediction.scale.log() + 0.5 * math.log(2 * math.pi)
    return weighted_mean(nll.sum(-1), examples.weight)


def log_likelihood(prediction: Any, examples: Examples) -> Tensor:
    """Return the mean log-density, in nats, of a target: minus `gaussian_nll`, as a metric.

    Examples:
        >>> from types import SimpleNamespace
        >>> examples = Examples(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1))
        >>> normal = SimpleNamespace(mean=torch.zeros(1, 1), scale=torch.ones(1, 1))
        >>> log_likelihood(normal, examples)
        tensor(-0.9189)
    """
    return -gaussian_nll(prediction, examples)


def accuracy(logits: Tensor, examples: Examples) -> Tensor:
    """Return the share of examples whose largest logit is their label's.

    Both are (N, ..., C). It is NaN if a logit of an example is NaN, as in a learner that
    diverged, or a label is, or if several logits are +inf.

    Examples:
        >>> examples = Examples(torch.zeros(2, 1), torch.eye(2), torch.ones(2))
        >>> accuracy(torch.tensor([[2.0, 1.0], [3.0, 0.0]]), examples)
        tensor(0.5000)
    """
    check_outputs(logits, examples.y, classes=True)
    correct = (logits.argmax(-1) == examples.y.argmax(-1)).to(logits.dtype)
    undefined = (logits + examples.y).isnan().any(-1) | ((logits == torch.inf).sum(-1) > 1)
    return weighted_mean(correct.masked_fill(undefined, torch.nan), examples.weight)
