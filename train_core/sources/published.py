"""The data sets of torchvision after CIFAR: their addresses, and the format of their files.

torchvision provides the addresses, the checksums and the names of classes. The download and the reader are our own.
"""

import csv
import gzip
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_core.datasets import DATASETS, DatasetName
from train_core.reading import Reading
from train_core.sources.arrays import house_numbers, read_matlab
from train_core.sources.cache import cached
from train_core.sources.contents import SPLITS, Arrays, Contents, Progress, SplitName, data_error
from train_core.sources.downloads import Archive, fetched
from train_core.sources.folders import FORMAT, read_listing
from train_core.sources.listing import Item, Listing, listed
from train_core.sources.unpacking import is_archive, unpack

Files = Mapping[str, Path]
"""Name of each published file -> its current address."""


@dataclass(frozen=True, kw_only=True)
class ArrayFiles:
    """A data set whose files contain arrays: all images have one size, and keep it."""

    archives: Callable[[], Sequence[Archive]]
    arrays: Callable[[Files], Arrays]

    def contents(self, name: DatasetName, cache: Path, _reading: Reading, progress: Progress | None) -> Contents:
        """All images, from the cache, after a download if they are not there."""

        def downloaded(folder: Path) -> Contents:
            files = fetched(name, self.archives(), place=cache / name, folder=folder, progress=progress)
            return Contents(arrays=self.arrays(files))

        return cached(cache / f"{name}.npz", downloaded)


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """A data set of image files, resized to the size of its record unless another is requested.

    The archives stay in the cache, so another size needs no download.
    """

    archives: Callable[[], Sequence[Archive]]
    listing: Callable[[Path, Files], Listing]  # of the folder into which all archives are unpacked

    def contents(self, name: DatasetName, cache: Path, reading: Reading, progress: Progress | None) -> Contents:
        """All images, from the cache, after a download and resizing if they are not there."""
        height, width = DATASETS[name].size
        size = reading.size or (width, height)

        def downloaded(folder: Path) -> Contents:
            files = fetched(name, self.archives(), place=cache / name, folder=folder, keep=True, progress=progress)
            place = folder / name
            for path in files.values():
                if is_archive(path) and unpack(path, place, str(path), progress):
                    raise data_error(f"cannot unpack {path}: it holds more than files of its folder: get it again")
            return read_listing(self.listing(place, files), reading, progress, usual=(width, height))

        asked = reading.model_copy(update={"size": size}).model_dump_json()
        state = blake2b(FORMAT + asked.encode(), digest_size=4).hexdigest()
        return cached(cache / f"{name}-{size[0]}x{size[1]}-{state}.npz", downloaded, f"{name}-*x*-*.npz")


def read_published(name: DatasetName, cache: Path, reading: Reading, progress: Progress | None) -> Contents:
    """The data set of this name: in its own size if it consists of arrays, else in the requested size.

    Raises:
        DataError: it cannot be downloaded, or one of its files in the cache is not the published one.

    """
    return PUBLISHED[name].contents(name, cache, reading, progress)


# ------------------------------------------------------------------------------------------------------ MNIST's format


def _mnist_archives(dataset: str) -> list[Archive]:
    published = _of_torchvision(dataset)
    return [
        Archive(file=file, urls=tuple(home + file for home in published.mirrors), md5=md5)
        for file, md5 in published.resources
    ]


def _mnist_arrays(dataset: str, files: Files) -> Arrays:
    # MNIST's classes are "0 - zero" and so on in torchvision.
    arrays: Arrays = {"classes": np.array([name.split(" - ")[0] for name in _of_torchvision(dataset).classes])}
    splits: dict[SplitName, str] = {"train": "train", "test": "t10k"}
    for split, theirs in splits.items():
        arrays[f"x_{split}"] = _idx(files[f"{theirs}-images-idx3-ubyte.gz"])
        arrays[f"y_{split}"] = _idx(files[f"{theirs}-labels-idx1-ubyte.gz"])
    return arrays


def _idx(path: Path) -> NDArray[np.uint8]:
    """The bytes of a compressed file in IDX format, in the shape that its header states."""
    with gzip.open(path) as file:
        held = bytearray(file.read())  # torch needs writable arrays
    dimensions = held[3]
    shape = np.frombuffer(held, ">u4", count=dimensions, offset=4)
    return np.frombuffer(held, np.uint8, offset=4 + 4 * dimensions).reshape(shape.tolist())


# ---------------------------------------------------------------------------------------------------------------- SVHN


def _svhn_archives() -> list[Archive]:
    splits = _of_torchvision("SVHN").split_list
    return [Archive(file=file, urls=(url,), md5=md5) for url, file, md5 in (splits["train"], splits["test"])]


def _svhn_arrays(files: Files) -> Arrays:
    arrays, _ = house_numbers({"train": files["train_32x32.mat"], "test": files["test_32x32.mat"]})
    return arrays | {"classes": np.array([str(digit) for digit in range(10)])}


# -------------------------------------------------------------------------------------------------------------- STL-10


def _stl10_archives() -> list[Archive]:
    published = _of_torchvision("STL10")
    return [Archive(file=published.filename, urls=(published.url,), md5=published.tgz_md5)]


def _stl10_arrays(files: Files) -> Arrays:
    names = ["class_names.txt", *(f"{split}_{part}.bin" for split in ("train", "test") for part in "Xy")]
    (archive,) = files.values()
    held = _members(archive, names)
    arrays: Arrays = {"classes": np.array(held["class_names.txt"].decode().split())}
    for split in ("train", "test"):
        flat = np.frombuffer(held[f"{split}_X.bin"], np.uint8)
        arrays[f"x_{split}"] = flat.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)  # column by column in the file
        arrays[f"y_{split}"] = np.frombuffer(held[f"{split}_y.bin"], np.uint8) - 1
    return arrays


