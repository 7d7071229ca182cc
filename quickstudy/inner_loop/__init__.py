"""Gradient descent that can itself be differentiated.

`descent` has the loop and its optimizers. `checkpointing` computes steps again in the backward
pass instead of storing their graphs; `capture` finds what must be restored for that. A new
optimizer is a function in `descent` that returns an `InnerOptimizer` of two pure functions.
"""

from quickstudy.inner_loop.descent import (
    InnerOptimizer,
    adam,
    descend,
    momentum,
    steepest_descent,
)

__all__ = ["InnerOptimizer", "adam", "descend", "momentum", "steepest_descent"]
