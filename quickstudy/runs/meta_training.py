"""The meta-training of a run: its steps, validations and checkpoints."""

import math
import os
from collections.abc import Generator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import nn

from quickstudy.core.task import Json
from quickstudy.evaluation.report import Report, finite_or_none
from quickstudy.execution.choosing import option_of
from quickstudy.execution.options import ExecutionOption, compile_learner, configured
from quickstudy.runs.host import Clock, interrupts_deferred
from quickstudy.runs.recipes import Experiment
from quickstudy.runs.runs import Run
from quickstudy.training.embed_together import EmbedTogether
from quickstudy.training.loop import Step, train

Ways: TypeAlias = Literal["auto", "recipe", "vmap", "loop", "compiled"]
SAVE_EVERY = 120.0  # seconds of training between two saves
VALIDATION_SEED = 2  # not the benchmarks' 1: both may draw from one distribution
_VALIDATION = "validation "  # begins the key of a metric in the history of a run


class Status(NamedTuple):
    """Where a run stands after a step.

    Examples:
        >>> import quickstudy as qs
        >>> qs.runs.Status(10, loss=0.5, tasks=40, seconds=2.0, validation=None).tasks
        40
    """

    step: int
    loss: float  # mean over the batch
    tasks: int  # done in this process since it started
    seconds: float  # since this process started training
    validation: Report | None  # if there was one at this step


def go(run: Run, *, execution: Ways = "auto") -> Generator[Status, None, None]:
    """Meta-train, and yield after each step.

    The run is saved at each validation, every two minutes, and when Ctrl-C or SIGTERM stops it
    (KeyboardInterrupt or SystemExit(143) after the step). A run of no steps saves the initial
    weights. Under `torchrun`, every process draws its own tasks and the first one saves.

    Args:
        execution: "auto" times ways to execute the first steps and takes the fastest; a resumed
            run goes on in the way that it had. "recipe" executes tasks as the recipe sets.

    Raises:
        FloatingPointError: the loss is not finite.
        ValueError: an unknown `execution`.

    Examples:
        >>> import tempfile
        >>> import quickstudy as qs
        >>> run = qs.runs.start("streams", {"learner": "nearest_mean"}, tempfile.mkdtemp())
        >>> len(list(qs.runs.go(run)))  # it has no meta-training
        0
        >>> run.checkpoints.latest().name
        'step-00000000'
    """
    session, experiment = _Session(run, execution), run.experiment
    if experiment.steps == 0:
        if run.checkpoints.latest() is None:
            session.save()
        return
    with interrupts_deferred() as interrupted:
        try:
            for step in train(
                session.module,
                experiment.train,
                experiment.optimizer,
                steps=experiment.steps,
                meta_batch_size=experiment.meta_batch_size,
                start=run.start,
                seed=run.seed,
                clip=experiment.clip,
                precision=experiment.precision,
                rank=session.rank,
                execution="auto" if session.chooses else None,
            ):
                loss = session.step(step)
                report = session.validate()
                session.save_if_due(report)
                if (interruption := interrupted()) is not None:
                    session.save()
                    raise interruption
                yield Status(step.number, loss, session.tasks, session.clock.here(), report)
        except GeneratorExit:  # raised at the yield, so between two steps
            session.save()
            raise
        finally:
            run.start, run.seconds = session.done, session.clock.total()


def validation_metrics(row: Mapping[str, Json]) -> dict[str, Json]:
    """Return the metrics of a validation, from a row of the history of a run.

    Examples:
        >>> import quickstudy as qs
        >>> qs.runs.validation_metrics({"step": 500, "loss": 1.2, "validation accuracy": 0.9})
        {'accuracy': 0.9}
    """
    return {
        key.removeprefix(_VALIDATION): value
        for key, value in row.items()
        if key.startswith(_VALIDATION)
    }


def best_validation(history: Sequence[Mapping[str, Json]]) -> Mapping[str, Json] | None:
    """Return the validation of the largest score, the first of equals, from the history of a
    run; None if no score is finite.

    Examples:
        >>> import quickstudy as qs
        >>> rows = [{"step": 1, "score": None}, {"step": 2, "score": 0.5}]
        >>> qs.runs.best_validation(rows)
        {'step': 2, 'score': 0.5}
    """
    scored = (
        row for row in history if row["score"] is not None and math.isfinite(row["score"])
    )
    return max(scored, key=lambda row: row["score"], default=None)


