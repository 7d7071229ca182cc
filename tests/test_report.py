"""Reports: whole, self-contained, and true to the numbers."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import quickstudy as qs
from quickstudy import runs
from quickstudy.reports.adaptation import draw_adaptation
from quickstudy.reports.curves import draw_curves
from quickstudy.reports.episode import draw_episode
from quickstudy.reports.forgetting import draw_forgetting
from quickstudy.reports.functions import draw_functions
from quickstudy.reports.write import write
from quickstudy.storage.checkpoints import CheckpointError
from quickstudy.testing import Blobs

IMAGES = '''"""Two < three & "quotes".

Second paragraph.
"""

import torch

import quickstudy as qs
from quickstudy.runs import Benchmark, Experiment

PAPER = {"2-way": {"accuracy": 0.917, "interval": 0.004, "steps": 60_000}}


def recipe(*, steps: int = 4, seed: int = 0) -> Experiment:
    generator = torch.Generator().manual_seed(5)
    x = torch.randint(0, 256, (4, 1, 1, 8, 8), generator=generator).expand(4, 6, 1, 8, 8)
    y = torch.arange(4).repeat_interleave(6)
    names = ("<b>one</b>", "two", "three", "four")
    data = qs.datasets.Labelled(x.flatten(0, 1).to(torch.uint8), y, names, name="a&b")
    embed = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8))
    learner = qs.PrototypicalNetwork(embed)
    tasks = qs.FewShot(data, (3, 4), 2, 3)
    return Experiment(
        learner,
        tasks,
        tasks,
        {
            "2-way": Benchmark(tasks, n_tasks=9, meta_batch_size=3),
            "again": Benchmark(tasks, n_tasks=7, meta_batch_size=3),
        },
        torch.optim.Adam(learner.parameters()),
        steps,
        2,
        validate_every=2,
        n_validation_tasks=5,
    )
'''

FUNCTIONS = '''"""Waves."""

import torch

import quickstudy as qs
from quickstudy.runs import Benchmark, Experiment


def recipe(*, steps: int = 2, seed: int = 0) -> Experiment:
    learner = LEARNER
    tasks = TASKS
    return Experiment(
        learner,
        tasks,
        tasks,
        {"waves": Benchmark(tasks, {}, n_tasks=9, meta_batch_size=3)},
        torch.optim.Adam(learner.parameters()),
        steps,
        2,
        better="min",
        validate_every=1,
        n_validation_tasks=5,
    )
'''


class Page(HTMLParser):
    """What a browser would load, and whether every tag is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "srcset", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The folder of a run on images."""
    return carry_out(IMAGES, tmp_path)


def carry_out(text: str, place: Path, *, finish: bool = True) -> Path:
    file = place / "tiny.py"
    file.write_text(text)
    run = runs.start(str(file), {}, place / "run")
    for _ in runs.go(run):
        pass
    if finish:
        runs.finish(run)
    return run.folder


def test_numbers_are_those_of_result_json(finished: Path) -> None:
    path = write(finished)
    assert path == finished / "report.html"
    html = path.read_text(encoding="utf-8")
    result = json.loads((finished / "result.json").read_text())
    for entry in result["measured"].values():
        value = entry["accuracy"]
        assert f"{100 * value['mean']:.2f} ± {100 * value['interval']:.2f} %" in html
        assert entry["card"]["hash"] in html
    assert "91.70 ± 0.40 %" in html  # the paper's
    assert "60,000" in html
    assert result["hardware"]["torch"] in html


def test_loads_nothing_from_elsewhere(finished: Path) -> None:
    html = write(finished).read_text(encoding="utf-8")
    assert "http" not in html
    page = Page(html)
    assert len(page.sources) > 10
    for source in page.sources:
        head, data = source.split(",")
        assert head == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(data))).verify()


def test_text_is_escaped(finished: Path) -> None:
    page = Page(write(finished).read_text(encoding="utf-8"))
    words = "".join(page.words)
    assert 'Two < three & "quotes".' in words
    assert "a&b" in words
    assert "b" not in page.tags  # the class `<b>one</b>`
    assert "<b>one</b>" in words


def test_episode_says_what_the_learner_says(finished: Path) -> None:
    """The share of right queries is that of the first task that was measured."""
    run = runs.reopen(finished)
    test = run.experiment.benchmarks["2-way"]
    first = runs.measure(run, test).values["accuracy"][0]
    html = draw_episode(run.experiment.learner, test)
    assert f"{100 * first:.1f}% are right" in html
    share = html.count('class="right"') / (html.count('class="right"') + html.count("wrong"))
    assert share == pytest.approx(float(first), abs=1e-6)  # so few that all are shown


def test_classes_are_called_by_their_names(finished: Path) -> None:
    """Equal examples of a class have one name, other examples another."""
    run = runs.reopen(finished)
    html = draw_episode(run.experiment.learner, run.experiment.benchmarks["2-way"])
    taught = html.split("<h3>Query")[0]
    cards = re.findall(r"<figure><div>(.*?)</div><figcaption>(.*?)</figcaption>", taught)
    data: Any = run.experiment.benchmarks["2-way"].tasks
    for pictures, caption in cards:
        name = re.sub(r"^<bdi.*?>(.*?)</bdi>$", r"\1", caption)
        place = [c.replace("<", "&lt;").replace(">", "&gt;") for c in data.dataset.classes]
        truth = data.dataset.x[data.dataset.y == place.index(name)][0, 0]
        for source in re.findall(r"base64,([^\"]+)", pictures):
            shown = Image.open(io.BytesIO(base64.b64decode(source)))
            pixels = torch.tensor(list(shown.tobytes())).view(8, 8)
            assert (
                pixels - truth
            ).abs().max() <= 8  # the episode's darkest and lightest are stretched


@pytest.mark.parametrize(
    ("learner", "tasks"),
    [
        (
            "qs.MAML(qs.nets.MLP(1, 1, hidden=(8,)), criterion=qs.squared_error)",
            "qs.Sinusoid(5, 100, grid=True)",
        ),
        ("qs.ConditionalNeuralProcess(width=8)", "qs.tasks.GaussianProcess(ragged=True)"),
    ],
)
def test_functions_are_drawn(tmp_path: Path, learner: str, tasks: str) -> None:
    folder = carry_out(FUNCTIONS.replace("LEARNER", learner).replace("TASKS", tasks), tmp_path)
    html = write(folder).read_text(encoding="utf-8")
    assert [f'alt="function {i}"' in html for i in (1, 2, 3)] == [True] * 3
    Page(html)


def test_what_happens_inside_of_the_adaptation_is_drawn(tmp_path: Path) -> None:
    learner = "qs.anil(qs.nets.MLP(1, 1, hidden=(8,)), steps=2, criterion=qs.squared_error)"
    text = FUNCTIONS.replace("LEARNER", learner).replace("TASKS", "qs.Sinusoid(5, 9)")
    folder = carry_out(text.replace("tasks, {}", 'tasks, {"steps": 12}'), tmp_path)
    html = write(folder).read_text(encoding="utf-8")
    part = html[html.index("Inside the adaptation") : html.index("Learning curves")]
    Page(part.partition("</h2>")[2].partition("</section>")[0])
    assert "The first 9 tasks of the test, after 0 to 10 inner steps." in part
    assert "The test with the most has 12 steps." in part
    for alt in (
        "query squared_error by inner step",
        "how far each layer moved",
        "similarity of its outputs",
    ):
        assert part.count(f'alt="{alt}"') == 1


def test_nothing_inside_of_a_learner_that_takes_no_steps(finished: Path) -> None:
    assert "Inside the adaptation" not in write(finished).read_text(encoding="utf-8")


def test_nothing_is_drawn_where_there_is_nothing(tmp_path: Path) -> None:
    learner = qs.PrototypicalNetwork(torch.nn.Linear(8, 4))
    benchmark = runs.Benchmark(Blobs(), n_tasks=2, meta_batch_size=2)
    assert draw_adaptation(learner, {"blobs": benchmark}) == ""
    assert draw_functions(learner, benchmark) == ""
    assert draw_forgetting(tmp_path, "blobs") == ""
    assert draw_curves([]) == ""


def test_unfinished_run_says_so(tmp_path: Path) -> None:
    folder = carry_out(IMAGES, tmp_path, finish=False)
    html = write(folder, tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert "not finished" in html
    assert "validation accuracy" in html


def test_no_run_no_report(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []
