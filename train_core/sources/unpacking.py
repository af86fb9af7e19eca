"""Unpacks archives: nothing is written outside of the given folder."""

import tarfile
from gzip import BadGzipFile
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from tarfile import FilterError, SpecialFileError, TarError, TarInfo, data_filter
from zipfile import BadZipFile, ZipFile
from zlib import error as ZlibError

from train_core.sources.contents import LeftOut, Progress, data_error

_BROKEN = (LZMAError, TarError, BadZipFile, BadGzipFile, ZlibError, EOFError, ValueError, RuntimeError)
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


def is_archive(path: Path) -> bool:
    """Whether a file can be unpacked, by its name."""
    return path.name.lower().endswith(ARCHIVES)


OUTSIDE = "with a path that leads out of the archive"
NO_FILES = "of a special kind, such as a device"


def unpack(archive: Path, folder: Path, origin: str, progress: Progress | None) -> LeftOut:
    """Unpack into `folder`, which is made if it does not exist; `origin` is the name of the archive in error messages.

    Returns the files that were left out, by reason: those outside of the folder, and entries that are not files.

    Raises:
        DataError: it is broken, or has a password.

    """
    if progress:
        progress(f"unpacking {archive.name}", 0, 0)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        left_out = _unzip(archive, folder) if archive.suffix.lower() == ".zip" else _untar(archive, folder)
        return {why: names for why, names in left_out.items() if names}
    except _BROKEN as error:
        if "password" in str(error):
            raise data_error(f"{origin} has a password: unpack it, and give the folder") from error
        raise data_error(f"cannot unpack {origin} ({error}): get it again") from error


def _unzip(archive: Path, folder: Path) -> LeftOut:
    outside = []
    with ZipFile(archive) as file:
        for entry in file.infolist():
            path = PurePosixPath(entry.filename)
            if path.is_absolute() or ".." in path.parts:
                outside.append(entry.filename)
            else:
                file.extract(entry, folder)
    return {OUTSIDE: outside}


def _untar(archive: Path, folder: Path) -> LeftOut:
    left_out: dict[str, list[str]] = {OUTSIDE: [], NO_FILES: []}

    def inside(entry: TarInfo, place: str) -> TarInfo | None:
        try:
            return data_filter(entry, place)  # it treats an absolute path as one inside
        except FilterError as error:
            left_out[NO_FILES if isinstance(error, SpecialFileError) else OUTSIDE].append(entry.name)
            return None

    with tarfile.open(archive) as file:
        file.extractall(folder, filter=inside)
    return left_out
