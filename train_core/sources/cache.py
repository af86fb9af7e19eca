"""Keeps results that take long (a download, a folder of images) as `.npz` files in one folder."""

import glob
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from train_core.files import written_whole
from train_core.sources.contents import Arrays, Contents, data_error

_DEAD_S = 24 * 3600  # a temporary file that has not changed for so long has lost its process
_COPIES = 4  # of one folder of images, in other states and sizes: the newest are kept


def cached(path: Path, make: Callable[[Path], Contents], copies: str | None = None) -> Contents:
    """Read the contents in the file `path`; if it does not exist, it is made first, whole or not at all.

    `make` gets a folder for temporary files inside the cache, so that a full disk or an interrupted download leaves
    nothing elsewhere. Of the files that match `copies`, only the newest are kept.
    """
    if path.exists():
        return Contents.unpacked(read_npz(path, "delete it, and it is made again"))
    with _temporary_folder(path.parent) as folder:
        _sweep(path)
        contents = make(folder)
        with written_whole(path) as file:
            packed: dict[str, Any] = contents.packed()
            np.savez(file, **packed)
        if copies:
            _forget_old(path.parent, copies)
    return contents


def read_npz(path: Path, advice: str) -> Arrays:
    """Read the arrays of an `.npz` file, without executing anything in it; `advice` ends the error message."""
    try:
        # Opened here because NumPy does not close a file that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as npz:
            return {key: npz[key] for key in npz}
    except Exception as error:  # NumPy and zipfile raise many kinds for a broken file
        # NumPy's own advice would be to allow pickles.
        reason = str(error) if isinstance(error, OSError | MemoryError) else "damaged, or more than plain arrays"
        raise data_error(f"cannot read {path} ({reason}): {advice}") from error


@contextmanager
def _temporary_folder(cache: Path) -> Iterator[Path]:
    """Make a folder inside `cache` that is always removed at the end."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".partial-", dir=cache) as folder:
            yield Path(folder)
    except OSError as error:
        raise data_error(
            f"cannot write to the cache folder {cache} ({error}): set SEARCH_CACHE to a folder with room"
        ) from error


def _sweep(path: Path) -> None:
    """Remove from the cache what killed processes have left, for `path` or in temporary folders."""
    for left in [*path.parent.glob(".partial-*"), *path.parent.glob(f".{glob.escape(path.name)}.*")]:
        with suppress(OSError):  # already gone, or another user's
            # The contents count too: a folder's own time does not change while a file in it grows.
            changed = max(entry.lstat().st_mtime for entry in (left, *left.rglob("*")))
            if changed < time.time() - _DEAD_S:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _forget_old(cache: Path, pattern: str) -> None:
    """Remove all but the newest files that match the pattern. A process that is reading one keeps it open."""
    ages = []
    for path in cache.glob(pattern):
        with suppress(OSError):  # already gone
            ages.append((path.stat().st_mtime, path))
    for _, path in sorted(ages, reverse=True)[_COPIES:]:
        with suppress(OSError):
            path.unlink()
