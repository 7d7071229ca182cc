"""Results of meta-testing: a number for each task and metric, and the protocol behind them."""

import base64
import json
import math
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from quickstudy.core.task import Json
from quickstudy.storage.files import replace_file

# the facts of a card that are about the learner; all others are about the tasks
LEARNER_FACTS = {"learner", "selection", "transductive"}


class Difference(NamedTuple):
    """One learner minus another on the same tasks, for one metric.

    Examples:
        >>> print(Difference(0.021, 0.004, 0.75))
        +0.0210 ± 0.0040, larger on 75% of tasks
    """

    mean: float  # of the differences over tasks
    interval: float  # half the width of the 95 % interval of that mean
    wins: float  # share of tasks on which the first is larger; a tie counts half

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ± {self.interval:.4f}, larger on {self.wins:.0%} of tasks"


@dataclass(frozen=True)
class Report:
    """A number per task and metric, and the protocol that they were measured by.

    Methods that take a `metric` raise a ValueError if the report has no such metric.

    Examples:
        >>> report = Report({"accuracy": torch.tensor([0.5, 0.75, 1.0])}, {"shots": 1})
        >>> print(report)
        accuracy 0.7500 ± 0.6210  [shots: 1]
    """

    values: Mapping[str, Tensor]  # (T,) each, float64
    card: Mapping[str, Json] = field(default_factory=dict)

    def mean(self, metric: str) -> float:
        """Return the mean over tasks."""
        return self._task_values(metric).mean().item()

    def interval(self, metric: str) -> float:
        """Return half the width of the mean's 95 % interval; NaN for one task."""
        return half_width(self._task_values(metric))

    def paired_difference(self, other: "Report", metric: str | None = None) -> Difference:
        """Return this report minus `other`, paired by task.

        Args:
            metric: None for the first.

        Raises:
            ValueError: the two were not measured on the same tasks.
        """
        metric = next(iter(self.values)) if metric is None else metric
        values, others = self._task_values(metric), other._task_values(metric)
        keys = [
            key
            for key in sorted({*self.card, *other.card} - LEARNER_FACTS)
            if self.card.get(key) != other.card.get(key)
        ]
        if keys or len(values) != len(others):
            raise ValueError(
                "These reports are of different tasks "
                f"(they differ in {', '.join(keys) or 'their number'}). "
                "Evaluate both with the same tasks, n_tasks, meta_batch_size and seed."
            )
        gap = values - others
        wins = torch.where(gap.isnan(), gap, 0.5 + 0.5 * gap.sign()).mean().item()
        return Difference(gap.mean().item(), half_width(gap), wins)

    def to_json(self) -> Json:
        """Return a summary, and every value for `from_json`; NaN and infinity become null."""
        return {
            "summary": {
                m: {
                    "mean": finite_or_none(self.mean(m)),
                    "interval": finite_or_none(self.interval(m)),
                }
                for m in self.values
            },
            "card": dict(self.card),
            "values": {m: json_numbers(v) for m, v in self.values.items()},
        }

    @classmethod
    def from_json(cls, data: Json) -> "Report":
        """Return the report of `to_json`; null becomes NaN."""
        values = {
            m: torch.tensor([math.nan if x is None else x for x in v], dtype=torch.float64)
            for m, v in data["values"].items()
        }
        return cls(values, data["card"])

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file, as a whole or not at all."""
        replace_file(Path(path), (json.dumps(self.to_json()) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Read a report that `save` wrote."""
        return cls.from_json(json.loads(Path(path).read_text()))

    def __str__(self) -> str:
        rows = [f"{m} {self.mean(m):.4f} ± {self.interval(m):.4f}" for m in self.values]
        card = ", ".join(f"{key}: {value}" for key, value in self.card.items())
        return ", ".join(rows) + (f"  [{card}]" if card else "")

    def _task_values(self, metric: str) -> Tensor:
        if metric not in self.values:
            raise ValueError(
                f"This report has no metric {metric!r}; it has: {', '.join(self.values)}."
            )
        return self.values[metric].double()


def half_width(values: Tensor) -> float:
    """Return half the width of the 95 % interval of the mean of values (T,), by Student's t;
    NaN for one value.

    Examples:
        >>> round(half_width(torch.tensor([1.0, 2.0, 3.0])), 4)
        2.4841
    """
    if len(values) < 2:
        return math.nan
    from scipy.stats import t as student  # takes longer to import than most commands run

    quantile = float(student.ppf(0.975, len(values) - 1))
    return quantile * values.std().item() / len(values) ** 0.5


def warn_of_nan(values: Mapping[str, Tensor]) -> None:
    """Warn if the number of a task (T,) is NaN in some metric, with how many tasks it is.

    Examples:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_of_nan({"loss": torch.tensor([0.5, math.nan])})
        >>> print(str(caught[0].message)[:26])
        loss is NaN on 1 of 2 task
    """
    nan = torch.stack([value.isnan() for value in values.values()])  # (M, T)
    if nan.any():
        names = ", ".join(name for name, some in zip(values, nan.any(1), strict=True) if some)
        warnings.warn(
            f"{names} is NaN on {int(nan.any(0).sum())} of {nan.shape[1]} tasks, as where a "
            "learner diverged and its predictions are not finite: lower its inner learning "
            "rate, or load an earlier checkpoint.",
            stacklevel=3,
        )


def finite_or_none(number: float) -> float | None:
    """Return the number, or None, which is JSON's null, if it is NaN or infinite.

    Examples:
        >>> finite_or_none(0.5), finite_or_none(math.nan)
        (0.5, None)
    """
    return number if math.isfinite(number) else None


def json_numbers(values: Tensor) -> Json:
    """Return a tensor as nested lists, with None for what is NaN or infinite.

    Examples:
        >>> json_numbers(torch.tensor([[0.5, math.nan]]))
        [[0.5, None]]
    """
    if values.ndim:
        return [json_numbers(part) for part in values]
    return finite_or_none(values.item())


def pack(values: Tensor) -> str:
    """Return numbers (T,), to four digits, as a short text.

    Examples:
        >>> unpack(pack(torch.tensor([0.5, 0.25]))).tolist()
        [0.5, 0.25]
    """
    digits = " ".join(f"{value:.4g}" for value in values.tolist())
    return base64.b64encode(zlib.compress(digits.encode(), 9)).decode()


def unpack(text: str) -> Tensor:
    """Return the numbers (T,) of a text that `pack` made, as float64.

    Examples:
        >>> unpack(pack(torch.ones(2))).dtype
        torch.float64
    """
    digits = zlib.decompress(base64.b64decode(text)).decode().split()
    return torch.tensor([float(value) for value in digits], dtype=torch.float64)
