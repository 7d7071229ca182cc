"""Writes the folder `0.1.0`: files that version 0.1.0 wrote, and what it said of them.

python -m tests.stored.make_0_1_0

Run it with version 0.1.0: in a checkout of it, to whose tests this folder was added, as it was
when `builders` and `answers` had the names of that version. Later versions only read what it
wrote. What could not be made is printed, with the reason.
"""

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Generator, Tensor

qs: Any = import_module("quickstudy")  # untyped: later versions have other names
VERSION = "0.1.0"
Put = Callable[[str, dict[str, Any]], None]


def make(stored: Path) -> None:
    """Writes everything anew to a folder."""
    from tests.stored import builders

    if qs.__version__ != VERSION:
        raise SystemExit(f"This is version {qs.__version__}, and {VERSION} is to be stored.")
    torch.set_num_threads(1)
    shutil.rmtree(stored, ignore_errors=True)
    stored.mkdir(parents=True)
    tensors: dict[str, Tensor] = {}
    facts: dict[str, dict[str, Any]] = {}

    def put(place: str, answers: dict[str, Any]) -> None:
        facts[place] = {}
        for name, results in answers.items():
            if isinstance(results, np.ndarray):
                results = torch.from_numpy(results)
            if isinstance(results, Tensor):
                tensors[f"{place}:{name}"] = results.detach().contiguous().clone()
            else:
                facts[place][name] = results

    tasks = _inputs(stored)
    for name in [*builders.LEARNERS, *builders.ACTORS]:
        _checkpoint(stored, name, tasks, put)
    _adapted(stored, put)
    for name in builders.LIFELONG:
        _lifelong(stored, name, put)
        if name != "default":
            _stream(stored, name, put)
    for name in builders.STREAMS_OF_TASKS:
        _stream_of_tasks(stored, name, put)
    for name in builders.LIBRARIES:
        _library(stored, name, tasks, put)
    for name in builders.REPORTS:
        _report(stored, name, put)
    for name in builders.RUNS:
        _run(stored, name, put)
    _adapted_from_a_run(stored, put)
    safetensors.torch.save_file(tensors, stored / "expected.safetensors")
    text = json.dumps(facts, indent=1, sort_keys=True)
    (stored / "expected.json").write_text(text + "\n")
    for file in stored.rglob("*.safetensors"):
        file.chmod(0o644)


def _inputs(stored: Path) -> dict[str, Any]:
    """The distributions by name, a task of each of which is stored."""
    from tests import zoo

    tasks: dict[str, Any] = {
        "blobs": zoo.BLOBS,
        "half_labelled": zoo.HALF_LABELLED,
        "lines": zoo.LINES,
        "images": zoo.IMAGES,
        "larger_images": zoo.ZOO["relation_conv"].tasks,
        "clouds": zoo.CLOUDS,
        "few_clouds": zoo.FEW_CLOUDS,
        "all_clouds": zoo.ALL_CLOUDS,
        "words": zoo.WORDS,
        "repeated_words": zoo.ZOO["ntm_repeat"].tasks,
        "stories": zoo.STORIES,
    }
    tensors: dict[str, Tensor] = {}
    for name, distribution in tasks.items():
        drawn = distribution.sample(1, Generator().manual_seed(3))
        for part, examples in (("support", drawn.support), ("query", drawn.query)):
            most = 6 if part == "query" and name.endswith("images") else None
            for leaf, value in examples._asdict().items():
                tensors[f"{name}/{part}/{leaf}"] = value[0, :most].contiguous().clone()
    safetensors.torch.save_file(tensors, stored / "inputs.safetensors")
    return tasks


def _checkpoint(stored: Path, name: str, tasks: Any, put: Put) -> None:
    """A learner after two steps."""
    from tests.stored import answers, builders

    learner = answers.built(name)
    make = builders.OPTIMIZERS.get(name, lambda it: torch.optim.Adam(it.parameters(), 1e-2))
    optimizer = make(learner)
    scheduler = None
    if name in builders.SCHEDULERS:
        scheduler = builders.SCHEDULERS[name](optimizer)
    if name in builders.LEARNERS:
        drawn = tasks[builders.LEARNERS[name][0]]
    else:
        world, trial, _ = builders.ACTORS[name]
        drawn = qs.Rollouts(world(), learner, episodes=2, trial=trial)
        if name == "pearl":
            drawn = builders.replayed(world(), learner)
            optimizer = make(learner)
    learner.train()
    for _ in qs.train(learner, drawn, optimizer, steps=2, size=2):
        if scheduler is not None:
            scheduler.step()
    if name.startswith("task_memory"):
        learner.remember(drawn.sample(2, Generator().manual_seed(0)))
    folder = stored / "checkpoints" / name
    if name in builders.OPTIMIZERS:
        qs.save(folder, learner, optimizer, scheduler, step=2, about=[name, None, {"n": 1.5}])
        put(f"optimizers/{name}", answers.of_optimizer(optimizer, scheduler))
    else:
        qs.save(folder, learner)
    put(f"checkpoints/{name}", answers.of_learner(name, learner, stored))


