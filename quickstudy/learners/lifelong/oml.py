r"""Online-aware meta-learning (Javed & White, 2019, arXiv:1905.12588).

What is learned one example after the other, in whatever order a stream has it, overwrites what
was learned before, unless the features are such that it does not. OML learns these features f.
The inner loop is online learning itself: a step of gradient descent on the head for every
example of a trajectory, each seen once (algorithm 1),

$$W_i = W_{i-1} + \alpha \, \big(y_i - \mathrm{softmax}(W_{i-1} f(x_i))\big) f(x_i)^\top$$

and the meta-loss is that of the head so learned on the trajectory and on a random sample of
everything learned before.

Differs from the paper: the head is linear, not of two layers; with it and a right meta-gradient
(that of the authors' code was wrong until July 2020) they report the results of ANML. Rows of
classes that are new, in a trajectory or in a stream, start at zero, not at random.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from quickstudy.capabilities import Embeds
from quickstudy.core.functional import ParameterSelection, Params, select_parameters, tree_map
from quickstudy.core.task import Examples, Task
from quickstudy.inner_loop.descent import descend
from quickstudy.learner import Learner
from quickstudy.learners.heads.r2d2 import in_full

TOGETHER = 64  # steps whose logits are computed at once; changes nothing but speed


class Head(NamedTuple):
    """A linear head, all that a stream changes."""

    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)


class OML(Learner[Head], Embeds):
    """Learns an embedding on which a linear head learns online and does not forget.

    Train it on `OnlineTrajectoryTasks`. A stream may then have any number of classes. A net that
    normalises by the batch at hand is of no use here: give it GroupNorm.

    Args:
        embed: (N, *features) -> (N, D).
        features: D.
        classes: of meta-training, the columns of its labels.
        lr: α, of a step, which is multiplied by the example's weight.
        first_order: treats the steps as constants.
        adapts: what of `embed`, besides the head, the inner loop of meta-training changes (as
            in `MAML`; None: everything). `adapt` changes the head and nothing else.
    """

    def __init__(
        self,
        embed: nn.Module,
        features: int,
        classes: int,
        *,
        lr: float = 0.03,
        first_order: bool = False,
        adapt_parameters: ParameterSelection = (),
    ):
        super().__init__()
        self.embed, self.head = embed, nn.Linear(features, classes)
        self.lr, self.first_order = lr, first_order
        some = adapt_parameters is None or bool(adapt_parameters)
        self.names = (
            frozenset(select_parameters(embed, adapt_parameters)) if some else frozenset[str]()
        )

    def adapt(self, support: Examples, state: Head | None = None) -> Head:
        """The head after a step for each example, in order; it starts as zero, or `state`."""
        features = self.embed(support.x)
        if state is None:
            classes = support.y.shape[-1]
            weight = self.head.weight.new_zeros(classes, self.head.in_features)
            state = Head(weight, weight.new_zeros(classes))
        return learn(state, features, support, self.lr, self.first_order)

    def predict(self, state: Head, x: Tensor) -> Tensor:
        """Logits (Q, C)."""
        return _logits(state, self.embed(x))

    def loss(self, task: Task[Examples]) -> Tensor:
        """On the query set, of a head that knows all classes of meta-training but those of the
        support set, and learns these."""
        support, query = task
        known = (support.weight @ support.y == 0).to(self.head.weight)  # (C,)
        head = Head(self.head.weight * known[:, None], self.head.bias * known)
        if self.names:
            return self.criterion(self._deeply(support, head, query.x), query)
        # in one pass: statistics of a batch, if any, are not those of a single class
        features = self.embed(torch.cat([support.x, query.x]))
        mine, asked = features.split([len(support.x), len(query.x)])
        head = learn(head, mine, support, self.lr, self.first_order)
        return self.criterion(_logits(head, asked), query)

    def _deeply(self, support: Examples, head: Head, x: Tensor) -> Tensor:
        """Logits of `x` after steps on the head and on what else of the net is adapted."""
        net = nn.Sequential(self.embed, self.head)
        own = {f"0.{n}": p for n, p in self.embed.named_parameters() if n in self.names}
        params = {**own, "1.weight": head.weight, "1.bias": head.bias}
        for number in range(len(support.x)):
            one = support.take(slice(number, number + 1))

            def misfit(params: Params, one: Examples = one) -> Tensor:
                logits = functional_call(net, params, (one.x,))
                return one.weight[0] * self.criterion(logits, one)

            params = descend(misfit, params, lr=self.lr, steps=1, first_order=self.first_order)
        return functional_call(net, params, (x,))


def learn(
    head: Head, features: Tensor, examples: Examples, lr: float, first_order: bool = False
) -> Head:
    """The head after a step of gradient descent for each example, in order.

    Exact, and cheaper than changing the head every time: a step adds multiples of its example's
    features to the rows, so all that later logits need are inner products of features.
    """
    features = features.to(head.weight)
    parts = (leaf.split(TOGETHER) for leaf in (features, examples.y, examples.weight))
    with in_full(features):
        for x, y, weight in zip(*parts, strict=True):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not first_order):
                step = _steps(head, x, y, lr * weight)
            head = tree_map(torch.add, head, step)
    return head


def _steps(head: Head, x: Tensor, y: Tensor, rate: Tensor) -> Head:
    """By how much steps on examples x (S, D), y (S, C), of `rate` (S,) each, change a head."""
    gram = x @ x.T + 1  # (S, S)  1 for the bias
    logits = F.linear(x, *head)  # (S, C)  of every example, as the head now is
    slopes = [logits[:0]]
    for number in range(len(x)):
        slope = rate[number] * (y[number] - logits[number].softmax(-1))
        logits = logits + gram[number, :, None] * slope
        slopes.append(slope[None])
    all_slopes = torch.cat(slopes)  # (S, C)
    return Head(all_slopes.T @ x, all_slopes.sum(0))


def _logits(head: Head, features: Tensor) -> Tensor:
    with in_full(features):
        return F.linear(features.to(head.weight), *head)
