"""Learners that act: policies that explore a task and adapt to it.

All derive from `quickstudy.rl.Actor`. A new file holds one actor: docstring with the equation,
actor, helpers, variants.
"""

from quickstudy.learners.policies.maml_rl import MAMLRL, e_maml
from quickstudy.learners.policies.pearl import PEARL
from quickstudy.learners.policies.promp import adapt_penalty, promp
from quickstudy.learners.policies.rl2 import RL2
from quickstudy.learners.policies.snail_policy import SNAILPolicy
from quickstudy.learners.policies.varibad import VariBAD

__all__ = [
    "MAMLRL",
    "PEARL",
    "RL2",
    "SNAILPolicy",
    "VariBAD",
    "adapt_penalty",
    "e_maml",
    "promp",
]
