"""Networks of the papers, and what makes any net batchable over tasks."""

from quickstudy.nets.backbones import (
    MLP,
    Conv4,
    GaussianPolicy,
    ReLU,
    SpatialMean,
    policy_net,
    use_batch_statistics,
)
from quickstudy.nets.cells import NTM, FeedForward, LSTMCell, RecurrentCell, StackedLSTM
from quickstudy.nets.low_rank import is_low_rank, lora
from quickstudy.nets.recurrent import use_cells

__all__ = [
    "MLP",
    "NTM",
    "Conv4",
    "FeedForward",
    "GaussianPolicy",
    "LSTMCell",
    "ReLU",
    "RecurrentCell",
    "SpatialMean",
    "StackedLSTM",
    "is_low_rank",
    "lora",
    "policy_net",
    "use_batch_statistics",
    "use_cells",
]
