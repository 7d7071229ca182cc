"""What version 0.1.0 wrote can be opened, and gives the same numbers."""

import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from quickstudy import runs
from quickstudy.estimators.adapted_model import read_model
from tests.stored import answers, builders
from tests.stored.answers import STORED, Answers

EXPECTED = answers.expected()
# reopening warns of that: see tests/faults/test_resumed_runs.py
pytestmark = pytest.mark.filterwarnings("ignore:.*quickstudy 0.1.0 trained it:UserWarning")


def places(folder: str, *, more: bool = False) -> list[str]:
    """The names of what is in a folder."""
    found = (key.removeprefix(f"{folder}/") for key in EXPECTED if key.startswith(f"{folder}/"))
    return [name for name in found if more or ", " not in name]


def check(results: Answers, place: str, *, leaving_out: tuple[str, ...] = ()) -> None:
    expected = {k: v for k, v in EXPECTED[place].items() if k not in leaving_out}
    assert set(results) == set(expected)
    for name in expected:
        same(results[name], expected[name], f"{place}: {name}")


def same(a: Any, b: Any, what: str) -> None:
    """Numbers may differ as much as machines do."""
    if isinstance(b, Tensor):
        a = torch.as_tensor(a).detach()
        assert a.shape == b.shape and a.dtype == b.dtype, what
        torch.testing.assert_close(
            a, b, rtol=1e-3, atol=1e-4, equal_nan=True, msg=lambda text: f"{what}: {text}"
        )
    elif isinstance(b, dict):
        assert list(map(str, sorted(a))) == sorted(b), what
        for key in b:
            same(a[key], b[key], f"{what}, {key}")
    elif isinstance(b, list):
        assert len(a) == len(b), what
        for i, part in enumerate(b):
            same(a[i], part, f"{what}, {i}")
    elif isinstance(b, float):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4), what
    else:
        assert a == b, what


@pytest.mark.parametrize("name", places("checkpoints"))
def test_a_learner_predicts_what_it_did(name: str):
    results, place = answers.of_learner(name, answers.opened(name)), f"checkpoints/{name}"
    if name == "streaming_lda":  # its logits are defined up to a number for each query
        predictions = [key for key in results if key.startswith("prediction")]
        for key in predictions:
            same(results.pop(key).softmax(-1), EXPECTED[place][key].softmax(-1), key)
        return check(results, place, leaving_out=tuple(predictions))
    check(results, place)


def test_every_learner_has_a_checkpoint():
    stored = {folder.name for folder in (STORED / "checkpoints").iterdir()}
    assert stored == {*builders.LEARNERS, *builders.ACTORS} == set(places("checkpoints"))


@pytest.mark.parametrize("name", builders.OPTIMIZERS)
def test_an_optimizer_goes_on(name: str):
    learner = answers.built(name)
    optimizer = builders.OPTIMIZERS[name](learner)
    make = builders.SCHEDULERS.get(name, lambda _: None)
    scheduler = make(optimizer)
    facts = qs.load(STORED / "checkpoints" / name, learner, optimizer, scheduler)
    assert facts == {"step": 2, "about": [name, None, {"n": 1.5}]}
    check(answers.of_optimizer(optimizer, scheduler), f"optimizers/{name}")


@pytest.mark.parametrize("place", [p for p in places("adapted") if "/" in p])
def test_an_adapted_model_predicts_what_it_did(place: str):
    kind, _, label = place.partition("/")
    learner = answers.opened(label.partition("+")[0])
    path = STORED / "adapted" / f"{place}.safetensors"
    model = builders.ESTIMATORS[kind].load(path, learner)
    data = EXPECTED[f"adapted/{place}"]["data"]
    results = {"data": data, **answers.of_estimator(kind, model, data)}
    # the logits of this learner are defined up to a number for each query
    leaving_out = ("best logits",) if label == "streaming_lda" else ()
    results = {key: value for key, value in results.items() if key not in leaving_out}
    check(results, f"adapted/{place}", leaving_out=leaving_out)


@pytest.mark.parametrize("name", builders.LIFELONG)
def test_a_lifelong_classifier_knows_what_it_did_and_learns_on(name: str, tmp_path: Path):
    path = tmp_path / "known.safetensors"
    shutil.copy(STORED / "lifelong" / f"{name}.safetensors", path)
    model = builders.lifelong(answers.opened(name), path)
    x, y = answers.parts_of_blobs()[-1]
    model.predict(x)  # reads the file
    check(answers.of_estimator("lifelong", model, "blobs"), f"lifelong/{name}")
    model.partial_fit(x, y)
    again = builders.lifelong(answers.opened(name), path)
    again.predict(x)
    for each in (model, again):
        results = answers.of_estimator("lifelong", each, "blobs")
        check(results, f"lifelong/{name}, and more")


