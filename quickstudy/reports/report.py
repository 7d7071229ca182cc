"""A run as one HTML file: what was measured, by which protocol, and pictures of it.

The file needs no network and is light or dark as its reader's system is. Functions that end up
in it return HTML, with every text escaped.
"""

import base64
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from quickstudy.capabilities import DescendsInSteps
from quickstudy.console import clock, is_share, said
from quickstudy.core.parameters import device_of
from quickstudy.core.task import Examples, Json, TaskBatch, batches
from quickstudy.core.tree import tree_map
from quickstudy.evaluation.adaptation import adaptation_trace
from quickstudy.evaluation.stream_measures import StreamReport
from quickstudy.execution.batching import over_tasks
from quickstudy.learner import Learner
from quickstudy.runs.recipes import (
    Benchmark,
    Run,
    find,
    hardware,
    published,
    reopen,
    stream_file,
)
from quickstudy.tasks.few_shot import FewShot
from quickstudy.tasks.rollouts import Rollouts
from quickstudy.tasks.streams import Streams

QUERIES = 40  # pictures of an episode's query set, at most
FUNCTIONS = 4  # drawn, where tasks are functions
INSIDE, STEPS = 25, 10  # tasks and inner steps that are looked inside of, at most

Palette: TypeAlias = Mapping[str, str]
LIGHT = {"ink": "#1c2430", "frame": "#c3cad6", "main": "#2563eb", "other": "#c2410c"}
DARK = {"ink": "#e6e9ee", "frame": "#4a5568", "main": "#7aa5ff", "other": "#fbbf24"}


def write(run: Run | str | Path, path: str | Path | None = None) -> Path:
    """Writes the report of a run's best checkpoint and returns where: `report.html` in the
    run's folder, unless `path` says otherwise.

    Raises:
        CheckpointError: the run has no checkpoint yet.
    """
    from quickstudy.reports.attention import remembering
    from quickstudy.reports.embedding import comparing  # which itself imports this module
    from quickstudy.reports.retrieval import retrieving
    from quickstudy.reports.rl_paths import paths

    folder = Path(run.folder if isinstance(run, Run) else run)
    result, best = read(folder), reopen(folder)
    learner, tests = best.experiment.learner, best.experiment.benchmarks
    without = Streams | Rollouts  # no examples to draw
    episodes = {row: t for row, t in tests.items() if not isinstance(t.tasks, without)}
    measured = result["measured"]
    parts = [section("Results", results(measured, result["paper"]))]
    for name, test in list(episodes.items())[:1]:
        parts += [
            section(f"What it does: {name}", picture(learner, test)),
            section("How it compares", comparing(learner, test)),
            section("What its memory did", remembering(learner, test)),
            section("Which past tasks it recalled", retrieving(learner, test)),
            section("Inside the adaptation", adaptation(learner, episodes)),
        ]
    parts += [
        *(
            section(f"Where it went: {row}", paths(learner, test))
            for row, test in tests.items()
        ),
        *(section(f"What it kept: {row}", forgetting(folder, row)) for row in tests),
        section("How it learned", curves(result["history"], best.experiment.better)),
        section("Protocol", cards({row: entry["card"] for row, entry in measured.items()})),
        section("Settings, hardware and time", facts(circumstances(result))),
    ]
    target = folder / "report.html" if path is None else Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(result["recipe"], result["about"], *parts), encoding="utf-8")
    return target


def read(folder: Path) -> dict[str, Json]:
    """The `result.json` of a run, or what is known while the run is not finished."""
    if (folder / "result.json").exists():
        return json.loads((folder / "result.json").read_text())
    run = reopen(folder, which="last")
    module = find(run.recipe)
    return {
        "recipe": Path(run.recipe).stem,
        "about": module.__doc__,
        "paper": published(module, run.settings),
        "measured": {},
        "settings": run.settings,
        "steps": run.start,
        "seconds": run.seconds,
        "hardware": hardware(),
        "history": run.history,
    }


