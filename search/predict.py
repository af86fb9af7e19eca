"""Classifies images with an exported model: finds the images that a command names, and classifies them one by one.

An image that cannot be read does not end the command: its answer says why. At most `BATCH` images are in memory at a
time, in the size of the model.
"""

import csv
import glob
import json
import os
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from search.errors import DataError
from train_core.description import Description
from train_core.images import SUFFIXES, decode, read_header, why, with_channels
from train_core.model_files import RUNTIMES, format_of, read_without_torch
from train_core.printable import printable
from train_core.specs import Frozen

BATCH = 100  # images at a time
READERS = min(8, os.cpu_count() or 1)  # threads; each may hold an image at its original size, up to 180 megapixels
STDIN = "-"  # instead of an image: a list of paths on standard input

Form = Literal["text", "json", "csv"]


class Guess(Frozen):
    """A class and its probability."""

    name: str
    probability: float

    def __str__(self) -> str:
        """For example `cat 97.1 %`."""
        return f"{printable(self.name)} {100 * self.probability:.1f} %"


class Prediction(Frozen):
    """The most probable classes of one image, or why the image cannot be read."""

    image: str
    guesses: tuple[Guess, ...] = Field(default=(), description="the most probable classes, the first first")
    resized_from: tuple[int, int] | None = Field(
        default=None, description="width and height in pixels; none: it has the model's size"
    )
    error: str | None = Field(default=None, description="why there are no guesses; none: there are")
    advice: str | None = Field(default=None, exclude=True, description="what to do about the error")

    def __str__(self) -> str:
        """For example `cat.png  cat 97.1 %  dog 2.1 %  (resized from 640x480)`, or the error in a line."""
        if self.error is not None:
            return printable(f"cannot read {self.image} ({self.error}): {self.advice}")
        words = [printable(self.image), *map(str, self.guesses)]
        if self.resized_from:
            words.append("(resized from {}x{})".format(*self.resized_from))
        return "  ".join(words)


