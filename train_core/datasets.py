"""The named data sets: one record each, with everything that the rest of the code needs to know of one.

Imports no torch before a data set is read. To add one, name it in `DatasetName` and give it a record here. For a data
set of torchvision, also add its address and the format of its files in `train_core.sources.published`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from train_core.tables import table

if TYPE_CHECKING:
    from train_core.reading import Reading
    from train_core.sources.contents import Contents, Progress

DatasetName = Literal[
    "cifar10",
    "cifar100",
    "digits",
    "mnist",
    "fashion-mnist",
    "kmnist",
    "svhn",
    "stl10",
    "eurosat",
    "gtsrb",
    "flowers102",
    "oxford-pets",
]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A named data set. `read` takes the cache's folder, how to read images, and where to report a download's progress.

    If the images are files of mixed sizes, `read` resizes them to the requested size, or else to `size`.
    """

    read: Callable[[Path, Reading, Progress | None], Contents]
    in_channels: int  # of its images: 1 grey, 3 RGB
    num_classes: int
    size: tuple[int, int]  # height and width of its images, in pixels
    mirrored_is_same: bool  # whether the mirror image of each image could be another image of its class
    licence: str  # one sentence for model cards, or a few


def _cifar10(cache: Path, _reading: Reading, progress: Progress | None) -> Contents:
    from train_core.sources.downloads import cifar

    return cifar("cifar10", cache, progress)


def _cifar100(cache: Path, _reading: Reading, progress: Progress | None) -> Contents:
    from train_core.sources.downloads import cifar

    return cifar("cifar100", cache, progress)


def _digits(_cache: Path, _reading: Reading, _progress: Progress | None) -> Contents:
    from train_core.sources.downloads import digits

    return digits()


def _published(name: DatasetName) -> Callable[[Path, Reading, Progress | None], Contents]:
    def read(cache: Path, reading: Reading, progress: Progress | None) -> Contents:
        from train_core.sources.published import read_published

        return read_published(name, cache, reading, progress)

    return read


_ASK = "Ask before you sell what was trained on it."
_CIFAR_LICENCE = (
    "Data: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; published without a licence. "
    + _ASK
)

DATASETS: dict[DatasetName, Dataset] = table(
    "data set",
    DatasetName,
    {
        "cifar10": Dataset(
            read=_cifar10,
            in_channels=3,
            num_classes=10,
            size=(32, 32),
            mirrored_is_same=True,
            licence=_CIFAR_LICENCE,
        ),
        "cifar100": Dataset(
            read=_cifar100,
            in_channels=3,
            num_classes=100,
            size=(32, 32),
            mirrored_is_same=True,
            licence=_CIFAR_LICENCE,
        ),
        "digits": Dataset(
            read=_digits,
            in_channels=1,
            num_classes=10,
            size=(32, 32),
            mirrored_is_same=False,
            licence="Data: Optical Recognition of Handwritten Digits (E. Alpaydin and C. Kaynak, UCI Machine Learning "
            "Repository, CC BY 4.0).",
        ),
        "mnist": Dataset(
            read=_published("mnist"),
            in_channels=1,
            num_classes=10,
            size=(28, 28),
            mirrored_is_same=False,
            licence="Data: MNIST (Y. LeCun and C. Cortes; CC BY-SA 3.0, as the documentation of Keras says).",
        ),
        "fashion-mnist": Dataset(
            read=_published("fashion-mnist"),
            in_channels=1,
            num_classes=10,
            size=(28, 28),
            mirrored_is_same=True,
            licence="Data: Fashion-MNIST (Zalando SE, MIT licence).",
        ),
        "kmnist": Dataset(
            read=_published("kmnist"),
            in_channels=1,
            num_classes=10,
            size=(28, 28),
            mirrored_is_same=False,
            licence='Data: "KMNIST Dataset" (created by CODH), adapted from "Kuzushiji Dataset" (created by NIJL and '
            "others), doi:10.20676/00000341; CC BY-SA 4.0.",
        ),
        "svhn": Dataset(
            read=_published("svhn"),
            in_channels=3,
            num_classes=10,
            size=(32, 32),
            mirrored_is_same=False,
            licence="Data: The Street View House Numbers (Y. Netzer et al., 2011; from Google Street View), for "
            "non-commercial use only.",
        ),
        "stl10": Dataset(
            read=_published("stl10"),
            in_channels=3,
            num_classes=10,
            size=(96, 96),
            mirrored_is_same=True,
            licence="Data: STL-10 (A. Coates, H. Lee and A. Y. Ng, 2011; images of ImageNet), no licence is known. "
            + _ASK,
        ),
        "eurosat": Dataset(
            read=_published("eurosat"),
            in_channels=3,
            num_classes=10,
            size=(64, 64),
            mirrored_is_same=True,
            licence="Data: EuroSAT (P. Helber et al., 2019, MIT licence; images of Copernicus Sentinel-2).",
        ),
        "gtsrb": Dataset(
            read=_published("gtsrb"),
            in_channels=3,
            num_classes=43,
            size=(32, 32),
            mirrored_is_same=False,
            licence="Data: German Traffic Sign Recognition Benchmark (J. Stallkamp et al., 2011), no licence is known. "
            + _ASK,
        ),
        "flowers102": Dataset(
            read=_published("flowers102"),
            in_channels=3,
            num_classes=102,
            size=(64, 64),
            mirrored_is_same=True,
            licence="Data: Oxford 102 Flower (M.-E. Nilsback and A. Zisserman, 2008), no licence is known. " + _ASK,
        ),
        "oxford-pets": Dataset(
            read=_published("oxford-pets"),
            in_channels=3,
            num_classes=37,
            size=(64, 64),
            mirrored_is_same=True,
            licence="Data: Oxford-IIIT Pet (O. M. Parkhi et al., 2012), CC BY-SA 4.0, as copies of it say; each photo "
            "belongs to its photographer.",
        ),
    },
)