def page(title: str, about: str | None, *parts: str) -> str:
    """A whole HTML document."""
    paragraphs = "".join(
        f"<p{' class=lead' if i == 0 else ''}>{escape(' '.join(text.split()))}</p>"
        for i, text in enumerate((about or "").strip().split("\n\n"))
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} · quickstudy</title><style>{CSS}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>{paragraphs}\n{''.join(parts)}</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A headline and what is below it, nothing if that is empty."""
    body = "\n".join(parts)
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>\n" if body else ""


def paragraph(text: str, kind: str = "note") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{escape(text)}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts, the first of each row its name."""
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><th>{escape(row[0])}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def results(measured: Mapping[str, Json], paper: Mapping[str, Json]) -> str:
    """What was measured (mean ± 95 % interval) beside what the paper says."""
    if not measured:
        return paragraph("This run is not finished: nothing has been measured yet.")
    rows = []
    for row, entry in measured.items():
        published = dict(paper.get(row, {}))
        for metric in (key for key in entry if key != "card"):
            value = entry[metric]
            number = published.pop(metric, None)
            interval = published.pop("interval", None)
            there = "" if number is None else said(metric, number, interval)
            rest = ", ".join(f"{key} {_plain(v)}" for key, v in published.items())
            here = said(metric, value["mean"], value["interval"])
            rows.append((row, metric.replace("_", " "), here, there, rest))
    columns = [("test", "metric", "measured ± 95 %", "paper", "there"), *rows]
    kept = [i for i in range(5) if i < 3 or any(row[i] for row in rows)]
    chosen = [[row[i] for i in kept] for row in columns]
    return table(chosen[0], chosen[1:])


def cards(every: Mapping[str, Mapping[str, Json]]) -> str:
    """The protocol of each number: what all share, and what differs."""
    if not every:
        return ""
    keys = list(dict.fromkeys(key for card in every.values() for key in card))
    texts = {key: [_plain(card.get(key, "")) for card in every.values()] for key in keys}
    shared = {key: column[0] for key, column in texts.items() if len(set(column)) == 1}
    differing = [key for key in keys if key not in shared]
    rows = [[name, *(texts[key][i] for key in differing)] for i, name in enumerate(every)]
    return facts(shared) + (table(["test", *differing], rows) if differing else "")


def facts(known: Mapping[str, Json]) -> str:
    """Names and values."""
    items = (
        f"<div><dt>{escape(key.replace('_', ' '))}</dt><dd>{escape(_plain(value))}</dd></div>"
        for key, value in known.items()
    )
    return f"<dl>{''.join(items)}</dl>"


def circumstances(result: Mapping[str, Json]) -> dict[str, Json]:
    """How a result came about: settings, steps, time, hardware."""
    return {
        **result["settings"],
        "steps": result["steps"],
        "reported checkpoint": result.get("checkpoint", "none yet"),
        "training time": clock(result["seconds"]),
        **{key: value for key, value in result["hardware"].items() if value is not None},
        "date": result.get("date", "not finished"),
    }


def curves(history: Sequence[Mapping[str, Json]], better: str = "max") -> str:
    """Training loss and validation metrics against the step, the chosen one marked."""
    if not history:
        return ""
    steps = [entry["step"] for entry in history]
    metrics = [key for key in history[0] if key.startswith("validation ")]
    chosen = max(history, key=lambda entry: entry["score"])

    def loss(axes: Axes, palette: Palette) -> None:
        axes.plot(steps, [entry["loss"] for entry in history], ".-", color=palette["main"])
        axes.set(xlabel="step", ylabel="training loss")

    def metric(axes: Axes, palette: Palette, name: str) -> None:
        percent = 100 if is_share(name.removeprefix("validation ")) else 1
        values = percent * np.array([entry[name] for entry in history])
        if name == metrics[0]:
            wide = percent * np.array([entry["interval"] for entry in history], dtype=float)
            band = {"color": palette["main"], "alpha": 0.2, "linewidth": 0}
            axes.fill_between(steps, values - wide, values + wide, **band)
        axes.plot(steps, values, ".-", color=palette["main"])
        place = (chosen["step"], percent * chosen[name])
        axes.plot(*place, "o", color=palette["other"], label="reported")
        label = name.replace("_", " ") + (" (%)" if percent == 100 else "")
        axes.set(xlabel="step", ylabel=label)
        axes.legend(frameon=False, labelcolor=palette["ink"])

    drawn = [figure(loss, "training loss by step")]
    drawn += [figure(partial(metric, name=name), f"{name} by step") for name in metrics]
    direction, first = "highest" if better == "max" else "lowest", metrics[0].replace("_", " ")
    note = (
        "The band is the 95 % interval over tasks. "
        f"The reported checkpoint is the one of the {direction} {first}."
    )
    return f'<div class="figures">{"".join(drawn)}</div>{paragraph(note)}'


