r"""Semi-supervised prototypical networks (Ren et al., 2018, arXiv:1803.00676).

Unlabelled support examples refine the prototypes by a step of soft k-means (eq. 3, 4):

$$\tilde\mu_c = \frac{\sum_i y_{ic} f(x_i) + \sum_j z_{jc} f(\tilde x_j)}
  {\sum_i y_{ic} + \sum_j z_{jc}}, \qquad
  z_{jc} \propto \exp(-\lVert f(\tilde x_j) - \mu_c \rVert^2)$$

An unlabelled example has a row of zeros in y. If unlabelled examples may belong to no class of
the task (distractors), one more cluster at the origin absorbs them (section 3.1.2, eq. 5 to 7).

Differs from the paper: its third variant, which masks examples by a learned threshold, is left
out.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.capabilities import Embeds
from quickstudy.core.prototypes import Prototypes, class_logits, class_sums
from quickstudy.core.task import Examples
from quickstudy.core.tree import append
from quickstudy.learner import Learner


class SemiSupervisedState(NamedTuple):
    """The prototypes of the labelled examples, and the embeddings that refine them.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])  # the last has no label
        >>> learner = qs.SemiSupervisedPrototypicalNetwork(torch.nn.Identity())
        >>> learner.adapt(qs.Examples(torch.randn(3, 4), y, torch.ones(3))).unlabelled
        tensor([0., 0., 1.])
    """

    prototypes: Prototypes  # of the labelled examples
    x: Tensor  # (S, D)  all embeddings
    unlabelled: Tensor  # (S,)  weight of an unlabelled example, 0 for others


class SemiSupervisedPrototypicalNetwork(Learner[SemiSupervisedState], Embeds):
    """Learns the embedding `embed`: (N, *features) -> (N, D).

    Args:
        embed: the embedding.
        refinements: steps of soft k-means; more than one did not help in the paper.
        distractors: whether unlabelled examples may belong to no class of the task. The radius
            of their cluster is learned.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[0.0], [4.0], [5.0]]), torch.tensor([[1, 0], [0, 1.0], [0, 0]])
        >>> learner = qs.SemiSupervisedPrototypicalNetwork(torch.nn.Identity())
        >>> state = learner.adapt(qs.Examples(x, y, torch.ones(3)))
        >>> learner.refined(state).means.round(decimals=3)  # 5 moves the second prototype
        tensor([[0.0000],
                [4.5000]])
    """

    class_axes = {"prototypes.sums": 0, "prototypes.sizes": 0}

    def __init__(self, embed: nn.Module, *, refinements: int = 1, distractors: bool = False):
        super().__init__()
        self.embed, self.refinements = embed, refinements
        self.log_radius = nn.Parameter(torch.zeros(())) if distractors else None

    def adapt(
        self, support: Examples, state: SemiSupervisedState | None = None
    ) -> SemiSupervisedState:
        """Add the labelled embeddings to the sums, and append all embeddings to `state`."""
        x = self.embed(support.x)
        unlabelled = support.weight * (support.y == 0).all(-1)
        prototypes = class_sums(x, support, state and state.prototypes)
        return SemiSupervisedState(prototypes, *append(state and state[1:], (x, unlabelled)))

    def predict(self, state: SemiSupervisedState, x: Tensor) -> Tensor:
        """Return minus the squared distances to the refined prototypes: logits (Q, C).

        -inf for a class without labelled examples.
        """
        return class_logits(self.embed(x), self.refined(state))

    def refined(self, state: SemiSupervisedState) -> Prototypes:
        """Return the prototypes with the soft assignments of the unlabelled examples."""
        labelled = prototypes = state.prototypes
        for _ in range(self.refinements):
            z = self._assignments(state.x, prototypes)  # (S, C)
            unlabelled = Examples(state.x, z, state.unlabelled)
            prototypes = class_sums(state.x, unlabelled, labelled)
        return prototypes

    def _assignments(self, x: Tensor, prototypes: Prototypes) -> Tensor:
        logits = class_logits(x, prototypes).to(x)
        if self.log_radius is None:
            return logits.softmax(-1)
        # the radius of a class is 1, as in the paper
        distractor = -x.square().sum(-1) / (2 * self.log_radius).exp() - self.log_radius
        return torch.cat([logits, distractor[:, None]], -1).softmax(-1)[:, :-1]
