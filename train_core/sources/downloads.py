"""Gets the named data sets: from scikit-learn, or from where they are published, by way of the cache."""

from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import torch

from train_core.errors import DownloadError
from train_core.sources.batches import from_archive
from train_core.sources.cache import cached
from train_core.sources.contents import Arrays, Contents, Progress, data_error
from train_core.sources.splits import hold_out

_DIGITS_TEST_PER_CLASS = 36  # 360 of 1,797 images
_DIGITS_TEST_SEED = 0  # never the user's seed: a test split must not change
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
    # Exact in float32 (the weights are multiples of 1/64), hence the same on every machine.
    large = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    x, y = large[:, 0].round().to(torch.uint8).numpy(), published.target
    test = hold_out(y, lambda _: _DIGITS_TEST_PER_CLASS, _DIGITS_TEST_SEED)
    return Contents(arrays={"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]})


def cifar(name: str, cache: Path, progress: Progress | None) -> Contents:
    """CIFAR-10 or CIFAR-100, from the cache, into which it is downloaded first if it is not there."""
    return cached(cache / f"{name}.npz", lambda folder: Contents(arrays=_download_cifar(name, folder, progress)))


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
    return from_archive(archive, dataset)


def _download(url: str, file: Path, progress: Progress | None) -> None:
    """Write what `url` answers to `file`, whole or not: the caller knows the checksum."""
    with urlopen(url, timeout=_TIMEOUT_S) as response, file.open("wb") as out:
        total = int(response.headers.get("Content-Length") or 0)
        while chunk := response.read(_CHUNK_BYTES):
            out.write(chunk)
            if progress:
                progress(f"downloading {file.name}", out.tell(), total)
