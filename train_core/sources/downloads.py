"""Gets the named data sets: from scikit-learn, or from their publishers, through the cache."""

from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import torch

from train_core.errors import DataError, DownloadError
from train_core.sources.batches import from_archive
from train_core.sources.cache import cached
from train_core.sources.contents import Contents, Progress, data_error
from train_core.sources.splits import hold_out

_DIGITS_TEST_PER_CLASS = 36  # 360 of 1,797 images
_DIGITS_TEST_SEED = 0  # independent of the user's seed: a test split must not change
_NETWORK_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError, SSLError)
_TIMEOUT_S = 60
_CHUNK_BYTES = 1 << 20


def digits() -> Contents:
    """Read the 1,797 handwritten digits that come with scikit-learn, grey, enlarged from 8x8 to 32x32 pixels.

    They have no official test split: 36 images of each class are set apart, always the same.
    """
    from sklearn.datasets import load_digits

    published = load_digits()
    small = torch.from_numpy(published.images).float()[:, None] * (255 / 16)
    # Exact in float32 (the weights are multiples of 1/64), so it is the same on every machine.
    large = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    x, y = large[:, 0].round().to(torch.uint8).numpy(), published.target
    test = hold_out(y, lambda _: _DIGITS_TEST_PER_CLASS, _DIGITS_TEST_SEED)
    return Contents(arrays={"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]})


def cifar(name: str, cache: Path, progress: Progress | None) -> Contents:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009), from the cache, after a download if it is not there.

    torchvision provides the address, the checksum and the layout of the files. The reader is our own because
    torchvision's would execute the code in pickles.
    """

    def downloaded(folder: Path) -> Contents:
        from torchvision import datasets

        dataset = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        archive = Archive(file=dataset.filename, urls=(dataset.url,), md5=dataset.tgz_md5)
        files = fetched(name, [archive], place=cache, folder=folder, progress=progress)
        return Contents(arrays=from_archive(files[archive.file], dataset))

    return cached(cache / f"{name}.npz", downloaded)


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A published file: its name, its addresses, the best first, and its checksum."""

    file: str
    urls: tuple[str, ...]
    md5: str


def fetched(
    name: str,
    archives: Iterable[Archive],
    *,
    place: Path,
    folder: Path,
    keep: bool = False,
    progress: Progress | None,
) -> dict[str, Path]:
    """The published files of the data set `name`, by their names: those in `place`, others downloaded to `folder`.

    All checksums are verified. `keep` moves the downloads to `place`, so that the next time needs no download. The
    download code is our own because torchvision's would wait for ever, and print.

    Raises:
        DataError: a file in `place` is not the published one.
        DownloadError: no address returns the published file.

    """
    files = {}
    for archive in archives:
        own = place / archive.file
        if own.exists():
            if not _is_published(own, archive):
                raise data_error(
                    f"{own} is not the published archive (wrong md5): delete it, or put the right one there"
                )
        else:
            path = _downloaded(name, archive, place, folder, progress)
            if keep:
                place.mkdir(exist_ok=True)
                path.replace(own)
            else:
                own = path
        files[archive.file] = own
    return files


def _downloaded(name: str, archive: Archive, place: Path, folder: Path, progress: Progress | None) -> Path:
    """The file in `folder`, from the first address that returns it; if none does, the error of the first is raised."""
    path = folder / archive.file
    problems: list[DataError] = []
    for url in archive.urls:
        try:
            _download(url, path, progress)
        except _NETWORK_ERRORS as error:
            if isinstance(error, HTTPError):  # an answer too, over a connection
                error.close()
            problem = f"cannot download {name} from {url} ({error})"
        else:
            if _is_published(path, archive):
                return path
            problem = f"the download of {name} is incomplete or changed (wrong md5)"
        problems.append(data_error(f"{problem}: try again, or put {archive.file} into {place}", DownloadError))
    raise problems[0]


def _is_published(path: Path, archive: Archive) -> bool:
    from torchvision.datasets.utils import check_integrity

    return bool(check_integrity(path, archive.md5))


def _download(url: str, file: Path, progress: Progress | None) -> None:
    """Write the response of `url` to `file`, complete or not: the caller verifies the checksum."""
    with urlopen(url, timeout=_TIMEOUT_S) as response, file.open("wb") as out:
        total = int(response.headers.get("Content-Length") or 0)
        while chunk := response.read(_CHUNK_BYTES):
            out.write(chunk)
            if progress:
                progress(f"downloading {file.name}", out.tell(), total)
