"""Which images a run began with.

It lets a message name the files that have changed, and lets a model be exported without its images.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Self

from search.data_shape import DataShape
from search.formatting import count
from search.run_folder import RunFolder, write_text
from train_core.printable import printable
from train_core.reading import Preparation
from train_core.specs import Frozen

if TYPE_CHECKING:  # it loads torch, which read-only commands do not need
    from train_core.data import Split, TrainingData

NAMED = 3  # files of a kind that are named; the others are only counted
SPLITS = {"train": "training image", "val": "validation image", "test": "test image"}


class Listing(Frozen):
    """The images of a run without their pixels: the number, the files, and their facts in a model file."""

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    size: tuple[int, int]  # height and width, in pixels
    in_channels: int  # 1 grey, 3 RGB
    counts: dict[str, dict[str, int]]  # for each split of the source, the images of each class
    files: dict[str, str]  # of a folder: by path (train/cat/1.jpg), 16 hexadecimal digits of a digest of the pixels
    training_images: int  # as the run uses them, after its validation split is taken out
    validation_images: int
    has_test: bool
    preparation: Preparation  # what was done to each image file
    mean: tuple[float, ...]  # of the training images, where 1 is the brightest
    std: tuple[float, ...]
    refit_mean: tuple[float, ...]  # of the training and validation images
    refit_std: tuple[float, ...]

    @classmethod
    def of(cls, data: "TrainingData") -> Self:
        """List the images of a run."""
        refit_mean, refit_std = data.mean_and_std_with_validation()
        return cls(
            name=data.name,
            fingerprint=data.fingerprint,
            classes=data.classes,
            size=data.size,
            in_channels=data.in_channels,
            counts=_counts(data),
            files=dict(data.inventory.files) if data.inventory else {},
            training_images=len(data.train),
            validation_images=len(data.val),
            has_test=data.has_test,
            preparation=data.preparation,
            mean=data.mean,
            std=data.std,
            refit_mean=refit_mean,
            refit_std=refit_std,
        )

    @property
    def shape(self) -> DataShape:
        """What the images require of a network, and which images they are."""
        return DataShape(
            fingerprint=self.fingerprint,
            in_channels=self.in_channels,
            num_classes=len(self.classes),
            size=self.size,
        )


def _counts(data: "TrainingData") -> dict[str, dict[str, int]]:
    held = data.inventory.counts if data.inventory else {}
    return {split: dict(classes) for split, classes in held.items()}


def keep_listing(folder: RunFolder, data: "TrainingData") -> None:
    """Record, once, which images the run began with."""
    if read_listing(folder) is None:  # damaged, or not there; the study says that the images are still the same
        write_text(folder.listing, Listing.of(data).model_dump_json() + "\n")


def read_listing(folder: RunFolder) -> Listing | None:
    """The images that the run began with; None for a run of an older version, or if the file is damaged."""
    try:
        return Listing.model_validate_json(folder.listing.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def blank(listing: Listing, *, refit: bool) -> "TrainingData":
    """The data as far as the listing describes them: the images are black, and take no memory.

    `refit`: with the mean and the standard deviation of the training and validation images together.
    """
    import torch

    from train_core.data import Split, TrainingData

    def split(images: int) -> "Split":
        pixels = torch.zeros(1, *listing.size, listing.in_channels, dtype=torch.uint8)
        return Split(pixels.expand(images, -1, -1, -1), torch.zeros(1, dtype=torch.int64).expand(images))

    return TrainingData(
        name=listing.name,
        train=split(listing.training_images),
        val=split(listing.validation_images),
        classes=listing.classes,
        mean=listing.refit_mean if refit else listing.mean,
        std=listing.refit_std if refit else listing.std,
        fingerprint=listing.fingerprint,
        has_test=listing.has_test,
        made_by=listing.preparation,
    )


def changes(before: Listing, now: Listing) -> str:
    """How images differ from those that a run began with, in a sentence without a full stop."""
    if before.shape.task != now.shape.task:
        return f"the images are {now.shape} now, {before.shape} when the run began"
    totals = {
        split: tuple(sum(each.counts.get(split, {}).values()) for each in (before, now))
        for split in SPLITS
        if split in before.counts or split in now.counts
    }
    numbers = [
        f"{count(after, SPLITS[split])} now, {first:,} when the run began"
        for split, (first, after) in totals.items()
        if first != after
    ]
    begins = f"{now.name} has {', and '.join(numbers)}" if numbers else f"{now.name} has changed since the run began"
    return printable(f"{begins}: {'; '.join(_details(before, now))}")


def _details(before: Listing, now: Listing) -> list[str]:
    """The new, missing or changed files; for arrays, the classes whose number of images changed."""
    if before.files and now.files:
        kinds = {
            ("is new", "are new"): now.files.keys() - before.files.keys(),
            ("is missing", "are missing"): before.files.keys() - now.files.keys(),
            ("has changed", "have changed"): {
                file for file in before.files.keys() & now.files.keys() if before.files[file] != now.files[file]
            },
        }
        return [f"{_names(sorted(files))} {words[len(files) > 1]}" for words, files in kinds.items() if files]
    if before.classes != now.classes:
        return [f"the classes are {_names(now.classes)} now, {_names(before.classes)} when the run began"]
    different = [
        f"{after} {SPLITS[split]}s of class {label} now, {first} when the run began"
        for split in now.counts.keys() & before.counts.keys()
        for label, after in now.counts[split].items()
        if (first := before.counts[split].get(label, 0)) != after
    ]
    return different[:NAMED] or ["pixels or labels are different"]


def _names(names: tuple[str, ...] | list[str]) -> str:
    """For example `a`, `a and b`, and `a, b, c and 12 more`."""
    shown = list(names[:NAMED])
    last = f"{len(names) - NAMED:,} more" if len(names) > NAMED else shown.pop()
    return f"{', '.join(shown)} and {last}" if shown else last


def moved(data: str) -> str:
    """What to print when a run's images are not where they were."""
    return f"the images of this run were at {data}: give --data with the folder where they are now"


def is_missing(data: str) -> bool:
    """Whether the source of a study is a path that does not exist."""
    try:
        return not Path(data).expanduser().exists()
    except (OSError, RuntimeError):
        return True