@pytest.mark.parametrize("name", builders.LIBRARIES)
def test_a_library_finds_what_it_did(name: str, tmp_path: Path):
    folder, (learner, embed) = tmp_path / name, builders.LIBRARIES[name]
    shutil.copytree(STORED / "libraries" / name, folder)
    for _ in range(2):  # the second time, by the index that the first one wrote
        library = qs.MappingLibrary(folder, answers.opened(learner), embed=embed())
        assert library.damaged == {}
        check(answers.of_library(library), f"libraries/{name}")
        assert (folder / "index.jsonl").exists()


def started_again(learner: Any, streams: Any, kept: Path, folder: Path, n_tasks: int):
    """0.1.0 did not record the learner and the metric of an interrupted stream."""
    shutil.copytree(kept, folder)
    with pytest.warns(UserWarning, match="this stream starts again"):
        return qs.evaluation.evaluate_stream(learner, streams, n_tasks=n_tasks, folder=folder)


@pytest.mark.parametrize("name", builders.LIFELONG[1:])
def test_streams_that_were_interrupted_start_again_and_have_the_same_numbers(
    name: str, tmp_path: Path
):
    learner, streams = answers.opened(name), answers.stream("blobs")
    kept = STORED / "streams" / name
    report = started_again(learner, streams, kept, tmp_path / "kept", 2)
    check(answers.of_stream_report(report), f"streams/{name}")


@pytest.mark.parametrize("name", builders.STREAMS_OF_TASKS)
def test_streams_of_tasks_start_again_and_have_the_same_numbers(name: str, tmp_path: Path):
    tasks = [list(islice(answers.stream("blobs").stream(1), 3))]
    kept = STORED / "streams_of_tasks" / name
    report = started_again(answers.opened(name), tasks, kept, tmp_path / "kept", 1)
    check(answers.of_stream_report(report), f"streams_of_tasks/{name}")


@pytest.mark.parametrize("name", builders.REPORTS)
def test_a_report_can_be_compared_with(name: str):
    report = qs.Report.load(STORED / "reports" / f"{name}.json")
    check({"values": dict(report.to_json()["values"])}, f"reports/{name}")
    learner, tasks = builders.REPORTS[name]
    now = qs.evaluate(answers.opened(learner), tasks(), n_tasks=5, meta_batch_size=3)
    assert now.paired_difference(report).mean == pytest.approx(0, abs=1e-4)


def test_a_report_on_streams_can_be_read():
    data = json.loads((STORED / "reports" / "stream.json").read_text())
    report = qs.evaluation.StreamReport.from_json(data)
    check(answers.of_stream_report(report), "streams/ewc")


@pytest.mark.parametrize("name", [name for name in builders.RUNS if "interrupted" not in name])
def test_a_finished_run_can_be_reopened(name: str, tmp_path: Path):
    shutil.copytree(STORED / "runs" / name, tmp_path / name)
    check(answers.finished(tmp_path / name), f"runs/{name}")
    for row in (STORED / "runs" / name).glob("streams/*.json"):
        assert runs.stream_file(tmp_path / name, row.stem).is_file()


@pytest.mark.parametrize("name", ["sinusoid_maml_interrupted", "rl_bandit_rl2_interrupted"])
def test_an_interrupted_run_goes_on(name: str, tmp_path: Path):
    shutil.copytree(STORED / "runs" / name, tmp_path / name)
    results = answers.went_on(tmp_path / name, *builders.RUNS[name])
    for row, stored in zip(
        results["history"], EXPECTED[f"runs/{name}"]["history"], strict=True
    ):
        assert 1 <= row[2] / stored[2] < 1.01  # intervals of new rows are Student's
        row[2] = stored[2]
    check(results, f"runs/{name}")


def test_interrupted_streams_of_a_run_start_again_and_have_the_same_numbers(tmp_path: Path):
    name = "streams_interrupted"
    shutil.copytree(STORED / "runs" / name, tmp_path / name)
    run = runs.start(*builders.RUNS[name], tmp_path / name)
    with pytest.warns(UserWarning, match="this stream starts again"):
        result = runs.finish(run)
    check(answers.of_result(result), f"runs/{name}")


def test_a_model_adapted_from_a_run_predicts_what_it_did(tmp_path: Path):
    path = STORED / "adapted" / "from_a_run.safetensors"
    facts = read_model(path)[0]["facts"]
    assert facts == {"run": "runs/glyphs_protonet", "invert": False, "transductive": False}
    run = runs.reopen(STORED / facts["run"])
    model = builders.ESTIMATORS["classifier"].load(path, run.experiment.learner)
    check(answers.of_glyphs(model), "adapted/from_a_run")
