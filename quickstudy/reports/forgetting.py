"""The score on each experience of a stream as more experiences are learned."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from quickstudy.evaluation.formatting import format_mean
from quickstudy.evaluation.streams import StreamReport
from quickstudy.reports.html import Axes, Palette, figure, figures
from quickstudy.runs import stream_file


def draw_forgetting(folder: Path, row: str) -> str:
    """Plot the scores on every experience as more are learned.

    Args:
        folder: Folder of a run.
        row: Name of a benchmark.

    Returns:
        HTML; empty for a benchmark that is not on streams.

    Examples:
        >>> draw_forgetting(Path("runs/none"), "5-way 1-shot")
        ''
    """
    file = stream_file(folder, row)
    if not file.exists():
        return ""
    report = StreamReport.from_json(json.loads(file.read_text()))
    metric, streams, mean = report.metric, len(report.matrix), report.report.mean
    plots = [
        figure(partial(_draw, plot=report.plot), f"{metric} on every experience"),
        figure(partial(_draw, plot=report.plot_forgetting), f"{metric} of the past"),
    ]
    note = (
        f"The first of {streams} stream{'s' * (streams > 1)}. Left: the score on each "
        "experience (columns) after each experience (rows, from 0 at the top). Right of the "
        f"diagonal are experiences not yet learned. Right: {metric} on the first experience, "
        "and the mean of all so far. The final mean over all streams is "
        f"{format_mean(metric, mean(metric))}, which is "
        f"{format_mean(metric, mean('forgetting'))} below the best score that each experience "
        "had."
    )
    return figures(plots, note)


def _draw(axes: Axes, palette: Palette, plot: Any) -> None:
    plot(axes)
    sheet = axes.get_figure(root=True)
    for each in sheet.axes if sheet else ():  # the bar of colours has axes, too
        each.tick_params(colors=palette["ink"])
        each.yaxis.label.set_color(palette["ink"])
    legend = axes.get_legend()
    if legend is not None:
        legend.set_frame_on(False)
        for text in legend.get_texts():
            text.set_color(palette["ink"])
