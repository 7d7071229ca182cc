"""Runs: a recipe with its settings, carried out in a folder.

The folder has checkpoints while the run trains, and `result.json` when it is done.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch

from quickstudy import __version__
from quickstudy.core.task import Json, check_seed
from quickstudy.hints import suggest
from quickstudy.learner import Learner
from quickstudy.runs.recipes import Experiment, defaults, find, names
from quickstudy.storage import renamed
from quickstudy.storage.checkpoint_series import Checkpoints
from quickstudy.storage.checkpoints import load, read_facts, read_versions
from quickstudy.storage.files import CheckpointError, file_sha256

# what schedules change in the groups of an optimizer, or keep there
_SCHEDULED = {"lr", "initial_lr", "max_lr", "min_lr", "momentum", "betas"}
_SCHEDULED |= {"base_momentum", "max_momentum"}


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
    origins: list[dict[str, Json]] = field(default_factory=list)  # see `_origin`
    execution: dict[str, Json] | None = None  # that of the steps done, as `ExecutionOption` has
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
        ValueError: an unknown recipe or setting, or the folder has a run of another recipe, of
            other settings or of more steps.

    Warns:
        UserWarning: the run was begun with another number of steps, by which schedules may go,
            another version of quickstudy, or before the recipe was edited.

    Examples:
        >>> import tempfile
        >>> import quickstudy as qs
        >>> run = qs.runs.start("glyphs_protonet", {"steps": 2}, tempfile.mkdtemp())
        >>> run.settings["steps"], run.start
        (2, 0)
    """
    module = find(recipe)
    run = _build(module, recipe, dict(settings), Path(folder), device)
    run.origins = [_origin(module)]
    latest = run.checkpoints.latest()
    if latest is not None:
        facts = read_facts(latest)
        _, name, recorded = _recorded(facts)
        _check_same(run, name, recorded)
        same = recorded.get("steps") == run.settings.get("steps")
        begun = run.experiment.steps if same else module.recipe(**recorded).steps
        _load_training(run, latest, facts["step"], begun)
        run.start, run.seconds, run.history = facts["step"], facts["seconds"], facts["history"]
        run.execution = facts.get("execution", {})  # before 0.2.0: as the recipe has it
        run.origins = _check_origins(latest, module)
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
        ValueError: `which` is neither "best" nor "last".

    Warns:
        UserWarning: another version of quickstudy trained it, or the recipe was edited since.

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
    if which not in ("best", "last"):
        raise ValueError(f"which={which!r}: give 'best' or 'last'.")
    checkpoints = Checkpoints(folder)
    path = (checkpoints.best() if which == "best" else None) or checkpoints.latest()
    if path is None:
        raise CheckpointError(
            f"{folder} holds no checkpoint: `quickstudy train RECIPE --out {folder}` makes one."
        )
    module, name, settings = _recorded(read_facts(path))
    run = _build(module, name, settings, Path(folder), device)
    run.origins = _check_origins(path, module)
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
    default_settings = defaults(module)
    for key in settings:
        if key not in default_settings:
            raise ValueError(
                f"Recipe {name} has no setting {key!r}. {suggest(key, default_settings)}"
            )
    settings = {**default_settings, **settings}
    torch.manual_seed(check_seed(settings.get("seed", 0)))
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ValueError(f"There is no device {device!r}: give cpu or cuda.") from None
    if kind == "cuda" and not torch.cuda.is_available():
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


def _load_training(run: Run, path: Path, step: int, begun: int) -> None:
    """Load a checkpoint into learner, optimizer and schedule. If the run was begun with another
    number of steps, the schedule of the recipe is brought to the step of the checkpoint."""
    experiment = run.experiment
    learner, optimizer, scheduler = (
        experiment.learner,
        experiment.optimizer,
        experiment.scheduler,
    )
    if step > experiment.steps:
        raise ValueError(
            f"{run.folder} has {step} steps already: give --steps {step} or more, or choose "
            "another --out."
        )
    if begun == experiment.steps:
        load(path, learner, optimizer, scheduler)
        return
    if scheduler is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there is no optimizer step between these
            for _ in range(step):
                scheduler.step()
    scheduled = [
        {key: group[key] for key in _SCHEDULED & group.keys()}
        for group in optimizer.param_groups
    ]
    load(path, learner, optimizer)
    for group, values in zip(optimizer.param_groups, scheduled, strict=True):
        group.update(values)
    learners = (module for module in learner.modules() if isinstance(module, Learner))
    anneals = any(type(module).set_step is not Learner.set_step for module in learners)
    if scheduler is None and not anneals:
        return
    warnings.warn(
        f"{run.folder} was begun with {begun} steps and goes on to {experiment.steps}. From "
        f"step {step} on, its schedules (of the learning rate and others) are those of a run "
        f"of {experiment.steps} steps.",
        stacklevel=3,
    )


def _origin(module: ModuleType) -> dict[str, Json]:
    """What a run depends on besides its settings: versions and the text of the recipe."""
    return {"quickstudy": __version__, "recipe": file_sha256(Path(module.__file__ or ""))}


def _check_origins(path: Path, module: ModuleType) -> list[dict[str, Json]]:
    """Return the origins of a checkpoint, and of this process; warn if they differ."""
    current = _origin(module)
    written = {"quickstudy": read_versions(path)["quickstudy"]}
    stored = read_facts(path).get("origins", [written])
    reasons: list[str] = []
    others = {origin["quickstudy"] for origin in stored} - {__version__}
    if others:
        versions = ", ".join(sorted(others))
        reasons.append(f"quickstudy {versions} trained it, and this is {__version__}")
    if any(origin.get("recipe", current["recipe"]) != current["recipe"] for origin in stored):
        reasons.append(f"the recipe {Path(module.__file__ or '').name} was edited since")
    if reasons:
        warnings.warn(
            f"The run in {path.parent} may give other numbers than when it was trained: "
            f"{'; '.join(reasons)}.",
            stacklevel=3,
        )
    return stored if current in stored else [*stored, current]


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
