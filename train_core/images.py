"""Reads one image file, as the images of a folder are read."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"])
"""Of the files in a folder that are taken for images, in lower case."""


def decode(path: Path) -> NDArray[np.uint8]:
    """Read the (first) image of a file, upright: uint8 [H, W] if grey, else [H, W, 3]. Transparency is dropped.

    Raises whatever Pillow's many readers make of a broken file.
    """
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.mode.startswith("I"):  # 16 bits, which Pillow's own conversion would clip at 255
        return (np.asarray(image).clip(0, 65535) // 256).astype(np.uint8)
    if image.mode in ("1", "L", "LA"):
        return np.array(image.convert("L"))
    if image.mode == "P":  # Pillow warns of a palette with transparency that is converted straight to RGB
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def fitted(image: NDArray[np.uint8], channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """The image as a network wants it: uint8 [height, width, channels]; grey is the lightness of the colours."""
    from PIL import Image

    picture = Image.fromarray(image).convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)  # antialiased where it shrinks
    return np.array(picture).reshape(height, width, channels)
