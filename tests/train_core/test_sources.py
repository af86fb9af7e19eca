"""Sources as people have them: layouts of folders, tables, archives, arrays under other names and in other forms."""

import csv
import json
import os
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import scipy.io
from PIL import Image

from train_core import images
from train_core.data import Split, TrainingData, load_test, load_training
from train_core.errors import DataError
from train_core.reading import Reading
from train_core.sources import cache as source_cache
from train_core.sources.folders import chosen_size

COLOURS = {"cat": 10, "dog": 20, "owl": 30}  # the value of the first image of each


def put(*names: str, size: tuple[int, int] = (4, 4), first: int | None = None) -> None:
    """Write grey PNG images; the number in each file's name is added to its class's value."""
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        label = next((part for part in path.parts if part in COLOURS), "")
        value = COLOURS.get(label, 90) + int(path.stem) if first is None else first
        Image.new("L", size, value).save(path, "PNG")


def load(source: str, test_fraction: float = 0.0, **reading: Any) -> TrainingData:
    chosen = Reading.model_validate(reading)
    return load_training(
        source, val_fraction=0.3, test_fraction=test_fraction, seed=0, cache=Path("cache"), reading=chosen
    )


def test_split(source: str, **reading: Any) -> Split:
    chosen = Reading.model_validate(reading)
    fingerprint = load(source, **reading).fingerprint
    found = load_test(source, fingerprint=fingerprint, cache=Path("cache"), reading=chosen)
    assert found is not None
    return found


test_split.__test__ = False  # type: ignore[attr-defined]  # for pytest


