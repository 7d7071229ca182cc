"""Learners: amortised."""

from quickstudy.learners.amortised.conditional_neural_process import (
    ConditionalNeuralProcess,
    Gaussian,
)
from quickstudy.learners.amortised.snail import SNAIL

__all__ = ["SNAIL", "ConditionalNeuralProcess", "Gaussian"]
