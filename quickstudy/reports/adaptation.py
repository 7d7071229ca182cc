"""The change of predictions and layers with each inner step."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from quickstudy.capabilities import DescendsInSteps
from quickstudy.evaluation.adaptation import adaptation_trace
from quickstudy.evaluation.report import half_width
from quickstudy.learner import Learner
from quickstudy.reports.curves import plot_metric
from quickstudy.reports.html import Axes, Palette, figure, figures
from quickstudy.runs import Benchmark, settings_applied

TASKS, STEPS = 25, 10  # that are traced, at most


def draw_adaptation(learner: Learner[Any], benchmarks: Mapping[str, Benchmark]) -> str:
    """Plot the query metrics by inner step, and how far each layer moves.

    The tasks are those of the first benchmark; steps go up to the most that any benchmark has.

    Returns:
        HTML; empty for a learner without inner steps.

    Examples:
        >>> import quickstudy as qs
        >>> learner = qs.MAML(qs.nets.MLP(1, 1, hidden=(8,)), criterion=qs.squared_error)
        >>> benchmark = Benchmark(qs.Sinusoid(5, 9), n_tasks=2, meta_batch_size=2)
        >>> draw_adaptation(learner, {"waves": benchmark}).count("<picture>")
        3
    """
    benchmark = next(iter(benchmarks.values()))
    with settings_applied(learner, benchmark.settings):
        if not isinstance(learner, DescendsInSteps) or not learner.steps:
            return ""
        most = max(
            learner.steps, *(each.settings.get("steps", 0) for each in benchmarks.values())
        )
        n_tasks, last = min(TASKS, benchmark.n_tasks), min(most, STEPS)
        trace = adaptation_trace(
            learner,
            benchmark.tasks,
            steps=last,
            n_tasks=n_tasks,
            meta_batch_size=benchmark.meta_batch_size,
        )

    def draw_metric(axes: Axes, palette: Palette, name: str) -> None:
        steps = range(last + 1)
        mean = np.array([report.mean(name) for report in trace.after])
        interval = np.array([report.interval(name) for report in trace.after])
        plot_metric(axes, palette, steps, mean, interval, name)
        axes.set_xticks(steps)
        axes.set(xlabel="inner step", ylabel=f"query {axes.get_ylabel()}")

    def draw_layers(
        axes: Axes, palette: Palette, values: Mapping[str, Tensor], label: str
    ) -> None:
        ends = {name: value[:, -1] for name, value in values.items()}
        mean = [end.mean().item() for end in ends.values()]
        interval = [half_width(end) for end in ends.values()]
        look = {"color": palette["main"], "ecolor": palette["ink"], "height": 0.6}
        axes.barh(list(ends), mean, xerr=interval if n_tasks > 1 else None, **look)
        axes.invert_yaxis()  # the first layer on top
        axes.tick_params(axis="y", labelsize=7)
        axes.set(xlabel=label)

    plots = [
        figure(partial(draw_metric, name=name), f"query {name} by inner step")
        for name in trace.after[0].values
    ]
    similarity = {k: v for k, v in trace.similarity.items() if not v.isnan().any()}
    bars = {"how far each layer moved": trace.moved, "similarity of its outputs": similarity}
    plots += [
        figure(partial(draw_layers, values=v, label=k), k, (4.6, max(3.0, 0.2 * len(v))))
        for k, v in bars.items()
        if v
    ]
    more = f" The test with the most has {most} steps." if most > last else ""
    note = (
        f"The first {n_tasks} tasks of the test, after 0 to {last} inner steps.{more} Bands "
        "and whiskers are 95 % intervals over tasks. The movement of a layer is the change of "
        "its parameters by its last step, relative to their initial values (absolute where "
        "these are zero). The similarity is the linear CKA of its outputs on the query set "
        "before and after. Where only the head moves, features are reused; where the body "
        "moves and its outputs change, features are learned."
    )
    return figures(plots, note)
