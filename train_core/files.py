"""Files that appear whole or not at all."""

import glob
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

LEFTOVER_S = 3600.0  # without a write for so long, no process can still be writing it


def half_written(path: Path) -> list[Path]:
    """The incomplete files of processes that write a new `path`, including processes that were killed."""
    return sorted(path.parent.glob(f".{glob.escape(path.name)}.*"))


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a new `path` for writing; it replaces the old one at the end, if nothing was raised.

    A crash at any moment leaves the old file or the new one; a later writer deletes the incomplete file. The folder
    must exist.
    """
    for leftover in half_written(path):
        with suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > LEFTOVER_S:
                leftover.unlink()
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp's files are accessible only to their owner
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
