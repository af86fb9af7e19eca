"""Reads a source of any kind into arrays.

A source is a named data set, a file of arrays, a folder of images, a table that names images, or an archive of any of
these. Results that take long (a download, a folder of images) are kept in the cache.
"""

import difflib
import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from os import fsencode
from pathlib import Path
from tempfile import TemporaryDirectory

from train_core.datasets import DATASETS
from train_core.errors import DataError
from train_core.reading import Reading
from train_core.sources.arrays import read_arrays, read_mat, resized
from train_core.sources.batches import from_folder
from train_core.sources.cache import cached
from train_core.sources.contents import Contents, Progress, counts_in_words, data_error
from train_core.sources.folders import FORMAT, fingerprint, read_listing
from train_core.sources.listing import Listing, listed, visible
from train_core.sources.sheets import SUFFIXES as SHEETS
from train_core.sources.sheets import Sheet, holds_images, listed_by, sheets_of
from train_core.sources.unpacking import ARCHIVES, is_archive, unpack


@dataclass(frozen=True, kw_only=True)
class Source:
    """The contents of a source. `origin` is its name in error messages."""

    name: str
    origin: str
    contents: Contents


def read_source(source: str, reading: Reading, cache: Path, progress: Progress | None) -> Source:
    """Find out what `source` means, and read it.

    Raises:
        DataError: it is unknown, missing or broken, or cannot be downloaded, or the cache cannot be written.

    """
    if source in DATASETS:
        downloaded = cache / f"{source}.npz"
        contents = resized(DATASETS[source].read(cache, reading, progress), reading)
        return Source(name=source, origin=str(downloaded) if downloaded.exists() else source, contents=contents)
    try:
        path = Path(source).expanduser()
        exists = source != "" and path.exists()
    except (OSError, RuntimeError) as error:  # a name too long, a home folder that does not exist, ...
        raise data_error(f"cannot read {source} ({error}): check the path") from error
    if exists:
        absolute = path.resolve()  # gives "." a name
        name = absolute.name if absolute.is_dir() else _without_ending(absolute.name)
        return Source(name=name, origin=source, contents=_read(absolute, source, reading, cache, progress))
    if path.suffix.lower() in _KINDS:
        raise data_error(f"there is no file {source}: check the path")
    close = difflib.get_close_matches(source.lower(), DATASETS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the names are {', '.join(DATASETS)};"
    raise data_error(f"unknown data set {source!r}: {hint} there is no folder of images or .npz file of that name")


def _read(path: Path, origin: str, reading: Reading, cache: Path | None, progress: Progress | None) -> Contents:
    """The contents of an existing file or folder. Without a cache, images are read each time."""
    if path.is_dir():
        if batches := from_folder(path):
            return resized(batches, reading)
        sheets = sheets_of(path)
        if reading.group and not sheets:
            raise data_error(f"{origin} has no table with a column {reading.group!r}: a group needs one")
        if sheets:
            return _read_tables(sheets, path, reading, cache, progress)
        return _read_images(listed(path), reading, cache, progress)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return read_arrays(path, reading)
    if suffix == ".mat":
        return read_mat(path, reading)
    if suffix in SHEETS:
        root = path if holds_images(path) else path.parent
        return _read_tables([Sheet(path, None)], root, reading, cache, progress)
    if is_archive(path):
        return _read_archive(path, origin, reading, cache, progress)
    raise data_error(
        f"{origin} is no source of images that can be read: give a folder of images, a table that names them "
        f"({', '.join(SHEETS)}), an archive (.zip), or arrays (.npz, .mat)"
    )


_KINDS = (".npz", ".mat", *SHEETS, *ARCHIVES)


def _read_images(listing: Listing, reading: Reading, cache: Path | None, progress: Progress | None) -> Contents:
    if cache is None:
        return read_listing(listing, reading, progress)
    place = _digest(fsencode(listing.root))
    copy = cache / f"{listing.root.name}-{place}-{fingerprint(listing, reading)}.npz"
    copies = f"{glob.escape(listing.root.name)}-{place}-*.npz"
    return cached(copy, lambda _: read_listing(listing, reading, progress), copies)


def _read_tables(
    sheets: Sequence[Sheet], root: Path, reading: Reading, cache: Path | None, progress: Progress | None
) -> Contents:
    """The images that tables name or contain."""

    def unpacked(folder: Path) -> Contents:
        return read_listing(listed_by(sheets, root, reading.group, folder), reading, progress)

    tables = [sheet.path for sheet in sheets]
    if not any(map(holds_images, tables)):
        return _read_images(listed_by(sheets, root, reading.group), reading, cache, progress)
    if cache is None:
        with TemporaryDirectory(dir=tables[0].parent) as folder:
            return unpacked(Path(folder))
    copy, copies = _copies(root, tables, reading, cache)
    return cached(copy, unpacked, copies)


def _copies(source: Path, files: Sequence[Path], reading: Reading, cache: Path) -> tuple[Path, str]:
    """Where the cache keeps what is unpacked from these files in their current state; and a pattern of other copies."""
    states = [f"{path} {stat.st_size} {stat.st_mtime_ns}" for path in files for stat in (path.stat(),)]
    state = _digest(FORMAT + fsencode(f"{states} {reading.model_dump_json()}"), 16)
    name, where = _without_ending(source.name), _digest(fsencode(source))
    return cache / f"{name}-{where}-{state}.npz", f"{glob.escape(name)}-{where}-*.npz"


def _read_archive(path: Path, origin: str, reading: Reading, cache: Path | None, progress: Progress | None) -> Contents:
    """The contents of an archive: one file of arrays or tables with its images, or a folder of images."""

    def unpacked(folder: Path) -> Contents:
        place = folder / _without_ending(path.name)
        outside = unpack(path, place, origin, progress)
        entries = visible(place)
        if len(entries) == 1 and entries[0].is_file():
            place = entries[0]
        try:
            contents = _read(place, origin, reading, None, progress)
        except DataError as error:  # the folder will be gone
            without = counts_in_words(outside)
            besides = f" (left out: {without})" if without else ""
            raise data_error(str(error).replace(str(place), origin) + besides) from error
        return replace(contents, left_out={**contents.left_out, **outside})

    if cache is None:
        raise data_error(f"{origin} holds an archive in an archive: unpack it")
    copy, copies = _copies(path, [path], reading, cache)
    return cached(copy, unpacked, copies)


def _without_ending(name: str) -> str:
    """The name of a file without the ending for its kind: `photos.v2.tar.gz` is `photos.v2`."""
    ending = next((each for each in _KINDS if name.lower().endswith(each)), "")
    return name[: len(name) - len(ending)] or name


def _digest(said: bytes, size: int = 4) -> str:
    return blake2b(said, digest_size=size).hexdigest()
