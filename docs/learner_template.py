r"""NAME OF THE LEARNER (Authors, year, arXiv:0000.00000).

Say in one or two sentences what is learned and how it is used, then give the equation. This
template votes: every example counts by how near it is to the query, in a learned embedding,

$$p(y = c \mid x) = \sum_i a_i(x) \, y_{ic}, \qquad
  a_i(x) \propto w_i \exp(-\lVert f(x) - f(x_i) \rVert^2)$$

Differs from the paper: say what and why, or "nothing".
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy import Examples, Learner
from quickstudy.core import squared_distance


class Votes(NamedTuple):
    """What is known of a task: a nest of tensors, each with its shape and meaning."""

    keys: Tensor  # (N, D)  embedded examples
    y: Tensor  # (N, C)  their labels
    weight: Tensor  # (N,)  0 for padding


class NearestExamples(Learner[Votes]):
    """Learns the embedding `embed`: (N, *features) -> (N, D).

    Document the other arguments under `Args:`, with their units and the paper's defaults. A
    criterion other than the cross-entropy is given to `super().__init__`.
    """

    def __init__(self, embed: nn.Module):
        super().__init__()
        self.embed = embed

    def adapt(self, support: Examples, state: Votes | None = None) -> Votes:
        """The embedded examples, beside those that `state` has.

        A function of one task: no task axis, no Python `if` on values, nothing written to
        `self`. `weight` is 0 for padding, which must count for nothing.
        """
        new = Votes(self.embed(support.x), support.y, support.weight)
        return new if state is None else Votes(*map(torch.cat, zip(state, new, strict=True)))

    def predict(self, state: Votes, x: Tensor) -> Tensor:
        """The logarithm of every class's share of the votes: logits (Q, C)."""
        near = -squared_distance(self.embed(x), state.keys)  # (Q, N)
        attention = (near + state.weight.log()).softmax(-1)
        return (attention @ state.y).clamp_min(1e-12).log()
