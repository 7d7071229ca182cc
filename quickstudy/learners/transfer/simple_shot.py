r"""SimpleShot (Wang, Chao, Weinberger & van der Maaten, 2019, arXiv:1911.04623).

An embedding f and a linear head are trained as one classifier of all training classes, without
episodes. A query belongs to the nearest class mean of the features. These are used unchanged
(UN), scaled to length 1 (L2N), or centred and then scaled to length 1 (CL2N; section 3.2):

$$z(x) = \frac{f(x) - \bar{f}}{\lVert f(x) - \bar{f} \rVert}, \qquad
  \bar{f} = \text{the mean of } f \text{ over the training classes}$$

Differs from the paper: the mean is a running mean over the batches of training, like that of
batch normalisation; the paper computes it in another pass through the training set.
"""

from typing import Literal

from torch import Tensor, nn

from quickstudy.capabilities import Embeds
from quickstudy.core.prototypes import Prototypes, class_logits, class_sums
from quickstudy.core.similarity import unit
from quickstudy.core.task import Examples, Task
from quickstudy.learner import Learner


class SimpleShot(Learner[Prototypes], Embeds):
    """Train it on tasks of all training classes (`Classification`); `adapt` takes any classes.

    Args:
        embed: (N, *features) -> (N, D).
        head: of the training classes, with one output each; used in training only.
        transform: of the features, see above.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> x, y = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.eye(2)
        >>> embed, head = torch.nn.Identity(), torch.nn.Linear(2, 20)
        >>> learner = qs.SimpleShot(embed, head, transform="L2N")
        >>> state = learner.adapt(qs.Examples(x, y, torch.ones(2)))
        >>> learner.predict(state, torch.tensor([[9.0, 0.1]])).argmax(-1)
        tensor([0])
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
        # for its running mean, which execution and checkpoints know how to keep
        self.centre = nn.BatchNorm1d(head.in_features, affine=False, momentum=0.01)

    def adapt(self, support: Examples, state: Prototypes | None = None) -> Prototypes:
        """Add the features of each class to the sums of `state`."""
        return class_sums(self.features(support.x), support, state)

    def predict(self, state: Prototypes, x: Tensor) -> Tensor:
        """Return minus the squared distances to the class means: logits (Q, C).

        -inf for a class without examples.
        """
        return class_logits(self.features(x), state)

    def loss(self, task: Task[Examples]) -> Tensor:
        """Return the loss of the head on the query set, without adaptation.

        Labels have a column for each training class.
        """
        features = self.embed(task.query.x)
        self.centre(features)  # updates the running mean in training mode
        return self.criterion(self.head(features), task.query)

    def features(self, x: Tensor) -> Tensor:
        """Return the transformed embeddings of `x` (N, D)."""
        features = self.embed(x)
        if self.transform == "CL2N":
            mean = self.centre.running_mean
            assert mean is not None  # it tracks running statistics
            features = features - mean
        return features if self.transform == "UN" else unit(features)
