"""Named data sets and users' own images -> uint8 tensors, small enough to be kept on the device.

This module returns the data as checked tensors, split into training and validation. `train_core.sources` reads the
arrays. `load_training` never returns test images; training code can get them only from `load_test`, and the census,
which trains nothing, from `load_all_splits`.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train_core.datasets import DATASETS
from train_core.duplicates import digests
from train_core.reading import Preparation, Reading
from train_core.sources import Source, read_source
from train_core.sources.contents import SPLITS, LeftOut, Progress, SplitName, by, data_error, some
from train_core.sources.splits import hold_out, hold_out_groups

NAMED = tuple(DATASETS)
PLAIN = Reading()


@dataclass(frozen=True)
class Split:
    """Images, uint8 [N, H, W, C], their labels, int64 [N], and the files that they were read from.

    `files` are paths such as `train/cat/1.jpg`, inside the folder that was read; empty if the source is not a folder.
    """

    images: Tensor
    labels: Tensor
    files: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: NDArray[np.bool_]) -> "Split":
        """The images for which the mask [N] is true, in order."""
        mask = torch.from_numpy(chosen)
        return Split(self.images[mask], self.labels[mask], tuple(compress(self.files, chosen)))

    def subset(self, share: float, seed: int) -> Tensor:
        """Indices, int64 on the split's device, of a share of each class, at least one image of it, drawn by `seed`."""
        chosen = hold_out(self.labels.cpu().numpy(), lambda n: max(round(n * share), 1), seed)
        return torch.from_numpy(np.flatnonzero(chosen)).to(self.labels.device)

    def to(self, device: torch.device | str) -> "Split":
        """Copy the split to `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class Inventory:
    """A summary of a source that is enough to find later what has changed in it.

    `counts` has the number of images of each split and class; `files`, for a folder of images, 16 hexadecimal digits of
    the pixels of each file, by its path such as `train/cat/1.jpg`.
    """

    counts: Mapping[str, Mapping[str, int]]
    files: Mapping[str, str]


@dataclass(frozen=True)
class TrainingData:
    """The data that a search may see: no test images, by design.

    `mean` and `std` are those of each channel of `train`, where 1 is the brightest pixel value; a constant channel has
    `std` 1, so that division by it is safe. `fingerprint` is a hash of the whole source (training, validation and test
    arrays and the class names), independent of how it is split.
    """

    name: str
    train: Split
    val: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    has_test: bool
    held_out: int = 0  # number of test images held out from the training images, because the source has no test split
    notes: tuple[str, ...] = ()  # what was chosen or converted to read the source, one sentence each
    left_out: LeftOut = field(default_factory=dict)
    made_by: Preparation | None = None  # None: the source does not consist of image files
    inventory: Inventory | None = None  # of the whole source
    copied: Mapping[SplitName, int] = field(default_factory=dict)
    """By split, how many validation images are also training images, and test images also either, pixel for pixel."""
    lacking: Mapping[SplitName, tuple[str, ...]] = field(default_factory=dict)
    """By split, the classes that have training images, but none in that validation or test split."""

    @property
    def in_channels(self) -> int:
        """1 for grey images, 3 for RGB."""
        return self.train.images.shape[3]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every image, in pixels."""
        return self.train.images.shape[1], self.train.images.shape[2]

    @property
    def preparation(self) -> Preparation:
        """What must be done to an image file before a model of these data can classify it."""
        return self.made_by or Preparation.of_arrays(self.size)

    def with_validation_in_training(self) -> "TrainingData":
        """The same data with the validation images added to the training images: scores on `val` then mean nothing."""
        images = torch.cat([self.train.images, self.val.images])
        mean, std = self.mean_and_std_with_validation()
        labels = torch.cat([self.train.labels, self.val.labels])
        train = Split(images, labels, self.train.files + self.val.files)
        return replace(self, train=train, mean=mean, std=std)

    def mean_and_std_with_validation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over the training and the validation images."""
        return _mean_and_std(self.train.images, self.val.images)

    def to(self, device: torch.device | str) -> "TrainingData":
        """Copy the images and labels to `device`."""
        return replace(self, train=self.train.to(device), val=self.val.to(device))


def load_training(
    source: str,
    *,
    val_fraction: float,
    seed: int,
    cache: Path,
    test_fraction: float = 0.0,
    reading: Reading = PLAIN,
    progress: Progress | None = None,
) -> TrainingData:
    """Training and validation images of `source`, on the CPU.

    `source` is a name of `NAMED`; a `.npz` file with `x_train` and `y_train` and, optionally, `x_val` and `y_val`,
    `x_test` and `y_test`, and `classes` (uint8 images [N, H, W] or [N, H, W, C], integer labels [N] or [N, 1], or
    arrays that `train_core.sources.arrays` converts to these); a folder `train/<class>/<image>` with, optionally,
    `val/` and `test/` beside `train/`, or another layout of `train_core.sources.listing`; a table that names images; or
    an archive of any of these. `reading` defines the size of image files, and how they are resized.

    A validation split in the source is used as it is. Otherwise it is taken from the training images, class by class:
    the share `val_fraction` of each, drawn by `seed`, at least one image and never all of them. The images keep their
    order.

    If a source has no test split, the share `test_fraction` of each class is held out first, for `load_test`: the same
    images for every `seed`, so a search with another seed has not seen them either. A class of one or two images gives
    none. If `reading` names a group, whole groups are held out, as close to the share as possible.

    Raises `DataError` for a source that is unknown, missing, broken or cannot be downloaded, for a cache folder that
    cannot be written, and for a `val_fraction` outside 0 to 1 or a class of one image if a split must be taken.
    """
    whole = _load(source, reading, cache, progress)
    return _training(whole, _with_test(whole, test_fraction), val_fraction, seed)


@dataclass(frozen=True, kw_only=True)
class AllSplits:
    """Everything that a search and its tests would use. Each image has a name: its file, or such as `x_train[7]`."""

    training: TrainingData
    test: Split | None
    brought: tuple[SplitName, ...]  # the splits of the source itself; others are taken from its training images
    file_sizes: NDArray[Any] | None  # [N, 2], width and height of each image file; None: there are no files


def load_all_splits(
    source: str,
    *,
    val_fraction: float,
    seed: int,
    cache: Path,
    test_fraction: float = 0.0,
    reading: Reading = PLAIN,
    progress: Progress | None = None,
) -> AllSplits:
    """The splits that `load_training` and `load_test` return, on the CPU. For looking at images: never for training.

    Raises `DataError` as `load_training` does.
    """
    whole = _with_names(_load(source, reading, cache, progress))
    data = _with_test(whole, test_fraction)
    sizes = [each for name, each in whole.read.contents.arrays.items() if name.startswith("sizes_")]
    return AllSplits(
        training=_training(whole, data, val_fraction, seed),
        test=data.test,
        brought=tuple(split for split in SPLITS if getattr(whole, split) is not None),
        file_sizes=np.concatenate(sizes) if sizes else None,
    )


def _training(whole: "_Source", data: "_Source", val_fraction: float, seed: int) -> TrainingData:
    """The training and validation images of `data`, which is `whole` without held-out test images."""
    train, val = (data.train, data.val) if data.val else _cut_validation(data, val_fraction, seed)
    mean, std = _mean_and_std(train.images)
    contents = data.read.contents
    return TrainingData(
        name=data.read.name,
        train=train,
        val=val,
        classes=data.classes,
        mean=mean,
        std=std,
        fingerprint=_fingerprint(whole),
        has_test=data.test is not None,
        held_out=len(data.test) if data.test is not None and data.is_cut else 0,
        notes=contents.notes,
        left_out=contents.left_out,
        made_by=contents.preparation,
        inventory=_inventory(whole),
        copied=_copied(train, val, data.test),
        lacking=_lacking(data.classes, val, data.test),
    )


def load_test(
    source: str,
    *,
    fingerprint: str,
    cache: Path,
    test_fraction: float = 0.0,
    reading: Reading = PLAIN,
    progress: Progress | None = None,
) -> Split | None:
    """Test split of `source`, on the CPU; None if it has none. For finished models only.

    `fingerprint`, `test_fraction` and `reading` are those of the training images that the model has seen.

    Raises `DataError` as `load_training` does, and if the source has changed since then.
    """
    data = _load(source, reading, cache, progress)
    if _fingerprint(data) != fingerprint:
        raise data_error(f"{source} has changed since it was trained on: put the old files back to test the model")
    return _with_test(data, test_fraction).test


def default_cache() -> Path:
    """`$SEARCH_CACHE`, else `$XDG_CACHE_HOME/search`, else `~/.cache/search`."""
    if chosen := os.environ.get("SEARCH_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "search"


# ------------------------------------------------------------------------------------------------------- the source


@dataclass(frozen=True)
class _Source:
    """The checked contents of a source."""

    read: Source
    train: Split
    val: Split | None
    test: Split | None
    classes: tuple[str, ...]
    is_cut: bool = False  # whether the test split was held out from the training images
    groups: NDArray[Any] | None = None  # of the training images: the group of each


def _load(source: str, reading: Reading, cache: Path, progress: Progress | None) -> _Source:
    """Read a source and check it: `DataError` for arrays that do not match the docstring of `load_training`."""
    found = read_source(source, reading, cache, progress)
    arrays, origin = found.contents.arrays, found.origin
    images: dict[str, Tensor] = {}
    raw_labels: dict[str, NDArray[Any]] = {}
    for split in SPLITS:
        x, y = f"x_{split}", f"y_{split}"
        if split == "train" or x in arrays or y in arrays:
            for key in (x, y):
                if key not in arrays:
                    raise data_error(f"{origin}: the array {key} is missing: save {x} and {y}")
            images[split] = _check_images(f"{origin}: {x}", arrays[x])
            raw_labels[split] = _check_label_array(f"{origin}: {y}", arrays[y], len(images[split]))
            if images[split].shape[1:] != images["train"].shape[1:]:
                raise data_error(
                    f"{origin}: x_train has images of {by(images['train'].shape[1:])} and {x} of "
                    f"{by(images[split].shape[1:])}: give all the same size and channels"
                )
    classes = _check_classes(origin, arrays.get("classes"), raw_labels["train"])
    splits = {
        split: Split(
            images[split],
            _check_labels(f"{origin}: y_{split}", labels, len(classes)),
            tuple(map(str, arrays.get(f"files_{split}", ()))),
        )
        for split, labels in raw_labels.items()
    }
    for label, count in enumerate(splits["train"].labels.bincount(minlength=len(classes)).tolist()):
        if count == 0:
            raise data_error(f"{origin}: class {classes[label]!r} has no training images: add some, or drop the class")
    groups = {split: arrays[f"group_{split}"] for split in splits if f"group_{split}" in arrays}
    _check_groups(origin, groups)
    return _Source(found, splits["train"], splits.get("val"), splits.get("test"), classes, groups=groups.get("train"))


def _with_names(data: _Source) -> _Source:
    """The source with a name for each image without a file: its index in the arrays."""
    named = {
        split: replace(images, files=images.files or tuple(f"x_{split}[{i}]" for i in range(len(images))))
        for split in SPLITS
        if (images := getattr(data, split)) is not None
    }
    return replace(data, **named)


def _check_groups(origin: str, groups: Mapping[str, NDArray[Any]]) -> None:
    """Check that no group is on both sides of a split of the source."""
    for one, other in combinations(groups, 2):
        if both := sorted(set(groups[one].tolist()) & set(groups[other].tolist())):
            raise data_error(
                f"{origin}: {one} and {other} share {len(both)} groups ({some(both)}): a group must be on one side"
            )


def _check_images(what: str, images: NDArray[Any]) -> Tensor:
    """Tensor uint8 [N, H, W, C] from an array [N, H, W] or [N, H, W, C]."""
    if images.dtype != np.uint8:
        raise data_error(f"{what} is {images.dtype}: convert the images to uint8, 0 to 255")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise data_error(f"{what} has shape {images.shape}: it must be [N, H, W], or [N, H, W, C] with C 1 or 3")
    if images.size == 0:
        raise data_error(f"{what} holds no images: add some, or leave it out if it is optional")
    return torch.from_numpy(np.ascontiguousarray(images))


def _check_label_array(what: str, labels: NDArray[Any], num_images: int) -> NDArray[Any]:
    """Integer labels [N], flattened if they were [N, 1]."""
    if labels.dtype.kind not in "iu" or not (labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1)):
        raise data_error(
            f"{what} is {labels.dtype} of shape {labels.shape}: it must hold integers, the number of the class of each "
            "image, [N] or [N, 1]"
        )
    if len(labels) != num_images:
        raise data_error(f"{what} has {len(labels)} labels for {num_images} images: give one label for each image")
    return labels.reshape(-1)


def _check_classes(origin: str, names: NDArray[Any] | None, train_labels: NDArray[Any]) -> tuple[str, ...]:
    """Names of the classes; if there are none, the labels as text."""
    if names is None:
        # The number of different labels, not the largest label plus one: a gap is then reported as a wrong label.
        classes = tuple(str(label) for label in range(len(np.unique(train_labels))))
    elif names.ndim == 1 and names.dtype.kind in "USiu":
        classes = tuple(n.decode(errors="replace") if isinstance(n, bytes) else str(n) for n in names.tolist())
    else:
        raise data_error(f"{origin}: classes is {names.dtype} of shape {names.shape}: it must be a list of names")
    if len(set(classes)) < len(classes):
        raise data_error(f"{origin}: two classes have the same name: give each its own")
    if len(classes) < 2:
        raise data_error(f"{origin} has one class only: a classifier needs two or more")
    return classes


def _check_labels(what: str, labels: NDArray[Any], num_classes: int) -> Tensor:
    """Tensor int64 [N] of labels from 0 to `num_classes - 1`."""
    for label in (int(labels.min()), int(labels.max())):
        if not 0 <= label < num_classes:
            raise data_error(
                f"{what} holds the label {label}, but there are {num_classes} classes: number them 0 to "
                f"{num_classes - 1}, without gaps"
            )
    return torch.from_numpy(labels.astype(np.int64))


def _fingerprint(data: _Source) -> str:
    """32 hexadecimal digits that change with any pixel, label, split or class name."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(data.classes).encode())
    for name, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        if split:
            digest.update(f"{name} {tuple(split.images.shape)}".encode())
            digest.update(split.images.numpy().data)
            digest.update(split.labels.numpy().data)
    return digest.hexdigest()


