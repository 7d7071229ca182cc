"""Learners that solve a convex problem on top of a learned embedding.

The solver is differentiated in closed form or at its solution, not through descent. A new file
holds one learner: docstring with the equation, state, class, the solver as a function.
"""

from quickstudy.learners.heads.meta_opt_net import MetaOptNet, meta_opt_net_ridge, svm
from quickstudy.learners.heads.r2d2 import LRD2, R2D2
from quickstudy.learners.heads.ridge import RidgeRegression

__all__ = ["LRD2", "R2D2", "MetaOptNet", "RidgeRegression", "meta_opt_net_ridge", "svm"]