@dataclass(frozen=True)
class Model:
    """The contents of a model file."""

    about: Description
    probabilities: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    """The probability of each class, [N, classes], for images [N, height, width, channels]."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """The model in a file; torch takes seconds to import, so it is imported only if the runtime needs it.

        Raises:
            ModelError: it cannot be read.

        """
        fmt = format_of(path)
        if fmt in RUNTIMES:
            about, logits = read_without_torch(path, *RUNTIMES[fmt])

            def probabilities(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
                answers = logits(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32))
                powers = np.exp(answers - answers.max(axis=1, keepdims=True))
                shares: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
                return shares

            return cls(about, probabilities)

        import torch

        from train_core.formats import read

        classifier = read(path)
        return cls(classifier.about, lambda pixels: classifier.probabilities(torch.from_numpy(pixels)).numpy())


@dataclass(frozen=True)
class Predictions:
    """The answers for images, in their order: computed during iteration."""

    model: Model
    images: Sequence["Path | Prediction"]  # a Prediction here is an image that was not found
    guesses: int  # classes for each image

    def __len__(self) -> int:
        """The number of answers."""
        return len(self.images)

    def __iter__(self) -> Iterator[Prediction]:
        """Read and classify the images, a batch at a time."""
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(self.images), BATCH):
                yield from self._answers(pool, self.images[start : start + BATCH])

    def _answers(self, pool: ThreadPoolExecutor, images: Sequence["Path | Prediction"]) -> list[Prediction]:
        about = self.model.about
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata and of large images, but reads them
            read_images = list(pool.map(lambda image: _picture(image, about), images))
        pictures = [each for each in read_images if isinstance(each, _Picture)]
        answers: Iterator[Prediction] = iter(())
        if pictures:
            pixels = np.stack([picture.pixels for picture in pictures])
            answers = map(self._answer, pictures, self.model.probabilities(pixels))
        return [each if isinstance(each, Prediction) else next(answers) for each in read_images]

    def _answer(self, picture: "_Picture", probabilities: NDArray[np.float32]) -> Prediction:
        best = np.argsort(-probabilities, kind="stable")[: self.guesses]
        names = self.model.about.classes
        guesses = zip(best.tolist(), probabilities[best].tolist(), strict=True)
        return Prediction(
            image=picture.name,
            guesses=tuple(Guess(name=names[label], probability=share) for label, share in guesses),
            resized_from=picture.resized_from,
        )


def classify(model: Path, images: Iterable[str | Path], top: int) -> Predictions:
    """The `top` classes of each image.

    `images` are files, folders (all images inside, including subfolders; hidden files are left out), patterns such as
    `photos/*.png` if no such file exists, and `-` for a list of these on standard input, one per line.

    Raises:
        ModelError: the model cannot be read.
        DataError: no image is named.

    """
    classifier = Model.read(model)
    found = list(_found(images))
    if not found:
        raise DataError("standard input names no images: write one path in a line")
    return Predictions(classifier, found, min(top, len(classifier.about.classes)))


def written(predictions: Iterable[Prediction], form: Form, guesses: int) -> Iterator[str]:
    """The predictions as lines of text, a CSV table or a JSON document, in pieces to be printed in order.

    `guesses` is the number of classes for each image. The text leaves out images that cannot be read.
    """
    if form == "json":
        start = "[\n"
        for prediction in predictions:
            yield start + textwrap.indent(json.dumps(prediction.model_dump(), indent=2), "  ")
            start = ",\n"
        yield "\n]\n"
    elif form == "csv":
        more = [f"{column}_{place}" for place in range(2, guesses + 1) for column in ("class", "probability")]
        yield _csv_row(["image", "class", "probability", *more, "error"])
        for each in predictions:
            cells = [cell for guess in each.guesses for cell in (guess.name, guess.probability)] or [""] * 2 * guesses
            yield _csv_row([each.image, *cells, each.error or ""])
    else:
        yield from (f"{prediction}\n" for prediction in predictions if prediction.error is None)


def _csv_row(cells: Sequence[object]) -> str:
    line = StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


# ------------------------------------------------------------------------------------------------- finding the images


def _found(images: Iterable[str | Path]) -> Iterator[Path | Prediction]:
    """The files that the user names; an image that is not there is a prediction with an error."""
    for image in map(str, images):
        if image == STDIN:
            listed = sys.stdin.buffer.read() if sys.stdin is not None else b""
            lines = (os.fsdecode(line).removesuffix("\r") for line in listed.split(b"\n"))
            yield from _found(line for line in lines if line and line != STDIN)
        elif os.path.isdir(image):  # noqa: PTH112  # a Path would turn an empty text into the current folder
            yield from _in_folder(Path(image), is_named=True)
        elif glob.has_magic(image) and not os.path.lexists(image):
            yield from _matching(image)
        else:
            yield Path(image) if image else Prediction(image="", error="no path", advice="name an image")


def _in_folder(folder: Path, *, is_named: bool = False) -> Iterator[Path | Prediction]:
    """The images of a folder and of its subfolders, sorted; if the user named the folder, it must contain some."""
    is_empty = True
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        yield _failed(folder, error)
        return
    for entry in entries:
        inside = _in_folder(entry) if entry.is_dir() and not entry.is_symlink() else _image(entry)
        for image in inside:
            is_empty = False
            yield image
    if is_named and is_empty:
        yield Prediction(image=str(folder), error="no images in this folder", advice="check the path")


def _image(file: Path) -> Iterator[Path]:
    """The file, if it has the name of an image."""
    if file.suffix.lower() in SUFFIXES:
        yield file


def _matching(pattern: str) -> Iterator[Path | Prediction]:
    """The files that match a pattern, sorted; matched folders as if named, unless `**` descends into them anyway."""
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  # a pattern may be absolute
    if "**" in pattern:
        matches = [match for match in matches if not Path(match).is_dir()]
    if not matches:
        yield Prediction(image=pattern, error="no file matches this pattern", advice="check the path")
    for match in map(Path, matches):
        yield from _in_folder(match, is_named=True) if match.is_dir() else (match,)


# ------------------------------------------------------------------------------------------------- reading the images


class _Picture(NamedTuple):
    """An image in the model's size, uint8 [height, width, channels], and its own width and height if they differ."""

    name: str
    pixels: NDArray[np.uint8]
    resized_from: tuple[int, int] | None


def _picture(image: Path | Prediction, about: Description) -> _Picture | Prediction:
    """Read an image; if it cannot be read, the answer says why."""
    if isinstance(image, Prediction):
        return image
    try:
        header = read_header(image)
        pixels = with_channels(decode(image, about.preparation), about.channels)
    except Exception as error:  # noqa: BLE001  # the many errors of Pillow's readers for a broken file
        return _failed(image, error)
    size = (header.width, header.height)
    return _Picture(str(image), pixels, None if size == (about.width, about.height) else size)


def _failed(image: Path, error: Exception) -> Prediction:
    return Prediction(image=str(image), error=why(error), advice=_advice(error))


def _advice(error: Exception) -> str:
    """What to do about an image that cannot be read."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "convert it, or leave it out"
    if isinstance(error, MemoryError | Image.DecompressionBombError):
        return "make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return "check the path"
    if "floating-point" in str(error):
        return "convert it to 8 bits for each channel"
    return "copy it again, or leave it out"
