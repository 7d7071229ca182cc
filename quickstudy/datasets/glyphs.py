"""Letters of many scripts in the fonts that matplotlib ships: characters without a download.

A class is a letter, a group its script. The split of the scripts is fixed: a learner
meta-trains on some writing systems and is tested on others.
"""

import hashlib
import unicodedata
import warnings
from collections import defaultdict
from contextlib import suppress
from functools import cache as remember
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageFont
from PIL import __version__ as PIL_VERSION
from torch import Generator, Tensor
from torch.nn import functional as F

from quickstudy.datasets.files import arrays_sha256, bar, cache, load_npz, replacing
from quickstudy.datasets.labelled import Labelled, Splits

SCRIPTS = {
    "train": ("LATIN", "CYRILLIC", "CANADIAN", "COPTIC"),
    "validation": ("ARMENIAN", "LAO", "LISU", "OLD"),  # the last: Old Italic
    "test": ("GREEK", "GEORGIAN", "HEBREW", "ARABIC"),
}
FONTS = ("DejaVuSans", "DejaVuSerif", "STIXGeneral")  # beginnings of file names, all styles
FACES = 4  # that a letter must have
DRAWINGS = 20  # of each letter
CANVAS = 56  # pixels that a letter is rendered in, halved after its variation
EM = 50  # size of the font on the canvas, in pixels

Bitmaps: TypeAlias = dict[str, np.ndarray]  # by face, each as large as its ink


def glyphs() -> Splits:
    """Return letters of 12 scripts, 20 drawings of each: x (N, 1, 28, 28) uint8 with ink 255.

    Each drawing is the letter in one of the faces that have it (4 to 16: sans, serif, mono,
    bold, oblique), a little turned, sheared, scaled, moved, bent, and thickened or thinned.
    Meta-train on Latin, Cyrillic, Canadian syllabics and Coptic; choose by Armenian, Lao, Lisu
    and Old Italic; report on Greek, Georgian, Hebrew and Arabic. Accented letters are left out,
    and so are letters that look like an earlier one (Greek Α is Latin A).

    They are made once, in seconds, and kept in the cache. The same versions of matplotlib,
    Pillow and torch make the same drawings. Compare the `hash` of a part between machines.

    Examples:
        >>> import quickstudy as qs
        >>> qs.datasets.glyphs().test.x.shape[1:]  # doctest: +SKIP
        torch.Size([1, 28, 28])
    """
    return _glyphs()


@remember
def _glyphs() -> Splits:
    key = hashlib.sha256(repr((version("matplotlib"), PIL_VERSION)).encode())
    for file in (*_fonts(), Path(__file__)):
        key.update(file.read_bytes())
    path = cache() / "glyphs" / f"{key.hexdigest()[:16]}.npz"
    data: dict[str, np.ndarray] = {}
    with suppress(ValueError):  # not made yet, or damaged
        data = load_npz(path)
    if str(data.pop("sha256", "")) != arrays_sha256(data):
        data = _draw()
        try:
            with replacing(path) as file:
                np.savez_compressed(
                    file,
                    images=data["images"],
                    letters=data["letters"],
                    sha256=np.array(arrays_sha256(data)),
                )
        except OSError as error:
            warnings.warn(f"{error} The glyphs will be drawn again next time.", stacklevel=3)
    letters = data["letters"].tolist()
    scripts = [script for part in SCRIPTS.values() for script in part]
    groups = [scripts.index(_script(letter)) for letter in letters]
    everything = Labelled(
        torch.from_numpy(data["images"]).flatten(0, 1)[:, None],
        torch.arange(len(letters)).repeat_interleave(DRAWINGS),
        tuple(f"{letter} {unicodedata.name(letter)}" for letter in letters),
        torch.tensor(groups),
        tuple("OLD ITALIC" if script == "OLD" else script for script in scripts),
        name="glyphs",
    )
    owner = [part for letter in letters for part in SCRIPTS if _script(letter) in SCRIPTS[part]]
    parts = [[i for i, part in enumerate(owner) if part == name] for name in SCRIPTS]
    return Splits(*map(everything.select, parts, SCRIPTS))


def _draw() -> dict[str, np.ndarray]:
    """`images` (K, 20, 28, 28) uint8 of `letters` (K,)."""
    letters = _distinct(_render())
    faces = np.stack(
        [_centred(bitmaps) for bitmaps in letters.values()]
    )  # (K, DRAWINGS, CANVAS, CANVAS)
    generator = Generator().manual_seed(0)
    with bar("drawing glyphs", len(faces)) as progress:
        images = []
        for start in range(0, len(faces), 50):
            chunk = torch.from_numpy(faces[start : start + 50]).flatten(0, 1)
            images.append(_vary(chunk, generator).unflatten(0, (-1, DRAWINGS)))
            progress.update(progress.task_ids[0], completed=start)
    return {"images": torch.cat(images).numpy(), "letters": np.array(list(letters))}


