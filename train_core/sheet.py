"""Draws a contact sheet: some images of each class, as a network will see them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from train_core.data import Split
from train_core.files import written_whole

CLASSES = 20  # rows at most; of more classes, those with the fewest images
IMAGES = 10  # in a row
SIDE = 64  # pixels: smaller images are enlarged by a whole factor, up to this size
GAP = 4  # pixels
LETTERS = 24  # of a class's name, at most


def draw_sheet(images: Split, classes: Sequence[str], path: Path) -> None:
    """Write a PNG file with a row for each class: its name, its number of images, and its first images.

    Raises:
        OSError: the file cannot be written.

    """
    with written_whole(path) as file:
        contact_sheet(images, classes).save(file, "PNG")


def contact_sheet(images: Split, classes: Sequence[str]) -> Image.Image:
    """The sheet, in RGB. `images` are uint8 [N, H, W, C] with labels that are indices of `classes`."""
    labels = images.labels.numpy()
    counts = np.bincount(labels, minlength=len(classes))
    shown = sorted(np.argsort(counts, kind="stable")[:CLASSES].tolist())  # in the order of the classes
    height, width = images.images.shape[1:3]
    times = max(SIDE // max(height, width), 1)
    font = ImageFont.load_default(13)
    captions = [f"{_shortened(classes[label])}\n{counts[label]:,}" for label in shown]
    blank = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = GAP + round(max(blank.multiline_textbbox((0, 0), caption, font=font)[2] for caption in captions)) + 2 * GAP
    step_x, step_y = width * times + GAP, max(height * times, 2 * 16) + GAP
    columns = min(IMAGES, int(counts[shown].max()))
    sheet = Image.new("RGB", (left + columns * step_x, GAP + len(shown) * step_y), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (label, caption) in enumerate(zip(shown, captions, strict=True)):
        top = GAP + row * step_y
        draw.multiline_text((GAP, top), caption, fill="black", font=font)
        for column, number in enumerate(np.flatnonzero(labels == label)[:IMAGES].tolist()):
            pixels = images.images[number].numpy()
            picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            enlarged = picture.resize((width * times, height * times), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left + column * step_x, top))
    return sheet


def _shortened(name: str) -> str:
    """A name on one line, cut off if it is too long."""
    line = " ".join(name.split())
    return line if len(line) <= LETTERS else line[: LETTERS - 3] + "..."