def _members(archive: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The contents of the archive under these names, in any folder. Most of STL-10's has no labels and is not read."""
    found: dict[str, bytes] = {}
    wanted = set(names)
    with tarfile.open(archive) as tar:
        for member in tar:
            name = PurePosixPath(member.name).name
            if name in wanted and (file := tar.extractfile(member)):
                found[name] = file.read()
                if len(found) == len(wanted):
                    break
    return found


# -------------------------------------------------------------------------------------------------------------- photos


def _eurosat_listing(place: Path, _files: Files) -> Listing:
    return listed(place)


def _gtsrb_listing(place: Path, _files: Files) -> Listing:
    """Photos of one sign, up to 30 in a row, form a group: the validation images are then of other signs."""
    items = []
    for folder in sorted((place / "GTSRB" / "Training").iterdir()):
        for path in sorted(folder.glob("*.ppm")):
            sign = path.stem.partition("_")[0]
            items.append(_item(place, path, "train", str(int(folder.name)), f"{folder.name}/{sign}"))
    with (place / "GT-final_test.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter=";", skipinitialspace=True):
            path = place / "GTSRB" / "Final_Test" / "Images" / row["Filename"]
            items.append(_item(place, path, "test", str(int(row["ClassId"]))))
    return _listing(place, items, notes=("validation images are of other signs than training images",))


def _flowers_archives() -> list[Archive]:
    published = _of_torchvision("Flowers102")
    home = published._download_url_prefix
    return [Archive(file=file, urls=(home + file,), md5=md5) for file, md5 in published._file_dict.values()]


def _flowers_listing(place: Path, files: Files) -> Listing:
    classes = _of_torchvision("Flowers102").classes
    labels = read_matlab(files["imagelabels.mat"])["labels"].reshape(-1)
    splits = read_matlab(files["setid.mat"])
    theirs: dict[SplitName, str] = {"train": "trnid", "val": "valid", "test": "tstid"}
    items = [
        _item(place, place / "jpg" / f"image_{number:05d}.jpg", split, classes[labels[number - 1] - 1])
        for split, name in theirs.items()
        for number in splits[name].reshape(-1).tolist()
    ]
    return _listing(place, items)


def _pets_archives() -> list[Archive]:
    published = _of_torchvision("OxfordIIITPet")._RESOURCES
    return [Archive(file=url.rpartition("/")[2], urls=(url,), md5=md5) for url, md5 in published]


def _pets_listing(place: Path, _files: Files) -> Listing:
    theirs: dict[SplitName, str] = {"train": "trainval", "test": "test"}
    items = []
    for split, name in theirs.items():
        for line in (place / "annotations" / f"{name}.txt").read_text(encoding="utf-8").splitlines():
            image, *_ = line.split()  # "Abyssinian_100 1 1 1": breed and number; class, species, breed as numbers
            breed = image.rpartition("_")[0].replace("_", " ").title()
            items.append(_item(place, place / "images" / f"{image}.jpg", split, breed))
    return _listing(place, items)


def _item(place: Path, path: Path, split: SplitName, label: str, group: str = "") -> Item:
    return Item(path=path, name=path.relative_to(place).as_posix(), split=split, label=label, group=group)


def _listing(place: Path, items: Iterable[Item], notes: tuple[str, ...] = ()) -> Listing:
    in_order = sorted(items, key=lambda item: SPLITS.index(item.split))
    return Listing(root=place, items=tuple(in_order), notes=notes, has_stated_classes=True)


# --------------------------------------------------------------------------------------------------------- torchvision


def _of_torchvision(dataset: str) -> Any:
    from torchvision import datasets

    return getattr(datasets, dataset)


def _archives_in_code(dataset: str) -> list[Archive]:
    """For data sets whose addresses and checksums torchvision states only in the code of `download`."""
    said = [each for each in _of_torchvision(dataset).download.__code__.co_consts if isinstance(each, str)]
    home = next(each for each in said if each.startswith("https://"))
    urls = [each if each.startswith(home) else home + each for each in said if each.endswith(".zip")]
    checksums = [each for each in said if re.fullmatch("[0-9a-f]{32}", each)]
    return [
        Archive(file=url.rpartition("/")[2], urls=(url,), md5=md5) for url, md5 in zip(urls, checksums, strict=True)
    ]


def _mnist_like(dataset: str) -> ArrayFiles:
    return ArrayFiles(archives=partial(_mnist_archives, dataset), arrays=partial(_mnist_arrays, dataset))


PUBLISHED: Mapping[DatasetName, ArrayFiles | ImageFiles] = {
    "mnist": _mnist_like("MNIST"),
    "fashion-mnist": _mnist_like("FashionMNIST"),
    "kmnist": _mnist_like("KMNIST"),
    "svhn": ArrayFiles(archives=_svhn_archives, arrays=_svhn_arrays),
    "stl10": ArrayFiles(archives=_stl10_archives, arrays=_stl10_arrays),
    "eurosat": ImageFiles(archives=partial(_archives_in_code, "EuroSAT"), listing=_eurosat_listing),
    "gtsrb": ImageFiles(archives=partial(_archives_in_code, "GTSRB"), listing=_gtsrb_listing),
    "flowers102": ImageFiles(archives=_flowers_archives, listing=_flowers_listing),
    "oxford-pets": ImageFiles(archives=_pets_archives, listing=_pets_listing),
}
"""How each one is downloaded and read. Its other facts are in its record in `train_core.datasets`."""
