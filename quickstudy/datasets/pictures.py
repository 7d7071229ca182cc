"""Conversion of picture files to pixels."""

from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image, ImageOps

Size: TypeAlias = int | tuple[int, int]  # (height, width), or both
Channels: TypeAlias = Literal[1, 3]


class UnknownRangeError(ValueError):
    """The values of a picture do not tell what is black and what is white.

    Examples:
        >>> try:
        ...     to_pixels(Image.new("F", (9, 6), 0.5), 2, 1)
        ... except UnknownRangeError as error:
        ...     print(str(error)[:38])
        A picture has values of floating point
    """


def check_shape(size: Size, channels: Channels) -> tuple[int, int, int]:
    """Return (channels, height, width).

    Raises:
        ValueError: pictures cannot have such a shape.

    Examples:
        >>> check_shape(84, 3)
        (3, 84, 84)
    """
    height, width = (size, size) if isinstance(size, int) else size
    if channels not in (1, 3):
        raise ValueError(f"channels={channels!r}: choose 1 for grey or 3 for colour.")
    if height < 1 or width < 1:
        raise ValueError(f"size={size!r}: give a height and width of one pixel at least.")
    return channels, height, width


def to_pixels(image: Image.Image, size: Size, channels: Channels) -> np.ndarray:
    """Return the pixels of an image (channels, height, width) as uint8.

    The image is turned as the camera was held, put on white where transparent, cropped to the
    shape of `size` around the middle, and resized with Pillow's LANCZOS filter. Of values of 16
    bits the 8 most significant ones count.

    Raises:
        UnknownRangeError: values have 32 bits or are floating-point numbers.

    Examples:
        >>> to_pixels(Image.new("L", (9, 6), 255), 2, 1).tolist()
        [[[255, 255], [255, 255]]]
    """
    _, height, width = check_shape(size, channels)
    source, image = image, ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and source.format in ("PNG", "PPM")):
        image = _most_significant(source, image)
    elif image.mode in ("I", "F"):
        raise UnknownRangeError(
            f"A picture has values of {'32 bits' if image.mode == 'I' else 'floating point'}, "
            "which do not tell what is black and white: save it with 8 or 16 bits."
        )
    if image.has_transparency_data:
        image = Image.alpha_composite(
            Image.new("RGBA", image.size, "white"), image.convert("RGBA")
        )
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return np.array(image).reshape(height, width, channels).transpose(2, 0, 1)


def _most_significant(source: Image.Image, image: Image.Image) -> Image.Image:
    """Return a grey image of 12 or 16 bits with its 8 most significant ones, as Pillow would
    clip the values. What the file tells of them is in `source`."""
    tags: Any = getattr(source, "tag_v2", {})  # of a TIFF: bits of a value, meaning of 0
    values = np.asarray(image)
    bits = tags.get(258, (16,))[0]
    grey = (values >> (bits - 8)).astype(np.uint8)
    if tags.get(262) == 0:
        grey = 255 - grey  # 0 is white
    grey[values == source.info.get("transparency", -1)] = 255
    return Image.fromarray(grey)
