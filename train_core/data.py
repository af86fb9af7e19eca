"""Named data sets and users' own images -> uint8 tensors, small enough to live whole on the device.

Every source becomes one dict of arrays under the names Keras uses (`x_train`, `y_train`, ..., `classes`), which one
function checks. What took long to make (a download, a folder of images) is kept in the cache as an `.npz` file of it.
`load_training` never hands out test images; `load_test` is the only way to them.
"""

import difflib
import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train_core.errors import DataError

NAMED = ("cifar10", "cifar100", "digits")
SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"])

Progress = Callable[[str, int, int], None]  # (what, done, total); total is 0 where it is not known
Arrays = dict[str, NDArray[Any]]

_SPLITS = ("train", "val", "test")
_DIGITS_TEST_PER_CLASS = 36  # 360 of 1,797 images
_DIGITS_TEST_SEED = 0  # never the user's seed: a test split must not change
_FOLDER_FORMAT = b"1"  # raise it when `_decode` changes, so that folders are read anew
_NETWORK_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError, SSLError)
_TIMEOUT_S = 60
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Split:
    """Images, uint8 [N, H, W, C], and their labels, int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        """Copy the split to `device`."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class TrainingData:
    """What a search may see: no test images in it, by design.

    `mean` and `std` are those of each channel of `train`, where 1 is the brightest pixel value; a channel that is the
    same everywhere has `std` 1, so that dividing by it does no harm. `fingerprint` is a hash of the whole source
    (training, validation and test arrays and the class names), however it is then cut by `val_fraction` and `seed`.
    """

    name: str
    train: Split
    val: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    has_test: bool

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

    def to(self, device: torch.device | str) -> "TrainingData":
        """Copy the images and labels to `device`."""
        return replace(self, train=self.train.to(device), val=self.val.to(device))


def load_training(
    source: str, *, val_fraction: float, seed: int, cache: Path, progress: Progress | None = None
) -> TrainingData:
    """Training and validation images of `source`, on the CPU.

    `source` is a name of `NAMED`; a `.npz` file that holds `x_train` and `y_train` and, optionally, `x_val` and
    `y_val`, `x_test` and `y_test`, and `classes` (uint8 images [N, H, W] or [N, H, W, C], integer labels [N] or
    [N, 1]); or a folder `train/<class>/<image>` with, optionally, `val/` and `test/` beside `train/`.

    A validation split that the source brings is used as it is. Otherwise it is cut from the training images, class
    by class: the share `val_fraction` of each, drawn by `seed`, at least one image and never all of them. The images
    keep their order.

    Raises `DataError` for a source that is unknown, missing, broken or cannot be downloaded, for a cache folder that
    cannot be written, and for a `val_fraction` outside 0 to 1 or a class of one image where a split must be cut.
    """
    data = _load(source, cache, progress)
    train, val = (data.train, data.val) if data.val else _cut_validation(data, val_fraction, seed)
    mean, std = _mean_and_std(train.images)
    return TrainingData(
        name=data.name,
        train=train,
        val=val,
        classes=data.classes,
        mean=mean,
        std=std,
        fingerprint=_fingerprint(data),
        has_test=data.test is not None,
    )


def load_test(source: str, *, cache: Path, progress: Progress | None = None) -> Split | None:
    """Test split of `source`, on the CPU; none if it has none. For finished models only.

    Raises `DataError` as `load_training` does.
    """
    return _load(source, cache, progress).test


