"""Gradient descent that can itself be differentiated."""

from quickstudy.inner_loop.descent import SGD, InnerOptimizer, adam, descend, momentum

__all__ = ["SGD", "InnerOptimizer", "adam", "descend", "momentum"]