class _Session:
    """The training of a run in this process."""

    def __init__(self, run: Run, execution: Ways):
        self.run, self.experiment = run, run.experiment
        self.rank = int(os.environ.get("RANK", 0))
        alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
        self.chooses = execution == "auto" and run.execution is None and alone
        if execution == "auto" and run.execution:
            stored = ExecutionOption(**run.execution)
            configured(self.experiment.learner, stored._replace(compiled=False))
            execution = "compiled" if stored.compiled else "auto"
        self.compiled = execution == "compiled"
        self.module = _wrapped(self.experiment, execution)
        self.clock = Clock(run.seconds)
        self.saved_at = run.seconds
        self.done = run.start
        self.tasks = 0  # in this process
        self.losses: list[float] = []  # since the last validation

    def step(self, step: Step) -> float:
        """Count a step and return its loss."""
        if self.experiment.scheduler is not None:
            self.experiment.scheduler.step()
        loss = step.loss.mean().item()
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The loss is {loss} at step {step.number}. Lower the learning rate, or clip "
                f"the gradient; the last checkpoint in {self.run.folder} is from before."
            )
        self.done = step.number
        self.tasks += self.experiment.meta_batch_size
        self.losses.append(loss)
        return loss

    def validate(self) -> Report | None:
        """Validate if it is due, and add a row to the history."""
        e = self.experiment
        if self.done % e.validate_every and self.done != e.steps:
            return None
        with self.clock.paused():
            report = e.evaluate_fn(
                e.learner,
                e.validation,
                n_tasks=e.n_validation_tasks,
                seed=VALIDATION_SEED,
                metrics=e.metrics,
            )
        first = next(iter(report.values))
        means = {metric: finite_or_none(report.mean(metric)) for metric in report.values}
        self.run.history.append({
            "step": self.done,
            "loss": sum(self.losses) / len(self.losses),
            "seconds": round(self.clock.total(), 1),
            "score": finite_or_none(report.mean(first) * (1 if e.better == "max" else -1)),
            **{f"{_VALIDATION}{metric}": mean for metric, mean in means.items()},
            "interval": finite_or_none(report.interval(first)),
        })  # fmt: skip
        self.losses = []
        return report

    def save_if_due(self, report: Report | None) -> None:
        """Save after a validation, and every `SAVE_EVERY` seconds."""
        if report is not None or self.clock.total() - self.saved_at > SAVE_EVERY:
            self.save()
            self.saved_at = self.clock.total()

    def save(self) -> None:
        """Save a checkpoint, in the first process."""
        if self.rank > 0:
            return
        run, e = self.run, self.experiment
        run.execution = _stored(option_of(e.learner)._replace(compiled=self.compiled))
        validated = run.history and run.history[-1]["step"] == self.done
        run.checkpoints.save(
            self.done,
            e.learner,
            e.optimizer,
            e.scheduler,
            score=run.history[-1]["score"] if validated else None,
            recipe=run.recipe,
            settings=run.settings,
            origins=run.origins,
            execution=run.execution,
            seconds=self.clock.total(),
            history=run.history,
        )


def _stored(option: ExecutionOption) -> dict[str, Json]:
    names = ("execution", "chunk", "compiled", "checkpoint", "threads", "intra_op")
    return {name: getattr(option, name) for name in names}


def _wrapped(experiment: Experiment, execution: Ways) -> nn.Module:
    learner: nn.Module = experiment.learner
    if execution not in get_args(Ways):
        raise ValueError(
            f"execution={execution!r}: give 'auto', 'recipe', 'vmap', 'loop' or 'compiled'."
        )
    if execution in ("vmap", "loop"):
        experiment.learner.execution = execution
    if experiment.embed_together:
        learner = EmbedTogether(experiment.learner)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group()
        learner.train()
        return nn.parallel.DistributedDataParallel(learner)
    if execution == "compiled" and learner is experiment.learner:
        return compile_learner(experiment.learner)
    if execution == "compiled":
        return torch.compile(learner, fullgraph=True)  # pyright: ignore[reportReturnType]
    return learner