def default_cache() -> Path:
    """`$SEARCH_CACHE`, else `$XDG_CACHE_HOME/search`, else `~/.cache/search`."""
    if chosen := os.environ.get("SEARCH_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "search"


# ------------------------------------------------------------------------------------------------------- the source


@dataclass(frozen=True)
class _Source:
    """All that a source holds, checked. `origin` is what its error messages call it."""

    name: str
    origin: str
    train: Split
    val: Split | None
    test: Split | None
    classes: tuple[str, ...]


def _load(source: str, cache: Path, progress: Progress | None) -> _Source:
    """Find out what `source` means, read it and check it."""
    if source == "digits":
        return _check(source, source, _digits())
    if source in NAMED:
        cached = cache / f"{source}.npz"
        return _check(source, str(cached), _cached(cached, lambda folder: _download_cifar(source, folder, progress)))
    try:
        path = Path(source).expanduser()
        is_folder, is_file = source != "" and path.is_dir(), path.is_file()
    except (OSError, RuntimeError) as error:  # a name too long, a home that does not exist, ...
        raise _error(f"cannot read {source} ({error}): check the path") from error
    if is_folder:
        root = path.resolve()  # gives "." a name
        files = _list_folder(root)
        cached = cache / f"{root.name}-{_folder_fingerprint(root, files)}.npz"
        return _check(root.name, source, _cached(cached, lambda _: _read_folder(root, files, progress)))
    if path.suffix.lower() == ".npz":
        if not is_file:
            raise _error(f"there is no file {source}: check the path")
        return _check(path.stem, source, _read_npz(path, "write it again with numpy.savez"))
    close = difflib.get_close_matches(source.lower(), NAMED, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the names are {', '.join(NAMED)};"
    raise _error(f"unknown data set {source!r}: {hint} A path of an .npz file or of a folder of images works too")


def _check(name: str, origin: str, arrays: Arrays) -> _Source:
    """Arrays that are what the docstring of `load_training` says, as tensors; `DataError` for any that are not."""
    images: dict[str, Tensor] = {}
    raw_labels: dict[str, NDArray[Any]] = {}
    for split in _SPLITS:
        x, y = f"x_{split}", f"y_{split}"
        if split == "train" or x in arrays or y in arrays:
            for key in (x, y):
                if key not in arrays:
                    raise _error(f"{origin}: the array {key} is missing: save {x} and {y}")
            images[split] = _check_images(f"{origin}: {x}", arrays[x])
            raw_labels[split] = _check_label_array(f"{origin}: {y}", arrays[y], len(images[split]))
            if images[split].shape[1:] != images["train"].shape[1:]:
                raise _error(
                    f"{origin}: x_train has images of {_by(images['train'].shape[1:])} and {x} of "
                    f"{_by(images[split].shape[1:])}: give all the same size and channels"
                )
    classes = _check_classes(origin, arrays.get("classes", arrays.get("class_names")), raw_labels["train"])
    splits = {
        split: Split(images[split], _check_labels(f"{origin}: y_{split}", labels, len(classes)))
        for split, labels in raw_labels.items()
    }
    for label, count in enumerate(splits["train"].labels.bincount(minlength=len(classes)).tolist()):
        if count == 0:
            raise _error(f"{origin}: class {classes[label]!r} has no training images: add some, or drop the class")
    return _Source(name, origin, splits["train"], splits.get("val"), splits.get("test"), classes)


def _check_images(what: str, images: NDArray[Any]) -> Tensor:
    """Tensor uint8 [N, H, W, C] from an array [N, H, W] or [N, H, W, C]."""
    if images.dtype != np.uint8:
        raise _error(f"{what} is {images.dtype}: convert the images to uint8, 0 to 255")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise _error(f"{what} has shape {images.shape}: it must be [N, H, W], or [N, H, W, C] with C 1 or 3")
    if images.size == 0:
        raise _error(f"{what} holds no images: add some, or leave it out if it is optional")
    return torch.from_numpy(np.ascontiguousarray(images))


def _check_label_array(what: str, labels: NDArray[Any], num_images: int) -> NDArray[Any]:
    """Integer labels [N], flattened if they were [N, 1]."""
    if labels.dtype.kind not in "iu" or not (labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1)):
        raise _error(
            f"{what} is {labels.dtype} of shape {labels.shape}: it must hold integers, the number of the class of each "
            "image, [N] or [N, 1]"
        )
    if len(labels) != num_images:
        raise _error(f"{what} has {len(labels)} labels for {num_images} images: give one label for each image")
    return labels.reshape(-1)


def _check_classes(origin: str, names: NDArray[Any] | None, train_labels: NDArray[Any]) -> tuple[str, ...]:
    """Names of the classes; where there are none, the labels as words."""
    if names is None:
        # The number of different labels, not the largest label plus one: a gap is then reported as a label outside.
        classes = tuple(str(label) for label in range(len(np.unique(train_labels))))
    elif names.ndim == 1 and names.dtype.kind in "USiu":
        classes = tuple(n.decode(errors="replace") if isinstance(n, bytes) else str(n) for n in names.tolist())
    else:
        raise _error(f"{origin}: classes is {names.dtype} of shape {names.shape}: it must be a list of names")
    if len(set(classes)) < len(classes):
        raise _error(f"{origin}: two classes have the same name: give each its own")
    if len(classes) < 2:
        raise _error(f"{origin} has one class only: a classifier needs two or more")
    return classes


def _check_labels(what: str, labels: NDArray[Any], num_classes: int) -> Tensor:
    """Tensor int64 [N] of labels from 0 to `num_classes - 1`."""
    for label in (int(labels.min()), int(labels.max())):
        if not 0 <= label < num_classes:
            raise _error(
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


# ---------------------------------------------------------------------------------------------- splits and statistics


def _cut_validation(data: _Source, fraction: float, seed: int) -> tuple[Split, Split]:
    """Split off the share `fraction` of each class: what remains for training, and what is held out."""
    if not 0 < fraction < 1:
        raise _error(f"the validation split cannot be {fraction} of the training images: choose between 0 and 1")
    for label, count in enumerate(data.train.labels.bincount().tolist()):
        if count < 2:
            raise _error(
                f"{data.origin}: class {data.classes[label]!r} has one training image, too few to cut a validation "
                "split: add images, or bring a validation split (val/ or x_val and y_val)"
            )
    images, labels = data.train.images, data.train.labels
    held = torch.from_numpy(_hold_out(labels.numpy(), lambda n: min(max(round(n * fraction), 1), n - 1), seed))
    return Split(images[~held], labels[~held]), Split(images[held], labels[held])


def _hold_out(labels: NDArray[Any], count: Callable[[int], int], seed: int) -> NDArray[np.bool_]:
    """Mask [N] that is true for `count(n)` images of each class of n images, drawn by `seed`."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        held[rng.permutation(members)[: count(len(members))]] = True
    return held


def _mean_and_std(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of images uint8 [N, H, W, C], in units of 255."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(dim=3):
        # From the histogram: exact, and without a float copy of all images.
        share = channel.flatten().bincount(minlength=256).double() / channel.numel()
        mean = (share * values).sum()
        means.append(mean.item())
        stds.append(math.sqrt((share * (values - mean) ** 2).sum().item()) or 1.0)  # exactly 0 if it is constant
    return tuple(means), tuple(stds)


# -------------------------------------------------------------------------------------------------- named data sets


def _digits() -> Arrays:
    """Read the 1,797 handwritten digits that come with scikit-learn, grey, enlarged from 8x8 to 32x32 pixels.

    They have no official test split: 36 images of each class are set apart, always the same.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    # Exact in float32 (the weights are multiples of 1/64), hence the same on every machine.
    large = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    x, y = large[:, 0].round().to(torch.uint8).numpy(), digits.target
    test = _hold_out(y, lambda _: _DIGITS_TEST_PER_CLASS, _DIGITS_TEST_SEED)
    return {"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]}


def _download_cifar(name: str, folder: Path, progress: Progress | None) -> Arrays:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009), from the archive in the cache or else from its home, by way of `folder`.

    torchvision knows the address, the checksums and the format. The download is our own because torchvision's would
    fall back to plain http, wait for ever, and print.
    """
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity, extract_archive

    dataset = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    cache = folder.parent
    archive = cache / dataset.filename
    if archive.exists():
        problem = f"{archive} is not the published archive (wrong md5): delete it, or put the right one there"
    else:
        archive = folder / dataset.filename
        problem = f"the download of {name} is incomplete or changed (wrong md5): try again, or put {dataset.filename} "
        problem += f"into {cache}"
        try:
            _download(dataset.url, archive, progress)
        except _NETWORK_ERRORS as error:
            if isinstance(error, HTTPError):  # an answer too, with a connection
                error.close()
            raise _error(
                f"cannot download {name} from {dataset.url} ({error}): try again, or put {dataset.filename} into "
                f"{cache}"
            ) from error
    if not check_integrity(archive, dataset.tgz_md5):
        raise _error(problem)
    arrays: Arrays = {}
    with warnings.catch_warnings():
        # Some releases of NumPy 2.4 warn of arrays pickled as long ago as these (pytorch/vision#9340).
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        extract_archive(archive, folder)
        for split in ("train", "test"):
            data = dataset(folder, train=split == "train")
            arrays |= {f"x_{split}": data.data, f"y_{split}": np.array(data.targets), "classes": np.array(data.classes)}
    return arrays


def _download(url: str, file: Path, progress: Progress | None) -> None:
    """Write what `url` answers to `file`, whole or not: the caller knows the checksum."""
    with urlopen(url, timeout=_TIMEOUT_S) as response, file.open("wb") as out:
        total = int(response.headers.get("Content-Length") or 0)
        while chunk := response.read(_CHUNK_BYTES):
            out.write(chunk)
            if progress:
                progress(f"downloading {file.name}", out.tell(), total)


# ------------------------------------------------------------------------------------------------ a folder of images


def _list_folder(root: Path) -> dict[str, list[Path]]:
    """Image files of each split that `root` has, sorted by class and then by name."""
    files: dict[str, list[Path]] = {}
    try:
        for split in _SPLITS:
            if (root / split).is_dir():
                files[split] = []
                for folder in filter(Path.is_dir, _visible(root / split)):
                    images = [file for file in _visible(folder) if file.suffix.lower() in SUFFIXES]
                    if not images:
                        raise _error(f"{folder} holds no images: add some, or remove the folder")
                    files[split] += images
                if not files[split]:
                    raise _error(f"{root / split} holds no images: put them into a folder for each class")
    except OSError as error:
        raise _error(f"cannot read the folder {root} ({error})") from error
    if "train" not in files:
        raise _error(f"{root} has no folder train: put the images into train/<class>/")
    classes = {file.parent.name for file in files["train"]}
    if len(classes) < 2:  # would be found later too, but only when all images are read
        raise _error(f"{root / 'train'} has one class only: a classifier needs two or more")
    for split, images in files.items():
        if unknown := sorted({file.parent.name for file in images} - classes):
            raise _error(f"{root / split} has the class {unknown[0]!r}, which train has not: give it training images")
    return files


def _visible(folder: Path) -> list[Path]:
    """List what lies in `folder`, sorted, without hidden files."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _folder_fingerprint(root: Path, files: dict[str, list[Path]]) -> str:
    """32 hexadecimal digits that change with the files' paths, sizes and times of change."""
    digest = hashlib.blake2b(_FOLDER_FORMAT, digest_size=16)
    # The folder's own path too: archives unpack with equal times, and uncompressed images have equal sizes.
    digest.update(os.fsencode(root))
    for file in (file for images in files.values() for file in images):
        try:
            stat = file.stat()
        except OSError as error:
            raise _error(f"cannot read the image {file} ({error})") from error
        digest.update(os.fsencode(file.relative_to(root)) + f"\0{stat.st_size} {stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _read_folder(root: Path, files: dict[str, list[Path]], progress: Progress | None) -> Arrays:
    """Read the images: grey [N, H, W] if all of them are, else RGB [N, H, W, 3]. All must have one size."""
    paths = [file for images in files.values() for file in images]
    pixels: list[NDArray[np.uint8]] = []
    pool = ThreadPoolExecutor()
    try:
        for path, image in zip(paths, pool.map(lambda path: _decode(path, root), paths), strict=True):
            pixels.append(image)
            if image.shape[:2] != pixels[0].shape[:2]:
                first, other = (
                    f"{file.relative_to(root)} is {_by(array.shape[1::-1])}"
                    for file, array in ((paths[0], pixels[0]), (path, image))
                )
                raise _error(f"{root}: {first} and {other} (width x height): resize all images to one size")
            if progress:
                progress("reading images", len(pixels), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, do not read the rest
    if any(image.ndim == 3 for image in pixels):
        pixels = [image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in pixels]

    classes = sorted({file.parent.name for file in files["train"]})
    arrays: Arrays = {"classes": np.array(classes)}
    number = {name: label for label, name in enumerate(classes)}
    start = 0
    for split, images in files.items():
        arrays[f"x_{split}"] = np.stack(pixels[start : start + len(images)])
        arrays[f"y_{split}"] = np.array([number[file.parent.name] for file in images])
        start += len(images)
    return arrays


def _decode(path: Path, root: Path) -> NDArray[np.uint8]:
    """Read the (first) image of a file, upright: uint8 [H, W] if grey, else [H, W, 3]. Transparency is dropped."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
        if image.mode == "F":
            raise ValueError("floating-point pixels")
        if image.mode.startswith("I"):  # 16 bits, which Pillow's own conversion would clip at 255
            return (np.asarray(image).clip(0, 65535) // 256).astype(np.uint8)
        if image.mode in ("1", "L", "LA"):
            return np.array(image.convert("L"))
        if image.mode == "P":  # Pillow warns of a palette with transparency that is converted straight to RGB
            image = image.convert("RGBA")
        return np.array(image.convert("RGB"))
    except Exception as error:  # whatever Pillow's many readers make of a broken file
        raise _error(
            f"{root}: cannot read the image {path.relative_to(root)} ({error}): repair or remove it"
        ) from error


# ---------------------------------------------------------------------------------------------------------- the cache


def _cached(path: Path, make: Callable[[Path], Arrays]) -> Arrays:
    """Read the arrays of the file `path`, which is made first if it does not exist, whole or not at all.

    `make` gets a folder for temporary files, inside the cache so that a full disk or a download that is broken off
    leaves nothing elsewhere.
    """
    if path.exists():
        return _read_npz(path, "delete it, and it is made again")
    with _temporary_folder(path.parent) as folder:
        arrays: dict[str, Any] = make(folder)
        with (folder / path.name).open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        (folder / path.name).replace(path)
    return arrays


@contextmanager
def _temporary_folder(cache: Path) -> Iterator[Path]:
    """Make a folder inside `cache` that is removed whatever happens."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".partial-", dir=cache) as folder:
            yield Path(folder)
    except OSError as error:
        raise _error(
            f"cannot write to the cache folder {cache} ({error}): set SEARCH_CACHE to a folder with room"
        ) from error


def _read_npz(path: Path, advice: str) -> Arrays:
    """Read the arrays of an `.npz` file, without executing anything in it; `advice` ends the error message."""
    keys = [f"{kind}_{split}" for split in _SPLITS for kind in "xy"] + ["classes", "class_names"]
    try:
        # Opened here, because NumPy does not close a file that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as npz:
            return {key: npz[key] for key in keys if key in npz}
    except Exception as error:  # whatever NumPy and zipfile make of a broken file
        # NumPy's own advice would be to allow pickles.
        reason = str(error) if isinstance(error, OSError | MemoryError) else "damaged, or more than plain arrays"
        raise _error(f"cannot read {path} ({reason}): {advice}") from error


# ----------------------------------------------------------------------------------------------------------- messages


def _error(message: str) -> DataError:
    """Make the error, its message on one line whatever names and foreign messages it quotes."""
    return DataError(" ".join(line.strip() for line in message.splitlines()))


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
