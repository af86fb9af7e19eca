"""Reads what a source holds into arrays: named data sets, `.npz` files, folders of images, and the cache of both.

Every source becomes one dict of arrays under the names Keras uses (`x_train`, `y_train`, ..., `classes`); whether they
fit together is for `train_core.data` to check. What took long to make (a download, a folder of images) is kept in the
cache as an `.npz` file of it.
"""

import glob
import hashlib
import os
import pickle
import shutil
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
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

from train_core.errors import DataError, DownloadError
from train_core.files import written_whole
from train_core.images import SUFFIXES, decode

SPLITS = ("train", "val", "test")

Progress = Callable[[str, int, int], None]  # (what, done, total); total is 0 where it is not known
Arrays = dict[str, NDArray[Any]]

_DIGITS_TEST_PER_CLASS = 36  # 360 of 1,797 images
_DIGITS_TEST_SEED = 0  # never the user's seed: a test split must not change
_FOLDER_FORMAT = b"2"  # raise it when what is read changes, so that folders are read again
_NETWORK_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError, SSLError)
_TIMEOUT_S = 60
_CHUNK_BYTES = 1 << 20
_DEAD_S = 24 * 3600  # a temporary file that has not changed for so long has lost its process


# -------------------------------------------------------------------------------------------------- named data sets


def digits() -> Arrays:
    """Read the 1,797 handwritten digits that come with scikit-learn, grey, enlarged from 8x8 to 32x32 pixels.

    They have no official test split: 36 images of each class are set apart, always the same.
    """
    from sklearn.datasets import load_digits

    published = load_digits()
    small = torch.from_numpy(published.images).float()[:, None] * (255 / 16)
    # Exact in float32 (the weights are multiples of 1/64), hence the same on every machine.
    large = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    x, y = large[:, 0].round().to(torch.uint8).numpy(), published.target
    test = hold_out(y, lambda _: _DIGITS_TEST_PER_CLASS, _DIGITS_TEST_SEED)
    return {"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]}


def cifar(name: str, cached: Path, progress: Progress | None) -> Arrays:
    """CIFAR-10 or CIFAR-100, from the file `cached` in the cache, which is made first if it does not exist."""
    return _cached(cached, lambda folder: _download_cifar(name, folder, progress))


def _download_cifar(name: str, folder: Path, progress: Progress | None) -> Arrays:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009), from the archive in the cache or else from its home, by way of `folder`.

    torchvision knows the address, the checksum and what is in which file. The download is our own because torchvision's
    would fall back to plain http, wait for ever, and print; so is the reading, because torchvision's would execute what
    the pickles say.
    """
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    dataset = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    cache = folder.parent
    archive = cache / dataset.filename
    if archive.exists():
        problem = data_error(
            f"{archive} is not the published archive (wrong md5): delete it, or put the right one there"
        )
    else:
        archive = folder / dataset.filename
        problem = data_error(
            f"the download of {name} is incomplete or changed (wrong md5): try again, or put {dataset.filename} into "
            f"{cache}",
            DownloadError,
        )
        try:
            _download(dataset.url, archive, progress)
        except _NETWORK_ERRORS as error:
            if isinstance(error, HTTPError):  # an answer too, with a connection
                error.close()
            raise data_error(
                f"cannot download {name} from {dataset.url} ({error}): try again, or put {dataset.filename} into "
                f"{cache}",
                DownloadError,
            ) from error
    if not check_integrity(archive, dataset.tgz_md5):
        raise problem
    lists = (dataset.train_list, dataset.test_list)
    files = _unpickled(archive, {dataset.meta["filename"], *(file for names in lists for file, _ in names)})
    arrays: Arrays = {"classes": np.array(files[dataset.meta["filename"]][dataset.meta["key"]])}
    for split, names in zip(("train", "test"), lists, strict=True):
        batches = [files[file] for file, _ in names]
        flat = np.concatenate([batch["data"] for batch in batches])
        arrays[f"x_{split}"] = flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = "labels" if "labels" in batches[0] else "fine_labels"
        arrays[f"y_{split}"] = np.concatenate([batch[labels] for batch in batches])
    return arrays


def _unpickled(archive: Path, names: set[str]) -> dict[str, Any]:
    """What these pickles of CIFAR's archive hold, by their names, without executing anything in them."""
    found = {}
    with tarfile.open(archive) as tar, warnings.catch_warnings():
        # Some releases of NumPy 2.4 warn of arrays pickled as long ago as these (pytorch/vision#9340).
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        for member in tar:
            name = Path(member.name).name
            if name in names and (file := tar.extractfile(member)):
                try:
                    found[name] = _ArraysOnly(file, encoding="latin1").load()
                except pickle.UnpicklingError as error:
                    raise data_error(f"{archive} holds more than arrays ({error}): get the published one") from error
    return found


_OF_ARRAYS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),  # bytes, as Python 3 writes them for Python 2
}


