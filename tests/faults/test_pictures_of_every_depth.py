"""Pictures of other depths than 8 bits: scaled, not clipped, or refused in words."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from quickstudy.cli.pictures import read_images
from quickstudy.datasets import folder, from_torch
from quickstudy.datasets.pictures import UnknownRangeError, to_pixels

RAMP = np.arange(256, dtype=np.uint16)[None] * 257  # 0 to 65535: each a grey of 8 bits, twice


def pixels(data: bytes, channels: Any = 1) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return to_pixels(image, (image.height, image.width), channels)


def saved(image: Image.Image, form: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


def tiff(values: np.ndarray, bits: int, photometric: int) -> bytes:
    """A grey TIFF of one strip, written by hand (TIFF 6.0, section 2 and 3)."""
    height, width = values.shape
    if bits == 12:  # two values in three bytes
        a, b = values.flatten()[::2].astype(int), values.flatten()[1::2].astype(int)
        strip = (
            np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], -1).astype(np.uint8).tobytes()
        )
    else:
        strip = values.astype("<u2").tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric)]
    tags += [(273, 8), (277, 1), (278, height), (279, len(strip))]
    entries = b"".join(
        tag.to_bytes(2, "little")
        + (4).to_bytes(2, "little")
        + (1).to_bytes(4, "little")
        + value.to_bytes(4, "little")
        for tag, value in tags
    )
    end = (8 + len(strip)).to_bytes(4, "little")
    return b"II*\0" + end + strip + len(tags).to_bytes(2, "little") + entries + bytes(4)


GREYS: dict[str, Callable[[], bytes]] = {
    "png": lambda: saved(Image.fromarray(RAMP), "PNG"),
    "tiff": lambda: saved(Image.fromarray(RAMP), "TIFF"),
    "tiff, big-endian": lambda: saved(Image.fromarray(RAMP.astype(">u2")), "TIFF"),
    "tiff by hand": lambda: tiff(RAMP, 16, 1),
    "tiff of 12 bits": lambda: tiff(RAMP >> 4, 12, 1),
    "pgm": lambda: b"P5 256 1 65535\n" + RAMP.astype(">u2").tobytes(),
    "8 bits": lambda: saved(Image.fromarray((RAMP >> 8).astype(np.uint8)), "PNG"),
}


@pytest.mark.parametrize("kind", GREYS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_ramp_of_greys_is_a_ramp(kind: str, channels: int):
    expected = np.broadcast_to(np.arange(256, dtype=np.uint8), (channels, 1, 256))
    assert np.array_equal(pixels(GREYS[kind](), channels), expected)


def test_white_may_be_zero():
    assert np.array_equal(pixels(tiff(RAMP, 16, 0))[0, 0], np.arange(255, -1, -1))


@pytest.mark.parametrize(
    "image", [Image.fromarray(RAMP), Image.fromarray((RAMP >> 8).astype(np.uint8))]
)
def test_what_is_transparent_is_white(image: Image.Image):
    black = 200 if image.mode == "L" else 200 * 257
    x = pixels(saved(image, "PNG", transparency=black))[0, 0]
    assert x[200] == 255 and np.array_equal(np.delete(x, 200), np.delete(np.arange(256), 200))


def test_a_turned_picture_of_16_bits_is_turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    values = np.array([[0, 65535]], np.uint16)
    with Image.open(io.BytesIO(saved(Image.fromarray(values), "PNG", exif=exif))) as image:
        assert to_pixels(image, (2, 1), 1).tolist() == [[[0], [255]]]


COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 20, 30)]


def colours(mode: str) -> Image.Image:
    image = Image.new("RGB", (4, 1))
    image.putdata(COLOURS)
    if mode == "P":
        image = image.quantize(4)
    elif mode == "CMYK":
        image = image.convert("CMYK")
    return image


@pytest.mark.parametrize(
    ("mode", "form"),
    [("RGB", "PNG"), ("P", "PNG"), ("P", "GIF"), ("P", "TIFF"), ("CMYK", "TIFF")],
)
def test_palettes_and_inks_are_colours(mode: str, form: str):
    x = pixels(saved(colours(mode), form), 3)[:, 0].T.astype(int)
    assert np.abs(x - np.array(COLOURS)).max() <= 1


@pytest.mark.parametrize("alpha", [0, 51, 255])
def test_grey_with_alpha_is_on_white(alpha: int):
    image = Image.new("LA", (1, 1), (100, alpha))
    expected = (100 * alpha + 255 * (255 - alpha)) / 255
    assert abs(int(pixels(saved(image, "PNG"))[0, 0, 0]) - expected) <= 1


WIDE = {
    "integers": np.array([[0, 255, 70_000, 2**31 - 1]], np.int32),
    "dark integers": np.array([[0, 1, 2, 255]], np.int32),
    "floats": np.array([[0.0, 0.5, 1.0, 255.0]], np.float32),
    "small floats": np.array([[0.0, 0.5, 1.0]], np.float32),
}


@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("skip", [False, True])
def test_values_without_a_range_are_refused_by_name(tmp_path: Path, kind: str, skip: bool):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / "1.png")
    odd = tmp_path / "b" / "2.tif"
    Image.fromarray(WIDE[kind]).save(odd)
    with pytest.raises(ValueError, match=r"2\.tif.* save it with 8 or 16 bits"):
        folder(tmp_path, size=4, skip_unreadable=skip)
    with pytest.raises(ValueError, match=r"2\.tif.* save it with 8 or 16 bits"):
        read_images([odd], (1, 4, 4), invert=False)
    with pytest.raises(UnknownRangeError):
        from_torch([(Image.open(odd), 0)], size=4, channels=1)


def test_a_truncated_picture_is_named(tmp_path: Path):
    file = tmp_path / "half.png"
    data = saved(Image.effect_noise((64, 64), 50), "PNG")
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"half\.png"):
        read_images([file], (1, 4, 4), invert=False)
