"""What every kind of source is converted to: arrays, and notes about them."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from train_core.errors import DataError
from train_core.printable import printable
from train_core.reading import Preparation

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")

Progress = Callable[[str, int, int], None]  # (what, done, total); total is 0 if not known
Arrays = dict[str, NDArray[Any]]
LeftOut = Mapping[str, Sequence[str]]
"""Files that were left out, by reason: the reason follows their number, for example `12 files without a label`."""

NO_IMAGE = "not in an image format"  # the reason for files that were not even meant as images


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The contents of a source, with Keras's names: `x_train`, `y_train`, ..., `classes`.

    There may also be, for each split, `files_train` (the path of each image), `sizes_train` (width and height of each
    file) and `group_train` (which images belong together). `train_core.data` checks whether the arrays fit together.
    """

    arrays: Arrays
    notes: tuple[str, ...] = ()  # what was chosen or converted: one sentence each, without a full stop
    left_out: LeftOut = field(default_factory=dict)
    preparation: Preparation | None = None  # None: the source does not consist of image files

    def packed(self) -> Arrays:
        """Everything as arrays, for a file of the cache."""
        about = {"notes": self.notes, "left_out": self.left_out}
        if self.preparation:
            about["preparation"] = self.preparation.model_dump()
        return self.arrays | {_ABOUT: np.array(json.dumps(about))}

    @classmethod
    def unpacked(cls, arrays: Arrays) -> "Contents":
        """The contents that `packed` packed."""
        about = json.loads(str(arrays[_ABOUT])) if _ABOUT in arrays else {}
        made = about.get("preparation")
        return cls(
            arrays={name: values for name, values in arrays.items() if name != _ABOUT},
            notes=tuple(about.get("notes", ())),
            left_out=about.get("left_out", {}),
            preparation=Preparation.model_validate(made) if made else None,
        )


_ABOUT = "about"


@dataclass(frozen=True, kw_only=True)
class FileSizes:
    """Width and height, in pixels, of the image files with the smallest, the median and the largest area."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]

    @classmethod
    def of(cls, sizes: Iterable[tuple[int, int]]) -> "FileSizes":
        """The sizes of one or more files."""
        ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
        return cls(smallest=ordered[0], median=ordered[(len(ordered) - 1) // 2], largest=ordered[-1])

    def __str__(self) -> str:
        """For example `16x16 pixels`, or `40x30 to 640x480 pixels (median 320x240)`."""
        if self.smallest == self.largest:
            return f"{by(self.smallest)} pixels"
        return f"{by(self.smallest)} to {by(self.largest)} pixels (median {by(self.median)})"


def data_error(message: str, kind: type[DataError] = DataError) -> DataError:
    """Make the error, with its message on one line whatever names and other messages it quotes."""
    return kind(printable(" ".join(line.strip() for line in message.splitlines())))


def by(shape: Sequence[int]) -> str:
    """Write a shape as people do: 32x32x3."""
    return "x".join(map(str, shape))


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and its noun: `1 image`, `1,200 images`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def counts_in_words(left_out: LeftOut) -> str:
    """How many files were left out, and why: `2 files without a label, 1 file in .HEIC`; empty for none."""
    return ", ".join(f"{counted(len(names), 'file')} {why}" for why, names in left_out.items() if names)


def some(names: Sequence[str], most: int = 5) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
