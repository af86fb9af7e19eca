"""Unpacks archives: nothing of one is written outside of the folder that is given."""

import shutil
from gzip import BadGzipFile
from pathlib import Path
from tarfile import TarError
from zipfile import BadZipFile
from zlib import error as ZlibError

from train_core.sources.contents import Progress, data_error

_BROKEN = (shutil.ReadError, TarError, BadZipFile, BadGzipFile, ZlibError, EOFError, ValueError, RuntimeError)
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


def is_archive(path: Path) -> bool:
    """Whether a file can be unpacked, by its name."""
    return path.name.lower().endswith(ARCHIVES)


def unpack(archive: Path, folder: Path, origin: str, progress: Progress | None) -> None:
    """Unpack into `folder`, which is made if it does not exist; `origin` is what an error message calls the archive.

    Raises:
        DataError: it is broken, or would write outside of the folder.

    """
    if progress:
        progress(f"unpacking {archive.name}", 0, 0)
    try:
        # shutil leaves out what a .zip file would write elsewhere; tarfile refuses it.
        shutil.unpack_archive(archive, folder, filter=None if archive.suffix.lower() == ".zip" else "data")
    except _BROKEN as error:
        if "password" in str(error):
            raise data_error(f"{origin} has a password: unpack it, and give the folder") from error
        raise data_error(f"cannot unpack {origin} ({error}): get it again") from error
