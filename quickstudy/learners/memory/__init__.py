"""Learners with a memory: recurrent cells, written slots, and attention over stored examples.

Cells live in `quickstudy.nets.cells`; learners with `attention_weights` can be drawn in
reports. A new file holds one learner: docstring with the equation, state, class, helpers,
variants.
"""

from quickstudy.learners.memory.life_long_memory import LifeLongMemory
from quickstudy.learners.memory.mann import LRUA, MANN
from quickstudy.learners.memory.memory_network import (
    MemoryNetwork,
    few_shot_memory_network,
    story_memory_network,
)
from quickstudy.learners.memory.meta_net import MetaNet
from quickstudy.learners.memory.sequence_learner import (
    SequenceLearner,
    bit_cross_entropy,
    bit_errors,
)

__all__ = [
    "LRUA",
    "MANN",
    "LifeLongMemory",
    "MemoryNetwork",
    "MetaNet",
    "SequenceLearner",
    "bit_cross_entropy",
    "bit_errors",
    "few_shot_memory_network",
    "story_memory_network",
]
