"""Runs: a recipe with its settings, carried out in a folder.

The folder has checkpoints while the run trains, and `result.json` when it is done.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch

from quickstudy.core.task import Json
from quickstudy.hints import suggest
from quickstudy.runs.recipes import Experiment, defaults, find, names
from quickstudy.storage import renamed
from quickstudy.storage.checkpoint_series import Checkpoints
from quickstudy.storage.checkpoints import load, read_facts
from quickstudy.storage.files import CheckpointError


@dataclass
class Run:
    """A recipe with its settings, carried out in a folder.

    Examples:
        >>> import tempfile
        >>> import quickstudy as qs
        >>> run = qs.runs.start("glyphs_protonet", {"steps": 2}, tempfile.mkdtemp())
        >>> run.recipe, run.experiment.steps, run.start
        ('glyphs_protonet', 2, 0)
    """

    folder: Path
    recipe: str
    settings: dict[str, Json]
    experiment: Experiment
    seed: int = 0
    start: int = 0  # steps already done
    seconds: float = 0.0  # spent training, in all processes so far
    history: list[dict[str, Json]] = field(default_factory=list)  # a row for each validation

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of this run."""
        return Checkpoints(self.folder)


def start(
    recipe: str,
    settings: Mapping[str, Json],
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
) -> Run:
    """Start a run in `folder`, or resume the one that is there.

    Raises:
        ValueError: an unknown recipe or setting, or the folder has a run of another recipe or
            of other settings.

    Examples:
        >>> import tempfile
        >>> import quickstudy as qs
        >>> run = qs.runs.start("glyphs_protonet", {"steps": 2}, tempfile.mkdtemp())
        >>> run.settings["steps"], run.start
        (2, 0)
    """
    run = _build(find(recipe), recipe, dict(settings), Path(folder), device)
    latest = run.checkpoints.latest()
    if latest is not None:
        experiment = run.experiment
        _check_same(run, *_recorded(read_facts(latest))[1:])
        facts = load(latest, experiment.learner, experiment.optimizer, experiment.scheduler)
        run.start, run.seconds, run.history = facts["step"], facts["seconds"], facts["history"]
    return run


def reopen(
    folder: str | Path,
    *,
    which: Literal["best", "last"] = "best",
    device: torch.device | str = "cpu",
) -> Run:
    """Return a run with the weights of its best (by validation) or last checkpoint.

    Raises:
        CheckpointError: there is no checkpoint.

    Examples:
        >>> import tempfile
        >>> import quickstudy as qs
        >>> folder = tempfile.mkdtemp()
        >>> settings = {"learner": "nearest_mean"}  # learns nothing before the streams
        >>> list(qs.runs.go(qs.runs.start("streams", settings, folder)))
        []
        >>> qs.runs.reopen(folder).settings["learner"]
        'nearest_mean'
    """
    checkpoints = Checkpoints(folder)
    path = (checkpoints.best() if which == "best" else None) or checkpoints.latest()
    if path is None:
        raise CheckpointError(
            f"{folder} holds no checkpoint: `quickstudy train RECIPE --out {folder}` makes one."
        )
    run = _build(*_recorded(read_facts(path)), Path(folder), device)
    facts = load(path, run.experiment.learner)
    if run.experiment.on_reopen is not None:
        run.experiment.on_reopen()
    last = read_facts(checkpoints.latest() or path)  # has the validations after the best
    run.start, run.seconds, run.history = facts["step"], last["seconds"], last["history"]
    return run


def _build(
    module: ModuleType,
    name: str,
    settings: dict[str, Json],
    folder: Path,
    device: torch.device | str,
) -> Run:
    known = defaults(module)
    for key in settings:
        if key not in known:
            raise ValueError(f"Recipe {name} has no setting {key!r}. {suggest(key, known)}")
    settings = {**known, **settings}
    torch.manual_seed(settings.get("seed", 0))
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError("No CUDA device was found: leave out --device, or say --device cpu.")
    experiment: Experiment = module.recipe(**settings)
    experiment.learner.to(device)
    experiment.train.to(device)
    return Run(folder, name, settings, experiment, settings.get("seed", 0))


def _recorded(facts: Mapping[str, Json]) -> tuple[ModuleType, str, dict[str, Json]]:
    """The recipe of a checkpoint, its name and its settings, as they are called today."""
    name, settings = renamed.recipe(facts["recipe"], facts["settings"], names())
    module = find(name)
    today = defaults(module)
    _, settings = renamed.recipe(facts["recipe"], facts["settings"], {name, *today})
    return module, name, {**today, **settings}  # the recipe may have grown


def _check_same(run: Run, recipe: str, settings: Mapping[str, Json]) -> None:
    changed = {
        key: (settings.get(key), value)
        for key, value in run.settings.items()
        if key != "steps" and json.dumps(value) != json.dumps(settings.get(key))
    }
    if recipe != run.recipe:
        changed["recipe"] = (recipe, run.recipe)
    if changed:
        differences = ", ".join(
            f"{key} {old!r} there, {new!r} here" for key, (old, new) in changed.items()
        )
        raise ValueError(
            f"{run.folder} has a run with other settings ({differences}). "
            "Choose another --out, or give the settings it was started with."
        )
