r"""Transductive fine-tuning (Dhillon, Chaudhari, Ravichandran & Soatto, 2020,
arXiv:1909.02729). Transductive: queries are judged together.

No episodes: a net is trained as one classifier of all training classes. For a task, the
positive part z of its logits is the feature, under a new linear head that starts at the class
means, made of length 1 (eq. 6). Then all parameters θ of both descend on the support set's
cross-entropy and on the entropy of the queries' predictions (eq. 8):

$$p(x) = \mathrm{softmax}\Big(w \frac{z(x)}{\lVert z(x) \rVert} + b\Big), \qquad
  \min_\theta \; L^s + \frac{1}{|Q|} \sum_{x \in Q} H(p(x))$$

Differs from the paper: each of the 25 steps is on the sum of both terms.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from quickstudy.core.functional import Params
from quickstudy.core.task import Examples, Task
from quickstudy.inner_loop.descent import adam, descend
from quickstudy.learner import Learner
from quickstudy.learners.transfer.baseline import class_means
from quickstudy.learners.transfer.tim import conditional_entropy


class TransductiveFineTuning(Learner[Examples]):
    """Train it on tasks of all training classes (`Classification`); then it takes tasks of any
    classes. A state is the support set: `predict` fine-tunes, for its queries.

    Args:
        net: (N, *features) -> (N, training classes).
        lr: of the descent by Adam.
        steps: of that descent.
    """

    transductive = True
    class_axes = {"y": 1}

    def __init__(self, net: nn.Module, *, lr: float = 5e-5, steps: int = 25):
        super().__init__()
        self.net = net
        self.lr, self.steps = lr, steps

    def adapt(self, support: Examples, state: Examples | None = None) -> Examples:
        """The examples, beside those that `state` has."""
        if state is None:
            return support
        return Examples.cat(state, support)

    def predict(self, state: Examples, x: Tensor) -> Tensor:
        """Logits (Q, C) of the net fine-tuned to support set and queries; -inf for a class of
        which no example was seen."""
        known = state.weight @ state.y > 0  # (C,)

        def logits(params: Params, x: Tensor) -> Tensor:
            z = F.normalize(self._features(params, x), dim=-1)
            return (z @ params["w"].T + params["b"]).masked_fill(~known, -torch.inf)

        def misfit(params: Params) -> Tensor:
            entropy = conditional_entropy(logits(params, x).softmax(-1))
            return self.criterion(logits(params, state.x), state) + entropy

        start = self._start(state)
        fast = descend(
            misfit, start, lr=self.lr, steps=self.steps, optimizer=adam(), first_order=True
        )
        return logits(fast, x)

    def loss(self, task: Task[Examples]) -> Tensor:
        """The net's loss on the query set, whose labels have a column for each training class;
        nothing is adapted."""
        return self.criterion(self.net(task.query.x), task.query)

    def _start(self, support: Examples) -> Params:
        net: Params = {
            f"net.{name}": p.detach()
            for name, p in self.net.named_parameters()
            if p.requires_grad
        }
        w = F.normalize(class_means(self._features(net, support.x), support), dim=-1)
        return {**net, "w": w, "b": torch.zeros_like(w[:, 0])}

    def _features(self, params: Params, x: Tensor) -> Tensor:
        net = {n.removeprefix("net."): p for n, p in params.items() if n.startswith("net.")}
        return functional_call(self.net, net, (x,)).relu()
