"""HTML: a page, its sections, paragraphs, tables and plots.

A page needs no network, and is light or dark as its reader's system is. Every function here
returns HTML, in which every text is escaped.
"""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from quickstudy.core.task import Json

if TYPE_CHECKING:
    import matplotlib.axes

Axes: TypeAlias = "matplotlib.axes.Axes"  # matplotlib takes long to import
Palette: TypeAlias = Mapping[str, str]
Draw: TypeAlias = Callable[[Axes, Palette], None]
LIGHT = {"ink": "#1c2430", "frame": "#c3cad6", "main": "#2563eb", "other": "#c2410c"}
DARK = {"ink": "#e6e9ee", "frame": "#4a5568", "main": "#7aa5ff", "other": "#fbbf24"}


def page(title: str, about: str | None, *parts: str) -> str:
    """Return a whole HTML document.

    Examples:
        >>> "<h1>A &lt; B</h1>" in page("A < B", "First paragraph.")
        True
    """
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
    """Return a headline and its parts; nothing if the parts are empty.

    Examples:
        >>> section("Results", "<p>None</p>")
        '<section><h2>Results</h2>\\n<p>None</p></section>\\n'
        >>> section("Results", "")
        ''
    """
    body = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>\n" if body else ""


def paragraph(text: str, kind: str = "note") -> str:
    """Return a paragraph of plain text.

    Examples:
        >>> paragraph("a & b")
        '<p class="note">a &amp; b</p>'
    """
    return f'<p class="{kind}">{escape(text)}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of plain texts. The first cell of each row is its name.

    Examples:
        >>> table(["learner", "accuracy"], [["MAML", "98.7 %"]]).count("<td>")
        1
    """
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


def facts(values: Mapping[str, Json]) -> str:
    """Return a list of names and values.

    Examples:
        >>> facts({"n_tasks": 600})
        '<dl><div><dt>n tasks</dt><dd>600</dd></div></dl>'
    """
    items = (
        f"<div><dt>{escape(key.replace('_', ' '))}</dt><dd>{escape(value_text(v))}</dd></div>"
        for key, v in values.items()
    )
    return f"<dl>{''.join(items)}</dl>"


def value_text(value: Json) -> str:
    """Return a JSON value as people read it.

    Examples:
        >>> value_text({"steps": 10_000, "first order": True, "ways": [5, 20]})
        'steps 10,000, first order yes, ways 5 to 20'
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {value_text(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return (" to " if len(value) == 2 else ", ").join(map(value_text, value))
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def class_name(name: str) -> str:
    """Return the name of a class, isolated, as some scripts run from right to left.

    Examples:
        >>> class_name("alef")
        '<bdi dir="ltr" title="alef">alef</bdi>'
    """
    return f'<bdi dir="ltr" title="{escape(name)}">{escape(name)}</bdi>'


def pixels(x: Tensor, low: Tensor, high: Tensor, kind: str = "") -> str:
    """Return an image x (channels, height, width), with `low` as black and `high` as white.

    Examples:
        >>> pixels(torch.eye(2)[None], torch.tensor(0.0), torch.tensor(1.0))[:32]
        '<img class="pixels " src="data:i'
    """
    scaled = ((x - low) / (high - low).clamp_min(1e-6) * 255).clamp(0, 255)
    array = scaled.to(torch.uint8).permute(1, 2, 0).numpy()
    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array[..., :3])
    return f'<img class="pixels {kind}" src="{_png(image.save)}" alt="">'


def figure(draw: Draw, about: str, size: tuple[float, float] = (4.6, 3.0)) -> str:
    """Return a plot, once for light and once for dark readers.

    Args:
        draw: Draws into axes, with the colours of a palette.
        about: Text for readers who do not see the plot.
        size: (width, height) in inches.

    Examples:
        >>> html = figure(lambda axes, palette: axes.plot([0, 1]), "a line")
        >>> html.count("data:image/png"), 'alt="a line"' in html
        (2, True)
    """
    light, dark = (_plot(draw, palette, size) for palette in (LIGHT, DARK))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img class="plot" src="{light}" alt="{escape(about)}"></picture>'
    )


def figures(plots: Iterable[str], note: str) -> str:
    """Return plots side by side, with a note below.

    Examples:
        >>> figures(["<img>"], "Not picked.")
        '<div class="figures"><img></div><p class="note">Not picked.</p>'
    """
    return f'<div class="figures">{"".join(plots)}</div>{paragraph(note)}'


def legend(axes: Axes, palette: Palette, **options: Any) -> None:
    """Add a legend without a frame; above the axes if it has several columns, `ncols`.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().add_subplot()
        >>> line = axes.plot([0, 1], label="loss")
        >>> legend(axes, LIGHT)
        >>> [text.get_text() for text in axes.get_legend().get_texts()]
        ['loss']
    """
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)} if "ncols" in options else {}
    axes.legend(frameon=False, labelcolor=palette["ink"], **(above | options))


def _plot(draw: Draw, palette: Palette, size: tuple[float, float]) -> str:
    """A plot as a data URI."""
    from matplotlib.figure import Figure

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
    """The PNG that `save(file, format)` writes, as a data URI."""
    file = io.BytesIO()
    save(file, format="png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


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
.taught,.queries{display:grid;gap:.5rem;grid-template-columns:repeat(auto-fill,minmax(8rem,1fr))}
.taught div{display:flex;flex-wrap:wrap;gap:.25rem}
.queries div{display:flex;align-items:center;gap:.4rem}
.queries i{font-style:normal;font-weight:700}
.right i{color:var(--right)}.wrong i{color:var(--wrong)}
.wrong{border-color:var(--wrong)}
.was bdi{display:inline;color:var(--wrong)}.was{display:block;color:var(--wrong);
overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.chance{display:block;height:.25rem;margin:.3rem 0 .15rem;background:var(--line);
border-radius:.2rem}
.chance s{display:block;height:100%;border-radius:.2rem;background:var(--right)}
.wrong .chance s{background:var(--wrong)}
"""
