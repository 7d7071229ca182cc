"""Where tasks come from: one file per distribution."""

from quickstudy.tasks.classification import Classification
from quickstudy.tasks.copying import Copy, RepeatCopy
from quickstudy.tasks.few_shot import FewShot
from quickstudy.tasks.fixed import Fixed
from quickstudy.tasks.functions import Line, Parabola
from quickstudy.tasks.gaussian_process import GaussianProcess
from quickstudy.tasks.mixture import Mixture
from quickstudy.tasks.off_policy import OffPolicyTasks
from quickstudy.tasks.online_trajectories import OnlineTrajectoryTasks
from quickstudy.tasks.presentations import Presentations
from quickstudy.tasks.rollouts import Rollouts
from quickstudy.tasks.scenarios import (
    class_incremental,
    permuted,
    recurring,
    rotated,
    split_domains,
)
from quickstudy.tasks.sinusoid import Sinusoid
from quickstudy.tasks.stories import Stories
from quickstudy.tasks.streams import Stream, Streams

__all__ = [
    "Classification",
    "Copy",
    "FewShot",
    "Fixed",
    "GaussianProcess",
    "Line",
    "Mixture",
    "OffPolicyTasks",
    "OnlineTrajectoryTasks",
    "Parabola",
    "Presentations",
    "RepeatCopy",
    "Rollouts",
    "Sinusoid",
    "Stories",
    "Stream",
    "Streams",
    "class_incremental",
    "permuted",
    "recurring",
    "rotated",
    "split_domains",
]
