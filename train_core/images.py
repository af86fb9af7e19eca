"""Reads one image file; in the same way wherever images are read."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from train_core.reading import FitName, Preparation, rgb
from train_core.tables import table

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("png", "apng", "jpg", "jpeg", "jpe", "jfif", "bmp", "dib", "webp", "gif", "tif", "tiff", "ppm", "pgm", "pbm"),
        *("pnm", "tga", "ico", "jp2", "j2k", "avif", "heic", "heif", "hif"),
    )
)
"""Endings of image files: a file with one of these that cannot be read is broken."""

PLAIN_GREY = ("1", "L", "LA", "La")


class UnusableImageError(ValueError):
    """An image file that cannot be used, although Pillow can (or could) read it."""


@dataclass(frozen=True)
class Fit:
    """A way to resize an image. `code` does the same, for a model's card; `$colour` is the background."""

    apply: "Callable[[Image, tuple[int, int], tuple[int, int, int]], Image]"
    code: str


def _crop(image: "Image", size: tuple[int, int], _colour: tuple[int, int, int]) -> "Image":
    from PIL import ImageOps

    return ImageOps.fit(image, size)


def _letterbox(image: "Image", size: tuple[int, int], colour: tuple[int, int, int]) -> "Image":
    from PIL import ImageOps

    is_grey = len(set(colour)) == 1
    return ImageOps.pad(
        image if is_grey else image.convert("RGB"), size, color=colour[0] if is_grey and image.mode == "L" else colour
    )


def _stretch(image: "Image", size: tuple[int, int], _colour: tuple[int, int, int]) -> "Image":
    return image.resize(size)


FITS: dict[FitName, Fit] = table(
    "fit",
    FitName,
    {
        "crop": Fit(_crop, "ImageOps.fit(image, ($width, $height))"),
        "letterbox": Fit(_letterbox, "ImageOps.pad(image, ($width, $height), color=$colour)"),
        "stretch": Fit(_stretch, "image.resize(($width, $height))"),
    },
)


@dataclass(frozen=True)
class Header:
    """The properties of an image file before its pixels are read: the size is that of the upright image."""

    width: int
    height: int
    deep: bool  # whether a value has more than 8 bits


def read_header(path: Path) -> Header:
    """Read the header of an image file.

    Raises:
        OSError, ValueError: it is not an image, or cannot be used; the message says why.

    """
    with _opened(path) as file:
        width, height = file.size
        if file.getexif().get(_ORIENTATION, 1) >= 5:  # rotated by 90 degrees
            width, height = height, width
        return Header(width, height, file.mode.startswith("I"))


_ORIENTATION = 0x0112  # of EXIF


def highest_value(path: Path) -> int:
    """The highest possible value of an image with more than 8 bits per value."""
    with _opened(path) as file:
        return int(np.asarray(file).max())


def decode(path: Path, preparation: Preparation) -> NDArray[np.uint8]:
    """Read the (first) image of a file, upright and prepared: uint8 [height, width] if grey, else [height, width, 3].

    Raises:
        OSError, ValueError: it is not an image, or cannot be used; the message says why.

    """
    from PIL import ImageOps

    side = draft_side(preparation)
    with _opened(path) as file:
        file.draft(None, (side, side))  # a JPEG is decoded at a half, a quarter or an eighth of its size
        ImageOps.exif_transpose(file, in_place=True)
        image = prepared(file, preparation)
    return np.array(image)


def draft_side(preparation: Preparation) -> int:
    """The smallest side at which a JPEG is decoded: large enough for averaging."""
    return 2 * max(preparation.width, preparation.height)


def fit_code(preparation: Preparation) -> str:
    """Code that resizes `image`, in mode RGB."""
    return Template(FITS[preparation.fit].code).substitute(
        width=preparation.width, height=preparation.height, colour=repr(preparation.background)
    )


def prepared(image: "Image", preparation: Preparation) -> "Image":
    """The resized image in mode L or RGB, with transparent parts on the background."""
    colour = rgb(preparation.background)
    flat = _flat(image, preparation.bits, colour)
    return FITS[preparation.fit].apply(flat, (preparation.width, preparation.height), colour)


def with_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Pixels [H, W] or [H, W, 3] as [H, W, channels]: grey is the lightness of the colours."""
    from PIL import Image

    picture = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    return np.array(picture).reshape(*pixels.shape[:2], channels)


def why(error: Exception) -> str:
    """Why an image cannot be read, in a few words."""
    from PIL import Image, UnidentifiedImageError

    said = " ".join(str(error).split())
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of a format that Pillow does not know"
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.search(r"\d+", said)
        size = f"{int(pixels[0]) / 1e6:,.0f} megapixels" if pixels else "too large"
        return f"{size}, more than Pillow reads safely"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, UnusableImageError):
        return said
    return "truncated" if "truncated" in said.lower() else f"damaged: {said or type(error).__name__}"


def _opened(path: Path) -> "Image":
    from PIL import Image

    reads_heif()
    if path.stat().st_size == 0:
        raise UnusableImageError("the file is empty")
    file = Image.open(path)
    if file.mode == "F":
        file.close()
        raise UnusableImageError("floating-point pixels")
    return file


@cache
def reads_heif() -> bool:
    """Register HEIC and HEIF with Pillow; returns whether the plug-in (extra `heif`) is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _flat(image: "Image", bits: int, colour: tuple[int, int, int]) -> "Image":
    """The image in mode L or RGB."""
    from PIL import Image

    if image.mode.startswith("I"):  # Pillow's own conversion would clip at 255
        values = np.asarray(image).clip(0, (1 << bits) - 1) >> (bits - 8)
        return Image.fromarray(values.astype(np.uint8))
    if image.mode in ("L", "RGB") and not image.has_transparency_data:
        return image
    if image.has_transparency_data:
        behind = Image.new("RGBA", image.size, colour)
        flat = Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")
        return flat.convert("L") if image.mode in PLAIN_GREY and len(set(colour)) == 1 else flat
    return image.convert("L" if image.mode in PLAIN_GREY else "RGB")
