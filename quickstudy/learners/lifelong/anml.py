r"""A neuromodulated meta-learning algorithm, ANML (Beaulieu, Frati, Miconi, Lehman, Stanley,
Clune & Cheney, 2020, arXiv:2002.09571).

OML with two nets. From the input, a neuromodulatory net h computes gates for the features of
the prediction net f. The gates scale the features in the forward pass and the gradients in the
backward pass, and so select what learns from an example:

$$z = W \big(\sigma(h(x)) \odot f(x)\big)$$

In the inner loop of meta-training f and the head learn, and h does not. On a stream only the
head learns.

Differs from the paper: f is constant in the inner loop, unless `adapt_parameters=["embed"]`. A
trajectory is then embedded once instead of at every step. The meta-gradient is the derivative
of the meta-loss; the authors' code has that of OML as it was before July 2020, and sets
gradients beyond a bound to zero. Rows of the head start as in `OML`.
"""

from typing import Any

from torch import Tensor, nn

from quickstudy.learners.lifelong.oml import OML


class Gated(nn.Module):
    """The features of `embed`, each times the sigmoid of an output of `gate`.

    Examples:
        >>> import torch
        >>> Gated(torch.nn.Identity(), torch.nn.Identity())(torch.tensor([[0.0, 100.0]]))
        tensor([[  0., 100.]])
    """

    def __init__(self, embed: nn.Module, gate: nn.Module):
        super().__init__()
        self.embed, self.gate = embed, gate

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, *features) to (N, D), as `embed` and `gate`."""
        return self.embed(x) * self.gate(x).sigmoid()


def anml(
    embed: nn.Module,
    gate: nn.Module,
    features: int,
    classes: int,
    *,
    lr: float = 0.1,
    **settings: Any,
) -> OML:
    """OML on gated features of two nets (N, *inputs) -> (N, D).

    Args:
        embed: the prediction net, without its head.
        gate: the neuromodulatory net.
        features: D.
        classes: of meta-training.
        lr: of a step of the inner loop.
        settings: as in `OML`. With `adapt_parameters=["embed"]` the inner loop of meta-training
            changes the whole prediction net, as in the paper.

    Examples:
        >>> import torch
        >>> import quickstudy as qs
        >>> embed, gate = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
        >>> learner = qs.anml(embed, gate, features=2, classes=3)
        >>> learner.embed(torch.ones(5, 4)).shape, learner.head
        (torch.Size([5, 2]), Linear(in_features=2, out_features=3, bias=True))
    """
    return OML(Gated(embed, gate), features, classes, lr=lr, **settings)
