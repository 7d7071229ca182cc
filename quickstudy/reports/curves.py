"""Learning curves, and the band and the axis label that other figures share."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from quickstudy.core.task import Json
from quickstudy.evaluation.formatting import is_share
from quickstudy.reports.html import Axes, Palette, figure, figures, legend
from quickstudy.runs import best_validation, validation_metrics


def draw_curves(history: Sequence[Mapping[str, Json]], better: str = "max") -> str:
    """Plot training loss and validation metrics by step, with the reported checkpoint.

    Args:
        history: An entry for each validation.
        better: "max" or "min" of the first validation metric.

    Returns:
        HTML; empty without validations.

    Examples:
        >>> entry = {"step": 9, "loss": 1.0, "validation accuracy": 0.5, "interval": 0.1}
        >>> draw_curves([{**entry, "score": 0.5}]).count("<picture>")
        2
    """
    if not history:
        return ""
    steps = [entry["step"] for entry in history]
    metrics = list(validation_metrics(history[0]))
    reported = best_validation(history)

    def draw_loss(axes: Axes, palette: Palette) -> None:
        axes.plot(steps, [entry["loss"] for entry in history], ".-", color=palette["main"])
        axes.set(xlabel="step", ylabel="training loss")

    def draw_metric(axes: Axes, palette: Palette, metric: str) -> None:
        mean = np.array([validation_metrics(entry)[metric] for entry in history], float)
        first = metric == metrics[0]  # which alone has intervals
        interval = np.array([entry["interval"] if first else 0 for entry in history], float)
        plot_metric(axes, palette, steps, mean, interval, metric)
        if reported is not None:
            axes.plot(
                reported["step"],
                percent(metric) * mean[steps.index(reported["step"])],
                "o",
                color=palette["other"],
                label="reported",
            )
            legend(axes, palette)
        axes.set(xlabel="step", ylabel=f"validation {axes.get_ylabel()}")

    plots = [figure(draw_loss, "training loss by step")]
    plots += [
        figure(partial(draw_metric, metric=metric), f"validation {metric} by step")
        for metric in metrics
    ]
    direction, first = "highest" if better == "max" else "lowest", metrics[0].replace("_", " ")
    choice = (
        f"No validation {first} is finite, so the last checkpoint is reported."
        if reported is None
        else f"The reported checkpoint has the {direction} validation {first}."
    )
    return figures(plots, f"The band is the 95 % interval over tasks. {choice}")


def percent(metric: str) -> int:
    """Return the factor by which a metric is drawn: shares are drawn in percent.

    Examples:
        >>> percent("accuracy"), percent("squared_error")
        (100, 1)
    """
    return 100 if is_share(metric) else 1


def plot_metric(
    axes: Axes,
    palette: Palette,
    x: Sequence[int],
    mean: np.ndarray,
    interval: np.ndarray,
    metric: str,
) -> None:
    """Plot a metric with a band of its interval, and label the axis.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> from quickstudy.reports.html import Axes, LIGHT
        >>> axes = Figure().add_subplot()
        >>> plot_metric(axes, LIGHT, [0, 1], np.array([0.2, 0.9]), np.zeros(2), "accuracy")
        >>> axes.get_ylabel()
        'accuracy (%)'
    """
    scale, color = percent(metric), palette["main"]
    low, high = scale * (mean - interval), scale * (mean + interval)
    axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    axes.plot(x, scale * mean, ".-", color=color)
    axes.set(ylabel=metric.replace("_", " ") + (" (%)" if scale == 100 else ""))