def _adapted(stored: Path, put: Put) -> None:
    """What estimators make of every learner that they take."""
    from tests.stored import answers, builders

    def keep(kind: str, label: str, model: Any, data: str) -> None:
        x, y, _ = answers.labelled(data, stored)
        (stored / "adapted" / kind).mkdir(parents=True, exist_ok=True)
        path = stored / "adapted" / kind / f"{label}.safetensors"
        try:
            model.fit(x, y)
            results = answers.of_estimator(kind, model, data, stored)
            model.save(path, description=label)
        except (ValueError, RuntimeError, IndexError, AttributeError) as error:
            path.unlink(missing_ok=True)
            return print(f"adapted/{kind}/{label}: {error}", file=sys.stderr)
        put(f"adapted/{kind}/{label}", {"data": data, **results})

    for name, (data, _) in builders.LEARNERS.items():
        if data in ("words", "repeated_words", "stories"):
            continue  # sequences, whose labels are no classes
        lines = data == "lines"
        kinds = ["regressor"] if lines else ["classifier", "verifier"]
        for kind in kinds:
            learner = answers.opened(name, stored)
            if kind != "verifier" or qs.alike.compares(learner):
                model = builders.ESTIMATORS[kind](learner, random_state=0)
                keep(kind, name, model, data)
    for kind, data in (("classifier", "blobs"), ("verifier", "blobs"), ("regressor", "lines")):
        keep(kind, "default", builders.ESTIMATORS[kind](random_state=0), data)
    for name in ("prototypical", "matching"):
        learner = answers.opened(name, stored)
        model = builders.ESTIMATORS["classifier"](learner, unknown="none", random_state=0)
        keep("classifier", f"{name}+unknown", model, "blobs")
    learner = answers.opened("siamese", stored)
    model = builders.ESTIMATORS["verifier"](learner, far=0.1, random_state=0)
    keep("verifier", "siamese+far", model, "blobs")
    learner = answers.opened("maml_conv", stored)
    model = builders.ESTIMATORS["classifier"](learner, input_shape=(1, 16, 16), random_state=0)
    keep("classifier", "maml_conv+input_shape", model, "images")


def _adapted_from_a_run(stored: Path, put: Put) -> None:
    """What `quickstudy adapt` writes, but for the path of the run, which is absolute there."""
    from tests.stored import answers, builders

    learner = qs.recipe.reopen(stored / "runs" / "glyphs_protonet").experiment.learner
    model = builders.ESTIMATORS["classifier"](learner, random_state=0)
    x, y, _ = answers.glyphs()
    model.fit(x, y)
    facts = {"run": "runs/glyphs_protonet", "invert": False, "transductive": False}
    model.save(stored / "adapted" / "from_a_run.safetensors", **facts)
    put("adapted/from_a_run", answers.of_glyphs(model))


def _lifelong(stored: Path, name: str, put: Put) -> None:
    """A classifier after two calls, and after a third, which is not stored."""
    from tests.stored import answers, builders

    (stored / "lifelong").mkdir(exist_ok=True)
    path = stored / "lifelong" / f"{name}.safetensors"
    model = builders.lifelong(answers.opened(name, stored), path)
    first, second, third = answers.parts_of_blobs(stored)
    heads = name.startswith(("oml", "anml"))  # which have as many outputs as there are classes
    model.partial_fit(*first, classes=answers.LABELS[:3] if heads else None)
    model.partial_fit(*second)
    put(f"lifelong/{name}", answers.of_estimator("lifelong", model, "blobs", stored))
    model.path = None
    model.partial_fit(*third)
    after = answers.of_estimator("lifelong", model, "blobs", stored)
    put(f"lifelong/{name}, and more", after)


