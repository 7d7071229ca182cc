r"""Semi-supervised prototypical networks (Ren et al., 2018, arXiv:1803.00676).

Unlabelled support examples refine the prototypes, in a step of soft k-means (eq. 3, 4):

$$\tilde\mu_c = \frac{\sum_i y_{ic} f(x_i) + \sum_j z_{jc} f(\tilde x_j)}
  {\sum_i y_{ic} + \sum_j z_{jc}}, \qquad
  z_{jc} \propto \exp(-\lVert f(\tilde x_j) - \mu_c \rVert^2)$$

An example without a label is one whose row of y is all zeros. Where they may be of classes that
the task has not, one more cluster about the origin takes these (section 3.1.2, eq. 5 to 7).

Differs from the paper: nothing, but its third variant, which masks examples by a learned
threshold, is left out.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Embeds
from quickstudy.core.task import Examples
from quickstudy.learner import Learner
from quickstudy.learners.metric.prototypical import Prototypes, compare


class Clusters(NamedTuple):
    """What is labelled, and what is not yet shared among the classes."""

    prototypes: Prototypes  # of the labelled examples
    x: Tensor  # (S, D)  all embeddings
    unlabelled: Tensor  # (S,)  weight of the examples without a label, 0 for all others


class SemiSupervisedPrototypicalNetwork(Learner[Clusters], Embeds):
    """Learns the embedding `embed`: (N, *features) -> (N, D).

    Args:
        refinements: of the means, by soft k-means; more than one did not help in the paper.
        distractors: whether examples without a label may be of no class of the task. Learns how
            wide the cluster of those is.
    """

    class_axes = {"prototypes.sums": 0, "prototypes.sizes": 0}

    def __init__(self, embed: nn.Module, *, refinements: int = 1, distractors: bool = False):
        super().__init__()
        self.embed, self.refinements = embed, refinements
        self.log_radius = nn.Parameter(torch.zeros(())) if distractors else None

    def adapt(self, support: Examples, state: Clusters | None = None) -> Clusters:
        """The sums of the labelled embeddings, and all embeddings, after those of `state`."""
        x = self.embed(support.x)
        member = support.y * support.weight[:, None]  # (S, C)
        unlabelled = support.weight * (support.y == 0).all(-1)
        new = Clusters(Prototypes(member.T @ x, member.sum(0)), x, unlabelled)
        if state is None:
            return new
        both = Prototypes(*map(torch.add, state.prototypes, new.prototypes))
        x, unlabelled = map(torch.cat, zip(state[1:], new[1:], strict=True))
        return Clusters(both, x, unlabelled)

    def predict(self, state: Clusters, x: Tensor) -> Tensor:
        """Minus the squared distances to the refined means: logits (Q, C); -inf for a class of
        which no labelled example was seen."""
        return compare(self.embed(x), self.refined(state))

    def refined(self, state: Clusters) -> Prototypes:
        """The prototypes, with a share of every example that has no label."""
        labelled = prototypes = state.prototypes
        for _ in range(self.refinements):
            share = self._shares(state.x, prototypes) * state.unlabelled[:, None]  # (S, C)
            sums, sizes = labelled.sums + share.T @ state.x, labelled.sizes + share.sum(0)
            prototypes = Prototypes(sums, sizes)
        return prototypes

    def _shares(self, x: Tensor, prototypes: Prototypes) -> Tensor:
        logits = compare(x, prototypes)
        if self.log_radius is None:
            return logits.softmax(-1)
        # the classes' own radius is 1, as is the paper's
        nothing = -x.square().sum(-1) / (2 * self.log_radius).exp() - self.log_radius
        return torch.cat([logits, nothing[:, None]], -1).softmax(-1)[:, :-1]
