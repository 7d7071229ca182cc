"""Meta-training: the loop, and optimizers that take several steps on a batch."""

from quickstudy.training.embed_together import EmbedTogether
from quickstudy.training.loop import Step, train
from quickstudy.training.multi_epoch import MultiEpoch
from quickstudy.training.trust_region import TRPO

__all__ = ["TRPO", "EmbedTogether", "MultiEpoch", "Step", "train"]
