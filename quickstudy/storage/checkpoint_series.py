"""The checkpoints of one run: the last ones and the best."""

import math
import shutil
from contextlib import suppress
from pathlib import Path

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from quickstudy.core.task import Json
from quickstudy.storage.checkpoints import RUN_FILE, read_facts, save
from quickstudy.storage.files import CheckpointError

_STEP = "step-" + 8 * "[0-9]"


class Checkpoints:
    """The checkpoints of one run, in `folder/step-00001000` and so on.

    The last `keep` stay, and the one with the highest score. A folder whose save was cut short
    does not count.

    Examples:
        >>> import tempfile
        >>> import quickstudy as qs
        >>> checkpoints = qs.storage.Checkpoints(tempfile.mkdtemp(), keep=1)
        >>> for step, score in ((1, 0.9), (2, 0.5), (3, 0.7)):
        ...     path = checkpoints.save(step, qs.MAML(qs.nets.MLP(1, 1)), score=score)
        >>> checkpoints.best().name, checkpoints.latest().name
        ('step-00000001', 'step-00000003')
    """

    def __init__(self, folder: str | Path, *, keep: int = 2):
        if keep < 1:
            raise ValueError(
                f"keep={keep} would keep no checkpoint to resume from: give 1 or more."
            )
        self.folder, self.keep = Path(folder), keep

    def save(
        self,
        step: int,
        learner: nn.Module,
        optimizer: Optimizer | None = None,
        scheduler: LRScheduler | None = None,
        *,
        score: float | None = None,
        **facts: Json,
    ) -> Path:
        """Write the checkpoint of `step`, with the facts `step` and `score`; then delete
        those that are not kept.

        Raises:
            CheckpointError: as `save`, or the folder has checkpoints of later steps.
        """
        path = self.folder / f"step-{step:08d}"
        latest = self.latest()
        if latest is not None and latest.name > path.name:
            raise CheckpointError(
                f"{self.folder} has a later checkpoint, {latest.name}: resume from that, "
                "delete it, or choose another folder."
            )
        save(path, learner, optimizer, scheduler, step=step, score=score, **facts)
        self._prune()
        return path

    def latest(self) -> Path | None:
        """Return the checkpoint of the last step, or None."""
        return max(self._complete(), default=None)

    def best(self) -> Path | None:
        """Return the checkpoint of the highest score (the earliest of equals), or None."""
        scores: dict[Path, float] = {}
        for path in self._complete():
            with suppress(CheckpointError):  # a damaged one is not the best
                score = read_facts(path).get("score")
                if score is not None and not math.isnan(score):
                    scores[path] = score
        return max(scores, key=lambda path: scores[path], default=None)

    def _complete(self) -> list[Path]:
        """Return the complete checkpoints in the order of their steps."""
        return sorted(run.parent for run in self.folder.glob(f"{_STEP}/{RUN_FILE}"))

    def _prune(self) -> None:
        wanted = {*self._complete()[-self.keep :], self.best()}
        for path in set(self.folder.glob(_STEP)) - wanted:
            with suppress(OSError):
                (path / RUN_FILE).unlink(missing_ok=True)  # first: the rest does not count then
                shutil.rmtree(path)
