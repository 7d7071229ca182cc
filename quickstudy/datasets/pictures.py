"""Conversion of picture files to pixels."""

from typing import Literal, TypeAlias

import numpy as np
from PIL import Image, ImageOps

Size: TypeAlias = int | tuple[int, int]  # (height, width), or both
Channels: TypeAlias = Literal[1, 3]


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
    shape of `size` around the middle, and resized with Pillow's LANCZOS filter.

    Examples:
        >>> to_pixels(Image.new("L", (9, 6), 255), 2, 1).tolist()
        [[[255, 255], [255, 255]]]
    """
    _, height, width = check_shape(size, channels)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would clip, not scale, its 16 bits
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(
            Image.new("RGBA", image.size, "white"), image.convert("RGBA")
        )
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return np.array(image).reshape(height, width, channels).transpose(2, 0, 1)
