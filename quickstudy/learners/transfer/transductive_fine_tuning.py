r"""Transductive fine-tuning (Dhillon, Chaudhari, Ravichandran & Soatto, 2020,
arXiv:1909.02729). Transductive: queries are predicted together.

A net is trained as one classifier of all training classes, without episodes. In a task, the
positive part z of its logits is the feature of a new linear head, which starts at the class
means scaled to length 1 (eq. 6). Descent on all parameters θ of both then minimises the
cross-entropy of the support set and the entropy of the queries' predictions (eq. 8):

$$p(x) = \mathrm{softmax}\Big(w \frac{z(x)}{\lVert z(x) \rVert} + b\Big), \qquad
  \min_\theta \; L^s + \frac{1}{|Q|} \sum_{x \in Q} H(p(x))$$

Differs from the paper: each of the 25 steps uses the sum of both terms.
"""

import torch
from torch import Tensor, nn

from quickstudy.core.parameters import Params, is_trainable
from quickstudy.core.prototypes import class_means
from quickstudy.core.similarity import unit
from quickstudy.core.stateless import functional_call
from quickstudy.core.task import Examples, Task
from quickstudy.core.tree import append
from quickstudy.inner_loop.descent import adam, descend
from quickstudy.learner import Learner
from quickstudy.learners.transfer.tim import conditional_entropy


class TransductiveFineTuning(Learner[Examples]):
    """Train it on tasks of all training classes (`Classification`); `adapt` takes any classes.

    The state of a task is its support set; `predict` fine-tunes for its queries.

    Args:
        net: (N, *features) -> (N, training classes).
        lr: learning rate of Adam.
        steps: of Adam.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.eye(2)
        >>> learner = qs.TransductiveFineTuning(torch.nn.Identity(), steps=3)
        >>> state = learner.adapt(qs.Examples(x, y, torch.ones(2)))
        >>> learner.predict(state, torch.tensor([[9.0, 0.1], [0.2, 9.0]])).argmax(-1)
        tensor([0, 1])
    """

    transductive = True
    class_axes = {"y": 1}

    def __init__(self, net: nn.Module, *, lr: float = 5e-5, steps: int = 25):
        super().__init__()
        self.net, self.lr, self.steps = net, lr, steps

    def adapt(self, support: Examples, state: Examples | None = None) -> Examples:
        """Append the examples to those of `state`."""
        return append(state, support)

    def predict(self, state: Examples, x: Tensor) -> Tensor:
        """Return logits (Q, C) of the net fine-tuned to support set and queries.

        -inf for a class without examples.
        """
        has_examples = state.weight @ state.y > 0  # (C,)

        def logits(params: Params, x: Tensor) -> Tensor:
            z = unit(self._features(params, x))
            return (z @ params["w"].T + params["b"]).masked_fill(~has_examples, -torch.inf)

        def objective(params: Params) -> Tensor:
            entropy = conditional_entropy(logits(params, x).softmax(-1))
            return self.criterion(logits(params, state.x), state) + entropy

        fast = descend(
            objective,
            self._start(state),
            lr=self.lr,
            steps=self.steps,
            optimizer=adam(),
            first_order=True,
        )
        return logits(fast, x)

    def loss(self, task: Task[Examples]) -> Tensor:
        """Return the loss of the net on the query set, without adaptation.

        Labels have a column for each training class.
        """
        return self.criterion(self.net(task.query.x), task.query)

    def _start(self, support: Examples) -> Params:
        net: Params = {
            f"net.{name}": p.detach()
            for name, p in self.net.named_parameters()
            if is_trainable(p)
        }
        w = unit(class_means(self._features(net, support.x), support))
        return {**net, "w": w, "b": torch.zeros_like(w[:, 0])}

    def _features(self, params: Params, x: Tensor) -> Tensor:
        net = {n.removeprefix("net."): p for n, p in params.items() if n.startswith("net.")}
        return functional_call(self.net, net, (x,)).relu()
