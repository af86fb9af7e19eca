"""The named data sets of torchvision: small made-up files in the published layouts, from a server on loopback."""

import dataclasses
import gzip
import hashlib
import io
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat
from torch import Tensor
from torchvision import datasets

from tests.support.publisher import Home
from train_core.data import PLAIN, Split, TrainingData, load_test, load_training
from train_core.datasets import DATASETS, DatasetName
from train_core.errors import DataError, DownloadError
from train_core.reading import Reading
from train_core.sources import downloads
from train_core.sources.downloads import Archive
from train_core.sources.published import PUBLISHED

Bytes = NDArray[np.uint8]
Content = bytes | str


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setenv("no_proxy", "*")
    home = Home()
    yield home
    home.stop()


def offer(home: Home, monkeypatch: pytest.MonkeyPatch, name: DatasetName, files: Mapping[str, bytes]) -> None:
    """Offer these files in the place of the published ones, whose names they have."""
    published = PUBLISHED[name]
    assert [each.file for each in published.archives()] == list(files)
    home.files |= files
    made_up = [
        Archive(file=file, urls=(home.url_of(file),), md5=hashlib.md5(content).hexdigest())
        for file, content in files.items()
    ]
    monkeypatch.setitem(PUBLISHED, name, dataclasses.replace(published, archives=lambda: made_up))


def load(name: str, cache: Path, reading: Reading = PLAIN, val_fraction: float = 0.34) -> TrainingData:
    return load_training(name, val_fraction=val_fraction, seed=0, cache=cache, reading=reading)


def load_whole(name: DatasetName, cache: Path, reading: Reading = PLAIN) -> tuple[TrainingData, Split]:
    """Training and test images; what the record says of the images is checked."""
    found = load(name, cache, reading)
    record = DATASETS[name]
    size = record.size if reading.size is None else reading.size[::-1]
    assert (found.in_channels, found.num_classes, found.size) == (record.in_channels, record.num_classes, size)
    test = load_test(name, fingerprint=found.fingerprint, cache=cache, reading=reading)
    assert test is not None
    assert test.images.shape[1:] == found.train.images.shape[1:]
    return found, test


def assert_same_pairs(splits: list[Split], images: Bytes, labels: list[int]) -> None:
    """The splits hold these images uint8 [N, H, W, C], in any order, each with its label."""
    expected = sorted((image.tobytes(), label) for image, label in zip(images, labels, strict=True))
    found = [
        (image.contiguous().numpy().tobytes(), label)
        for split in splits
        for image, label in zip(split.images, split.labels.tolist(), strict=True)
    ]
    assert sorted(found) == expected


