"""Lifelong learners: they adapt to a stream, one experience after another.

`net_learner` has what learners of one net share, `replay_buffer` mini-batches and memories of
past examples. A new file has one learner whose `adapt` takes its own state back and whose state
is a named tuple `<Learner>State`; if it changes the parameters of a net, it derives from
`NetLearner`, or from `ReplayLearner` if it keeps a sample of the past.
"""

from quickstudy.learners.lifelong.a_gem import AGEM
from quickstudy.learners.lifelong.anml import Gated, anml
from quickstudy.learners.lifelong.dark_experience_replay import DarkExperienceReplay
from quickstudy.learners.lifelong.ewc import EWC, online_ewc
from quickstudy.learners.lifelong.experience_replay import ExperienceReplay
from quickstudy.learners.lifelong.fine_tuning import FineTuning
from quickstudy.learners.lifelong.gdumb import GDumb
from quickstudy.learners.lifelong.joint import Joint
from quickstudy.learners.lifelong.la_maml import LaMAML, c_maml, sync_la_maml
from quickstudy.learners.lifelong.learning_without_forgetting import LearningWithoutForgetting
from quickstudy.learners.lifelong.mer import MER
from quickstudy.learners.lifelong.oml import OML
from quickstudy.learners.lifelong.streaming_lda import StreamingLDA
from quickstudy.learners.lifelong.synaptic_intelligence import SynapticIntelligence

__all__ = [
    "AGEM",
    "EWC",
    "MER",
    "OML",
    "DarkExperienceReplay",
    "ExperienceReplay",
    "FineTuning",
    "GDumb",
    "Gated",
    "Joint",
    "LaMAML",
    "LearningWithoutForgetting",
    "StreamingLDA",
    "SynapticIntelligence",
    "anml",
    "c_maml",
    "online_ewc",
    "sync_la_maml",
]
