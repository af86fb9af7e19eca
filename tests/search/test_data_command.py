"""`search data`: what it prints, for people and for scripts, and what it refuses in one line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search import api
from search.run_folder import RunRef
from search.session import Placement
from tests.support.commands import search

pytestmark = pytest.mark.usefixtures("known_pace")

Command = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return lambda words: search(words, capsys, monkeypatch)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes with a test split, in which eight images are copies of training images."""
    generator = np.random.default_rng(0)
    for label in ("cat", "dog"):
        images = [Image.fromarray(generator.integers(256, size=(16, 16, 3), dtype=np.uint8)) for _ in range(20)]
        for split, chosen in (("train", images[:12]), ("test", images[8:16])):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for number, image in enumerate(chosen):
                image.save(folder / f"{number}.png")
    for number in range(7):
        (tmp_path / "photos" / f"{number}.txt").write_text("notes")
    return tmp_path / "photos"


def test_all_that_a_folder_holds_is_printed(photos: Path, command: Command) -> None:
    code, out, err = command("data photos")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:2] == [
        "data     photos: 22 training and 2 validation images, 16x16 RGB, 2 classes, a test split that only `promote` "
        "reads",
        "  left out: 7 files not in an image format: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more",
    ]
    assert lines[2] == "files    16x16 pixels"
    table = [line.split() for line in lines[4:9] if "─" not in line]
    assert table == [
        ["class", "training", "validation", "test", "all"],
        ["cat", "11", "1", "8", "20"],
        ["dog", "11", "1", "8", "20"],
        ["2", "classes", "22", "2", "16", "40"],
    ]
    assert "equal images: 16 in 8 groups" in lines
    assert "  across splits: 8 groups" in lines
    assert any(line.endswith(" = test/cat/0.png (test, cat)") for line in lines)
    assert "    and 3 more (--all)" in lines
    assert "almost equal images: none" in lines
    assert lines[-2:] == [
        "warning  8 test images are also training or validation images: the test accuracy would be too high. Keep only "
        "one of each.",
        "contact sheet: --sheet sheet.png draws some training images of each class",
    ]


def test_all_names_are_printed_on_request(photos: Path, command: Command) -> None:
    _, out, _ = command("data photos --all")
    assert "0.txt, 1.txt, 2.txt, 3.txt, 4.txt, 5.txt, 6.txt" in out
    assert out.count(" = ") == 8
    assert " more" not in out


def test_json_has_all_of_it_and_nothing_else(photos: Path, command: Command) -> None:
    code, out, err = command("data photos --json --sheet sheet.png")
    assert (code, err) == (0, "")
    census = json.loads(out)
    assert census["counts"]["cat"] == {"train": 11, "val": 1, "test": 8}
    assert census["held_out"] == ["val"]
    assert census["file_sizes"]["median"] == [16, 16]
    assert census["left_out"] == {"not in an image format": [f"{number}.txt" for number in range(7)]}
    for group in census["equal"]:
        _, copy = group["pictures"]
        assert copy == {"name": copy["name"], "split": "test", "label": copy["name"].split("/")[1]}
    assert len(census["equal"]) == 8
    assert Path("sheet.png").exists()


def test_a_study_is_looked_at_with_its_settings_and_flags(photos: Path, command: Command) -> None:
    Path("my.toml").write_text('data = "photos"\nbudget = 20000\nval_fraction = 0.5\n[reading]\nsize = 8\n')
    assert command("data my.toml")[1].startswith("data     photos: 12 training and 12 validation images, 8x8 RGB")
    assert "12 training and 12 validation images, 12x10 RGB" in command("data my.toml --size 10x12")[1]
    assert "287 validation images, 32x32 grey, 10 classes" in command("data digits")[1]


def test_what_a_search_would_hold_out_is_counted_unless_it_is_not_wanted(photos: Path, command: Command) -> None:
    assert "4 images held out as a test split" in command("data photos/train")[1]
    out = command("data photos/train --no-test")[1]
    assert "no test split" in out
    assert "test  " not in out


def test_of_many_classes_the_smallest_and_the_largest_are_shown(command: Command) -> None:
    labels = np.repeat(np.arange(30), np.arange(4, 34))
    images = np.random.default_rng(0).integers(256, size=(len(labels), 4, 4), dtype=np.uint8)
    np.savez("many.npz", x_train=images, y_train=labels, classes=[f"c{number:02}" for number in range(30)])
    lines = command("data many.npz")[1].splitlines()
    shown = [line.split()[0] for line in lines if line.startswith(("c0", "c1", "c2", "..."))]
    assert shown == [*(f"c{i:02}" for i in range(10)), "...", *(f"c{i:02}" for i in range(20, 30))]
    (between,) = [line.split() for line in lines if line.startswith("...")]
    assert between[:3] == ["...", "10", "classes"]
    assert between[-1] == str(sum(range(14, 24)))
    assert sum(line.startswith("c") for line in command("data many.npz --all")[1].splitlines()) == 32  # and two others


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("data photos --sheet sheet.jpg", "--sheet sheet.jpg: the sheet is a PNG file: give a name that ends in .png"),
        ("data photos --sheet no/sheet.png", "--sheet no/sheet.png: there is no folder no: make it, or give another"),
        ("data digit", "unknown data set 'digit': did you mean digits?"),
        ("data nothing.toml", "study file nothing.toml cannot be read"),
        ("data photos --size big", "'big' is no size: give one as in 64 or 96x64"),
        ("data photos", "cannot read the image train/cat/broken.png (not an image, or of a format"),
    ],
)
def test_a_mistake_is_one_line(photos: Path, command: Command, words: str, message: str) -> None:
    (photos / "train" / "cat" / "broken.png").write_text("no image")
    code, out, err = command(words)
    assert (code, out) == (2, "")
    assert err.startswith("search: ")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not Path("sheet.jpg").exists()


