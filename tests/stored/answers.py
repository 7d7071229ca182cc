"""What things that are stored in `0.1.0` are asked, and how they are opened.

`make_0_1_0` asks them when they are made and stores what they say; the test asks them again.
Answers are tensors (or arrays) and JSON, by name.
"""

import json
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors.torch
import torch
from torch import Generator, Tensor

import quickstudy as qs
from quickstudy import runs
from quickstudy.core.task import Examples, Json, Task
from quickstudy.core.tree import leaves, tree_map
from quickstudy.datasets import Labelled
from quickstudy.storage import renamed
from tests.stored import builders

Answers: TypeAlias = dict[str, Any]

STORED = Path(__file__).parent / "0.1.0"
LABELS = np.array(["amber", "birch", "cedar", "dune", "ember"])


def expected(stored: Path = STORED) -> dict[str, Answers]:
    """The answers of all that is stored, by its place."""
    found: dict[str, Answers] = json.loads((stored / "expected.json").read_text())
    for key, tensor in safetensors.torch.load_file(stored / "expected.safetensors").items():
        place, _, name = key.partition(":")
        found.setdefault(place, {})[name] = tensor
    return {
        place: renamed.result(answers, runs.names()) if "settings" in answers else answers
        for place, answers in found.items()
    }


# Inputs


def inputs(name: str, stored: Path = STORED) -> Task[Examples]:
    """A task, of those that learners are asked about."""
    tensors = safetensors.torch.load_file(stored / "inputs.safetensors")

    def part(which: str) -> Examples:
        return Examples(*(tensors[f"{name}/{which}/{leaf}"] for leaf in ("x", "y", "weight")))

    return Task(part("support"), part("query"))


def labelled(name: str, stored: Path = STORED) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same as an estimator takes them: X, y and six rows to be asked about."""
    task = inputs({"half_labelled": "blobs"}.get(name, name), stored)
    x, y = task.support.x.numpy(), task.support.y
    columns = y.argmax(-1).numpy()
    return x, y[:, 0].numpy() if y.shape[1] == 1 else LABELS[columns], task.query.x[:6].numpy()


def stream(name: str, stored: Path = STORED) -> Any:
    """Streams of the classes of a task."""
    parts = [
        Labelled(
            part.x, part.y.argmax(-1), tuple(LABELS[: part.y.shape[1]].tolist()), name=name
        )
        for part in inputs(name, stored)
    ]
    return builders.streams(*parts)


# Learners


def built(name: str) -> Any:
    """A learner as it was before it was trained."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        if name in builders.LEARNERS:
            return builders.LEARNERS[name][1]()
        world, _, make = builders.ACTORS[name]
        learner = make(world())
        if name == "pearl":
            builders.replayed(world(), learner)
        return learner


def opened(name: str, stored: Path = STORED) -> Any:
    """A learner from its checkpoint; "default" is none."""
    if name == "default":
        return None
    learner = built(name)
    qs.load(stored / "checkpoints" / name, learner)
    return learner.eval()


def of_learner(name: str, learner: Any, stored: Path = STORED) -> Answers:
    """What it predicts, and its loss."""
    learner.eval()
    if name in builders.ACTORS:
        return _of_actor(name, learner, stored)
    learner.set_step(2)  # the steps that were done
    task = inputs(builders.LEARNERS[name][0], stored)
    torch.manual_seed(0)
    with torch.no_grad():
        state = learner.adapt(task.support)
        found = _numbered("prediction", learner.predict(state, task.query.x))
        torch.manual_seed(0)
        found["loss"] = learner.loss(task)
        if name.startswith("task_memory"):
            found["attention"] = learner.attention(task.support)
    return found


def _of_actor(name: str, actor: Any, stored: Path) -> Answers:
    make, trial, _ = builders.ACTORS[name]
    rollouts = qs.tasks.Rollouts(make(), actor, episodes=2, trial=trial)
    task = tree_map(lambda leaf: leaf[0], rollouts.sample(2, Generator().manual_seed(0)))
    with torch.no_grad():
        state = actor.adapt(task.support)
        seen = task.query if trial else task.query.observation.flatten(0, 1)
        found = _numbered("prediction", actor.predict(state, seen))
        if name == "pearl":
            steps = builders.replayed(make(), actor)
            qs.load(stored / "checkpoints" / name, actor)  # with what is replayed
            task = tree_map(lambda leaf: leaf[0], steps.sample(2, Generator().manual_seed(0)))
        found["loss"] = actor.loss(task)
    return {**found, "actions": task.query.action, "rewards": task.query.reward}


def of_optimizer(optimizer: Any, scheduler: Any = None) -> Answers:
    """Its rate, and the size of all that it remembers."""
    memory = [
        part.double().abs().sum()
        for entries in optimizer.state_dict()["state"].values()
        for part in entries.values()
        if isinstance(part, Tensor)
    ]
    found = {"optimizer memory": torch.stack(memory).sum()} if memory else {}
    if "lr" in optimizer.param_groups[0]:
        found["rate"] = optimizer.param_groups[0]["lr"]
    if scheduler is not None:
        found["scheduler's step"] = scheduler.last_epoch
        found["scheduler's rates"] = scheduler.get_last_lr()
    return found


# Estimators


