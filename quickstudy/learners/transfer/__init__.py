"""Learners that are trained as one classifier of all training classes, without episodes.

Train them on `Classification` tasks; `loss` trains embedding and head, `adapt` and `predict`
fit a new head to a task's support set. Two are transductive: `predict` uses all queries
together. A new file holds one learner: docstring with the equation, state, class, helpers,
variants.
"""

from quickstudy.learners.transfer.baseline import Baseline, baseline, baseline_pp
from quickstudy.learners.transfer.simple_shot import SimpleShot
from quickstudy.learners.transfer.tim import TIM
from quickstudy.learners.transfer.transductive_fine_tuning import TransductiveFineTuning

__all__ = ["TIM", "Baseline", "SimpleShot", "TransductiveFineTuning", "baseline", "baseline_pp"]
