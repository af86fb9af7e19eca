"""What a source holds, counted as it would be cut; pictures that are there twice; the contact sheet."""

import io
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from train_core.census import Census, Group, leak_warning, take_census
from train_core.data import Split, load_all_splits, load_test, load_training
from train_core.duplicates import almost_equal, constant, digests, equal
from train_core.reading import Reading
from train_core.sheet import CLASSES, contact_sheet
from train_core.sources.contents import FileSizes

Pixels = NDArray[np.uint8]

CUT: dict[str, Any] = {"val_fraction": 0.2, "test_fraction": 0.15, "seed": 3, "reading": Reading()}


def textures(number: int, side: int = 48, seed: int = 0, channels: int = 3) -> Pixels:
    """Random pictures with coarse and fine structure, all different."""
    generator = np.random.default_rng(seed)
    made = np.empty((number, side, side, channels), np.uint8)
    for i in range(number):
        coarse, fine = (
            Image.fromarray(generator.integers(256, size=(cells, cells, 3), dtype=np.uint8)).resize((side, side))
            for cells in (6, side)
        )
        made[i] = np.asarray(Image.blend(coarse, fine, 0.25))[..., :channels]
    return made


def as_jpeg(image: Pixels, quality: int = 75) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def brighter(image: Pixels) -> Pixels:
    return (image * 1.02).clip(0, 255).astype(np.uint8)