def test_broken_images_are_left_out_on_request(photos: Path, command: Command) -> None:
    (photos / "train" / "cat" / "broken.png").write_text("no image")
    assert "left out: 1 file that cannot be read: train/cat/broken.png" in command("data photos --skip-broken")[1]


def test_classes_without_validation_or_test_images_are_warned_of(
    photos: Path, command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.rmtree(photos / "test" / "dog")
    for label in ("owl", "bee"):
        shutil.copytree(photos / "train" / "cat", photos / "train" / label)
    shutil.copytree(photos / "train" / "cat", photos / "valid" / "cat")
    warnings = [
        "warning  3 classes have training images, but no validation images (bee, dog, owl): the validation score says "
        "nothing of them. Add validation images of them.",
        "warning  3 classes have training images, but no test images (bee, dog, owl): the test score says nothing of "
        "them. Add test images of them.",
    ]
    assert [line for line in command("data photos")[1].splitlines() if "says nothing" in line] == warnings
    flags = {"data": "photos", "trials": 1, "epochs": 1, "budget": 20_000}
    api.run("digits", flags, RunRef("run", tmp_path / "runs", None), Placement(device="cpu"))
    assert [line for line in capsys.readouterr().out.splitlines() if "says nothing" in line] == warnings


HOSTILE = "a\x1b[31m\u202eb"
SHOWN = r"a\x1b[31m\u202eb"


def test_names_do_not_steer_the_terminal(photos: Path, command: Command) -> None:
    (photos / "train" / "cat").rename(photos / "train" / HOSTILE)
    (photos / "test" / "cat").rename(photos / "test" / HOSTILE)
    (photos / "train" / HOSTILE / "0.png").rename(photos / "train" / HOSTILE / f"{HOSTILE}.png")
    (photos / f"{HOSTILE}.txt").touch()

    def said(words: str, code: int = 0) -> str:
        ended, out, err = command(words)
        assert ended == code, err
        assert not {"\x1b", "\u202e"} & set(out + err)
        return out + err

    out = said("data photos --all")
    assert f"{SHOWN}.txt" in out
    assert f"train/{SHOWN}/9.png (training, {SHOWN}) = test/{SHOWN}/1.png (test, {SHOWN})" in out
    assert json.loads(command("data photos --json")[1])["classes"] == [HOSTILE, "dog"]
    said("run digits --data photos --budget 20k --trials 1 --epochs 1 --name run --device cpu")
    said("promote run --top 1 --epochs 1 --device cpu")
    assert SHOWN in said("errors run --all")
    said("errors run --files")
    said("export run --format safetensors")
    model = next(Path("runs/run/exported").glob("*.safetensors"))
    assert SHOWN in said(f"predict {model} photos/test")
    (photos / "train" / HOSTILE / f"{HOSTILE}.png").write_bytes(b"")
    assert f"cannot read the image train/{SHOWN}/{SHOWN}.png" in said("data photos", 2)
    shutil.move(photos, photos.with_name(HOSTILE))
    assert SHOWN in said(f"data '{HOSTILE}'", 2)


def test_a_name_that_is_not_utf8_can_be_used_again(photos: Path, command: Command, tmp_path: Path) -> None:
    name = b"caf\xe9,\xff.png"
    (photos / "0.txt").rename(photos / "left.txt")
    image = (photos / "train" / "cat" / "0.png").rename(photos / "train" / "cat" / os.fsdecode(name))
    run = "run digits --data photos --budget 20k --trials 1 --epochs 1 --name run --device cpu"
    for words in (run, "promote run --top 1 --epochs 1", "export run --format safetensors"):
        assert command(words)[0] == 0
    (photos / "left.txt").rename(photos / os.fsdecode(b"\xff.txt"))
    (left_out,) = json.loads(command("data photos --json")[1])["left_out"].values()
    assert b"\xff.txt" in map(os.fsencode, left_out)
    model = next(Path("runs/run/exported").glob("*.safetensors"))
    folder = tmp_path / "some"
    folder.mkdir()
    shutil.copy(image, folder)
    code = f"""
import sys
from search.cli import main
for flag in ([], ["--csv"], ["--json"]):
    sys.argv = ["search", "predict", {str(model)!r}, "some", *flag]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, flag
    print("end of this form")
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    plain, table, record, _ = printed.split(b"end of this form\n")
    assert plain.startswith(b"some/" + name + b"  ")
    assert b'\n"some/' + name + b'",' in table
    (answer,) = json.loads(record)
    assert os.fsencode(answer["image"]) == b"some/" + name


def test_the_plan_of_a_search_warns_of_copies(photos: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = {"data": "photos", "trials": 1, "epochs": 1, "budget": 20_000}
    api.run("digits", flags, RunRef("run", tmp_path / "runs", None), Placement(device="cpu"))
    assert (
        "warning  8 test images are also training or validation images: the test accuracy would be too high. Keep "
        "only one of each. `search data` names them\n" in capsys.readouterr().out
    )
