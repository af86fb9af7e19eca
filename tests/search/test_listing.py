"""Images that are moved or changed after a run began: what is said, and what goes on."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.listing import Listing, blank, changes, keep_listing, read_listing
from search.opening import _with_same_images
from search.run_folder import DataFacts, RunFacts, RunFolder, write_facts, write_text
from tests.support.commands import search
from tests.support.runs import study_spec
from tests.support.tiny import tiny_data
from train_core.data import load_training
from train_core.formats import read

pytestmark = pytest.mark.usefixtures("known_pace")

RUN = "--budget 20k --max-madds 2M --trials 1 --epochs 1 --device cpu"
NAME = "photos-20k-2M-madds"


def write_image(file: str, seed: int) -> None:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(path)


def write_photos(folder: str = "photos", images: int = 12) -> None:
    for label in ("cat", "dog"):
        for i in range(images):
            write_image(f"{folder}/train/{label}/{i:02}.png", 100 * i + len(folder) * (label == "dog"))


def listing_of(source: str) -> Listing:
    return Listing.of(load_training(source, val_fraction=0.2, seed=0, cache=Path("cache"), test_fraction=0.2))


# ------------------------------------------------------------------------------------------------- in words


def test_files_that_are_new_missing_or_changed_are_named() -> None:
    write_photos()
    before = listing_of("photos")
    write_image("photos/train/cat/x.png", 7)
    assert changes(before, listing_of("photos")) == (
        "photos has 25 training images now, 24 when the run began: train/cat/x.png is new"
    )
    Path("photos/train/cat/x.png").rename("photos/train/dog/x.png")
    Path("photos/train/dog/00.png").unlink()
    write_image("photos/train/cat/03.png", 8)
    assert changes(before, listing_of("photos")) == (
        "photos has changed since the run began: "
        "train/dog/x.png is new; train/dog/00.png is missing; train/cat/03.png has changed"
    )


def test_three_files_of_a_kind_are_named_and_the_others_counted() -> None:
    write_photos()
    before = listing_of("photos")
    for i in range(5):
        Path(f"photos/train/cat/{i:02}.png").unlink()
    write_image("photos/test/cat/a.png", 1)
    write_image("photos/test/dog/b.png", 2)
    assert changes(before, listing_of("photos")) == (
        "photos has 19 training images now, 24 when the run began, and 2 test images now, 0 when the run began: "
        "test/cat/a.png and test/dog/b.png are new; "
        "train/cat/00.png, train/cat/01.png, train/cat/02.png and 2 more are missing"
    )


def test_of_arrays_the_numbers_of_images_are_compared() -> None:
    x, y = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8), np.arange(40) % 2

    def saved(images: int, value: int = 0) -> Listing:
        changed = x.copy()
        changed[0, 0, 0, 0] = value
        np.savez("arrays.npz", x_train=changed[:images], y_train=y[:images])
        return listing_of("arrays.npz")

    before = saved(40)
    assert changes(before, saved(39)) == (
        "arrays has 39 training images now, 40 when the run began: "
        "19 training images of class 1 now, 20 when the run began"
    )
    assert changes(before, saved(40, 1)) == ("arrays has changed since the run began: pixels or labels are different")


def test_another_size_is_said_in_place_of_the_files() -> None:
    before = Listing.of(tiny_data(side=8))
    after = Listing.of(tiny_data(side=9))
    assert changes(before, after) == ("the images are 9x9 RGB, 3 classes now, 8x8 RGB, 3 classes when the run began")


# ------------------------------------------------------------------------------------------------- in the run folder


def test_a_listing_is_written_once_and_read_back(tmp_path: Path) -> None:
    folder, data = RunFolder(tmp_path / "run"), tiny_data()
    assert read_listing(folder) is None
    keep_listing(folder, data)
    keep_listing(folder, replace(data, name="other"))
    assert read_listing(folder) == Listing.of(data)
    folder.listing.write_text('{"name": ')
    assert read_listing(folder) is None
    keep_listing(folder, data)
    assert read_listing(folder) == Listing.of(data)


@pytest.mark.parametrize("refit", [False, True])
def test_a_listing_knows_what_a_model_file_says_of_the_data(refit: bool) -> None:
    data = tiny_data()
    seen = data.with_validation_in_training() if refit else data
    known = blank(Listing.of(data), refit=refit)
    for name in ("name", "classes", "mean", "std", "fingerprint", "size", "in_channels"):
        assert getattr(known, name) == getattr(seen, name), name
    assert (len(known.train), len(known.val)) == (len(data.train), len(data.val))
    assert known.train.images.untyped_storage().nbytes() == 8 * 8 * 3


# ------------------------------------------------------------------------------------------------- the commands


def test_a_run_goes_on_when_its_images_were_moved_and_says_what_has_changed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(command: str) -> tuple[int, str, str]:
        return search(command, capsys, monkeypatch)

    def refused(command: str) -> str:
        code, out, err = ask(command)
        assert (command, code, out, err.count("\n")) == (command, 2, "", 1)
        return err

    write_photos()
    assert ask(f"run --data photos {RUN}")[0] == 0
    assert ask("promote --top 1 --epochs 1 --device cpu")[0] == 0
    old = str(Path("photos").absolute())
    shutil.move("photos", "elsewhere")

    # Moved: each command says where the images were; with --data it goes on.
    said = f"search: the images of this run were at {old}: give --data with the folder where they are now\n"
    for command in (f"run --data photos {RUN}", "promote --top 1 --epochs 2"):
        assert refused(command) == said
    code, out, err = ask("export --format safetensors")
    assert (code, err) == (0, "")
    assert out.startswith(
        "the file is tried on random pixels, not on validation images: the images of this run were at"
    )
    assert "on 100 random images\n" in out
    (card,) = Path(f"runs/{NAME}/exported").glob("*.md")
    assert "on 100 random images in fp32" in card.read_text()
    without = read(card.with_suffix("")).about
    code, out, err = ask("export --format safetensors --data elsewhere")
    assert (code, err) == (0, "")
    assert "validation images\n" in out
    assert read(card.with_suffix("")).about == without
    code, out, err = ask("promote --top 1 --epochs 2 --data elsewhere --device cpu")
    assert (code, err) == (0, "")
    assert f'data = "{old}"' in Path(f"runs/{NAME}/study.toml").read_text()  # for that call
    code, out, err = ask(f"run --data elsewhere {RUN.replace('--trials 1', '--trials 2')}")
    assert (code, err) == (0, "")
    assert out.startswith(f"runs/{NAME}: continuing\n")
    assert [path.name for path in Path("runs").iterdir()] == [NAME]
    # The run remembers the place: the command as it was first given finds the images there.
    code, out, err = ask(f"run --data photos {RUN.replace('--trials 1', '--trials 2')}")
    assert (code, err) == (0, "")
    assert out.startswith(f"runs/{NAME}: continuing\n")

    # Changed: each command says what.
    write_image("elsewhere/train/cat/x.png", 7)
    words = "elsewhere has 25 training images now, 24 when the run began: train/cat/x.png is new; put the images back"
    told = f"search: run '{NAME}' was made with other images: {words} as they were, or give "
    assert refused(f"run --data elsewhere {RUN} --name {NAME}") == f"{told}another --name\n"
    assert refused("promote --top 1 --epochs 3") == f"{told}--data with the folder that has them\n"
    assert refused("export --format safetensors --data elsewhere").startswith(told)
    code, out, err = ask("export --format safetensors")
    assert (code, err) == (0, "")
    assert out.startswith(f"the file is tried on random pixels, not on validation images: run '{NAME}' was made with")

    # A run without a listing, from an older version.
    Path(f"runs/{NAME}/images.json").unlink()
    assert "was made with data fingerprint " in (err := refused("promote --top 1 --epochs 3"))
    assert err.endswith(": put the images back as they were, or start another run\n")
    shutil.rmtree("elsewhere")
    assert "give --data with the folder where they are now" in refused("export --format safetensors")


@pytest.mark.parametrize(
    ("source", "fingerprint", "found"),
    [
        ("gone/photos", "tiny", True),
        ("gone/photos", "another", False),  # other images
        ("gone/pictures", "tiny", False),  # a run of another name
        ("photos", "tiny", False),  # a copy: the images are still where they were
        ("digits", "tiny", False),  # a data set with a name is nowhere
    ],
)
def test_a_new_place_continues_a_run_only_if_its_images_were_moved(source: str, fingerprint: str, found: bool) -> None:
    Path("photos").mkdir()
    spec, flags = study_spec(data="elsewhere"), {"data": "elsewhere"}
    for control in ("", "-random"):
        folder = RunFolder(Path(f"runs/photos-20k{control}"))
        write_text(folder.study_file, "")
        write_facts(folder, RunFacts(data=DataFacts(source=source, fingerprint=fingerprint)))
        new = RunFolder(Path(f"runs/elsewhere-20k{control}"))
        assert _with_same_images(new, "cifar10", spec, flags, "tiny") == (folder if found else None)


def test_a_new_run_beside_one_of_the_study_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def begins(data: str, flags: str = "") -> list[str]:
        code, out, err = search(f"run digits {RUN} --data {data} {flags}", capsys, monkeypatch)
        assert (code, err) == (0, "")
        return out.splitlines()[:2]

    write_photos()
    write_photos("pictures")
    shutil.copytree("photos", "copy")
    assert begins("photos")[1].startswith("data ")  # the first run of all
    new = f"runs/{NAME.replace('photos', 'pictures')}: new study"
    other = f"  a new run, because its images are others than those of run {NAME}; --name gives it another name"
    assert begins("pictures") == [new, other]
    assert begins("pictures")[1].startswith("data ")  # is continued
    assert begins("copy")[1] == f"  a new run, though run {NAME} has the same images: --name {NAME} continues it"
    assert begins("copy", f"--name {NAME}")[0] == f"runs/{NAME}: continuing"
    write_photos("birds")
    Path("birds/train/cat").rename("birds/train/owl")
    assert begins("birds")[1].startswith("data ")  # other classes: another task


def test_a_flag_that_a_command_lacks_is_not_suggested(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos()
    assert search(f"run --data photos {RUN}", capsys, monkeypatch)[0] == 0
    file = Path(f"runs/{NAME}/study.toml")
    file.write_text(file.read_text().replace("max_madds = 2000000\n", ""))
    code, _, err = search("promote --top 1 --epochs 2", capsys, monkeypatch)
    assert (code, err) == (
        2,
        f"search: run '{NAME}' was made with max_madds 2,000,000, not without it: "
        f"put it back in runs/{NAME}/study.toml, or start another run\n",
    )