def forgetting(folder: Path, row: str) -> str:
    """What a learner knew of each experience of a stream as more came; nothing of a row that
    is not on streams."""
    file = stream_file(folder, row)
    if not file.exists():
        return ""
    found = StreamReport.from_json(json.loads(file.read_text()))

    def coloured(axes: Axes, palette: Palette, draw: Callable[[Axes], None]) -> None:
        draw(axes)
        sheet = axes.get_figure(root=True)
        for each in sheet.axes if sheet else ():  # the bar of colours is one, too
            each.tick_params(colors=palette["ink"])
            each.yaxis.label.set_color(palette["ink"])
        legend = axes.get_legend()
        if legend is not None:
            legend.set_frame_on(False)
            for text in legend.get_texts():
                text.set_color(palette["ink"])

    drawn = [
        figure(partial(coloured, draw=found.plot), f"{found.metric} on every experience"),
        figure(partial(coloured, draw=found.plot_forgetting), f"{found.metric} of the past"),
    ]
    streams, mean = len(found.matrix), found.report.mean
    note = (
        f"The first of {streams} stream{'s' * (streams > 1)}. Left: a row is after an "
        "experience, from 0 at the top, a column the test of one; right of the diagonal is "
        f"what had not come yet. Right: {found.metric} on the first experience, and the mean "
        f"of all so far. In the end it is {said(found.metric, mean(found.metric))} over all "
        f"streams; it had been higher by {said(found.metric, mean('forgetting'))} once."
    )
    return f'<div class="figures">{"".join(drawn)}</div>{paragraph(note)}'


def adaptation(learner: Learner[Any], tests: Mapping[str, Benchmark]) -> str:
    """What every inner step does for the first test, up to as many steps as any test has, and
    how far each layer moves; nothing for a learner that takes no such steps.

    Args:
        learner: stays with the settings of the first test.
    """
    test = next(iter(tests.values()))
    for name, value in test.settings.items():
        setattr(learner, name, value)
    asked = (each.settings.get("steps", 0) for each in tests.values())
    if not isinstance(learner, DescendsInSteps) or not learner.steps:
        return ""
    most = max(learner.steps, *asked)
    count, last = min(INSIDE, test.n_tasks), min(most, STEPS)
    found = adaptation_trace(
        learner, test.tasks, steps=last, n_tasks=count, meta_batch_size=test.meta_batch_size
    )

    def metric(axes: Axes, palette: Palette, name: str) -> None:
        percent, steps = 100 if name == "accuracy" else 1, range(last + 1)
        mean = percent * np.array([report.mean(name) for report in found.after])
        wide = percent * np.array([report.interval(name) for report in found.after])
        band = {"color": palette["main"], "alpha": 0.2, "linewidth": 0}
        axes.fill_between(steps, mean - wide, mean + wide, **band)
        axes.plot(steps, mean, ".-", color=palette["main"])
        axes.set_xticks(steps)
        label = name.replace("_", " ") + (" (%)" if percent == 100 else "")
        axes.set(xlabel="inner step", ylabel=f"query {label}")

    def layers(axes: Axes, palette: Palette, values: Mapping[str, Tensor], says: str) -> None:
        ends = {name: value[:, -1].numpy() for name, value in values.items()}
        mean = [end.mean() for end in ends.values()]
        wide = [1.96 * end.std(ddof=1) / len(end) ** 0.5 for end in ends.values()]
        look = {"color": palette["main"], "ecolor": palette["ink"], "height": 0.6}
        axes.barh(list(ends), mean, xerr=wide if count > 1 else None, **look)
        axes.invert_yaxis()  # the first layer on top
        axes.tick_params(axis="y", labelsize=7)
        axes.set(xlabel=says)

    drawn = [
        figure(partial(metric, name=name), f"query {name} by inner step")
        for name in found.after[0].values
    ]
    alike = {k: v for k, v in found.similarity.items() if not v.isnan().any()}
    bars = {"how far each layer moved": found.moved, "similarity of its outputs": alike}
    drawn += [
        figure(
            partial(layers, values=values, says=says), says, (4.6, max(3.0, 0.2 * len(values)))
        )
        for says, values in bars.items()
        if values
    ]
    more = f" The test with the most has {most} steps." if most > last else ""
    note = (
        f"The first {count} tasks of the test, after 0 to {last} inner steps.{more} Bands and "
        "whiskers are 95 % intervals over tasks. A layer's movement is the change of its "
        "parameters by its last step, relative to what they were (absolute where they were "
        "zero); the similarity is the linear CKA of its outputs on the query set before and "
        "after. Where only the head moves, features are reused; where the body does and its "
        "outputs change, they are learned anew."
    )
    return f'<div class="figures">{"".join(drawn)}</div>{paragraph(note)}'


