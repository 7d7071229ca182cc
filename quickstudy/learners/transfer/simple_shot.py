r"""SimpleShot (Wang, Chao, Weinberger & van der Maaten, 2019, arXiv:1911.04623).

No episodes: an embedding f is trained with a linear head, as one classifier of all training
classes. A task's query belongs to the nearest class mean of the features, which are taken as
they are (UN), with length 1 (L2N), or centred and then with length 1 (CL2N; section 3.2):

$$z(x) = \frac{f(x) - \bar{f}}{\lVert f(x) - \bar{f} \rVert}, \qquad
  \bar{f} = \text{the mean of } f \text{ over the training classes}$$

Differs from the paper: the mean is a running one over the batches of training, as batch
normalisation keeps its own, where the paper goes through the training set once more.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quickstudy.capabilities import Embeds
from quickstudy.core.task import Examples, Task
from quickstudy.learner import Learner
from quickstudy.learners.metric.prototypical import Prototypes, compare


class SimpleShot(Learner[Prototypes], Embeds):
    """Train it on tasks of all training classes (`Classification`); then `adapt` takes tasks of
    any classes.

    Args:
        embed: (N, *features) -> (N, D).
        head: of the training classes, as many as it has outputs; of use in training only.
        transform: of the features, see above.
    """

    class_axes = {"sums": 0, "sizes": 0}

    def __init__(
        self,
        embed: nn.Module,
        head: nn.Linear,
        *,
        transform: Literal["UN", "L2N", "CL2N"] = "CL2N",
    ):
        super().__init__()
        if transform not in ("UN", "L2N", "CL2N"):
            raise ValueError(f"transform={transform!r} is not 'UN', 'L2N' or 'CL2N'.")
        self.embed, self.head = embed, head
        self.transform: Literal["UN", "L2N", "CL2N"] = transform
        # for its running mean, which every way of execution and every checkpoint knows to keep
        self.centre = nn.BatchNorm1d(head.in_features, affine=False, momentum=0.01)

    def adapt(self, support: Examples, state: Prototypes | None = None) -> Prototypes:
        """The sum of the features of each class, on top of what `state` has."""
        member = support.y * support.weight[:, None]  # (S, C)
        new = Prototypes(member.T @ self.features(support.x), member.sum(0))
        return new if state is None else Prototypes(*map(torch.add, state, new))

    def predict(self, state: Prototypes, x: Tensor) -> Tensor:
        """Minus the squared distances to the means: logits (Q, C); -inf for a class of which
        no example was seen."""
        return compare(self.features(x), state)

    def loss(self, task: Task[Examples]) -> Tensor:
        """The head's loss on the query set, whose labels have a column for each training class;
        nothing is adapted."""
        features = self.embed(task.query.x)
        self.centre(features)  # in training mode it takes note of them
        return self.criterion(self.head(features), task.query)

    def features(self, x: Tensor) -> Tensor:
        """What is compared: (N, D)."""
        features = self.embed(x)
        if self.transform == "CL2N":
            mean = self.centre.running_mean
            assert mean is not None  # BatchNorm1d has none where it tracks nothing
            features = features - mean
        return features if self.transform == "UN" else F.normalize(features, dim=-1)
