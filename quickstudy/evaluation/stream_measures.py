"""The measures of lifelong learning: accuracy, forgetting and transfer.

They are those of Lopez-Paz & Ranzato (2017, arXiv:1706.08840) and Chaudhry et al. (2018,
arXiv:1801.10112).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from quickstudy.core.task import Json
from quickstudy.evaluation.report import Report, json_numbers

if TYPE_CHECKING:  # matplotlib is slow to import, and only reports draw
    from matplotlib.axes import Axes

Row: TypeAlias = dict[str, Json]  # of a history: number, scores, seconds, examples, bytes


@dataclass(frozen=True)
class StreamReport:
    """The scores on the tests of every experience as more were learned.

    `matrix[r, i, j]` is the score of stream r on the test of experience j + 1 after i
    experiences. Below the first row, the diagonal has the scores right after learning. Above it
    are those before. Larger is better. NaN was not measured, or the learner diverged: measures
    that depend on a diverged score are NaN.

    Examples:
        >>> import torch
        >>> matrix = torch.tensor([[[0.5, 0.5], [0.9, 0.6], [0.7, 1.0]]]).double()
        >>> facts = torch.ones(1, 2).double()
        >>> scores = StreamReport(matrix, seconds=facts, examples=facts, bytes=facts)
        >>> for name in ("accuracy", "forgetting", "forward transfer"):
        ...     print(name, round(scores.report.mean(name), 2))
        accuracy 0.85
        forgetting 0.2
        forward transfer 0.1
    """

    matrix: Tensor  # (R, E + 1, E), float64
    seconds: Tensor  # (R, E)  of learning each experience
    examples: Tensor  # (R, E)
    bytes: Tensor  # (R, E)  of the state after each experience
    card: Mapping[str, Json] = field(default_factory=dict)
    metric: str = "accuracy"
    every: int | None = None  # scores are measured after each; None: where a row has any

    @property
    def report(self) -> Report:
        """Return a number per stream and measure:

        - `accuracy` (or another metric): mean over all tests at the end. Also known as
          retained accuracy.
        - `forgetting`: by how much the score of an experience has fallen from its best since it
          was learned; the mean over all experiences except the last.
        - `backward transfer`: by how much it has risen since it had just been learned; the mean
          over the same. Also known as backward transfer and interference.
        - `forward transfer`: by how much the score of an experience has risen from the start
          until just before it came; the mean over all except the first.
        - `area`: the area under the learning curve: the mean over the stream of the `accuracy`
          on the experiences so far.
        - `milliseconds per example`, and `kilobytes` of the state at the end.
        """
        end, later = self.matrix[:, -1], self.matrix[:, 1:]  # (R, E), (R, E, E)
        measured = self._measured()  # (R, E)
        known = measured[:, :, None] & torch.ones_like(later).tril().bool()  # since learned
        learned = later.diagonal(dim1=1, dim2=2)  # (R, E)
        best = later.masked_fill(~known, -torch.inf).amax(1)  # of NaN it is NaN
        before = self.matrix[:, :-1].diagonal(dim1=1, dim2=2)
        return Report(
            {
                self.metric: end.mean(-1),
                "forgetting": (best - end)[:, :-1].mean(-1),
                "backward transfer": _mean((end - learned)[:, :-1], measured[:, :-1]),
                "forward transfer": _mean(
                    (before - self.matrix[:, 0])[:, 1:], measured[:, :-1]
                ),
                "area": _mean(_mean(later, known), measured),
                "milliseconds per example": self.seconds.sum(1) * 1000 / self.examples.sum(1),
                "kilobytes": self.bytes[:, -1] / 1000,
            },
            self.card,
        )

    def _measured(self) -> Tensor:
        """Whether the tests were scored after each experience (R, E)."""
        later = self.matrix[:, 1:]
        if self.every is None:
            return ~later.isnan().all(-1)
        number = torch.arange(1, later.shape[1] + 1)
        due = (number % self.every == 0) | (number == len(number))
        return due & ~self.seconds.isnan()

    def plot(self, axes: "Axes", stream: int = 0) -> None:
        """Draw the matrix of one stream: a row for every experience learned, a column for every
        test."""
        image = axes.imshow(
            self.matrix[stream].numpy(), vmin=0, vmax=1, aspect="auto", interpolation="nearest"
        )
        axes.set(xlabel="test of experience", ylabel="experiences learned")
        axes.figure.colorbar(image, ax=axes, label=self.metric)

    def plot_forgetting(self, axes: "Axes", stream: int = 0) -> None:
        """Draw the score of the first experience, and the mean of all so far, against the
        experiences learned."""
        later = self.matrix[stream, 1:]
        at, seen = torch.arange(1, len(later) + 1), torch.ones_like(later).tril().bool()
        mean = _mean(later, seen)
        for values, label in ((later[:, 0], "the first"), (mean, "all so far")):
            measured = ~values.isnan()
            axes.plot(at[measured].numpy(), values[measured].numpy(), marker=".", label=label)
        axes.set(xlabel="experiences learned", ylabel=self.metric, ylim=(0, 1.02))
        axes.legend()

    def to_json(self) -> Json:
        """Return every number, for `from_json`."""
        tensors = ("matrix", "seconds", "examples", "bytes")
        return {
            **{name: json_numbers(getattr(self, name).round(decimals=6)) for name in tensors},
            "card": dict(self.card),
            "metric": self.metric,
            "every": self.every,
        }

    @classmethod
    def from_json(cls, data: Json) -> "StreamReport":
        """Return the report that `to_json` was called on."""
        tensors = {
            name: torch.from_numpy(np.array(data[name], np.float64))  # null is NaN
            for name in ("matrix", "seconds", "examples", "bytes")
        }
        facts = {"card": data["card"], "metric": data["metric"], "every": data.get("every")}
        return cls(**tensors, **facts)

    @classmethod
    def from_histories(
        cls,
        histories: Sequence[Sequence[Row]],
        card: Mapping[str, Json],
        metric: str,
        every: int | None = None,
    ) -> "StreamReport":
        """Return the rows of streams, the last of which may be unfinished, as one report."""
        tests = max((len(row["scores"]) for rows in histories for row in rows), default=0)
        matrix = torch.full((len(histories), tests + 1, tests), torch.nan, dtype=torch.float64)
        facts = torch.full((3, len(histories), tests), torch.nan, dtype=torch.float64)
        for stream, rows in enumerate(histories):
            for row in rows:
                number = row["number"]
                scores = np.array(row["scores"], np.float64)  # null is NaN
                matrix[stream, number, : len(scores)] = torch.from_numpy(scores)
                if number:
                    facts[:, stream, number - 1] = torch.tensor(
                        [row["seconds"], row["examples"], row["bytes"]], dtype=torch.float64
                    )
        card = {**card, "streams": len(histories)}
        return cls(matrix, *facts, card=card, metric=metric, every=every)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """Return the mean of the counted values over the last axis; NaN if there is none."""
    return values.masked_fill(~counted, 0).sum(-1) / counted.sum(-1)
