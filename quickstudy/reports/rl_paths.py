"""Paths of an actor in the plane, before it adapts to a task and after."""

from functools import partial
from typing import Any, Protocol, runtime_checkable

from torch import Generator, Tensor

from quickstudy.core.tree import tree_map
from quickstudy.environments.environment import PlanarTrace
from quickstudy.environments.rollout import Episodes
from quickstudy.evaluation.protocol import evaluating
from quickstudy.learner import Learner
from quickstudy.reports.first_tasks import NOTE
from quickstudy.reports.html import Axes, Palette, figure, figures, legend
from quickstudy.runs import Benchmark, settings_applied
from quickstudy.tasks.rollouts import Rollouts

TASKS, EPISODES = 4, 3  # drawn at most


@runtime_checkable
class Plottable2D(Protocol):
    """An environment whose episodes can be drawn in the plane.

    Examples:
        >>> import quickstudy as qs
        >>> isinstance(qs.environments.GridMaze(5), Plottable2D)
        True
    """

    def planar_trace(self, task: Any, episodes: Episodes) -> PlanarTrace:
        """Return the paths of the episodes (E, H) of one task."""
        ...


def draw_paths(learner: Learner[Any], benchmark: Benchmark, *, seed: int = 1) -> str:
    """Draw the paths of an actor in the first tasks of a benchmark.

    Returns:
        HTML; empty if the environment is not `Plottable2D`.

    Examples:
        >>> import quickstudy as qs
        >>> maze = qs.environments.GridMaze(5, horizon=6)
        >>> learner = qs.RL2(maze, hidden=4)
        >>> trials = qs.tasks.Rollouts(maze, learner, episodes=2, trial=True)
        >>> draw_paths(learner, Benchmark(trials)).count("<picture>")
        4
    """
    tasks = benchmark.tasks
    if not (isinstance(tasks, Rollouts) and isinstance(tasks.environment, Plottable2D)):
        return ""
    # rollouts draw these tasks first, so they are the tasks of the batch
    worlds = tasks.environment.tasks(TASKS, Generator().manual_seed(seed))
    with evaluating(tasks.learner) as copy, settings_applied(copy, benchmark.settings):
        batch = tasks.by(copy).sample(TASKS, Generator().manual_seed(seed))
    drawn: list[str] = []
    for i in range(TASKS):
        world, support, query = (
            tree_map(lambda leaf, i=i: leaf[i].cpu(), part)
            for part in (worlds, *(part._replace(extras=()) for part in batch))
        )
        before = tree_map(lambda leaf: leaf[: 1 if tasks.trial else EPISODES], support)
        after = tree_map(lambda leaf: leaf[-1 if tasks.trial else -EPISODES :], query)
        traces = [
            (tasks.environment.planar_trace(world, part), part.weight)
            for part in (before, after)
        ]
        drawn.append(
            figure(partial(_draw, traces=traces), f"paths of task {i + 1}", (3.2, 3.4))
        )
    shown = "The first and the last episode of a trial" if tasks.trial else "Some episodes"
    return figures(drawn, f"{NOTE} {shown}, before adaptation and after it.")


def _draw(axes: Axes, palette: Palette, traces: list[tuple[PlanarTrace, Tensor]]) -> None:
    from matplotlib.patches import Rectangle

    place = traces[0][0]
    for x, y in place.walls.tolist():
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=palette["frame"]))
    for (trace, weight), colour, label in zip(
        traces, (palette["other"], palette["main"]), ("before", "after"), strict=True
    ):
        for path, steps in zip(trace.path, weight.sum(-1).long().tolist(), strict=True):
            axes.plot(*path[: steps + 1].T, ".-", color=colour, alpha=0.8, markersize=3)
        axes.lines[-1].set_label(label)
    axes.plot(*place.goal, "*", color=palette["ink"], markersize=12, label="goal")
    axes.set(aspect="equal", xticks=[], yticks=[])
    legend(axes, palette, ncols=3, fontsize=8)