def _inventory(data: _Source) -> Inventory:
    """A summary of the source."""
    counts: dict[str, dict[str, int]] = {}
    files: dict[str, str] = {}
    for name, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        if split:
            counted = split.labels.bincount(minlength=len(data.classes)).tolist()
            counts[name] = dict(zip(data.classes, counted, strict=True))
            for file, pixels in zip(split.files, split.images.numpy(), strict=False):  # arrays have no files
                files[file] = hashlib.blake2b(pixels.data, digest_size=8).hexdigest()
    return Inventory(counts, files)


# ---------------------------------------------------------------------------------------------- splits and statistics


def _with_test(data: _Source, fraction: float) -> _Source:
    """The source with the share `fraction` of each class held out as its test split, if it has none."""
    if data.test is not None or fraction == 0:
        return data
    if not 0 < fraction < 1:
        raise data_error(f"the test split cannot be {fraction} of the training images: choose 0, or between 0 and 1")
    # At least one image is left for training, and one for validation.
    chosen = _drawn(data, fraction, lambda n: max(min(max(round(n * fraction), 1), n - 2), 0), _TEST_SEED)
    if not chosen.any():
        return data
    groups = None if data.groups is None else data.groups[~chosen]
    return replace(data, train=data.train.where(~chosen), test=data.train.where(chosen), is_cut=True, groups=groups)


