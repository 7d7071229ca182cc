"""Criteria, which are minimised, and metrics, which are reported: functions of a prediction."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from quickstudy.core.linear import nonzero
from quickstudy.core.task import Examples

Criterion: TypeAlias = Callable[[Any, Examples], Tensor]


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of `values` (N,), an example counting `weight` (N,) times.

    Examples:
        >>> weighted_mean(torch.tensor([1.0, 5.0]), torch.tensor([1.0, 0.0]))
        tensor(1.)
    """
    return (values * weight).sum() / nonzero(weight.sum())


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


def _check(prediction: Tensor, y: Tensor) -> None:
    if prediction.shape != y.shape:
        raise OutputMismatch(prediction, y)


def cross_entropy(logits: Tensor, examples: Examples) -> Tensor:
    """Return the mean negative log-probability, in nats, of the labels.

    A logit may be -inf if no label, or only a label of padding, has its class.

    Examples:
        >>> examples = Examples(torch.zeros(2, 1), torch.eye(2), torch.ones(2))
        >>> cross_entropy(torch.zeros(2, 2), examples)
        tensor(0.6931)
    """
    _check(logits, examples.y)
    labelled = (examples.y > 0) & (examples.weight > 0)[:, None]
    log_prob = torch.where(labelled, examples.y * logits.log_softmax(-1), 0)  # (N, C)
    return weighted_mean(-log_prob.sum(-1), examples.weight)


def squared_error(prediction: Tensor, examples: Examples) -> Tensor:
    """Return the mean over examples of the squared error, summed over the target's dimensions.

    Examples:
        >>> examples = Examples(torch.zeros(2, 1), torch.tensor([[1.0], [3.0]]), torch.ones(2))
        >>> squared_error(torch.zeros(2, 1), examples)
        tensor(5.)
    """
    _check(prediction, examples.y)
    return weighted_mean((prediction - examples.y).square().sum(-1), examples.weight)


def gaussian_nll(prediction: Any, examples: Examples) -> Tensor:
    """Return the mean negative log-density, in nats, of the targets.

    `prediction` has a `mean` and a `scale` (the standard deviation), both (N, C).

    Examples:
        >>> from types import SimpleNamespace
        >>> examples = Examples(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1))
        >>> normal = SimpleNamespace(mean=torch.zeros(1, 1), scale=torch.ones(1, 1))
        >>> gaussian_nll(normal, examples)
        tensor(0.9189)
    """
    _check(prediction.mean, examples.y)
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

    Examples:
        >>> examples = Examples(torch.zeros(2, 1), torch.eye(2), torch.ones(2))
        >>> accuracy(torch.tensor([[2.0, 1.0], [3.0, 0.0]]), examples)
        tensor(0.5000)
    """
    _check(logits, examples.y)
    correct = logits.argmax(-1) == examples.y.argmax(-1)
    return weighted_mean(correct.to(logits.dtype), examples.weight)