def smaller(image: Pixels) -> Pixels:
    side = len(image)
    return np.array(Image.fromarray(image).resize((side * 2 // 3, side * 2 // 3)).resize((side, side)))


def without_colours(image: Pixels) -> Pixels:
    return np.array(Image.fromarray(image).convert("L").convert("RGB"))


def save(images: Iterable[Pixels], folder: Path, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, first):
        Image.fromarray(image).save(folder / f"{number:02}.png")


def census_of(source: Path, **changes: Any) -> Census:
    return take_census(str(source), **CUT | {"cache": source.parent / "cache"} | changes)


def names(groups: Sequence[Group]) -> list[list[str]]:
    return [[picture.name for picture in group.pictures] for group in groups]


# ------------------------------------------------------------------------------------------------------ duplicates


@pytest.mark.parametrize("copy", [as_jpeg, brighter, smaller, without_colours])
def test_the_same_picture_otherwise_saved_is_almost_equal(copy: Callable[[Pixels], Pixels]) -> None:
    pictures = textures(40)
    copies = np.stack([copy(image) for image in pictures[:20]])
    groups = almost_equal([pictures, copies])
    assert sorted(map(tuple, groups)) == [(i, 40 + i) for i in range(20)]
    assert equal([pictures, copies]) == []


def test_other_pictures_are_not_almost_equal() -> None:
    assert almost_equal([textures(300, side=32)]) == []


def test_handwritten_digits_of_one_class_are_not_almost_equal() -> None:
    digits = (load_digits().images * 255 / 16).astype(np.uint8)
    big = np.stack([np.array(Image.fromarray(image).resize((32, 32))) for image in digits])
    assert almost_equal([big[..., None]]) == []


def test_one_sky_above_different_plains_is_not_one_picture() -> None:
    """Alike at a glance; the detail decides."""
    generator = np.random.default_rng(0)
    sky = np.broadcast_to(np.where(np.arange(64) < 32, 200, 60)[:, None, None], (64, 64, 3))
    plains = [(sky + generator.integers(-25, 25, sky.shape)).astype(np.uint8) for _ in range(10)]
    assert almost_equal([np.stack(plains)]) == []


def test_flat_pictures_are_almost_equal_to_none() -> None:
    generator = np.random.default_rng(0)
    flat = generator.integers(100, 103, size=(30, 32, 32, 1)).astype(np.uint8)
    assert almost_equal([flat]) == []
    assert almost_equal([flat[:1]]) == []


def test_of_equal_pictures_one_stands_for_all() -> None:
    pictures = textures(3)
    copy = as_jpeg(pictures[0])
    parts = [pictures, np.stack([pictures[0], copy, copy])]
    known = equal(parts)
    assert known == [[0, 3], [4, 5]]
    assert almost_equal(parts, known) == [[0, 4]]


@pytest.mark.parametrize("size", [(1, 1), (5, 4), (28, 28), (40, 300)])
def test_pictures_of_any_size_are_compared(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(256, size=(1, *size, 1), dtype=np.uint8)
    groups = almost_equal([image, image])
    assert groups == ([] if size == (1, 1) else [[0, 1]])


def test_a_single_colour_is_constant_whatever_the_channels() -> None:
    images = textures(1500, side=4)
    images[7] = 0
    images[1400] = (10, 20, 30)
    assert np.flatnonzero(constant(images)).tolist() == [7, 1400]


def test_digests_tell_pictures_apart_by_a_single_pixel() -> None:
    images = np.repeat(textures(1), 2, axis=0)
    assert len(set(digests(images))) == 1
    images[1, 0, 0, 0] ^= 1
    assert len(set(digests(images))) == 2


# ------------------------------------------------------------------------------------------------------ the census


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """30 cats and 20 dogs of different sizes, without a test split; one file that is no image."""
    folder = tmp_path / "pets"
    save(textures(30, side=40, seed=1), folder / "cat")
    save(textures(19, side=48, seed=2), folder / "dog")
    save(textures(1, side=64, seed=3), folder / "dog", first=19)
    (folder / "cat" / "readme.txt").write_text("cats")
    return folder


def test_what_is_counted_is_what_a_search_cuts(pets: Path, tmp_path: Path) -> None:
    census = census_of(pets)
    arguments: dict[str, Any] = CUT | {"cache": tmp_path / "cache"}
    data = load_training(str(pets), **arguments)
    del arguments["val_fraction"], arguments["seed"]
    test = load_test(str(pets), fingerprint=data.fingerprint, **arguments)
    assert test is not None
    cut = {"train": data.train, "val": data.val, "test": test}
    for label, name in enumerate(data.classes):
        assert census.counts[name] == {split: int((each.labels == label).sum()) for split, each in cut.items()}
    assert {split: census.total(split) for split in ("train", "val", "test")} == {
        split: len(each) for split, each in cut.items()
    }
    assert census.held_out == ("val", "test")
    assert (census.mean, census.std, census.size) == (data.mean, data.std, data.size)
    assert (census.notes, census.left_out) == (data.notes, {"not in an image format": ["cat/readme.txt"]})
    assert census.file_sizes == FileSizes(smallest=(40, 40), median=(40, 40), largest=(64, 64))
    assert not any((census.equal, census.almost_equal, census.constant, census.warnings))


def test_splits_that_the_source_brings_are_not_held_out(tmp_path: Path) -> None:
    images = textures(24, side=8)
    path = tmp_path / "images.npz"
    np.savez(path, x_train=images[:16], y_train=np.arange(16) % 2, x_test=images[16:], y_test=np.arange(8) % 2)
    census = census_of(path)
    assert census.held_out == ("val",)
    assert census.file_sizes is None
    assert census.total("test") == 8
    assert "test" not in census_of(path, test_fraction=0.5).held_out


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Cats and dogs with copies of all kinds, and images of a single colour."""
    folder = tmp_path / "copied"
    cats, dogs = textures(20, seed=1), textures(20, seed=2)
    black = np.zeros_like(cats[:1])
    for split, first, last in (("train", 0, 10), ("val", 10, 14), ("test", 14, 20)):
        save(cats[first:last], folder / split / "cat")
        save(dogs[first:last], folder / split / "dog")
    save([cats[0], cats[1], dogs[10]], folder / "test" / "cat", first=50)  # equal: of train, of train, of val
    save([as_jpeg(dogs[2])], folder / "test" / "dog", first=60)
    save([as_jpeg(dogs[3])], folder / "val" / "dog", first=70)
    save([cats[4]], folder / "train" / "dog", first=80)
    save([cats[5], as_jpeg(cats[6])], folder / "train" / "cat", first=90)
    save(black, folder / "test" / "cat", first=99)
    return folder


def test_copies_are_found_within_and_across_splits_and_classes(copied: Path) -> None:
    census = census_of(copied)
    assert names(census.equal) == [
        ["train/cat/00.png", "test/cat/50.png"],
        ["train/cat/01.png", "test/cat/51.png"],
        ["train/cat/04.png", "train/dog/80.png"],
        ["train/cat/05.png", "train/cat/90.png"],
        ["val/dog/00.png", "test/cat/52.png"],
    ]
    assert sorted(names(census.almost_equal)) == [
        ["train/cat/06.png", "train/cat/91.png"],
        ["train/dog/02.png", "test/dog/60.png"],
        ["train/dog/03.png", "val/dog/70.png"],
    ]
    assert [picture.name for picture in census.constant] == ["test/cat/99.png"]
    assert [(sorted(group.splits), sorted(group.labels)) for group in census.equal[2:]] == [
        (["train"], ["cat", "dog"]),
        (["train"], ["cat"]),
        (["test", "val"], ["cat", "dog"]),
    ]


def test_warnings_say_what_is_wrong_and_what_to_do(copied: Path) -> None:
    assert census_of(copied).warnings == (
        "3 test images are also training or validation images: the test accuracy would be too high. Keep only one of "
        "each.",
        "1 test image is almost equal to a training or validation image: the test accuracy would be too high. Keep "
        "only one of each.",
        "1 validation image is almost equal to a training image: the validation accuracy would be too high. Keep only "
        "one of each.",
        "2 groups of images are equal, but in different classes: nobody can learn both. Keep each picture in one "
        "class.",
        "1 image has a single colour and nothing to learn: check the files, and remove those that are empty.",
    )


def test_a_search_knows_of_equal_images_across_splits(copied: Path, pets: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert load_training(str(copied), val_fraction=0.1, seed=0, cache=cache).copied == {"test": 3}
    assert load_training(str(pets), val_fraction=0.1, seed=0, cache=cache, test_fraction=0.15).copied == {}
    (copied / "val" / "cat" / "55.png").write_bytes((copied / "train" / "cat" / "00.png").read_bytes())
    assert load_training(str(copied), val_fraction=0.1, seed=0, cache=cache).copied == {"val": 1, "test": 3}
    assert leak_warning("val", 1).startswith("1 validation image is also a training image: the validation accuracy")


def test_images_without_files_are_named_by_their_place_in_the_source(tmp_path: Path) -> None:
    images = textures(16, side=8)
    images[3] = images[15]
    path = tmp_path / "images.npz"
    np.savez(path, x_train=images, y_train=np.arange(16) % 2)
    assert names(census_of(path).equal) in (
        [["x_train[3]", "x_train[15]"]],
        [["x_train[15]", "x_train[3]"]],  # if the cut puts the first into a later split
    )
    found = load_all_splits(str(path), **CUT | {"cache": tmp_path / "cache"})
    for split in (found.training.train, found.training.val, found.test):
        assert split is not None
        for name, image in zip(split.files, split.images.numpy(), strict=True):
            assert (images[int(name[len("x_train[") : -1])] == image).all()


def test_sizes_are_those_of_the_files_also_of_an_archive(pets: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", pets))
    assert census_of(archive).file_sizes == census_of(pets).file_sizes
    assert census_of(pets, reading=Reading(size=16)).file_sizes == census_of(pets).file_sizes


# --------------------------------------------------------------------------------------------------- the contact sheet


def split_of(images: Pixels, labels: NDArray[Any]) -> Split:
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def test_the_sheet_has_a_row_for_each_class_enlarged_by_whole_numbers() -> None:
    images = textures(30, side=20)
    sheet = np.array(contact_sheet(split_of(images, np.arange(30) % 3), ("cat", "dog", "frog")))
    right = sheet[:, sheet.shape[1] - 10 * 64 :]  # 3 x 20 pixels and a gap of 4 for each image
    assert right.shape[0] == 4 + 3 * 64
    for row in range(3):
        for column in range(10):
            shown = right[4 + row * 64 :, column * 64 :][:60:3, :60:3]
            assert (shown == images[row + 3 * column]).all()
    assert (sheet[:, : sheet.shape[1] - 640] < 128).any(), "the names of the classes"


def test_of_many_classes_those_with_the_fewest_images_are_on_the_sheet() -> None:
    labels = np.repeat(np.arange(30), np.arange(30, 0, -1))
    images = np.zeros((len(labels), 64, 64, 1), np.uint8)
    images[:, :] = labels[:, None, None, None]
    sheet = np.array(contact_sheet(split_of(images, labels), tuple(map(str, range(30)))))
    assert sheet.shape[0] == 4 + CLASSES * 68
    assert [int(row[-10 * 68]) for row in sheet[10::68, :, 0]] == list(range(10, 30))


def test_the_sheet_is_a_png_file(pets: Path, tmp_path: Path) -> None:
    census_of(pets, sheet=tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert (sheet.format, sheet.mode) == ("PNG", "RGB")