def _drawn(data: _Source, fraction: float, count: Callable[[int], int], seed: int) -> NDArray[np.bool_]:
    """Which training images are held out: `count(n)` of each class of n images, or whole groups of them."""
    labels = data.train.labels.numpy()
    if data.groups is None:
        return hold_out(labels, count, seed)
    if len(np.unique(data.groups)) < 3:
        raise data_error(
            f"{data.read.origin}: number of groups: {len(np.unique(data.groups))}; three or more are needed to train, "
            "validate and test on different ones; or bring the splits yourself"
        )
    held = hold_out_groups(labels, data.groups, fraction, seed)
    for label in np.unique(labels):
        if held[labels == label].all():
            raise data_error(
                f"{data.read.origin}: all groups of the class {data.classes[label]!r} would be held out: add a group, "
                "or bring the splits yourself"
            )
    return held


_TEST_SEED = 7_919  # for the held-out test split; different from a study's seed, which draws the validation split


def _cut_validation(data: _Source, fraction: float, seed: int) -> tuple[Split, Split]:
    """Take the share `fraction` of each class out: the rest for training, and the images that are held out."""
    if not 0 < fraction < 1:
        raise data_error(f"the validation split cannot be {fraction} of the training images: choose between 0 and 1")
    for label, count in enumerate(data.train.labels.bincount().tolist()):
        if count < 2:
            raise data_error(
                f"{data.read.origin}: class {data.classes[label]!r} has one training image, too few to cut a "
                "validation split: add images, or bring a validation split (val/ or x_val and y_val)"
            )
    held = _drawn(data, fraction, lambda n: min(max(round(n * fraction), 1), n - 1), seed)
    return data.train.where(~held), data.train.where(held)