class _ArraysOnly(pickle.Unpickler):
    """Makes numbers, texts, lists, dicts and arrays. Whatever else a pickle names, to be called, is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _OF_ARRAYS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def _download(url: str, file: Path, progress: Progress | None) -> None:
    """Write what `url` answers to `file`, whole or not: the caller knows the checksum."""
    with urlopen(url, timeout=_TIMEOUT_S) as response, file.open("wb") as out:
        total = int(response.headers.get("Content-Length") or 0)
        while chunk := response.read(_CHUNK_BYTES):
            out.write(chunk)
            if progress:
                progress(f"downloading {file.name}", out.tell(), total)


# ------------------------------------------------------------------------------------------------ a folder of images


def image_folder(root: Path, cache: Path, progress: Progress | None) -> Arrays:
    """Images of the folder `root`, from the cache unless it has changed. `root` is absolute, so that it has a name."""
    files = _list_folder(root)
    cached = cache / f"{root.name}-{_folder_fingerprint(root, files)}.npz"
    return _cached(cached, lambda _: _read_folder(root, files, progress))


def _list_folder(root: Path) -> dict[str, list[Path]]:
    """Image files of each split that `root` has, sorted by class and then by name."""
    files: dict[str, list[Path]] = {}
    try:
        for split in SPLITS:
            if (root / split).is_dir():
                files[split] = []
                for folder in filter(Path.is_dir, _visible(root / split)):
                    images = [file for file in _visible(folder) if file.suffix.lower() in SUFFIXES]
                    if not images:
                        raise data_error(f"{folder} holds no images: add some, or remove the folder")
                    files[split] += images
                if not files[split]:
                    raise data_error(f"{root / split} holds no images: put them into a folder for each class")
    except OSError as error:
        raise data_error(f"cannot read the folder {root} ({error})") from error
    if "train" not in files:
        raise data_error(f"{root} has no folder train: put the images into train/<class>/")
    classes = {file.parent.name for file in files["train"]}
    if len(classes) < 2:  # would be found later too, but only when all images are read
        raise data_error(f"{root / 'train'} has one class only: a classifier needs two or more")
    for split, images in files.items():
        if unknown := sorted({file.parent.name for file in images} - classes):
            raise data_error(
                f"{root / split} has the class {unknown[0]!r}, which train has not: give it training images"
            )
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
            raise data_error(f"cannot read the image {file} ({error})") from error
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
                    f"{file.relative_to(root)} is {by(array.shape[1::-1])}"
                    for file, array in ((paths[0], pixels[0]), (path, image))
                )
                raise data_error(f"{root}: {first} and {other} (width x height): resize all images to one size")
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
        arrays[f"files_{split}"] = np.array([str(file.relative_to(root)) for file in images])
        start += len(images)
    return arrays


def _decode(path: Path, root: Path) -> NDArray[np.uint8]:
    """Read the image of a file: uint8 [H, W] if grey, else [H, W, 3]."""
    try:
        return decode(path)
    except Exception as error:  # whatever Pillow's many readers make of a broken file
        raise data_error(
            f"{root}: cannot read the image {path.relative_to(root)} ({error}): repair or remove it"
        ) from error


# ---------------------------------------------------------------------------------------------------------- the cache


def _cached(path: Path, make: Callable[[Path], Arrays]) -> Arrays:
    """Read the arrays of the file `path`, which is made first if it does not exist, whole or not at all.

    `make` gets a folder for temporary files, inside the cache so that a full disk or a download that is broken off
    leaves nothing elsewhere.
    """
    if path.exists():
        return read_npz(path, "delete it, and it is made again")
    with _temporary_folder(path.parent) as folder:
        _sweep(path)
        arrays: dict[str, Any] = make(folder)
        with written_whole(path) as file:
            np.savez(file, **arrays)
    return arrays


@contextmanager
def _temporary_folder(cache: Path) -> Iterator[Path]:
    """Make a folder inside `cache` that is removed whatever happens."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".partial-", dir=cache) as folder:
            yield Path(folder)
    except OSError as error:
        raise data_error(
            f"cannot write to the cache folder {cache} ({error}): set SEARCH_CACHE to a folder with room"
        ) from error


def _sweep(path: Path) -> None:
    """Remove from the cache what processes that were killed have left, at work on `path` or in temporary folders."""
    for left in [*path.parent.glob(".partial-*"), *path.parent.glob(f".{glob.escape(path.name)}.*")]:
        with suppress(OSError):  # gone already, or another user's
            # What lies inside counts too: a folder's own time does not change while a file in it grows.
            changed = max(entry.lstat().st_mtime for entry in (left, *left.rglob("*")))
            if changed < time.time() - _DEAD_S:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def read_npz(path: Path, advice: str) -> Arrays:
    """Read the arrays of an `.npz` file, without executing anything in it; `advice` ends the error message."""
    keys = [f"{kind}_{split}" for split in SPLITS for kind in ("x", "y", "files")] + ["classes", "class_names"]
    try:
        # Opened here, because NumPy does not close a file that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as npz:
            return {key: npz[key] for key in keys if key in npz}
    except Exception as error:  # whatever NumPy and zipfile make of a broken file
        # NumPy's own advice would be to allow pickles.
        reason = str(error) if isinstance(error, OSError | MemoryError) else "damaged, or more than plain arrays"
        raise data_error(f"cannot read {path} ({reason}): {advice}") from error


# ------------------------------------------------------------------------------------------- for `train_core.data` too


def hold_out(labels: NDArray[Any], count: Callable[[int], int], seed: int) -> NDArray[np.bool_]:
    """Mask [N] that is true for `count(n)` images of each class of n images, drawn by `seed`."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        held[rng.permutation(members)[: count(len(members))]] = True
    return held


def data_error(message: str, kind: type[DataError] = DataError) -> DataError:
    """Make the error, its message on one line whatever names and foreign messages it quotes."""
    return kind(" ".join(line.strip() for line in message.splitlines()))


def by(shape: tuple[int, ...]) -> str:
    """Write a shape as people do: 32x32x3."""
    return "x".join(map(str, shape))