def figure(
    draw: Callable[[Axes, Palette], None], about: str, size: tuple[float, float] = (4.6, 3.0)
) -> str:
    """A plot, once for light and once for dark readers; `size` in inches."""
    light, dark = (_plot(draw, palette, size) for palette in (LIGHT, DARK))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img class="plot" src="{light}" alt="{escape(about)}"></picture>'
    )


@torch.no_grad()
def picture(learner: Learner[Any], test: Benchmark, *, seed: int = 1) -> str:
    """The first tasks of a test (of `seed`) and what the learner makes of them; nothing where
    tasks are neither of images nor of functions of one variable.

    Args:
        learner: stays with the settings of the test.
    """
    for name, value in test.settings.items():
        setattr(learner, name, value)
    batch = next(iter(batches(test.tasks, test.meta_batch_size, steps=1, seed=seed)))
    device = device_of(learner)
    batch = tree_map(lambda leaf: leaf.to(device), batch)
    training = learner.training
    learner.eval()
    try:
        if learner.classifies and batch.support.x.ndim == 5:
            return _episode(learner, batch, _names(test, seed))
        if batch.support.x.shape[2:] == (1,) and batch.query.y.shape[2:] == (1,):
            return _functions(learner, batch)
        return ""
    finally:
        learner.train(training)


def _answers(learner: Learner[Any], support: Examples, x: Tensor) -> Any:
    """Predictions for x (T, N, *features), on the CPU."""

    def answer(support: Examples, x: Tensor) -> Any:
        return learner.predict(learner.adapt(support), x)

    found = over_tasks(answer, learner.execution, learner.chunk)(support, x)
    return tree_map(lambda leaf: leaf.cpu(), found)


def _episode(learner: Learner[Any], batch: TaskBatch, names: Sequence[str] | None) -> str:
    """The first task of the batch: its support set, and queries with predictions."""
    one: TaskBatch = tree_map(lambda leaf: leaf[:1], batch)
    chances = _answers(learner, one.support, one.query.x)[0].softmax(-1)  # (Q, C)
    support, query = (tree_map(lambda leaf: leaf[0].cpu(), part) for part in one)
    low, high = support.x.min(), support.x.max()

    image = partial(pixels, low=low, high=high)
    real, truth = query.weight > 0, query.y.argmax(-1)
    present = [c for c in range(support.y.shape[-1]) if support.y[:, c].any()]
    label = {c: names[c] if names else f"class {i}" for i, c in enumerate(present, 1)}
    shots = {c: support.x[support.y[:, c] > 0] for c in present}
    taught = "".join(
        f"<figure><div>{''.join(image(x) for x in shots[c])}</div>"
        f"<figcaption>{_name(label[c])}</figcaption></figure>"
        for c in present
    )
    each = max(1, QUERIES // len(present))
    asked = []
    for c in present:
        for q in (real & (truth == c)).nonzero().flatten().tolist()[:each]:
            guess, chance = int(chances[q].argmax()), float(chances[q].max())
            right = guess == c
            was = "" if right else f'<span class="was">is {_name(label[c])}</span>'
            asked.append(
                f'<figure class="{"right" if right else "wrong"}">'
                f"<div>{image(query.x[q])}<i>{'✓' if right else '✗'}</i>"
                f"{image(shots[guess][0], kind='small')}</div>"
                f"<figcaption>{_name(label[guess])}{was}"
                f'<span class="chance"><s style="width:{chance:.0%}"></s></span>'
                f"{chance:.0%}</figcaption></figure>"
            )
    share = (chances.argmax(-1) == truth)[real].double().mean().item()
    note = (
        f"The first task of the test, not picked. Of its {int(real.sum())} queries {share:.1%} "
        f"are right; {len(asked)} are shown. Each stands beside an example of the class "
        "that it was taken for, with the probability given to that class."
    )
    return (
        f'<h3>Support set: what it learns from</h3><div class="taught">{taught}</div>'
        f'<h3>Query set: what it is asked</h3><div class="asked">{"".join(asked)}</div>'
        + paragraph(note)
    )


def pixels(x: Tensor, low: Tensor, high: Tensor, kind: str = "") -> str:
    """An image x (channels, height, width), `low` as black and `high` as white."""
    scaled = ((x - low) / (high - low).clamp_min(1e-6) * 255).clamp(0, 255)
    array = scaled.to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array[..., :3])
    return f'<img class="pixels {kind}" src="{_png(picture.save)}" alt="">'


