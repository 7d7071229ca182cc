"""A run as one HTML file.

`write` puts it together from `tables` and from figures, one file each, which build on `html`. A
new figure is a function `draw_X(learner, benchmark)` that returns HTML, empty if there is
nothing to draw, in a file named after what it draws, and a line in `write`. `first_tasks` gives
it the first tasks of a benchmark.
"""

from quickstudy.reports.adaptation import draw_adaptation
from quickstudy.reports.attention import draw_attention
from quickstudy.reports.curves import draw_curves
from quickstudy.reports.embedding import draw_embedding
from quickstudy.reports.episode import draw_episode
from quickstudy.reports.forgetting import draw_forgetting
from quickstudy.reports.functions import draw_functions
from quickstudy.reports.retrieval import draw_retrieval
from quickstudy.reports.rl_paths import draw_paths
from quickstudy.reports.write import write

__all__ = [
    "draw_adaptation",
    "draw_attention",
    "draw_curves",
    "draw_embedding",
    "draw_episode",
    "draw_forgetting",
    "draw_functions",
    "draw_paths",
    "draw_retrieval",
    "write",
]