def _copied(train: Split, val: Split, test: Split | None) -> Mapping[SplitName, int]:
    """`TrainingData.copied`, without the splits that have no such images."""
    known: set[int] = set()
    counts: dict[SplitName, int] = {}
    splits: dict[SplitName, Split | None] = {"train": train, "val": val, "test": test}
    for split, images in splits.items():
        if images is not None:
            found = digests(images.images.numpy())
            counts[split] = sum(digest in known for digest in found)
            known.update(found)
    return {split: number for split, number in counts.items() if number and split != "train"}


def _lacking(classes: Sequence[str], val: Split, test: Split | None) -> Mapping[SplitName, tuple[str, ...]]:
    """`TrainingData.lacking`, without the splits that have images of all classes."""
    splits: dict[SplitName, Split | None] = {"val": val, "test": test}
    found: dict[SplitName, tuple[str, ...]] = {}
    for name, split in splits.items():
        if split is not None:
            held = set(split.labels.tolist())
            found[name] = tuple(label for number, label in enumerate(classes) if number not in held)
    return {name: labels for name, labels in found.items() if labels}


def _mean_and_std(*splits: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of all images, uint8 [N, H, W, C], in units of 255."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channels in zip(*(images.unbind(dim=3) for images in splits), strict=True):
        # From the histogram: exact, and without a float copy of all images. On the CPU: not every device has doubles.
        counts = torch.stack([channel.cpu().flatten().bincount(minlength=256) for channel in channels]).sum(dim=0)
        share = counts.double() / counts.sum()
        mean = (share * values).sum()
        means.append(mean.item())
        stds.append(math.sqrt((share * (values - mean) ** 2).sum().item()) or 1.0)  # exactly 0 if it is constant
    return tuple(means), tuple(stds)
