r"""Online-aware meta-learning (Javed & White, 2019, arXiv:1905.12588).

Online learning, one example after another in the order of a stream, overwrites earlier
knowledge, unless the features prevent it. OML learns such features f. The inner loop is online
learning itself: a step of gradient descent on the head for every example of a trajectory, each
seen once (algorithm 1),

$$W_i = W_{i-1} + \alpha \, \big(y_i - \mathrm{softmax}(W_{i-1} f(x_i))\big) f(x_i)^\top$$

and the meta-loss is that of the resulting head, on the trajectory and on a random sample of
everything learned before.

Differs from the paper: the head is linear, not of two layers. With a linear head and a correct
meta-gradient (that of the authors' code was wrong until July 2020) they report the results of
ANML. The rows of new classes, in a trajectory or in a stream, start at zero, not at random.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import Embeds
from quickstudy.core.criteria import check_outputs
from quickstudy.core.linear import without_autocast
from quickstudy.core.parameters import ParameterSelection, Params, select_parameters
from quickstudy.core.stateless import functional_call
from quickstudy.core.task import Examples, Task
from quickstudy.core.tree import tree_map
from quickstudy.inner_loop.descent import descend
from quickstudy.learner import Learner
from quickstudy.learners.lifelong.replay_buffer import minibatches

CHUNK = 64  # steps whose logits are computed at once; changes speed only


class OMLState(NamedTuple):
    """A linear head, the only part that a stream changes.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> support = qs.Examples(torch.eye(2), torch.eye(2), torch.ones(2))
        >>> state = qs.OML(torch.nn.Identity(), features=2, classes=2).adapt(support)
        >>> state.weight.shape, state.bias.shape
        (torch.Size([2, 2]), torch.Size([2]))
    """

    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)


class OML(Learner[OMLState], Embeds):
    """Learns an embedding on which a linear head learns online and does not forget.

    Train it on `OnlineTrajectoryTasks`. A stream may then have any number of classes. Use
    GroupNorm in the net instead of batch normalisation: examples come one by one.

    Args:
        embed: (N, *features) -> (N, D).
        features: D.
        classes: of meta-training, the columns of its labels.
        lr: α, of a step, which is multiplied by the example's weight.
        first_order: treat the steps as constants.
        adapt_parameters: the parameters of `embed` that the inner loop of meta-training changes
            beside the head (as in `MAML`; None: all). `adapt` changes the head only.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> _ = torch.manual_seed(0)
        >>> examples = qs.Examples(torch.eye(4), torch.eye(4), torch.ones(4))
        >>> learner = qs.OML(torch.nn.Identity(), features=4, classes=4, lr=1.0)
        >>> head = learner.adapt(examples)
        >>> head.weight.shape, learner.predict(head, examples.x).argmax(-1)
        (torch.Size([4, 4]), tensor([0, 1, 2, 3]))
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
        self.lr, self.first_order, self.adapt_parameters = lr, first_order, adapt_parameters
        self._adapted()  # raises if there are none

    def adapt(self, support: Examples, state: OMLState | None = None) -> OMLState:
        """Return the head after a step for each example, in order, from zero or from
        `state`."""
        features = self.embed(support.x)
        if state is None:
            classes = support.y.shape[-1]
            weight = self.head.weight.new_zeros(classes, self.head.in_features)
            state = OMLState(weight, weight.new_zeros(classes))
        return learn(state, features, support, self.lr, self.first_order)

    def predict(self, state: OMLState, x: Tensor) -> Tensor:
        """Return logits (Q, C)."""
        return _logits(state, self.embed(x))

    def loss(self, task: Task[Examples]) -> Tensor:
        """Return the loss on the query set of a head that learns the classes of the support
        set, and starts with the meta-trained rows of all other classes."""
        support, query = task
        check_outputs(support.y.new_empty(len(support.y), self.head.out_features), support.y)
        other = (support.weight @ support.y == 0).to(self.head.weight)  # (C,)
        head = OMLState(self.head.weight * other[:, None], self.head.bias * other)
        if adapted := self._adapted():
            logits = self._adapted_logits(support, head, adapted, query.x)
            return self.criterion(logits, query)
        # in one pass: statistics of a batch, if any, are not those of a single class
        features = self.embed(torch.cat([support.x, query.x]))
        support_features, query_features = features.split([len(support.x), len(query.x)])
        head = learn(head, support_features, support, self.lr, self.first_order)
        return self.criterion(_logits(head, query_features), query)

    def _adapted(self) -> Params:
        """The parameters of `embed` that the inner loop of meta-training changes."""
        if self.adapt_parameters is None or self.adapt_parameters:
            return select_parameters(self.embed, self.adapt_parameters)
        return {}

    def _adapted_logits(
        self, support: Examples, head: OMLState, adapted: Params, x: Tensor
    ) -> Tensor:
        """Logits of `x` after steps on the head and on the adapted parameters of the net."""
        net = nn.Sequential(self.embed, self.head)
        embed = {f"0.{name}": p for name, p in adapted.items()}
        params = {**embed, "1.weight": head.weight, "1.bias": head.bias}
        for example in minibatches(support, 1):

            def inner_loss(params: Params, example: Examples = example) -> Tensor:
                logits = functional_call(net, params, (example.x,))
                return example.weight[0] * self.criterion(logits, example)

            params = descend(
                inner_loss, params, lr=self.lr, steps=1, first_order=self.first_order
            )
        return functional_call(net, params, (x,))


def learn(
    head: OMLState, features: Tensor, examples: Examples, lr: float, first_order: bool = False
) -> OMLState:
    """Return the head after a step of gradient descent for each example, in order.

    Exact, and cheaper than changing the head every time: a step adds multiples of its example's
    features to the rows, so later logits need inner products of features only.

    Examples:
        >>> import torch
        >>> from quickstudy import Examples
        >>> head = OMLState(torch.zeros(2, 2), torch.zeros(2))
        >>> examples = Examples(torch.eye(2)[:1], torch.eye(2)[:1], torch.ones(1))
        >>> learn(head, examples.x, examples, lr=1.0).weight
        tensor([[ 0.5000,  0.0000],
                [-0.5000,  0.0000]])
    """
    features = features.to(head.weight)
    parts = (leaf.split(CHUNK) for leaf in (features, examples.y, examples.weight))
    with without_autocast(features):
        for x, y, weight in zip(*parts, strict=True):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not first_order):
                step = _steps(head, x, y, lr * weight)
            head = tree_map(torch.add, head, step)
    return head


def _steps(head: OMLState, x: Tensor, y: Tensor, lr: Tensor) -> OMLState:
    """The change of a head by steps on examples x (S, D), y (S, C), each with its `lr` (S,)."""
    gram = x @ x.T + 1  # (S, S)  1 for the bias
    logits = F.linear(x, *head)  # (S, C)  of all examples, with the current head
    steps = [logits[:0]]
    for number in range(len(x)):
        step = lr[number] * (y[number] - logits[number].softmax(-1))
        logits = logits + gram[number, :, None] * step
        steps.append(step[None])
    all_steps = torch.cat(steps)  # (S, C)
    return OMLState(all_steps.T @ x, all_steps.sum(0))


def _logits(head: OMLState, features: Tensor) -> Tensor:
    with without_autocast(features):
        return F.linear(features.to(head.weight), *head)
