r"""NAME OF THE LEARNER (Authors, year, arXiv:0000.00000).

Say in one or two sentences what is learned and how it is used, then give the equation. In this
template every example votes for its label, weighted by its distance to the query in a learned
embedding:

$$p(y = c \mid x) = \sum_i a_i(x) \, y_{ic}, \qquad
  a_i(x) \propto w_i \exp(-\lVert f(x) - f(x_i) \rVert^2)$$

Differs from the paper: say what and why, or "nothing".
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy import Examples, Learner
from quickstudy.core import squared_distance
from quickstudy.core.tree import tree_map


class NearestExamplesState(NamedTuple):
    """The state of a task: named tensors, each with its shape and meaning."""

    keys: Tensor  # (N, D)  embedded examples
    y: Tensor  # (N, C)  labels
    weight: Tensor  # (N,)  0 for padding


class NearestExamples(Learner[NearestExamplesState]):
    """Learns the embedding `embed`: (N, *features) -> (N, D).

    A criterion other than the cross-entropy is an argument of `super().__init__`.

    Args:
        embed: document every argument, with its unit and the paper's value.

    Examples:
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.eye(2)[[0, 0, 1, 1]]
        >>> learner = NearestExamples(nn.Identity())
        >>> state = learner.adapt(Examples(x, y, torch.ones(4)))
        >>> learner.predict(state, torch.tensor([[-3.0], [3.0]])).argmax(-1)
        tensor([0, 1])
    """

    def __init__(self, embed: nn.Module):
        super().__init__()
        self.embed = embed

    def adapt(
        self, support: Examples, state: NearestExamplesState | None = None
    ) -> NearestExamplesState:
        """Embed the examples and append them to those of `state`.

        Write a function of one task: no task axis, no Python `if` on values, no assignment to
        `self`. Padding has `weight` 0 and must not count.
        """
        new = NearestExamplesState(self.embed(support.x), support.y, support.weight)
        return new if state is None else tree_map(lambda *parts: torch.cat(parts), state, new)

    def predict(self, state: NearestExamplesState, x: Tensor) -> Tensor:
        """Return logits (Q, C): the logarithm of each class's share of the votes."""
        scores = -squared_distance(self.embed(x), state.keys)  # (Q, N)
        attention = (scores + state.weight.log()).softmax(-1)
        return (attention @ state.y).clamp_min(1e-12).log()
