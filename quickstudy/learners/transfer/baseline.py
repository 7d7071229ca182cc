r"""Baseline and Baseline++ (Chen, Liu, Kira, Wang & Huang, 2019, arXiv:1904.04232).

An embedding f and a head are trained as one classifier of all training classes, without
episodes. A task gets a new head, fitted to its support set by gradient descent with f fixed.
The head of Baseline is linear; that of Baseline++ compares directions (section 3.2):

$$z_c = w_c^\top f(x) + b_c \quad \text{or} \quad
  z_c = s \, \frac{w_c^\top f(x)}{\lVert w_c \rVert \, \lVert f(x) \rVert}, \qquad
  \min_{w, b} \; L^s + \tfrac{\lambda}{2} \lVert (w, b) \rVert^2$$

Differs from the paper: a new head starts at zero (Baseline) or at the class means (Baseline++),
not at random. Each of its steps uses the whole support set, not four examples. The authors'
code learns a scale for every class; here all classes share s.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import Embeds
from quickstudy.core.parameters import Params
from quickstudy.core.prototypes import class_means, keep_known
from quickstudy.core.similarity import cosine_similarity
from quickstudy.core.task import Examples, Task
from quickstudy.inner_loop.descent import descend
from quickstudy.learner import Learner


class BaselineState(NamedTuple):
    """The head of a task.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> learner = qs.baseline(torch.nn.Identity(), width=2, classes=20, steps=1)
        >>> state = learner.adapt(support)
        >>> list(state.params), state.sizes
        (['weight', 'bias'], tensor([1., 1.]))
    """

    params: Params  # weight (C, D), and bias (C,) of a linear head
    sizes: Tensor  # (C,)  number of examples of each class


class Baseline(Learner[BaselineState], Embeds):
    """Train it on tasks of all training classes (`Classification`); `adapt` takes any classes.

    Args:
        embed: (N, *features) -> (N, D).
        head: of the training classes, with one output each; without a bias for cosines.
        scale: s, the factor of the cosines; None: the head is linear.
        lr: learning rate of a new head.
        steps: of gradient descent on a new head; the paper trains for 100 epochs.
        decay: λ, weight decay of a new head.

    Examples:
        See `baseline` and `baseline_pp`, which build it.

        >>> import quickstudy as qs
        >>> isinstance(qs.baseline(qs.nets.MLP(4, 8), 8, 20), qs.learners.transfer.Baseline)
        True
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

    def adapt(self, support: Examples, state: BaselineState | None = None) -> BaselineState:
        """Take `steps` of descent with a head on the support set, from its start or `state`.

        The result is a constant.
        """
        with torch.no_grad():
            features = self.embed(support.x)  # (S, D), once for all steps
        start = self._start(features, support, state)

        def support_loss(params: Params) -> Tensor:
            squares = torch.stack([p.square().sum() for p in params.values()]).sum()
            logits = self._logits(params, features).masked_fill(start.sizes == 0, -torch.inf)
            return self.criterion(logits, support) + self.decay / 2 * squares

        params = descend(
            support_loss, start.params, lr=self.lr, steps=self.steps, first_order=True
        )
        return start._replace(params=params)

    def predict(self, state: BaselineState, x: Tensor) -> Tensor:
        """Return logits (Q, C) of the task's head; -inf for a class without examples."""
        logits = self._logits(state.params, self.embed(x))
        return logits.masked_fill(state.sizes == 0, -torch.inf)

    def loss(self, task: Task[Examples]) -> Tensor:
        """Return the loss of the training head on the query set, without adaptation.

        Labels have a column for each training class.
        """
        head: Params = dict(self.head.named_parameters())
        return self.criterion(self._logits(head, self.embed(task.query.x)), task.query)

    def _logits(self, head: Params, features: Tensor) -> Tensor:
        if self.scale is None:
            return F.linear(features, head["weight"], head["bias"])
        return self.scale * cosine_similarity(features, head["weight"])

    def _start(
        self, features: Tensor, support: Examples, state: BaselineState | None
    ) -> BaselineState:
        """Return the head before descent; classes that `state` has keep its parameters."""
        mean, sizes = class_means(features, support), support.weight @ support.y
        start: Params = {"weight": mean}
        if self.scale is None:
            start = {"weight": torch.zeros_like(mean), "bias": torch.zeros_like(sizes)}
        if state is None:
            return BaselineState(start, sizes)
        params = keep_known(start, state.params, state.sizes)
        return BaselineState(params, sizes + state.sizes)


def baseline(embed: nn.Module, width: int, classes: int, **settings: Any) -> Baseline:
    """Return Baseline: an embedding of `width` numbers and a linear head of `classes` outputs.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> learner = qs.baseline(torch.nn.Identity(), width=1, classes=20, lr=0.1)
        >>> state = learner.adapt(qs.Examples(x, y, torch.ones(4)))
        >>> learner.predict(state, torch.tensor([[-3.0], [3.0]])).argmax(-1)
        tensor([0, 1])
    """
    return Baseline(embed, nn.Linear(width, classes), **settings)


def baseline_pp(
    embed: nn.Module, width: int, classes: int, *, scale: float = 10.0, **settings: Any
) -> Baseline:
    """Return Baseline++: cosines times `scale` (2 for up to 200 classes in the authors' code).

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.eye(2)
        >>> learner = qs.baseline_pp(torch.nn.Identity(), width=2, classes=20, steps=5)
        >>> state = learner.adapt(qs.Examples(x, y, torch.ones(2)))
        >>> learner.predict(state, torch.tensor([[1.0, 0.1]])).argmax(-1)
        tensor([0])
    """
    return Baseline(embed, nn.Linear(width, classes, bias=False), scale=scale, **settings)