def of_estimator(kind: str, model: Any, data: str, stored: Path = STORED) -> Answers:
    """What an adapted model predicts."""
    x, y, queries = labelled(data, stored)
    if kind == "verifier":
        found = {name: getattr(model, name) for name in _RATES}
        scores = model.decision_function(queries, x[:6])
        return {**found, "scores": scores, "same": model.predict(queries, x[:6]).tolist()}
    if kind == "regressor":
        return {"values": model.predict(queries), "flat": y.ndim == 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {"probabilities": model.predict_proba(queries)}
        found["labels"] = model.predict(queries).tolist()
        found["classes"] = model.classes_.tolist()
        if kind == "classifier":
            found["best logits"] = model.score_samples(queries)
    if getattr(model, "unknown", None) is not None:
        found["threshold"] = model.threshold_
    if kind == "lifelong":
        found["seen"] = model.n_samples_seen_
        found["budget"] = model.budget
    return found


_RATES = ("threshold_", "false_accept_rate_", "false_reject_rate_", "equal_error_rate_")


def parts_of_blobs(stored: Path = STORED) -> list[tuple[np.ndarray, np.ndarray]]:
    """What models in `lifelong` were told in their first two calls, and are told in a third."""
    x, y, _ = labelled("blobs", stored)
    known = y != LABELS[2]
    last = slice(None, None, 4)
    return [(x[known], y[known]), (x[~known], y[~known]), (x[last], y[last])]


# Libraries, streams and runs


def library(name: str, stored: Path = STORED) -> Any:
    """A library from its folder, or a new one."""
    learner, embed = builders.LIBRARIES[name]
    return qs.MappingLibrary(
        stored / "libraries" / name, opened(learner, stored), embed=embed()
    )


def of_library(library: Any, stored: Path = STORED) -> Answers:
    """What is known of the task that its learner is asked about."""
    learner, _ = builders.LIBRARIES[library.folder.name]
    task = inputs(builders.LEARNERS[learner][0], stored)
    support, x = task.support, task.query.x
    found: Answers = {
        "names": library.names(),
        "versions": {name: library.versions(name) for name in library},
        "temperature": library.temperature,
        "resembling": [list(pair) for pair in library.resembling(support, 3)],
        "attention": [list(pair) for pair in library.attention(support, 3)],
        "facts": {name: dict(library[name].facts) for name in library},
        "fit": {name: dict(library[name].fit) for name in library},
        "examples": {name: library[name].examples for name in library},
        "ensemble": library.ensemble(support, x, 3),
    }
    with torch.no_grad():
        state = library.learner.adapt(support, library.start(support, 3))
        found["started"] = library.learner.predict(state, x)
        for name in library:
            found[f"of {name}"] = library.learner.predict(library[name].state, x)
    return found


def of_stream_report(report: Any) -> Answers:
    """All but how long it took."""
    keep = ("matrix", "examples", "bytes")
    found = {name: getattr(report, name) for name in keep}
    return {**found, "metric": report.metric, "card": dict(report.card)}


def of_result(result: Json) -> Answers:
    """What a finished run measured, and what it is called."""
    rows = {
        row: {
            metric: numbers["mean"] for metric, numbers in found.items() if metric not in _APART
        }
        for row, found in result["measured"].items()
    }
    cards = {row: found["card"] for row, found in result["measured"].items()}
    names = {key: result[key] for key in ("name", "recipe", "better", "settings", "steps")}
    return {**names, "measured": rows, "cards": cards}


_APART = ("card", "milliseconds per example")


def of_run(run: Any) -> Answers:
    """Where it stands, and its weights."""
    learner = run.experiment.learner
    return {
        "start": run.start,
        "history": [[row[key] for key in _HISTORY] for row in run.history],
        "weights": torch.stack([p.detach().sum() for p in learner.parameters()]),
    }


_HISTORY = ("step", "score", "interval")


def finished(folder: Path) -> Answers:
    """Of a run that is done: its weights, what it measured, and what that is measured as."""
    run = runs.reopen(folder)
    again = {row: runs.measure(run, test, n_tasks=4) for row, test in _tests(run)}
    values = {row: dict(report.to_json()["values"]) for row, report in again.items()}
    for numbers in values.values():
        numbers.pop("milliseconds per example", None)
    return {**of_run(run), **of_result(runs.result(folder)), "measured again": values}


def _tests(run: Any) -> list[tuple[str, Any]]:
    return [
        (row, test) for row, test in run.experiment.benchmarks.items() if row != "task known"
    ]


def went_on(folder: Path, name: str, settings: dict[str, Json]) -> Answers:
    """Of a run that goes on in a copy of its folder: its losses, its weights in the end."""
    run = runs.start(name, settings, folder)
    begun = run.start
    losses = [status.loss for status in runs.go(run)]
    return {**of_run(run), "begun": begun, "losses": losses}


def _numbered(name: str, tree: Any) -> Answers:
    return {f"{name} {number}": leaf for number, leaf in enumerate(leaves(tree))}


def glyphs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Letters, to learn from and to be asked about: X, y and rows, as bytes."""
    data = qs.datasets.glyphs().test.select([0, 1, 2])
    rows = [(data.y == c).nonzero().flatten() for c in range(3)]
    given, queries = (
        torch.cat([indices[part] for indices in rows]) for part in (slice(2), slice(2, 4))
    )
    return data.x[given].numpy(), LABELS[data.y[given].numpy()], data.x[queries].numpy()


def of_glyphs(model: Any) -> Answers:
    """What a model that was adapted from a run says of letters."""
    queries = glyphs()[-1]
    return {
        "probabilities": model.predict_proba(queries),
        "labels": model.predict(queries).tolist(),
    }
