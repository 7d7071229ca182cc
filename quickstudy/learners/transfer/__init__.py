"""Learners: transfer."""

from quickstudy.learners.transfer.baseline import Baseline, baseline, baseline_pp
from quickstudy.learners.transfer.simple_shot import SimpleShot
from quickstudy.learners.transfer.tim import TIM
from quickstudy.learners.transfer.transductive_fine_tuning import TransductiveFineTuning

__all__ = ["TIM", "Baseline", "SimpleShot", "TransductiveFineTuning", "baseline", "baseline_pp"]