def _stream(stored: Path, name: str, put: Put) -> None:
    """What is kept of streams after two of three experiences, and the report on all."""
    from tests.stored import answers

    learner, streams = answers.opened(name, stored), answers.stream("blobs", stored)
    folder = stored / "streams" / name
    whole = qs.evaluate_stream(learner, streams, count=2)
    put(f"streams/{name}", answers.of_stream_report(whole))
    if name == "ewc":
        path = stored / "reports" / "stream.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(whole.to_json()) + "\n")

    with suppress(KeyboardInterrupt):
        qs.evaluate_stream(learner, streams, count=2, folder=folder, progress=_after(2))


def _after(number: int) -> Callable[..., None]:
    """Interrupts after so many experiences, as Ctrl-C does."""

    def stop(*watched: Any) -> None:
        if int((~watched[-1].seconds[0].isnan()).sum()) == number:
            raise KeyboardInterrupt

    return stop


def _stream_of_tasks(stored: Path, name: str, put: Put) -> None:
    """The same of a stream that says nothing of itself."""
    from tests.stored import answers

    learner = answers.opened(name, stored)
    tasks = [list(islice(answers.stream("blobs", stored).stream(1), 3))]
    whole = qs.evaluate_stream(learner, tasks)
    put(f"streams_of_tasks/{name}", answers.of_stream_report(whole))
    folder = stored / "streams_of_tasks" / name
    with suppress(KeyboardInterrupt):
        qs.evaluate_stream(learner, tasks, folder=folder, progress=_after(2))


def _library(stored: Path, name: str, tasks: Any, put: Put) -> None:
    """Three mappings, one of them in two versions, and a temperature."""
    from tests.stored import answers, builders

    library = answers.library(name, stored)
    data = builders.LEARNERS[builders.LIBRARIES[name][0]][0]
    drawn = tasks[data].sample(4, Generator().manual_seed(7))
    four = qs.functional.unstack(drawn)
    library.add("first", four[0].support, description="the first one", classes=["a", "b"])
    library.add("the second", four[1].support)
    library.add("third/3", four[2].support, number=3)
    library.add("first", four[3].support, description="the first one, anew")
    library.fit_attention({"first": four[3], "the second": four[1], "third/3": four[2]})
    put(f"libraries/{name}", answers.of_library(library, stored))


def _report(stored: Path, name: str, put: Put) -> None:
    from tests.stored import answers, builders

    learner, tasks = builders.REPORTS[name]
    report = qs.evaluate(answers.opened(learner, stored), tasks(), count=5, size=3)
    (stored / "reports").mkdir(exist_ok=True)
    report.save(stored / "reports" / f"{name}.json")
    put(f"reports/{name}", {"values": dict(report.to_json()["values"])})


def _run(stored: Path, name: str, put: Put) -> None:
    """A run that is finished, or is interrupted."""
    from tests.stored import answers, builders

    recipe, settings = builders.RUNS[name]
    folder = stored / "runs" / name
    run = qs.recipe.start(recipe, settings, folder)
    if not name.endswith("interrupted"):
        for _ in qs.recipe.go(run):
            pass
        qs.recipe.finish(run, count=5)
        _delete_kept(folder)
        return put(f"runs/{name}", answers.finished(folder))
    if run.experiment.steps == 0:
        return _interrupt_streams(run, put)
    whole = qs.recipe.start(recipe, settings, folder.with_name("whole"))
    losses = [status.loss for status in qs.recipe.go(whole)]
    for status in (steps := qs.recipe.go(run)):
        if status.step == 2:
            steps.close()  # as Ctrl-C does
    run = qs.recipe.reopen(whole.folder, which="last")
    results = {**answers.of_run(run), "begun": 2, "losses": losses[2:]}
    put(f"runs/{name}", results)
    shutil.rmtree(whole.folder)


def _interrupt_streams(run: Any, put: Put) -> None:
    """In the first row, after three experiences; and what would have come of it."""
    from tests.stored import answers

    for _ in qs.recipe.go(run):
        pass
    copy = run.folder.with_name("whole")
    shutil.copytree(run.folder, copy)
    whole = qs.recipe.start(run.recipe, run.settings, copy)
    put(f"runs/{run.folder.name}", answers.of_result(qs.recipe.finish(whole)))
    shutil.rmtree(copy)

    with suppress(KeyboardInterrupt):
        qs.recipe.finish(run, watch=_after(3))


def _delete_kept(folder: Path) -> None:
    """What a finished run no longer needs of its streams."""
    for kept in (folder / "streams").glob("*/"):
        shutil.rmtree(kept)


if __name__ == "__main__":
    make(Path(__file__).parent / VERSION)
