"""A trained network's predictions for the images of a split, and a training batch as it sees it; each is one file.

Imports no torch, so that read-only commands are fast. `train_core.inference` makes both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from train_core.files import written_whole
from train_core.results import balanced_accuracy

PICTURED = 24  # number of stored pictures of the most certain mistakes, at most
SEEN = 16  # images in a stored training batch, at most

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """The outputs of one finished network for all images of one split, in their order.

    `labels` is int64 [N], the true classes; `logits` is float32 [N, K], before the softmax. `files` has the names of
    the N image files, or is empty if the images come from no files. `pictured` is int64 [M], the indices of the
    mistakes (at most `PICTURED`) of which the network was most certain; `pictures` is uint8 [M, H, W, C], their pixels.
    """

    classes: tuple[str, ...]
    digest: str  # of the split's images and labels: equal for the same images
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    files: tuple[str, ...]
    pictured: NDArray[np.int64]
    pictures: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def said(self) -> NDArray[np.int64]:
        """The class with the largest output, int64 [N]; if several are equal, the first, as in torch."""
        said: NDArray[np.int64] = self.logits.argmax(axis=1)
        return said

    @cached_property
    def is_right(self) -> NDArray[np.bool_]:
        """Whether the predicted class is the true class, bool [N]."""
        is_right: NDArray[np.bool_] = self.said == self.labels
        return is_right

    @property
    def accuracy(self) -> float:
        """The share of images that are classified correctly."""
        return int(self.is_right.sum()) / len(self)

    @property
    def balanced(self) -> float:
        """The balanced accuracy: the mean over the classes of the share of images that are classified correctly."""
        number = len(self.classes)
        correct = np.bincount(self.labels[self.is_right], minlength=number)
        return balanced_accuracy(correct.tolist(), np.bincount(self.labels, minlength=number).tolist())

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        _write(
            path,
            classes=np.array(self.classes, dtype=np.str_),
            digest=np.array(self.digest),
            labels=self.labels,
            logits=self.logits,
            files=np.array(self.files, dtype=np.str_),
            pictured=self.pictured,
            pictures=self.pictures,
        )

    @classmethod
    def read(cls, path: Path) -> "Predictions":
        """Read what `write` wrote.

        Raises:
            ValueError: the file is damaged.
            OSError: it is missing, or cannot be opened.

        """

        def made(arrays: dict[str, NDArray[Any]]) -> "Predictions":
            read = cls(
                classes=tuple(map(str, arrays["classes"])),
                digest=str(arrays["digest"]),
                labels=arrays["labels"],
                logits=arrays["logits"],
                files=tuple(map(str, arrays["files"])),
                pictured=arrays["pictured"],
                pictures=arrays["pictures"],
            )
            if read.logits.shape != (len(read), len(read.classes)) or len(read.files) not in (0, len(read)):
                raise ValueError("the arrays do not belong together")
            return read

        return _read(path, made)


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenBatch:
    """Training images as the network sees them: augmented, and mixed if the recipe mixes images.

    `pictures` is uint8 [B, H, W, C]. `labels` is int64 [P, B]: the classes of the P images in each picture; `shares` is
    float32 [P], with the sum 1: the share of each.
    """

    classes: tuple[str, ...]
    pictures: NDArray[np.uint8]
    labels: NDArray[np.int64]
    shares: NDArray[np.float32]

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        _write(
            path,
            classes=np.array(self.classes, dtype=np.str_),
            pictures=self.pictures,
            labels=self.labels,
            shares=self.shares,
        )

    @classmethod
    def read(cls, path: Path) -> "SeenBatch":
        """Read what `write` wrote.

        Raises:
            ValueError: the file is damaged.
            OSError: it is missing, or cannot be opened.

        """
        return _read(
            path,
            lambda arrays: cls(
                classes=tuple(map(str, arrays["classes"])),
                pictures=arrays["pictures"],
                labels=arrays["labels"],
                shares=arrays["shares"],
            ),
        )


def _write(path: Path, **arrays: NDArray[Any]) -> None:
    with written_whole(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy's types take keywords for its own flag


def _read(path: Path, made: Callable[[dict[str, NDArray[Any]]], Made]) -> Made:
    """The result of `made` for the arrays of a file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return made(dict(stored))
    except (ValueError, KeyError, TypeError, EOFError, BadZipFile, AttributeError) as error:
        raise ValueError(f"{path} is damaged") from error