def tar_of(files: Mapping[str, Content]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def zip_of(files: Mapping[str, Content]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def mat_of(**arrays: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, arrays)
    return buffer.getvalue()


# -------------------------------------------------------------------------------------------- where they are published


@pytest.mark.parametrize(
    ("name", "files"),
    [
        *(
            (
                name,
                "train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz t10k-images-idx3-ubyte.gz "
                "t10k-labels-idx1-ubyte.gz",
            )
            for name in ("mnist", "fashion-mnist", "kmnist")
        ),
        ("svhn", "train_32x32.mat test_32x32.mat"),
        ("stl10", "stl10_binary.tar.gz"),
        ("eurosat", "EuroSAT.zip"),
        ("gtsrb", "GTSRB-Training_fixed.zip GTSRB_Final_Test_Images.zip GTSRB_Final_Test_GT.zip"),
        ("flowers102", "102flowers.tgz imagelabels.mat setid.mat"),
        ("oxford-pets", "images.tar.gz annotations.tar.gz"),
    ],
)
def test_addresses_and_checksums_are_those_of_torchvision(name: DatasetName, files: str) -> None:
    archives = PUBLISHED[name].archives()
    assert [each.file for each in archives] == files.split()
    assert len({each.md5 for each in archives}) == len(archives)
    for archive in archives:
        assert re.fullmatch("[0-9a-f]{32}", archive.md5)
        assert archive.urls
        assert all(re.fullmatch(rf"https?://.+/{re.escape(archive.file)}", url) for url in archive.urls)


def test_some_checksums_are_these() -> None:
    assert PUBLISHED["kmnist"].archives()[0].md5 == datasets.KMNIST.resources[0][1]
    assert PUBLISHED["svhn"].archives()[1].md5 == datasets.SVHN.split_list["test"][2]
    assert PUBLISHED["eurosat"].archives()[0].md5 == "c8fa014336c82ac7804f0398fcb19387"
    assert PUBLISHED["gtsrb"].archives()[2].md5 == "fe31e9c9270bbcd7b84b7f21a9d9d9e5"


def test_each_data_set_that_is_downloaded_says_where_it_is_published() -> None:
    assert set(DATASETS) == {"digits", "cifar10", "cifar100", *PUBLISHED}


# -------------------------------------------------------------------------------------------------------------- arrays


def idx(values: Bytes) -> bytes:
    return gzip.compress(struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes())


def pixels(*shape: int) -> Bytes:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


IDX_LABELS = [*range(10), *range(10), *range(10)]
IDX_IMAGES = pixels(40, 28, 28)


def idx_files() -> dict[str, bytes]:
    """30 training images and 10 test images."""
    labels = np.array(IDX_LABELS, np.uint8)
    return {
        "train-images-idx3-ubyte.gz": idx(IDX_IMAGES[:30]),
        "train-labels-idx1-ubyte.gz": idx(labels),
        "t10k-images-idx3-ubyte.gz": idx(IDX_IMAGES[30:]),
        "t10k-labels-idx1-ubyte.gz": idx(labels[:10]),
    }


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("mnist", "0 1 2 3 4 5 6 7 8 9"),
        ("fashion-mnist", "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"),
        ("kmnist", "o ki su tsu na ha ma ya re wo"),
    ],
)
def test_mnist_and_those_in_its_format(
    name: DatasetName, classes: str, home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(home, monkeypatch, name, idx_files())
    found, test = load_whole(name, cache)
    assert found.classes == tuple(classes.split("," if "," in classes else " "))
    assert (len(found.train), len(found.val)) == (20, 10)
    assert_same_pairs([found.train, found.val], IDX_IMAGES[:30, ..., None], IDX_LABELS)
    assert_same_pairs([test], IDX_IMAGES[30:, ..., None], IDX_LABELS[:10])
    assert home.requests == 4
    assert [path.name for path in cache.iterdir()] == [f"{name}.npz"]


def test_a_size_that_is_asked_for_is_made_of_what_is_in_the_cache(
    home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(home, monkeypatch, "mnist", idx_files())
    load_whole("mnist", cache)
    found, _ = load_whole("mnist", cache, Reading(size=(32, 20)))
    assert found.preparation.width == 32
    assert home.requests == 4
    assert [path.name for path in cache.iterdir()] == ["mnist.npz"]


def test_svhn(home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pixels(40, 32, 32, 3)
    theirs = np.array([label or 10 for label in IDX_LABELS], np.uint8)  # 10 is the digit 0
    files = {
        "train_32x32.mat": mat_of(X=images[:30].transpose(1, 2, 3, 0), y=theirs[:, None]),
        "test_32x32.mat": mat_of(X=images[30:].transpose(1, 2, 3, 0), y=theirs[:10, None]),
    }
    offer(home, monkeypatch, "svhn", files)
    found, test = load_whole("svhn", cache)
    assert found.classes == tuple("0123456789")
    assert_same_pairs([found.train, found.val], images[:30], IDX_LABELS)
    assert_same_pairs([test], images[30:], IDX_LABELS[:10])


def test_stl10(home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pixels(40, 96, 96, 3)
    in_columns = images.transpose(0, 3, 2, 1)
    theirs = np.array(IDX_LABELS, np.uint8) + 1
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    files: dict[str, Content] = {
        "test_X.bin": in_columns[30:].tobytes(),
        "test_y.bin": theirs[:10].tobytes(),
        "train_X.bin": in_columns[:30].tobytes(),
        "train_y.bin": theirs.tobytes(),
        "unlabeled_X.bin": in_columns[:7].tobytes(),
        "class_names.txt": "\n".join(names) + "\n",
        "fold_indices.txt": "0 1 2\n",
    }
    offer(
        home,
        monkeypatch,
        "stl10",
        {"stl10_binary.tar.gz": tar_of({f"stl10_binary/{file}": content for file, content in files.items()})},
    )
    found, test = load_whole("stl10", cache)
    assert found.classes == tuple(names)
    assert_same_pairs([found.train, found.val], images[:30], IDX_LABELS)
    assert_same_pairs([test], images[30:], IDX_LABELS[:10])
    assert [path.name for path in cache.iterdir()] == ["stl10.npz"]


# -------------------------------------------------------------------------------------------------------------- photos


def photo(number: int, size: tuple[int, int], kind: str = "JPEG") -> bytes:
    """A photo of one colour, which says its number."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (number % 10 * 25, number // 10 * 23, 100)).save(buffer, kind)
    return buffer.getvalue()


def numbers_of(images: Tensor) -> list[int]:
    """The numbers of photos [N, H, W, 3] of one colour."""
    means = images.float().mean(dim=(1, 2))
    assert (images.float() - means[:, None, None]).abs().max() <= 2
    return [round(red / 25) + 10 * round(green / 23) for red, green, _ in means.tolist()]


def assert_photos_are_of(classes: list[str], found: TrainingData, *splits: Split) -> None:
    """The photos, whose numbers are those of `classes`, have these classes."""
    assert set(found.classes) == set(classes)
    for split in splits:
        assert [classes[number] for number in numbers_of(split.images)] == [
            found.classes[label] for label in split.labels.tolist()
        ]


def eurosat_files() -> dict[str, bytes]:
    return {
        "EuroSAT.zip": zip_of(
            {
                f"2750/{name}/{name}_{i}.jpg": photo(number, (64, 64))
                for number, name in enumerate(EUROSAT)
                for i in range(1, 5)
            }
        )
    }


EUROSAT = [
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
]


def test_eurosat_has_no_official_test_split(home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(home, monkeypatch, "eurosat", eurosat_files())
    plain = load("eurosat", cache)
    assert not plain.has_test
    assert (plain.in_channels, plain.num_classes, plain.size) == (3, 10, DATASETS["eurosat"].size)
    assert (len(plain.train), len(plain.val)) == (30, 10)
    assert_photos_are_of(EUROSAT, plain, plain.train, plain.val)
    assert plain.notes == ()
    held = load_training("eurosat", val_fraction=0.34, test_fraction=0.25, seed=0, cache=cache)
    assert (len(held.train), len(held.val), held.held_out) == (20, 10, 10)


def gtsrb_files() -> dict[str, bytes]:
    """43 classes with two photos of each of three signs, and one test photo each in an order of its own."""
    training = {
        f"GTSRB/Training/{label:05d}/{sign:05d}_{i:05d}.ppm": photo(label, (20 + i, 24), "PPM")
        for label in range(43)
        for sign in range(3)
        for i in range(2)
    }
    heads = {
        f"GTSRB/Training/{label:05d}/GT-{label:05d}.csv": "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
        for label in range(43)
    }
    order = [label * 5 % 43 for label in range(43)]
    rows = [f"{i:05d}.ppm;30;31;5;5;25;25;{label}" for i, label in enumerate(order)]
    return {
        "GTSRB-Training_fixed.zip": zip_of({**heads, **training, "GTSRB/Readme-Images.txt": "..."}),
        "GTSRB_Final_Test_Images.zip": zip_of(
            {f"GTSRB/Final_Test/Images/{i:05d}.ppm": photo(label, (30, 31), "PPM") for i, label in enumerate(order)}
            | {"GTSRB/Final_Test/Images/GT-final_test.test.csv": "Filename;Width;Height\n"}
        ),
        "GTSRB_Final_Test_GT.zip": zip_of(
            {"GT-final_test.csv": "\n".join(["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId", *rows, ""])}
        ),
    }


def test_gtsrb_is_validated_on_other_signs(home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(home, monkeypatch, "gtsrb", gtsrb_files())
    found, test = load_whole("gtsrb", cache)
    classes = [str(label) for label in range(43)]
    assert found.classes == tuple(classes)
    assert (len(found.train) + len(found.val), len(test)) == (43 * 6, 43)
    assert_photos_are_of(classes, found, found.train, found.val, test)
    assert [Path(file).name for file in test.files] == [f"{i:05d}.ppm" for i in range(43)]
    signs = [{file.rpartition("_")[0] for file in split.files} for split in (found.train, found.val)]
    assert signs[1]
    assert not signs[0] & signs[1]  # all photos of one sign are on one side
    assert found.notes[0] == "validation images are of other signs than training images"
    assert "brought to 32x32 (crop; --size chooses another)" in found.notes[1]


FLOWERS = list(datasets.Flowers102.classes)


def flowers_files() -> dict[str, bytes]:
    """One photo of each class in each split, numbered with the test split first, as in the published one."""
    numbers = np.arange(1, 307)
    labels = (numbers * 5 % 102) + 1
    return {
        "102flowers.tgz": tar_of(
            {
                f"jpg/image_{number:05d}.jpg": photo(label - 1, (70, 90))
                for number, label in zip(numbers.tolist(), labels.tolist(), strict=True)
            }
        ),
        "imagelabels.mat": mat_of(labels=labels[None].astype(np.uint8)),
        "setid.mat": mat_of(
            trnid=numbers[None, 204:].astype(np.uint16),
            valid=numbers[None, 102:204].astype(np.uint16),
            tstid=numbers[None, :102].astype(np.uint16),
        ),
    }


def test_flowers102_has_its_official_splits(home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(home, monkeypatch, "flowers102", flowers_files())
    found, test = load_whole("flowers102", cache)
    assert (len(found.train), len(found.val), len(test)) == (102, 102, 102)
    assert_photos_are_of(FLOWERS, found, found.train, found.val, test)
    assert sorted(found.train.files)[0] == "jpg/image_00205.jpg"
    assert sorted(found.val.files)[0] == "jpg/image_00103.jpg"
    assert sorted(test.files)[0] == "jpg/image_00001.jpg"


PETS = [f"{'Abcdefghijklmnopqrstuvwxyz'[i % 26]}x{i} cat".title() for i in range(37)]


def pets_files() -> dict[str, bytes]:
    """37 breeds, of which each has two photos to train and one to test."""
    lists: dict[str, list[str]] = {"trainval": [], "test": []}
    photos = {}
    for number, breed in enumerate(PETS):
        stem = breed.replace(" ", "_") if number % 2 else breed.replace(" ", "_").lower()
        for i in range(3):
            photos[f"images/{stem}_{i}.jpg"] = photo(number, (100, 80 + i))
            lists["test" if i == 2 else "trainval"].append(f"{stem}_{i} {number + 1} 1 {number + 1}")
    annotations = {f"annotations/{name}.txt": "\n".join([*lines, ""]) for name, lines in lists.items()}
    return {
        "images.tar.gz": tar_of({**photos, "images/Abyssinian_100.mat": b"not an image"}),
        "annotations.tar.gz": tar_of({**annotations, "annotations/trimaps/a.png": b"", "annotations/README": "..."}),
    }


def test_oxford_pets(home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(home, monkeypatch, "oxford-pets", pets_files())
    found, test = load_whole("oxford-pets", cache)
    assert (len(found.train), len(found.val), len(test)) == (37, 37, 37)
    assert_photos_are_of(PETS, found, found.train, found.val, test)
    assert all(file.endswith("_2.jpg") for file in test.files)
    assert found.left_out == {}


# ------------------------------------------------------------------------------------------------- sizes and the cache


def test_photos_of_another_size_need_no_second_download(
    home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pets_files()
    offer(home, monkeypatch, "oxford-pets", files)
    usual, _ = load_whole("oxford-pets", cache)
    assert home.requests == 2
    assert {path.name for path in (cache / "oxford-pets").iterdir()} == set(files)
    home.stop()
    small, _ = load_whole("oxford-pets", cache, Reading(size=(24, 16), fit="stretch"))
    assert (small.preparation.width, small.preparation.height, small.preparation.fit) == (24, 16, "stretch")
    assert (usual.preparation.width, usual.preparation.height, usual.preparation.fit) == (64, 64, "crop")
    copies = sorted(path.name for path in cache.glob("*.npz"))
    assert [re.sub("-[0-9a-f]{8}", "", name) for name in copies] == ["oxford-pets-24x16.npz", "oxford-pets-64x64.npz"]
    assert not list(cache.glob(".partial-*"))  # nothing that was unpacked is left


def test_the_usual_size_is_not_made_twice(home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(home, monkeypatch, "eurosat", eurosat_files())
    usual = load("eurosat", cache)
    assert load("eurosat", cache, Reading(size=(64, 64))).fingerprint == usual.fingerprint
    assert len(list(cache.glob("*.npz"))) == 1


def test_files_in_the_cache_are_used_instead_of_a_download(
    home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = idx_files()
    offer(home, monkeypatch, "kmnist", files)
    (cache / "kmnist").mkdir(parents=True)
    own = [cache / "kmnist" / file for file in list(files)[1:]]
    for path in own:
        path.write_bytes(files[path.name])
    load_whole("kmnist", cache)
    assert home.requests == 1
    assert sorted((cache / "kmnist").iterdir()) == sorted(own)  # left as they were


def test_files_of_another_data_set_are_refused(home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = idx_files()
    offer(home, monkeypatch, "mnist", files)
    (cache / "mnist").mkdir(parents=True)
    wrong = cache / "mnist" / "t10k-labels-idx1-ubyte.gz"
    wrong.write_bytes(files["train-labels-idx1-ubyte.gz"])
    with pytest.raises(DataError, match=re.escape(f"{wrong} is not the published archive (wrong md5): delete it")):
        load("mnist", cache)


@pytest.mark.parametrize("behaviour", ["cut", "missing", "stall"])
@pytest.mark.parametrize("name", ["mnist", "eurosat"])
def test_a_failed_download_says_where_to_put_the_file(
    name: DatasetName, behaviour: str, home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = idx_files() if name == "mnist" else eurosat_files()
    offer(home, monkeypatch, name, files)
    monkeypatch.setattr(downloads, "_TIMEOUT_S", 0.3)
    home.behaviour = behaviour
    with pytest.raises(DownloadError) as caught:
        load(name, cache)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert {"cut": "md5", "missing": "404", "stall": "timed out"}[behaviour] in message
    assert message.endswith(f"try again, or put {next(iter(files))} into {cache / name}")
    assert list(cache.iterdir()) == []
    home.behaviour = "whole"
    load(name, cache)


def test_the_second_address_is_asked_where_the_first_fails(
    home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(home, monkeypatch, "mnist", idx_files())
    made_up = PUBLISHED["mnist"].archives()
    home.files["old"] = b"of another time"
    two = [dataclasses.replace(each, urls=(home.url_of("old"), *each.urls)) for each in made_up]
    monkeypatch.setitem(PUBLISHED, "mnist", dataclasses.replace(PUBLISHED["mnist"], archives=lambda: two))
    load_whole("mnist", cache)
    assert home.requests == 8


def test_an_archive_writes_nothing_outside_of_its_folder(
    home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pets_files()
    offer(home, monkeypatch, "oxford-pets", files | {"annotations.tar.gz": tar_of({"../../../owned": "by whom?"})})
    with pytest.raises(DataError, match=r"cannot unpack .*annotations\.tar\.gz"):
        load("oxford-pets", cache)
    assert not list(cache.parent.rglob("owned"))


def test_the_download_tells_its_progress(home: Home, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = eurosat_files()
    offer(home, monkeypatch, "eurosat", files)
    told: list[str] = []
    say: Callable[[str, int, int], None] = lambda what, _done, _total: told.append(what)  # noqa: E731  # one line says it
    load_training("eurosat", val_fraction=0.5, seed=0, cache=cache, progress=say)
    assert list(dict.fromkeys(told)) == [
        "downloading EuroSAT.zip",
        "unpacking EuroSAT.zip",
        "looking at images",
        "reading images",
    ]
