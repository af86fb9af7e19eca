"""Looks at all images of a source, including the test images, and describes them. Trains nothing.

The results are a record (`Census`) and, on request, a picture of training images (`draw_sheet`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train_core.data import AllSplits, Split, load_all_splits
from train_core.duplicates import Pixels, almost_equal, constant, equal
from train_core.reading import Reading
from train_core.sheet import draw_sheet
from train_core.sources.contents import FileSizes, LeftOut, Progress, SplitName, some

WORDS: Mapping[SplitName, str] = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image: its file, or its index in the source's arrays, such as `x_train[7]`; its split and class."""

    name: str
    split: SplitName
    label: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """Pictures that are equal or almost equal, in the order training, validation, test."""

    pictures: tuple[Picture, ...]

    @property
    def splits(self) -> frozenset[SplitName]:
        """The splits that the pictures are in."""
        return frozenset(picture.split for picture in self.pictures)

    @property
    def labels(self) -> frozenset[str]:
        """The classes that the pictures are in."""
        return frozenset(picture.label for picture in self.pictures)


@dataclass(frozen=True, kw_only=True)
class Census:
    """The contents of a source, as a search would read and split it.

    `counts` are images by class and split. `mean` and `std` are those of each channel of the training images, where 1
    is the brightest value. `almost_equal` contains one picture for each group of `equal`.
    """

    source: str  # as the user gave it
    name: str
    classes: tuple[str, ...]
    counts: Mapping[str, Mapping[SplitName, int]]
    held_out: tuple[SplitName, ...]  # the splits that are taken from the training images of the source
    size: tuple[int, int]  # height and width of the network's input
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    file_sizes: FileSizes | None  # None: the source has no image files
    notes: tuple[str, ...]
    left_out: LeftOut
    constant: tuple[Picture, ...]  # images of a single colour
    equal: tuple[Group, ...]
    almost_equal: tuple[Group, ...]
    warnings: tuple[str, ...]  # what would make a result wrong, and what to do about it: whole sentences

    def total(self, split: SplitName) -> int:
        """Number of images of a split."""
        return sum(counts.get(split, 0) for counts in self.counts.values())


def take_census(
    source: str,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    reading: Reading,
    cache: Path,
    sheet: Path | None = None,
    progress: Progress | None = None,
) -> Census:
    """Look at a source; all arguments except `sheet` are those of `load_training`.

    `sheet` is a PNG file to draw some training images of each class in.

    Raises:
        DataError: the source cannot be read, as for `load_training`.
        OSError: the sheet cannot be written.

    """
    found = load_all_splits(
        source,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=seed,
        reading=reading,
        cache=cache,
        progress=progress,
    )
    if sheet is not None:
        draw_sheet(found.training.train, found.training.classes, sheet)
    return _census(source, found)


def _census(source: str, found: AllSplits) -> Census:
    training = found.training
    by_split: dict[SplitName, Split | None] = {"train": training.train, "val": training.val, "test": found.test}
    splits = {split: each for split, each in by_split.items() if each is not None}
    classes = training.classes
    pictures = [
        Picture(name=name, split=split, label=classes[label])
        for split, each in splits.items()
        for name, label in zip(each.files, each.labels.tolist(), strict=True)
    ]
    parts = [each.images.numpy() for each in splits.values()]
    repeated = equal(parts)
    equals = _groups(repeated, pictures)
    alike = _groups(almost_equal(parts, repeated), pictures)
    plain = tuple(pictures[number] for number in np.flatnonzero(_constant(parts)).tolist())
    held_out = tuple(split for split in splits if split not in found.brought)
    return Census(
        source=source,
        name=training.name,
        classes=classes,
        counts=_counts(splits, classes),
        held_out=held_out,
        size=training.size,
        channels=training.in_channels,
        mean=training.mean,
        std=training.std,
        file_sizes=_file_sizes(found),
        notes=training.notes,
        left_out=training.left_out,
        constant=plain,
        equal=equals,
        almost_equal=alike,
        warnings=(
            *(lack_warning(split, labels) for split, labels in training.lacking.items()),
            *_warnings(equals, alike, plain),
        ),
    )


def _groups(groups: Iterable[Sequence[int]], pictures: Sequence[Picture]) -> tuple[Group, ...]:
    return tuple(Group(pictures=tuple(pictures[number] for number in group)) for group in groups)


def _constant(parts: Sequence[Pixels]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.concatenate([constant(part) for part in parts])


def _counts(splits: Mapping[SplitName, Split], classes: Sequence[str]) -> dict[str, dict[SplitName, int]]:
    columns = {split: each.labels.bincount(minlength=len(classes)).tolist() for split, each in splits.items()}
    return {label: {split: column[number] for split, column in columns.items()} for number, label in enumerate(classes)}


def _file_sizes(found: AllSplits) -> FileSizes | None:
    if found.file_sizes is None:
        return None
    return FileSizes.of((width, height) for width, height in found.file_sizes.tolist())


# -------------------------------------------------------------------------------------------------------- the warnings


def lack_warning(split: SplitName, classes: Sequence[str]) -> str:
    """Warn that classes have training images, but none in the validation or test split, and say what to do."""
    which = f"class {classes[0]} has" if len(classes) == 1 else f"{len(classes):,} classes have"
    names = "" if len(classes) == 1 else f" ({some(classes)})"
    it = "it" if len(classes) == 1 else "them"
    return (
        f"{which} training images, but no {WORDS[split]} images{names}: the {WORDS[split]} score says nothing of {it}. "
        f"Add {WORDS[split]} images of {it}."
    )


def leak_warning(split: SplitName, number: int, *, almost: bool = False) -> str:
    """Warn that validation images are also training images, or test images are also either, and say what to do."""
    images = f"{number:,} {WORDS[split]} image{' is' if number == 1 else 's are'}"
    seen = "training" if split == "val" else "training or validation"
    others = f"{'almost equal to' if almost else 'also'} {f'a {seen} image' if number == 1 else f'{seen} images'}"
    return f"{images} {others}: the {WORDS[split]} accuracy would be too high. Keep only one of each."


def _warnings(equals: Sequence[Group], alike: Sequence[Group], plain: Sequence[Picture]) -> Iterable[str]:
    evaluated: tuple[SplitName, ...] = ("test", "val")
    for almost, groups in ((False, equals), (True, alike)):
        for split in evaluated:
            if number := _leaked(groups, split):
                yield leak_warning(split, number, almost=almost)
    for what, groups in (("equal", equals), ("almost equal", alike)):
        if number := sum(len(group.labels) > 1 for group in groups):
            groups_are = "group of images is" if number == 1 else "groups of images are"
            yield (
                f"{number:,} {groups_are} {what}, but in different classes: nobody can learn both. Keep each picture "
                "in one class."
            )
    if plain:
        yield (
            f"{len(plain):,} image{' has' if len(plain) == 1 else 's have'} a single colour and nothing to learn: "
            "check the files, and remove those that are empty."
        )


def _leaked(groups: Iterable[Group], split: SplitName) -> int:
    """How many pictures of a split are in groups with pictures of an earlier split."""
    earlier = {"train"} if split == "val" else {"train", "val"}
    return sum(sum(picture.split == split for picture in group.pictures) for group in groups if earlier & group.splits)
