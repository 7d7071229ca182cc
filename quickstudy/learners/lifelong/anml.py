r"""A neuromodulated meta-learning algorithm, ANML (Beaulieu, Frati, Miconi, Lehman, Stanley,
Clune & Cheney, 2020, arXiv:2002.09571).

OML with two nets: a neuromodulatory net h says, by the input, which features of the prediction
net f reach the head, and so, as slopes are multiplied by the same gate, what may learn from an
example:

$$z = W \big(\sigma(h(x)) \odot f(x)\big)$$

In the inner loop of meta-training f and the head learn and h does not. On a stream the head
alone does.

Differs from the paper: f stays as it is in the inner loop too, unless `adapt_parameters=["embed"]`. Then
a trajectory is embedded once, and not again for every step. The meta-gradient is the derivative
of the meta-loss; the authors' code has that of OML as it was before July 2020, and sets slopes
beyond a bound to zero. Rows of the head start as in `OML`.
"""

from typing import Any

from torch import Tensor, nn

from quickstudy.learners.lifelong.oml import OML


class Gated(nn.Module):
    """The features of `embed`, each times a gate between 0 and 1 of what `gate` says."""

    def __init__(self, embed: nn.Module, gate: nn.Module):
        super().__init__()
        self.embed, self.gate = embed, gate

    def forward(self, x: Tensor) -> Tensor:
        """(N, *features) -> (N, D), as `embed` and `gate`."""
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
    """OML on gated features, of two nets (N, *inputs) -> (N, D).

    Args:
        embed: the prediction net, without its head.
        gate: the neuromodulatory net.
        features: D.
        classes: of meta-training.
        lr: of a step of the inner loop.
        settings: as in `OML`. `adapt_parameters=["embed"]`: the inner loop of meta-training changes
            the whole prediction net, as in the paper.
    """
    return OML(Gated(embed, gate), features, classes, lr=lr, **settings)