def refusal(source: str, **reading: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(source, **reading)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def classes_of(split: Split, classes: Sequence[str]) -> dict[str, str]:
    """The class of each file."""
    return {file: classes[label] for file, label in zip(split.files, split.labels.tolist(), strict=True)}


def everything(found: TrainingData) -> dict[str, str]:
    """The class of each file, of training and validation."""
    return classes_of(found.train, found.classes) | classes_of(found.val, found.classes)


def left_out(found: TrainingData) -> dict[str, list[str]]:
    return {why: sorted(names) for why, names in found.left_out.items()}


# ---------------------------------------------------------------------------------------------------------- folders

CATS_AND_DOGS = {f"{label}/{i}.png": label for label in ("cat", "dog") for i in range(4)}


def test_folders_of_classes_need_no_train() -> None:
    put(*(f"pets/{name}" for name in CATS_AND_DOGS))
    found = load("pets")
    assert everything(found) == CATS_AND_DOGS
    assert (found.notes, dict(found.left_out)) == ((), {})


@pytest.mark.parametrize(("val", "test"), [("valid", "Test"), ("Validation", "testing"), ("dev", "TEST")])
def test_splits_are_known_by_the_names_that_people_use(val: str, test: str) -> None:
    put(*(f"pets/Train/{name}" for name in CATS_AND_DOGS), f"pets/{val}/cat/7.png", f"pets/{test}/Dog/8.png")
    found = load("pets")
    assert found.val.files == (f"{val}/cat/7.png",)
    assert classes_of(test_split("pets"), found.classes) == {f"{test}/Dog/8.png": "dog"}
    assert set(found.notes) == {
        "Train/ has the training images",
        f"{val}/ has the validation images",
        f"{test}/ has the test images",
        "Dog is taken for the class dog",
    }


def test_two_folders_for_one_split_are_asked_about() -> None:
    put(*(f"pets/train/{name}" for name in CATS_AND_DOGS), "pets/val/cat/1.png", "pets/valid/cat/1.png")
    assert "has val and valid, which both mean val: keep one" in refusal("pets")


def test_photos_may_lie_deeper_than_their_class() -> None:
    put("pets/train/cat/0.png", "pets/train/cat/more/2024/1.png", "pets/train/cat/b/2.png", "pets/train/dog/x/y/3.png")
    put("pets/train/dog/4.png")
    assert set(everything(load("pets")).values()) == {"cat", "dog"}
    assert len(everything(load("pets"))) == 5


def test_a_folder_around_the_folder_is_left() -> None:
    put(*(f"download/Dataset/{name}" for name in CATS_AND_DOGS))
    assert everything(load("download")) == {f"Dataset/{name}": label for name, label in CATS_AND_DOGS.items()}


def test_splits_inside_of_each_class_are_used() -> None:
    put(*(f"pets/{label}/{split}/{i}.png" for label in ("cat", "dog") for split in ("train", "test") for i in range(3)))
    found = load("pets")
    assert (len(found.train) + len(found.val), found.classes) == (6, ("cat", "dog"))
    assert len(test_split("pets")) == 6
    assert "each class has a folder for each split" in found.notes


def test_a_split_beside_classes_is_no_class() -> None:
    put(*(f"pets/{name}" for name in CATS_AND_DOGS), "pets/test/cat/9.png")
    assert load("pets").classes == ("cat", "dog")
    assert test_split("pets").files == ("test/cat/9.png",)


@pytest.mark.parametrize("heap", ["test", "test/images"])
def test_an_unlabelled_heap_is_set_aside(heap: str) -> None:
    put(*(f"pets/train/{name}" for name in CATS_AND_DOGS), *(f"pets/{heap}/{i}.png" for i in range(3)))
    found = load("pets")
    assert not found.has_test
    assert found.notes == ()  # they are counted once
    assert left_out(found) == {"without a class, set aside for `search predict`": [f"{heap}/{i}.png" for i in range(3)]}


def test_the_layout_of_tiny_imagenet_is_read() -> None:
    put(*(f"tiny/train/{label}/images/{i}.png" for label in ("cat", "dog") for i in range(3)))
    Path("tiny/train/cat/cat_boxes.txt").write_text("0.png\t0\t0\t9\t9\n")
    put("tiny/val/images/5.png", "tiny/val/images/6.png", "tiny/test/images/7.png")
    Path("tiny/val/val_annotations.txt").write_text("5.png\tdog\t0\t0\t9\t9\n6.png\tcat\t0\t0\t9\t9\n")
    found = load("tiny")
    assert classes_of(found.val, found.classes) == {"val/images/5.png": "dog", "val/images/6.png": "cat"}
    assert left_out(found) == {
        "without a class, set aside for `search predict`": ["test/images/7.png"],
        "not in an image format": ["train/cat/cat_boxes.txt", "val/val_annotations.txt"],
    }


def test_what_is_left_out_is_counted_by_why() -> None:
    put(*(f"pets/train/{name}" for name in CATS_AND_DOGS), "pets/train/5.png", "pets/extra/cat/6.png")
    Path("pets/README.md").write_text("pets")
    Path("pets/train/cat/notes").write_text("a note")
    assert left_out(load("pets")) == {
        "without a class": ["train/5.png"],
        "outside of train, val and test": ["extra/cat/6.png"],
        "not in an image format": ["README.md", "train/cat/notes"],
    }


def test_an_image_is_known_by_its_content() -> None:
    put(*(f"pets/{name}" for name in CATS_AND_DOGS), "pets/cat/5", "pets/cat/6.data", "pets/dog/7.jpg")
    assert {"cat/5", "cat/6.data", "dog/7.jpg"} <= set(everything(load("pets")))


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_photos_that_need_a_plug_in_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_core.sources.folders.reads_heif", lambda: False)
    put(*(f"pets/{name}" for name in CATS_AND_DOGS))
    Path("pets/cat/9.HEIC").write_bytes(HEIC)
    assert left_out(load("pets")) == {"in .HEIC (install budget-search[heif] to read them)": ["cat/9.HEIC"]}
    for path in Path("pets/cat").glob("*.png"):
        path.unlink()
    message = refusal("pets")
    assert "the class 'cat' has no images that can be read (1 file in .HEIC (install budget-search[heif]" in message


def test_heic_is_read_where_the_plug_in_is_installed() -> None:
    heif = pytest.importorskip("pillow_heif")
    put(*(f"pets/{name}" for name in CATS_AND_DOGS), size=(64, 64))
    assert images.reads_heif()
    heif.from_pillow(Image.new("RGB", (64, 64), (200, 30, 40))).save("pets/cat/9.HEIC")
    found = load("pets")
    assert found.in_channels == 3
    assert "cat/9.HEIC" in everything(found)


def test_all_broken_images_are_named_at_once_and_can_be_skipped() -> None:
    put(*(f"pets/{name}" for name in CATS_AND_DOGS), size=(40, 40))
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for name in ("cat/1", "dog/2"):
        Image.fromarray(noise).save(f"pets/{name}.png")
        whole = Path(f"pets/{name}.png").read_bytes()
        Path(f"pets/{name}.png").write_bytes(whole[: len(whole) // 2])
    Path("pets/dog/3.png").write_bytes(b"")
    message = refusal("pets")
    assert "cannot read the images cat/1.png (" in message
    assert "dog/2.png (" in message
    assert "dog/3.png (the file is empty): repair or remove them, or leave them out with --skip-broken" in message
    found = load("pets", skip_broken=True)
    assert left_out(found) == {"that cannot be read": ["cat/1.png", "dog/2.png", "dog/3.png"]}
    assert set(everything(found)) == CATS_AND_DOGS.keys() - {"cat/1.png", "dog/2.png", "dog/3.png"}


def test_a_class_of_which_nothing_can_be_read_is_named() -> None:
    put(*(f"pets/train/{name}" for name in CATS_AND_DOGS))
    Path("pets/train/owl").mkdir()
    Path("pets/train/owl/a.png").write_bytes(b"no")
    assert "the class 'owl' has no images that can be read (1 file that cannot be read)" in refusal(
        "pets", skip_broken=True
    )


def test_a_link_to_a_folder_around_it_is_not_followed() -> None:
    put(*(f"pets/{name}" for name in CATS_AND_DOGS))
    Path("pets/cat/up").symlink_to("..")
    assert everything(load("pets")) == CATS_AND_DOGS


def test_a_link_to_nowhere_can_be_skipped() -> None:
    put(*(f"pets/{name}" for name in CATS_AND_DOGS))
    Path("pets/cat/9.png").symlink_to("gone.png")
    assert "cat/9.png (No such file or directory): repair or remove it" in refusal("pets")
    assert left_out(load("pets", skip_broken=True)) == {"that cannot be read": ["cat/9.png"]}


def test_a_folder_that_cannot_be_read_is_no_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    put(*(f"pets/{name}" for name in CATS_AND_DOGS), "pets/cat/locked/5.png")
    scandir = os.scandir

    def refused(place: Any) -> Any:
        if str(place).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refused)
    assert "cannot read the folder" in refusal("pets")


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems refuse such names")
def test_a_class_whose_name_is_not_utf8_is_refused() -> None:
    put(*(f"pets/{name}" for name in CATS_AND_DOGS))
    Path("pets/cat").rename(os.fsdecode(b"pets/caf\xe9"))
    assert "is not UTF-8: rename it" in refusal("pets")


def test_a_class_with_the_name_of_a_split_is_asked_about() -> None:
    put("pets/train/0.png", "pets/bus/1.png", "pets/car/2.png")
    assert "train has no folders for classes: put them into a folder for each class; if it is a class" in refusal(
        "pets"
    )


# ------------------------------------------------------------------------------------------------------- their sizes


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ([(32, 32)] * 3, (32, 32)),
        ([(28, 28)], (28, 28)),
        ([(96, 64)] * 2, (96, 64)),
        ([(224, 224)] * 9, (224, 224)),
        ([(4032, 3024)] * 9, (88, 64)),
        ([(3024, 4032)] * 9, (64, 88)),
        ([(100, 100)] * 9 + [(3024, 3024)] * 3, (64, 64)),
        ([(640, 480), (480, 640)], (64, 64)),
        ([(50, 60), (60, 50)], (48, 48)),
        ([(9, 10), (12, 10)], (16, 16)),
        ([(2000, 300)] * 2, (64, 64)),
    ],
)
def test_a_size_is_chosen_from_the_images(sizes: list[tuple[int, int]], chosen: tuple[int, int]) -> None:
    assert chosen_size(sizes) == chosen


