"""Learners that adapt by a forward pass alone: encoders and causal nets over the support set.

A new file holds one learner: docstring with the equation, state, class, helpers, variants.
"""

from quickstudy.learners.amortised.conditional_neural_process import (
    ConditionalNeuralProcess,
    Gaussian,
)
from quickstudy.learners.amortised.snail import SNAIL

__all__ = ["SNAIL", "ConditionalNeuralProcess", "Gaussian"]
