"""Networks of the papers, and what makes any net batchable over tasks."""

from quickstudy.nets.backbones import (
    MLP,
    Conv4,
    ReLU,
    SpatialMean,
    use_batch_statistics,
)
from quickstudy.nets.cells import NTM, FeedForward, LSTMCell, RecurrentCell, StackedLSTM
from quickstudy.nets.low_rank import is_low_rank, lora
from quickstudy.nets.policy_nets import GaussianPolicy, policy_net
from quickstudy.nets.recurrent import chrono_init, use_cells
from quickstudy.nets.temporal import CausalAttention, TemporalConvolution

__all__ = [
    "MLP",
    "NTM",
    "CausalAttention",
    "Conv4",
    "FeedForward",
    "GaussianPolicy",
    "LSTMCell",
    "ReLU",
    "RecurrentCell",
    "SpatialMean",
    "StackedLSTM",
    "TemporalConvolution",
    "chrono_init",
    "is_low_rank",
    "lora",
    "policy_net",
    "use_batch_statistics",
    "use_cells",
]
