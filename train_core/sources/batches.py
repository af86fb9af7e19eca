"""Reads CIFAR's batches (Krizhevsky 2009), from the published archive or unpacked, without executing their pickles."""

import pickle
import tarfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from train_core.sources.contents import Arrays, Contents, data_error

_OF_ARRAYS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),  # bytes, as Python 3 writes them for Python 2
}


class _ArraysOnly(pickle.Unpickler):
    """Makes numbers, texts, lists, dicts and arrays. Any other name that a pickle wants to call is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _OF_ARRAYS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def from_archive(archive: Path, dataset: Any) -> Arrays:
    """The arrays in the published archive of `dataset`, a class of torchvision."""
    files = {}
    wanted = _names(dataset)
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            if name in wanted and (file := tar.extractfile(member)):
                files[name] = _loaded(file, archive)
    return _assembled(files, dataset)


def from_folder(folder: Path) -> Contents | None:
    """The arrays in an unpacked archive of CIFAR-10 or CIFAR-100; None if the folder is something else."""
    if not any((folder / name).is_file() for name in ("meta", "batches.meta")):
        return None
    from torchvision import datasets

    for dataset in (datasets.CIFAR10, datasets.CIFAR100):
        wanted = _names(dataset)
        if all((folder / name).is_file() for name in wanted):
            files = {}
            for name in wanted:
                with (folder / name).open("rb") as file:
                    files[name] = _loaded(file, folder / name)
            return Contents(arrays=_assembled(files, dataset), notes=(f"{folder.name} holds the batches of CIFAR",))
    return None


def _names(dataset: Any) -> set[str]:
    return {dataset.meta["filename"], *(name for each in (dataset.train_list, dataset.test_list) for name, _ in each)}


def _loaded(file: IO[bytes], origin: Path) -> Any:
    with warnings.catch_warnings():
        # Some releases of NumPy 2.4 warn about arrays pickled this long ago (pytorch/vision#9340).
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        try:
            return _ArraysOnly(file, encoding="latin1").load()
        except pickle.UnpicklingError as error:
            raise data_error(f"{origin} holds more than arrays ({error}): get the published one") from error


def _assembled(files: Mapping[str, Any], dataset: Any) -> Arrays:
    arrays: Arrays = {"classes": np.array(files[dataset.meta["filename"]][dataset.meta["key"]])}
    for split, names in (("train", dataset.train_list), ("test", dataset.test_list)):
        batches = [files[name] for name, _ in names]
        flat = np.concatenate([batch["data"] for batch in batches])
        arrays[f"x_{split}"] = flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = "labels" if "labels" in batches[0] else "fine_labels"
        arrays[f"y_{split}"] = np.concatenate([batch[labels] for batch in batches])
    return arrays
