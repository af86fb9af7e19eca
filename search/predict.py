"""Classifies images with an exported model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from search.errors import DataError
from train_core.deploy import Description
from train_core.formats import read
from train_core.images import decode, read_header, why, with_channels
from train_core.specs import Frozen

BATCH = 100  # images at a time


class Guess(Frozen):
    """A class and its probability."""

    name: str
    probability: float

    def __str__(self) -> str:
        """As in `cat 97.1 %`. A name with control characters, from somebody else's file, is quoted."""
        name = self.name if self.name.isprintable() else repr(self.name)
        return f"{name} {100 * self.probability:.1f} %"


class Prediction(Frozen):
    """A model's most probable classes of one image."""

    image: str
    guesses: tuple[Guess, ...] = Field(description="the most probable classes, the first first")
    resized_from: tuple[int, int] | None = Field(
        description="width and height in pixels; none: it has the model's size"
    )

    def __str__(self) -> str:
        """As in `cat.png  cat 97.1 %  dog 2.1 %  (resized from 640x480)`."""
        words = [self.image, *map(str, self.guesses)]
        if self.resized_from:
            words.append("(resized from {}x{})".format(*self.resized_from))
        return "  ".join(words)


def classify(model: Path, images: Sequence[Path], top: int) -> list[Prediction]:
    """The `top` classes of each image.

    Raises:
        ModelError: the model cannot be read.
        DataError: an image cannot be read.

    """
    classifier = read(model)
    about = classifier.about
    pictures = [_picture(path, about) for path in images]
    pixels = torch.from_numpy(np.stack([fit for fit, _ in pictures]))
    predictions = []
    for start in range(0, len(images), BATCH):
        probabilities = classifier.probabilities(pixels[start : start + BATCH])
        for row, path, (_, size) in zip(probabilities, images[start:], pictures[start:], strict=False):
            best = row.topk(min(top, len(row)))
            guesses = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            predictions.append(
                Prediction(
                    image=str(path),
                    guesses=tuple(Guess(name=about.classes[label], probability=share) for label, share in guesses),
                    resized_from=size,
                )
            )
    return predictions


def _picture(path: Path, about: Description) -> tuple[NDArray[np.uint8], tuple[int, int] | None]:
    """An image in the model's size, and its own width and height if they are different."""
    try:
        header = read_header(path)
        image = decode(path, about.preparation)
    except Exception as error:  # whatever Pillow's many readers make of a broken file
        raise DataError(f"cannot read the image {path} ({why(error)}): check the path, or leave it out") from error
    size = (header.width, header.height)
    return with_channels(image, about.channels), None if size == (about.width, about.height) else size