def _names(test: Benchmark, seed: int) -> list[str] | None:
    """The names of the classes of a test's first task, where its data set has names."""
    tasks = test.tasks
    if not isinstance(tasks, FewShot):
        return None
    data = tasks.dataset
    # the same tasks are drawn again, from a data set whose images are their labels
    labels = data.y.cpu().double()[:, None, None, None]
    twin = FewShot(
        replace(data, x=labels),
        tasks.ways,
        tasks.shots,
        tasks.queries,
        unlabelled=tasks.unlabelled,
        distractors=tasks.distractors,
        imbalanced=tasks.imbalanced,
        rotations=tasks.rotations,
        within_groups=tasks.within_groups,
        ordered=tasks.ordered,
    )
    support = next(iter(batches(twin, test.meta_batch_size, steps=1, seed=seed))).support
    pairs = zip(support.x[0], support.y[0], strict=True)
    found = {int(y.argmax()): int(x) for x, y in pairs if y.any()}
    return [data.classes[found[c]] if c in found else "" for c in range(support.y.shape[-1])]


def _functions(learner: Learner[Any], batch: TaskBatch) -> str:
    """The first tasks of the batch: points seen, the truth, predictions before and after."""
    few: TaskBatch = tree_map(lambda leaf: leaf[:FUNCTIONS], batch)
    inputs = torch.cat([few.support.x, few.query.x], 1)
    line = torch.linspace(float(inputs.min()), float(inputs.max()), 300)
    x = line.to(inputs)[:, None].expand(len(inputs), -1, 1)
    nothing = few.support._replace(weight=torch.zeros_like(few.support.weight))
    after, before = _answers(learner, few.support, x), _answers(learner, nothing, x)
    few = tree_map(lambda leaf: leaf.cpu(), few)

    def draw(axes: Axes, palette: Palette, task: int) -> None:
        support, query = (tree_map(lambda leaf: leaf[task], part) for part in few)
        seen, asked = (part.weight > 0 for part in (support, query))
        order = query.x[asked, 0].argsort()
        truth = (query.x[asked, 0][order], query.y[asked, 0][order])
        look = "-" if len(order) >= 100 else "."  # so many look like the function itself
        axes.plot(*truth, look, color=palette["frame"], linewidth=3, label="truth")
        for answer, look, says in ((before, ":", "before"), (after, "-", "after")):
            mean = answer if isinstance(answer, Tensor) else answer.mean
            scale = getattr(answer, "scale", None)
            colour = palette["main" if says == "after" else "other"]
            curve = mean[task, :, 0]
            if curve.isfinite().all():
                axes.plot(line, curve, look, color=colour, label=f"{says} adaptation")
                if isinstance(scale, Tensor) and says == "after":
                    wide = 2 * scale[task, :, 0]
                    axes.fill_between(
                        line, curve - wide, curve + wide, color=colour, alpha=0.2, linewidth=0
                    )
        points = (support.x[seen, 0], support.y[seen, 0])
        axes.plot(*points, "o", color=palette["ink"], markersize=5, label="support")
        axes.set(xlabel="x", ylabel="y")
        style = {"frameon": False, "labelcolor": palette["ink"], "fontsize": 7}
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, **style)

    drawn = [figure(partial(draw, task=i), f"function {i + 1}") for i in range(len(x))]
    note = "The first tasks of the test, not picked."
    if not isinstance(after, Tensor):
        note += " The band is ± 2 standard deviations of the prediction."
    return f'<div class="figures">{"".join(drawn)}</div>{paragraph(note)}'


