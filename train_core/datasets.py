"""The data sets that have a name: one record each, with all that the rest of the code asks of one.

Imports no torch before a data set is read. To add one, name it in `DatasetName` and give it a record here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from train_core.tables import table

if TYPE_CHECKING:
    from train_core.sources.contents import Contents, Progress

DatasetName = Literal["cifar10", "cifar100", "digits"]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A named data set. `read` takes the cache's folder, and where to report how far a download is."""

    read: Callable[[Path, Progress | None], Contents]
    in_channels: int  # of its images: 1 grey, 3 RGB
    num_classes: int
    size: tuple[int, int]  # height and width of its images, in pixels
    licence: str  # one sentence for model cards, or a few


def _cifar10(cache: Path, progress: Progress | None) -> Contents:
    from train_core.sources.downloads import cifar

    return cifar("cifar10", cache, progress)


def _cifar100(cache: Path, progress: Progress | None) -> Contents:
    from train_core.sources.downloads import cifar

    return cifar("cifar100", cache, progress)


def _digits(_cache: Path, _progress: Progress | None) -> Contents:
    from train_core.sources.downloads import digits

    return digits()


_CIFAR_LICENCE = (
    "Data: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; published without a licence. "
    "Ask before you sell what was trained on it."
)

DATASETS: dict[DatasetName, Dataset] = table(
    "data set",
    DatasetName,
    {
        "cifar10": Dataset(read=_cifar10, in_channels=3, num_classes=10, size=(32, 32), licence=_CIFAR_LICENCE),
        "cifar100": Dataset(read=_cifar100, in_channels=3, num_classes=100, size=(32, 32), licence=_CIFAR_LICENCE),
        "digits": Dataset(
            read=_digits,
            in_channels=1,
            num_classes=10,
            size=(32, 32),
            licence="Data: Optical Recognition of Handwritten Digits (E. Alpaydin and C. Kaynak, UCI Machine Learning "
            "Repository, CC BY 4.0).",
        ),
    },
)
