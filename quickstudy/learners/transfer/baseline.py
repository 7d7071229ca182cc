r"""Baseline and Baseline++ (Chen, Liu, Kira, Wang & Huang, 2019, arXiv:1904.04232).

No episodes: an embedding f and a head are trained as one classifier of all training classes. A
task gets a new head, fitted to its support set by gradient descent while f stays as it is. The
head of Baseline is linear; that of Baseline++ compares directions (section 3.2):

$$z_c = w_c^\top f(x) + b_c \quad \text{or} \quad
  z_c = s \, \frac{w_c^\top f(x)}{\lVert w_c \rVert \, \lVert f(x) \rVert}, \qquad
  \min_{w, b} \; L^s + \tfrac{\lambda}{2} \lVert (w, b) \rVert^2$$

Differs from the paper: a new head starts at zero (Baseline) or at the class means (Baseline++),
not at random, and each of its steps sees the whole support set, not four examples. The authors'
code learns a length for every cosine; here all have the length s.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import Embeds
from quickstudy.core.functional import Params
from quickstudy.core.task import Examples, Task
from quickstudy.inner_loop.descent import descend
from quickstudy.learner import Learner


class Head(NamedTuple):
    """The head of a task."""

    params: Params  # weight (C, D), and bias (C,) of a linear one
    sizes: Tensor  # (C,)  how many examples there were of each class


class Baseline(Learner[Head], Embeds):
    """Train it on tasks of all training classes (`Classification`); then `adapt` takes tasks of
    any classes.

    Args:
        embed: (N, *features) -> (N, D).
        head: of the training classes, as many as it has outputs; without a bias for cosines.
        scale: s, what cosines are multiplied by; None: the head is linear.
        lr: of the descent of a new head.
        steps: of that descent; the paper has 100 epochs.
        decay: λ, of that descent.
    """

    class_axes = {"params.weight": 0, "params.bias": 0, "sizes": 0}

    def __init__(
        self,
        embed: nn.Module,
        head: nn.Linear,
        *,
        scale: float | None = None,
        lr: float = 0.01,
        steps: int = 100,
        decay: float = 1e-3,
    ):
        super().__init__()
        self.embed, self.head, self.scale = embed, head, scale
        self.lr, self.steps, self.decay = lr, steps, decay

    def adapt(self, support: Examples, state: Head | None = None) -> Head:
        """A head after `steps` of descent on the support set, from its start or from `state`;
        constants to whoever differentiates it."""
        with torch.no_grad():
            features = self.embed(support.x)  # (S, D), once for all steps
        start = self._start(features, support, state)

        def misfit(params: Params) -> Tensor:
            size = torch.stack([p.square().sum() for p in params.values()]).sum()
            logits = _masked(self._logits(params, features), start.sizes)
            return self.criterion(logits, support) + self.decay / 2 * size

        params = descend(misfit, start.params, lr=self.lr, steps=self.steps, first_order=True)
        return start._replace(params=params)

    def predict(self, state: Head, x: Tensor) -> Tensor:
        """Logits (Q, C) of the task's head; -inf for a class of which no example was seen."""
        return _masked(self._logits(state.params, self.embed(x)), state.sizes)

    def loss(self, task: Task[Examples]) -> Tensor:
        """Of the training classes' head on the query set, whose labels have a column for each
        of them; nothing is adapted."""
        own: Params = dict(self.head.named_parameters())
        return self.criterion(self._logits(own, self.embed(task.query.x)), task.query)

    def _logits(self, head: Params, features: Tensor) -> Tensor:
        if self.scale is None:
            return F.linear(features, head["weight"], head["bias"])
        cosines = F.normalize(features, dim=-1) @ F.normalize(head["weight"], dim=-1).T
        return self.scale * cosines

    def _start(self, features: Tensor, support: Examples, state: Head | None) -> Head:
        """Where descent starts, for classes that `state` has not seen."""
        mean, sizes = class_means(features, support), _sizes(support)
        start: Params = {"weight": mean}
        if self.scale is None:
            start = {"weight": torch.zeros_like(mean), "bias": torch.zeros_like(sizes)}
        if state is None:
            return Head(start, sizes)
        known = state.sizes > 0  # (C,)
        for name, p in state.params.items():
            start[name] = torch.where(known.view(-1, *[1] * (p.ndim - 1)), p, start[name])
        return Head(start, sizes + state.sizes)


def class_means(features: Tensor, examples: Examples) -> Tensor:
    """The mean (C, D) of the features (N, D) of each class; 0 for a class without examples."""
    member = examples.y * examples.weight[:, None]  # (N, C)
    return member.T @ features / _sizes(examples).clamp_min(1e-12)[:, None]


def _sizes(examples: Examples) -> Tensor:
    return examples.weight @ examples.y  # (C,)


def _masked(logits: Tensor, sizes: Tensor) -> Tensor:
    return logits.masked_fill(sizes == 0, -torch.inf)


def baseline(embed: nn.Module, width: int, classes: int, **settings: Any) -> Baseline:
    """Baseline: an embedding of `width` numbers and a linear head of `classes` outputs."""
    return Baseline(embed, nn.Linear(width, classes), **settings)


def baseline_pp(
    embed: nn.Module, width: int, classes: int, *, scale: float = 10.0, **settings: Any
) -> Baseline:
    """Baseline++: cosines times `scale` (the authors' code has 2 for up to 200 classes)."""
    return Baseline(embed, nn.Linear(width, classes, bias=False), scale=scale, **settings)