def _plot(
    draw: Callable[[Axes, Palette], None], palette: Palette, size: tuple[float, float]
) -> str:
    """A picture of axes as a data URI."""
    # no pyplot: nothing global, no display, and the figure goes when this returns
    sheet = Figure(size, layout="constrained")
    axes = sheet.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(palette["frame"])
    axes.tick_params(colors=palette["ink"])
    axes.xaxis.label.set_color(palette["ink"])
    axes.yaxis.label.set_color(palette["ink"])
    draw(axes, palette)
    return _png(partial(sheet.savefig, dpi=160, transparent=True))


def _png(save: Callable[..., Any]) -> str:
    """What `save(file, format)` writes, as a data URI."""
    file = io.BytesIO()
    save(file, format="png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _name(name: str) -> str:
    """A class name; isolated, as letters of some scripts would turn the text around them."""
    return f'<bdi dir="ltr" title="{escape(name)}">{escape(name)}</bdi>'


def _plain(value: Json) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return (" to " if len(value) == 2 else ", ").join(map(_plain, value))
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


CSS = """
:root{--ink:#1c2430;--soft:#5b6675;--line:#e1e5ec;--paper:#fff;--card:#f5f7fa;
--right:#15803d;--wrong:#c81e1e;--main:#2563eb}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa5b5;--line:#2c3442;
--paper:#12161d;--card:#1a202a;--right:#4ade80;--wrong:#ff7b7b;--main:#7aa5ff}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem 1rem 4rem;max-width:62rem;color:var(--ink);
background:var(--paper);font:16px/1.55 system-ui,sans-serif;overflow-wrap:break-word}
h1{font-size:1.8rem;line-height:1.2;margin:.5rem 0}
h2{font-size:1.25rem;margin:2.5rem 0 .8rem}
h3{font-size:1rem;margin:1.4rem 0 .6rem}
p{max-width:46rem}.lead{font-size:1.1rem}.note{color:var(--soft);font-size:.9rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;min-width:60%}
th,td{padding:.45rem .9rem .45rem 0;text-align:left;border-bottom:1px solid var(--line);
white-space:nowrap}
thead th{color:var(--soft);font-weight:500;font-size:.85rem}tbody th{font-weight:600}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(10.5rem,1fr));gap:.7rem 1.2rem;
margin:0 0 1rem}
dt{color:var(--soft);font-size:.8rem}dd{margin:0;font-size:.95rem}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:1rem}
.plot{width:100%;max-width:34rem;height:auto}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:.5rem;
padding:.5rem}
figcaption{font-size:.78rem;color:var(--soft);margin-top:.3rem}
bdi{display:block;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;color:var(--ink)}
.pixels{width:48px;height:48px;border-radius:.25rem;object-fit:contain}
.small{width:32px;height:32px;opacity:.8}
.taught,.asked{display:grid;gap:.5rem;grid-template-columns:repeat(auto-fill,minmax(8rem,1fr))}
.taught div{display:flex;flex-wrap:wrap;gap:.25rem}
.asked div{display:flex;align-items:center;gap:.4rem}
.asked i{font-style:normal;font-weight:700}
.right i{color:var(--right)}.wrong i{color:var(--wrong)}
.wrong{border-color:var(--wrong)}
.was bdi{display:inline;color:var(--wrong)}.was{display:block;color:var(--wrong);
overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.chance{display:block;height:.25rem;margin:.3rem 0 .15rem;background:var(--line);
border-radius:.2rem}
.chance s{display:block;height:100%;border-radius:.2rem;background:var(--right)}
.wrong .chance s{background:var(--wrong)}
"""