def _fonts() -> list[Path]:
    # without an import of matplotlib, which is slow
    matplotlib = find_spec("matplotlib")
    assert matplotlib is not None and matplotlib.origin is not None
    place = Path(matplotlib.origin).with_name("mpl-data") / "fonts" / "ttf"
    files = sorted(place.glob("*.ttf"))
    return [f for f in files if f.name.startswith(FONTS) and "Display" not in f.name]


def _script(letter: str) -> str:
    return unicodedata.name(letter, "?").split()[0]


def _render() -> dict[str, Bitmaps]:
    """Every letter without accents that has enough faces, in the order of SCRIPTS."""
    from matplotlib.ft2font import FT2Font

    wanted = [script for part in SCRIPTS.values() for script in part]
    letters: dict[str, Bitmaps] = defaultdict(dict)
    for file in _fonts():
        font = ImageFont.truetype(file, EM, layout_engine=ImageFont.Layout.BASIC)
        for letter in map(chr, FT2Font(str(file)).get_charmap()):
            accented = unicodedata.decomposition(letter)
            if accented or unicodedata.category(letter) not in ("Lu", "Ll", "Lo"):
                continue
            if _script(letter) in wanted:
                mask = font.getmask(letter, mode="L")
                bitmap = np.array(mask, np.uint8).reshape(mask.size[::-1])
                if bitmap.any():
                    letters[letter][file.stem] = bitmap
    enough = [letter for letter, bitmaps in letters.items() if len(bitmaps) >= FACES]
    return {c: letters[c] for c in sorted(enough, key=lambda c: (wanted.index(_script(c)), c))}


def _distinct(letters: dict[str, Bitmaps]) -> dict[str, Bitmaps]:
    """Without the letters that half of their faces draw like one earlier letter."""
    seen: dict[tuple[str, tuple[int, ...], bytes], list[str]] = defaultdict(list)
    kept: dict[str, Bitmaps] = {}
    for letter, bitmaps in letters.items():
        keys = [(face, b.shape, b.tobytes()) for face, b in bitmaps.items()]
        twins = [twin for key in keys for twin in seen[key]]
        if all(2 * twins.count(twin) < len(keys) for twin in set(twins)):
            kept[letter] = bitmaps
            for key in keys:
                seen[key].append(letter)
    return kept


def _centred(bitmaps: Bitmaps) -> np.ndarray:
    """(DRAWINGS, CANVAS, CANVAS) uint8: the faces in turn, each in the middle."""
    faces = []
    for bitmap in bitmaps.values():
        room = CANVAS - 4
        scale = min(1, room / max(bitmap.shape))
        if scale < 1:
            high, wide = (max(1, round(side * scale)) for side in bitmap.shape)
            bitmap = np.asarray(Image.fromarray(bitmap).resize((wide, high)))
        top, left = ((CANVAS - side) // 2 for side in bitmap.shape)
        canvas = np.zeros((CANVAS, CANVAS), np.uint8)
        canvas[top : top + bitmap.shape[0], left : left + bitmap.shape[1]] = bitmap
        faces.append(canvas)
    return np.stack([faces[i % len(faces)] for i in range(DRAWINGS)])


def _vary(canvas: Tensor, generator: Generator) -> Tensor:
    """(B, CANVAS, CANVAS) uint8 -> (B, CANVAS / 2, CANVAS / 2) uint8, each varied by chance."""
    size = len(canvas)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(size, *shape, generator=generator)

    ink = canvas[:, None].float() / 255
    stroke = uniform(-0.6, 1.0, 1, 1, 1)  # below 0: thinner; above: thicker
    thick, thin = F.max_pool2d(ink, 3, 1, 1), -F.max_pool2d(-ink, 3, 1, 1)
    ink = torch.where(stroke > 0, ink.lerp(thick, stroke.abs()), ink.lerp(thin, stroke.abs()))

    angle, shear = uniform(-0.2, 0.2), uniform(-0.2, 0.2)  # in radians; as a tangent
    wide, high = uniform(0.9, 1.15), uniform(0.9, 1.15)  # of the window: above 1 shrinks
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack(
        [cos * wide, (cos * shear - sin) * high, sin * wide, (sin * shear + cos) * high], -1
    ).view(size, 2, 2)
    shift = uniform(-0.08, 0.08, 2, 1)  # of half the image
    half = CANVAS // 2
    window = F.affine_grid(torch.cat([turn, shift], -1), [size, 1, half, half], False)
    knots = 0.03 * torch.randn(size, 2, 4, 4, generator=generator)  # a bend of low frequency
    bend = F.interpolate(knots, (half, half), mode="bicubic", align_corners=True)
    drawn = F.grid_sample(ink, window + bend.permute(0, 2, 3, 1), align_corners=False)
    return (drawn[:, 0] * 255).round().to(torch.uint8)
