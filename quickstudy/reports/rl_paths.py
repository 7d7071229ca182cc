"""Pictures of where a learner went before it had adapted to a task, and after.

For the report of a run in an environment that says so by a method `places`.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Generator, Tensor

from quickstudy.core.functional import tree_map
from quickstudy.environments.environment import Places
from quickstudy.environments.rollout import Episodes
from quickstudy.evaluation.protocol import evaluating
from quickstudy.learner import Learner
from quickstudy.reports.html import Palette, figure, paragraph
from quickstudy.runs.recipes import Benchmark
from quickstudy.tasks.rollouts import Rollouts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TASKS, EPISODES = 4, 3  # drawn, at most


@runtime_checkable
class Placed(Protocol):
    """An environment whose episodes can be drawn in the plane."""

    def places(self, task: Any, episodes: Episodes) -> Places:
        """Where the episodes (E, H) of one task went."""
        ...


def paths(learner: Learner[Any], test: Benchmark, *, seed: int = 1) -> str:
    """Where a learner went in the first tasks of a test (of `seed`), as HTML; nothing where
    there are no places.

    Args:
        learner: stays with the settings of the test.
    """
    tasks = test.tasks
    if not (isinstance(tasks, Rollouts) and isinstance(tasks.environment, Placed)):
        return ""
    for name, value in test.settings.items():
        setattr(learner, name, value)
    # the worlds are the first that rollouts draw, so they are the same
    worlds = tasks.environment.tasks(TASKS, Generator().manual_seed(seed))
    with evaluating(learner):
        batch = tasks.sample(TASKS, Generator().manual_seed(seed))
    drawn = []
    for i in range(TASKS):
        world, support, query = (
            tree_map(lambda leaf: leaf[i].cpu(), part)  # noqa: B023
            for part in (worlds, *(part._replace(extras=()) for part in batch))
        )
        first = _rows(support, slice(1 if tasks.trial else EPISODES))
        last = _rows(query, slice(-1 if tasks.trial else -EPISODES, None))
        seen = [(tasks.environment.places(world, part), part.weight) for part in (first, last)]
        drawn.append(figure(partial(_draw, seen=seen), f"paths of task {i + 1}", (3.2, 3.4)))
    says = "the first and the last episode of a trial" if tasks.trial else "some episodes"
    note = f"The first tasks of the test, not picked; {says}, before adaptation and after it."
    return f'<div class="figures">{"".join(drawn)}</div>{paragraph(note)}'


def _rows(episodes: Episodes, rows: slice) -> Episodes:
    return tree_map(lambda leaf: leaf[rows], episodes)


def _draw(axes: "Axes", palette: Palette, seen: list[tuple[Places, Tensor]]) -> None:
    from matplotlib.patches import Rectangle

    places = seen[0][0]
    for x, y in places.walls.tolist():
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=palette["frame"]))
    for (found, weight), colour, says in zip(
        seen, (palette["other"], palette["main"]), ("before", "after"), strict=True
    ):
        for path, steps in zip(found.path, weight.sum(-1).long().tolist(), strict=True):
            axes.plot(*path[: steps + 1].T, ".-", color=colour, alpha=0.8, markersize=3)
        axes.lines[-1].set_label(says)
    axes.plot(*places.goal, "*", color=palette["ink"], markersize=12, label="goal")
    axes.set(aspect="equal", xticks=[], yticks=[])
    style = {"frameon": False, "labelcolor": palette["ink"], "fontsize": 8}
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, **style)