def test_images_of_many_sizes_are_brought_to_one_and_it_is_said() -> None:
    put("pets/cat/1.png", "pets/dog/2.png", size=(100, 100))
    put("pets/cat/3.png", "pets/dog/4.png", "pets/cat/5.png", "pets/dog/6.png", size=(100, 50))
    found = load("pets")
    assert (found.size, found.preparation.fit) == ((48, 48), "crop")
    assert found.notes == (
        "images of 100x50 to 100x100 pixels (median 100x50) are brought to 48x48 (crop; --size chooses another)",
        "crop cuts 50 % off the median image: --fit letterbox keeps all of it",
    )
    wide = load("pets", size="20x10", fit="stretch")
    assert (wide.size, wide.notes) == (
        (10, 20),
        ("images of 100x50 to 100x100 pixels (median 100x50) are brought to 20x10 (stretch)",),
    )


def test_arrays_and_named_sets_can_be_brought_to_a_size_too() -> None:
    found = load("digits", size=16)
    assert (found.size, found.in_channels) == ((16, 16), 1)
    assert found.notes == ("images of 32x32 pixels are brought to 16x16 (crop)",)


def test_sixteen_bits_are_scaled_by_what_all_files_hold() -> None:
    for number, label in enumerate(("cat", "cat", "dog", "dog")):
        path = Path("pets", label, f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 1000 * number, np.uint16)).save(path)
    found = load("pets")
    assert found.notes == (
        "4 images have 16 bits for each value, of which 12 bits are used; they are scaled to 8 bits",
    )
    values = {*found.train.images[:, 0, 0, 0].tolist(), *found.val.images[:, 0, 0, 0].tolist()}
    assert values == {0, 1000 // 16, 2000 // 16, 3000 // 16}


def test_only_the_newest_copies_of_a_folder_are_kept() -> None:
    put(*(f"pets/{name}" for name in CATS_AND_DOGS))
    for size in range(5, 12):
        load("pets", size=size)
    assert len(list(Path("cache").glob("pets-*.npz"))) == source_cache._COPIES


# --------------------------------------------------------------------------------------------------------- tables


def table(path: str, rows: Sequence[dict[str, Any]]) -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    match file.suffix:
        case ".jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file)
        case _:
            with file.open("w", newline="") as out:
                writer = csv.DictWriter(out, list(rows[0]), delimiter="\t" if file.suffix == ".tsv" else ",")
                writer.writeheader()
                writer.writerows(rows)


ROWS = [{"file": f"{i}.png", "label": "cat" if i % 2 else "dog"} for i in range(8)]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("as_file", [True, False])
def test_a_table_says_the_classes(suffix: str, as_file: bool) -> None:
    put(*(f"pets/photos/{row['file']}" for row in ROWS), "pets/photos/77.png")
    table(f"pets/labels.{suffix}", ROWS)
    found = load(f"pets/labels.{suffix}" if as_file else "pets")
    assert everything(found) == {f"photos/{row['file']}": row["label"] for row in ROWS}
    assert found.notes == (f"labels.{suffix} says the classes (column label)",)
    assert left_out(found) == {"not named in any table": ["photos/77.png"]}


@pytest.mark.parametrize(
    ("columns", "rename"),
    [
        (("Image Path", "Class"), str),
        (("filename", "category"), lambda name: f"photos\\{name}"),
        (("id", "target"), lambda name: name.removesuffix(".png")),
    ],
)
def test_columns_are_known_by_the_names_that_people_use(columns: tuple[str, str], rename: Callable[[str], str]) -> None:
    put(*(f"pets/photos/{row['file']}" for row in ROWS))
    table("pets/train.csv", [dict(zip(columns, (rename(row["file"]), row["label"]), strict=True)) for row in ROWS])
    assert everything(load("pets")) == {f"photos/{row['file']}": row["label"] for row in ROWS}


def test_a_semicolon_table_with_a_byte_order_mark_is_read() -> None:
    put(*(f"pets/{row['file']}" for row in ROWS))
    lines = ["file;label", *(f"{row['file']};{row['label']}" for row in ROWS)]
    Path("pets/labels.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    assert len(everything(load("pets"))) == 8


def test_a_column_says_the_split_and_rows_without_a_label_are_counted() -> None:
    put(*(f"pets/{row['file']}" for row in ROWS), "pets/8.png", "pets/9.png")
    splits = ["train"] * 4 + ["valid"] * 2 + ["Test"] * 2
    rows = [{**row, "split": split} for row, split in zip(ROWS, splits, strict=True)]
    table("pets/labels.csv", [*rows, {"file": "8.png", "label": "", "split": "train"}])
    found = load("pets")
    assert (len(found.train), found.val.files, test_split("pets").files) == (
        4,
        ("5.png", "4.png"),
        ("7.png", "6.png"),
    )
    assert left_out(found) == {"without a label": ["8.png"], "not named in any table": ["9.png"]}


def test_a_hugging_face_folder_is_read() -> None:
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        put(*(f"pets/{split}/{i}.png" for i in numbers))
        table(f"pets/{split}/metadata.csv", [{"file_name": f"{i}.png", "label": i % 2} for i in numbers])
    found = load("pets")
    assert (found.classes, len(found.train) + len(found.val)) == (("0", "1"), 4)
    assert test_split("pets").files == ("test/4.png", "test/5.png")


def test_a_table_of_test_images_without_classes_is_set_aside() -> None:
    put(*(f"pets/photos/{row['file']}" for row in ROWS), "pets/photos/20.png")
    table("pets/train.csv", ROWS)
    table("pets/test.csv", [{"file": "20.png"}])
    found = load("pets")
    assert found.notes == ("train.csv says the classes (column label)",)
    assert left_out(found) == {"without a class, set aside for `search predict`": ["photos/20.png"]}
    assert not found.has_test


def embedded(path: str, rows: Sequence[dict[str, Any]], names: Sequence[str] = ()) -> None:
    """A Parquet file with the images in it, as the library of Hugging Face writes it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    made = pyarrow.Table.from_pylist(rows)
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(made, path)


def embedded_rows(names: Sequence[str], label: Callable[[str], Any]) -> list[dict[str, Any]]:
    put(*names)
    return [
        {"image": {"bytes": Path(name).read_bytes(), "path": f"{Path(name).stem}.PNG"}, "label": label(name)}
        for name in names
    ]


def test_images_inside_of_parquet_files_are_read_with_the_names_of_their_classes() -> None:
    rows = embedded_rows(list(CATS_AND_DOGS), lambda name: int(name.startswith("dog")))
    embedded("pets/data/train-00000-of-00002.parquet", rows[::2], ["cat", "dog"])
    embedded("pets/data/train-00001-of-00002.parquet", rows[1::2], ["cat", "dog"])
    tests = [*embedded_rows(["dog/9.png"], lambda _: 1), *embedded_rows(["cat/9.png"], lambda _: -1)]
    embedded("pets/data/test-00000-of-00001.parquet", tests, ["cat", "dog"])
    found = load("pets")
    assert found.classes == ("cat", "dog")
    assert len(everything(found)) == len(CATS_AND_DOGS)
    names = sorted(everything(found))
    assert names[0] == "data/train-00000-of-00002.parquet/0.PNG"
    values = {int(image.max()) for split in (found.train, found.val) for image in split.images}
    assert values == {COLOURS[label] + i for label in ("cat", "dog") for i in range(4)}
    assert test_split("pets").files == ("data/test-00000-of-00001.parquet/0.PNG",)
    assert left_out(found) == {"without a label": ["data/test-00000-of-00001.parquet/1.PNG"]}
    assert load("pets/data").classes == ("cat", "dog")


def test_one_parquet_file_of_images_is_a_source_and_a_broken_image_in_it_is_named() -> None:
    rows = embedded_rows(list(CATS_AND_DOGS), lambda name: name.split("/")[0])
    plain = [{"image": row["image"]["bytes"], "label": row["label"]} for row in rows]
    embedded("pets.parquet", plain)
    found = load("pets.parquet")
    assert (found.name, found.classes, set(map(str, found.left_out))) == ("pets", ("cat", "dog"), set())
    assert "pets.parquet/0.png" in everything(found)
    shutil.make_archive("packed", "zip", ".", "pets.parquet")
    assert set(everything(load("packed.zip"))) == set(everything(found))
    embedded("pets.parquet", [*plain, {"image": b"no image", "label": "cat"}])
    assert "cannot read the image pets.parquet/8.png (not an image, or of a format" in refusal("pets.parquet")
    embedded("pets.parquet", [*plain, {"image": None, "label": "cat"}])
    assert refusal("pets.parquet").endswith("row 8 (from 0) holds no image: fill it in, or remove the row")


def test_classes_that_are_numbers_are_in_their_order() -> None:
    put(*(f"pets/{i}/{j}.png" for i in (0, 2, 10) for j in range(2)))
    assert load("pets").classes == ("0", "2", "10")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"file": "0.png", "kind": "cat"}], "has the columns file, kind: give the one with the class the name label"),
        ([{"picture": "0.png", "label": "cat"}], "give the one with the paths the name file"),
        ([*ROWS, {"file": "no.png", "label": "cat"}], "names 1 file that cannot be found: no.png"),
        ([*ROWS, ROWS[0]], "listed more than once: 0.png"),
        ([{**row, "split": "third"} for row in ROWS], "line 2: the split is 'third': write train, val or test"),
        ([{**row, "label": "cat"} for row in ROWS], "one class only"),
        (
            [*({**row, "label": "cat"} for row in ROWS[:6]), *({**row, "label": ""} for row in ROWS[6:])],
            "has one class only, 'cat' (left out: 2 files without a label): a classifier needs two or more",
        ),
    ],
)
def test_a_table_that_does_not_say_it_is_refused(rows: Sequence[dict[str, Any]], message: str) -> None:
    put(*(f"pets/{row['file']}" for row in ROWS))
    table("pets/labels.csv", rows)
    assert message in refusal("pets/labels.csv")


def test_a_table_in_another_encoding_or_with_a_column_twice_is_refused() -> None:
    put(*(f"pets/{row['file']}" for row in ROWS))
    Path("pets/labels.csv").write_bytes("file,label\n0.png,caf\u00e9\n".encode("latin-1"))
    assert "is not UTF-8: save it as UTF-8" in refusal("pets")
    Path("pets/labels.csv").write_text("file,label,label\n0.png,cat,dog\n")
    assert "it has the column label twice" in refusal("pets")
    Path("pets/labels.csv").write_text("file,label,day\n0.png,cat,1\n1.png,dog,\n")
    assert "line 3: the group (day) is empty: fill it in" in refusal("pets", group="day")


def test_an_address_is_not_taken_for_a_file_of_its_name() -> None:
    put(*(f"pets/{row['file']}" for row in ROWS))
    table("pets/labels.csv", [{**row, "file": f"https://example.org/{row['file']}"} for row in ROWS])
    assert "names 8 files that cannot be found: https://example.org/0.png" in refusal("pets")


def test_no_group_is_on_both_sides_of_a_split() -> None:
    rows = [{"file": f"{i}.png", "label": "cat" if i % 2 else "dog", "Session": f"day {i // 4}"} for i in range(40)]
    put(*(f"pets/{row['file']}" for row in rows))
    table("pets/labels.csv", rows)
    day = {row["file"]: row["Session"] for row in rows}
    chosen = Reading(group="session")
    for seed in range(3):
        found = load_training(
            "pets", val_fraction=0.2, test_fraction=0.2, seed=seed, cache=Path("cache"), reading=chosen
        )
        test = load_test("pets", fingerprint=found.fingerprint, test_fraction=0.2, cache=Path("cache"), reading=chosen)
        assert test is not None
        days = [{day[file] for file in split.files} for split in (found.train, found.val, test)]
        assert sum(map(len, days)) == len(set.union(*days)) == 10
        assert len(days[2]) == 2
        assert set(found.train.labels.tolist()) == {0, 1}


def test_a_group_that_cannot_be_kept_together_is_refused() -> None:
    put(*(f"pets/{row['file']}" for row in ROWS))
    table("pets/labels.csv", [{**row, "day": i % 2} for i, row in enumerate(ROWS)])
    assert "number of groups: 2; three or more are needed" in refusal("pets", group="day")
    assert "has no column 'session': it has file, label, day" in refusal("pets", group="session")
    splits = ["train"] * 4 + ["test"] * 4
    table("pets/labels.csv", [{**row, "day": i % 3, "split": splits[i]} for i, row in enumerate(ROWS)])
    assert "train and test share 3 groups (0, 1, 2): a group must be on one side" in refusal("pets", group="day")


# -------------------------------------------------------------------------------------------------------- archives


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_an_archive_of_a_folder_is_read_and_leaves_nothing_unpacked(kind: str) -> None:
    put(*(f"around/pets/train/{name}" for name in CATS_AND_DOGS))
    put(*(f"around/__MACOSX/pets/train/{name}" for name in CATS_AND_DOGS))
    archive = shutil.make_archive("pets.v2", kind, "around")
    found = load(archive)
    assert (found.name, len(everything(found))) == ("pets.v2", 8)
    assert [path.suffix for path in Path("cache").iterdir()] == [".npz"]
    assert load(archive).fingerprint == found.fingerprint


def test_what_is_wrong_inside_of_an_archive_is_said_of_the_archive() -> None:
    put(*(f"around/{name}" for name in CATS_AND_DOGS))
    Path("around/cat/1.png").write_bytes(b"")
    archive = shutil.make_archive("pets", "zip", "around")
    assert refusal(archive).startswith(f"{archive}: cannot read the image cat/1.png (the file is empty)")


def test_an_archive_of_arrays_is_read() -> None:
    Path("inside").mkdir()
    np.savez("inside/a.npz", x_train=np.zeros((6, 4, 4), np.uint8), y_train=np.arange(6) % 2)
    assert load(shutil.make_archive("a", "zip", "inside")).size == (4, 4)


OUT_OF_IT = "with a path that leads out of the archive"


def test_what_would_lie_outside_of_an_archive_is_counted_and_not_written() -> None:
    put(*CATS_AND_DOGS, "9.png")
    with zipfile.ZipFile("pets.zip", "w") as file:
        for name in CATS_AND_DOGS:
            file.write(name)
        file.write("cat/1.png", "cat/a..b.png")  # dots alone do not lead out
        for name in ("../9.png", "/9.png", "cat/../../9.png"):
            file.writestr(name, Path("9.png").read_bytes())
    with tarfile.open("pets.tar", "w") as tar:
        for name in CATS_AND_DOGS:
            tar.add(name)
        tar.add("cat/1.png", "/cat/absolute.png")
        tar.add("9.png", "../9.png")
        pipe = tarfile.TarInfo("cat/pipe.png")
        pipe.type = tarfile.FIFOTYPE
        tar.addfile(pipe)
    zipped = load("pets.zip")
    assert left_out(zipped) == {OUT_OF_IT: ["../9.png", "/9.png", "cat/../../9.png"]}
    assert set(everything(zipped)) == {*CATS_AND_DOGS, "cat/a..b.png"}
    tarred = load("pets.tar")
    assert left_out(tarred) == {OUT_OF_IT: ["../9.png"], "of a special kind, such as a device": ["cat/pipe.png"]}
    assert set(everything(tarred)) == {*CATS_AND_DOGS, "cat/absolute.png"}
    assert sorted(Path("cache").rglob("9.png")) == []


def test_a_broken_archive_or_one_that_holds_nothing_inside_is_refused() -> None:
    Path("evil.txt").write_text("evil")
    with tarfile.open("evil.tar", "w") as tar:
        tar.add("evil.txt", arcname="../../evil.png")
    assert refusal("evil.tar").endswith(f"for each class (left out: 1 file {OUT_OF_IT})")
    Path("broken.zip").write_bytes(b"PK\3\4 no more")
    assert "cannot unpack broken.zip" in refusal("broken.zip")


# ---------------------------------------------------------------------------------------------------------- arrays

X = np.random.default_rng(0).integers(0, 256, (12, 6, 5, 3)).astype(np.uint8)
Y = np.arange(12) % 3


def arrays(**given: Any) -> TrainingData:
    np.savez("a.npz", **given)
    return load("a.npz")


def pixels(found: TrainingData) -> list[list[int]]:
    """The first pixel of every image, sorted."""
    both = np.concatenate([found.train.images[:, 0, 0].numpy(), found.val.images[:, 0, 0].numpy()])
    return sorted(both.tolist())


@pytest.mark.parametrize(
    "names",
    [
        ("X_train", "Y_train"),
        ("train_images", "train_labels"),
        ("images_train", "labels_train"),
        ("trainX", "trainY"),
        ("x", "y"),
        ("images", "labels"),
        ("data", "target"),
        ("arr_0", "arr_1"),
    ],
)
def test_arrays_are_known_by_the_names_that_people_use(names: tuple[str, str]) -> None:
    found = arrays(**dict(zip(names, (X, Y), strict=True)))
    assert pixels(found) == sorted(X[:, 0, 0].tolist())
    assert found.notes == (f"read {names[0]} as x_train, {names[1]} as y_train",)


def test_unnamed_arrays_are_known_by_their_shapes_where_one_meaning_fits() -> None:
    found = arrays(arr_0=X, arr_1=X[:5], arr_2=Y, arr_3=Y[:5])
    assert found.has_test
    np.savez("a.npz", arr_0=X, arr_1=X, arr_2=Y, arr_3=Y)
    assert "which is which cannot be told: name them x_train, y_train" in refusal("a.npz")


def test_the_arrays_of_medmnist_are_read() -> None:
    given = {
        f"{split}_{kind}": values
        for split in ("train", "val", "test")
        for kind, values in (("images", X), ("labels", Y[:, None]))
    }
    found = arrays(**given)
    assert (len(found.train), len(found.val), found.has_test) == (12, 12, True)


@pytest.mark.parametrize(
    ("images_given", "note"),
    [
        (X.transpose(0, 3, 1, 2), "channels first: converted"),
        (X / np.float32(255), "float32 values from 0 to 1: converted to uint8"),
        (X.astype(float), "float64 values from 0 to 255: converted to uint8"),
        (X.astype(np.int32), "int32 values from 0 to 255: converted to uint8"),
        (X.astype(np.uint16) * 16, "uint16 values of 12 bits: converted to uint8"),
    ],
)
def test_images_in_other_forms_are_converted_and_it_is_said(images_given: Any, note: str) -> None:
    found = arrays(x_train=images_given, y_train=Y)
    assert pixels(found) == sorted(X[:, 0, 0].tolist())
    assert found.notes == (note,)


def test_transparent_arrays_stand_on_the_background() -> None:
    rgba = np.concatenate([X, np.full_like(X[..., :1], 0)], axis=3)
    found = arrays(x_train=rgba, y_train=Y)
    assert (found.in_channels, pixels(found)) == (3, [[255, 255, 255]] * 12)


@pytest.mark.parametrize(
    ("labels", "classes", "note"),
    [
        (np.eye(3)[Y], ("0", "1", "2"), "one-hot labels of 3 classes: converted"),
        (
            np.array(["a", "b", "c"])[Y],
            ("a", "b", "c"),
            "3 labels are words: numbered in alphabetical order",
        ),
        (Y + 1, ("1", "2", "3"), "labels from 1 to 3: counted from 0"),
        (Y.astype(float), ("0", "1", "2"), "float64 labels that are whole numbers: converted"),
    ],
)
def test_labels_in_other_forms_are_converted_and_it_is_said(labels: Any, classes: tuple[str, ...], note: str) -> None:
    found = arrays(x_train=X, y_train=labels)
    assert (found.classes, found.notes) == (classes, (note,))
    assert np.bincount(np.concatenate([found.train.labels, found.val.labels])).tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x_train": X, "X_train": X, "y_train": Y}, "x_train and X_train could both be x_train: keep one"),
        ({"x_train": (X > 99).astype(np.int64), "y_train": Y}, "0 to 1 or 0 to 255 cannot be told"),
        ({"pictures": X, "kinds": Y}, "the array x_train is missing: it holds pictures, kinds"),
        ({"x_train": X, "y_train": np.array(Y, dtype=object)}, "damaged, or more than plain arrays"),
    ],
)
def test_what_has_two_meanings_or_none_is_asked_about(given: dict[str, Any], message: str) -> None:
    np.savez("a.npz", **given)
    assert message in refusal("a.npz")


def test_groups_of_arrays_are_kept_together() -> None:
    np.savez("a.npz", x_train=X, y_train=Y, patient=np.arange(12) // 3)
    found = load("a.npz", group="patient")
    assert len(found.val) % 3 == 0
    assert "has no array 'session' or 'session_train'" in refusal("a.npz", group="session")


def test_svhn_files_are_read() -> None:
    labels = np.array([10, 1, 2] * 4)[:, None]
    for split in ("train", "test"):
        scipy.io.savemat(f"{split}_32x32.mat", {"X": X.transpose(1, 2, 3, 0), "y": labels})
    found = load("train_32x32.mat")
    assert (found.classes, found.has_test, pixels(found)) == (("0", "1", "2"), True, sorted(X[:, 0, 0].tolist()))
    assert found.notes == ("test_32x32.mat has the test images", "labels from 1 to 10, where 10 is the digit 0")


@pytest.mark.parametrize("name", ["model.pt", "notes.txt"])
def test_another_file_is_refused_with_what_can_be_read(name: str) -> None:
    Path(name).write_bytes(b"something")
    assert "is no source of images that can be read: give a folder of images" in refusal(name)


def test_hidden_images_are_counted() -> None:
    put("photos/cat/1.png", "photos/cat/3.png", "photos/dog/1.png", "photos/dog/3.png")
    put("photos/cat/.2.png", "photos/cat/._1.png", "photos/.old/3.png", first=50)
    found = load("photos")
    assert left_out(found) == {
        "hidden, by a dot before their name or that of their folder": [".old/3.png", "cat/.2.png"]
    }


def test_where_all_classes_have_the_same_folders_these_may_be_the_classes() -> None:
    put(*(f"photos/{year}/{kind}/{i}.png" for year in (2023, 2024) for kind in ("a", "b") for i in range(2)))
    assert any("exchange the two levels" in note for note in load("photos").notes)
    put(*(f"others/{kind}/{place}/1.png" for kind, place in (("a", "x"), ("a", "y"), ("b", "x"), ("b", "z"))))
    assert not any("exchange the two levels" in note for note in load("others").notes)


def test_images_beside_no_folders_are_counted() -> None:
    put("photos/cat_0.png", "photos/dog_0.png", first=50)
    assert "; the 2 that lie in it directly have no class" in refusal("photos")
