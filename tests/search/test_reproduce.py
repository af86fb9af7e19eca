"""`search reproduce`, on a report of digits: what it trains, tests, prints, and does not do twice."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import ResNet18_Weights

from search import cli, full_runs, reproducer
from search.published import Reproduction
from search.terminal import console
from tests.support.processes import with_few
from train_core import checkpoint
from train_core.data import Split
from train_core.loop import Evaluation, evaluate
from train_core.models import ResNet

REPORT = """
data = "digits"
budget = 20_000

[baselines.S]
widths = [4, 8]
blocks = [1, 1]

[baselines.T]
widths = [8, 8]
blocks = [1, 1]

[published]
title = "Doe 2020, Digits"
notes = ["The batch size is not stated: 64."]

[published.recipe]
batch_size = 64
lr = 0.05

[published.rows.S1]
network = "S"
parameters = 1234
accuracy = 97.5
epochs = 40

[published.rows.T1]
network = "T"
parameters = 2345
accuracy = 98.25
epochs = 2
recipe = { keep = "best" }

[published.rows.T2]
network = "T"
parameters = 2345
accuracy = 99
epochs = 2
recipe = { start = "imagenet" }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the report `doe.toml` in it."""
    (tmp_path / "doe.toml").write_text(REPORT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def reproduce(
    arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, code: int = 0
) -> tuple[list[str], str]:
    """The lines on standard output, and what is on standard error."""
    monkeypatch.setattr(sys, "argv", ["search", "reproduce", *shlex.split(arguments), "--device", "cpu"])
    monkeypatch.setattr(console, "quiet", False)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code or 0) == code
    out, err = capsys.readouterr()
    return out.splitlines(), err


def note_tested(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The images of each reading of the test split, from now on."""
    tested: list[int] = []

    def counted(model: ResNet, split: Split, *about: Any) -> Evaluation:
        tested.append(len(split))
        return evaluate(model, split, *about)

    monkeypatch.setattr(reproducer, "evaluate", counted)
    return tested


def test_it_lists_what_was_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines, _ = reproduce("doe.toml --list", capsys, monkeypatch)
    assert lines[:2] == ["Doe 2020, Digits", "batch_size 64, lr 0.05"]
    assert [line.split() for line in lines[4:]] == [
        ["S1", "1,234", "97.50", "40", "[4,8]", "x", "[1,1]", "basic,", "3x3", "stem"],
        ["T1", "2,345", "98.25", "2", "[8,8]", "x", "[1,1]", "basic,", "3x3", "stem", "keep", "best"],
        ["T2", "2,345", "99.00", "2", "[8,8]", "x", "[1,1]", "basic,", "3x3", "stem", "start", "imagenet"],
    ]
    assert not Path("runs").exists()


def test_it_trains_rows_tests_each_once_and_says_what_differs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tested = note_tested(monkeypatch)
    lines, _ = reproduce("doe.toml S1 T1 --epochs 2 --precision fp32", capsys, monkeypatch)
    assert tested == [360, 360]
    assert lines[0] == "Doe 2020, Digits: 2 rows, on CPU, 1 thread"
    table = lines.index("Published, and what came out here (test accuracy in %)")
    assert lines[table + 1].split() == ["row", "parameters", "here", "accuracy", "here", "epochs", "here", "seconds"]
    results = {each.row: each for each in map(read, sorted(Path("runs/doe-reproduced").glob("*/result.json")))}
    assert set(results) == {"S1", "T1"}
    shown = [line.split() for line in lines[table + 3 : table + 5]]
    for cells, (row, printed, length) in zip(shown, [("S1", "97.50", "40"), ("T1", "98.25", "2")], strict=True):
        here = results[row]
        assert here.accuracy is not None
        assert cells[0] == row
        assert cells[2:7] == [f"{here.parameters:,}", printed, f"{100 * here.accuracy:.2f}", length, "2"]
        assert here.training_images == 1294
    best = max(results["T1"].history, key=lambda epoch: epoch.val_accuracy)
    assert (results["T1"].epoch, results["T1"].val_accuracy) == (best.epoch, best.val_accuracy)
    assert lines[table + 5 :] == [
        "Trained on 1,294 images of digits.",
        "A validation split was held out; the test split was read once, when a network was finished.",
        "The weights are those of the epoch that was best on validation, as in the report.",
        "Where the epochs differ, the whole schedule is made shorter, down to its end.",
        "The batch size is not stated: 64.",
    ]
    # Again: nothing is trained, nothing tested.
    monkeypatch.setattr(reproducer, "train_to_end", None)
    again, _ = reproduce("doe.toml S1 T1 --epochs 2 --precision fp32", capsys, monkeypatch)
    assert again == [line for line in lines if "  epoch " not in line]
    assert tested == [360, 360]


def test_with_all_images_nothing_is_held_out_and_the_last_epoch_is_tested(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tested = note_tested(monkeypatch)
    # The report kept the best epoch of this row.
    lines, _ = reproduce("doe.toml T1 --epochs 2 --protocol all-images", capsys, monkeypatch)
    done = read(next(Path("runs/doe-reproduced").glob("*/result.json")))
    assert (done.training_images, done.val_accuracy, done.epoch, done.recipe.keep) == (1437, None, 2, "last")
    assert tested == [360]
    assert f"T1  epoch 2/2  {100 * done.history[-1].train_accuracy:.2f} % training" in lines[2]
    assert "Nothing was held out; the test split was read once, after the last epoch." in lines
    assert not any("held out;" in line and line.startswith("A validation") for line in lines)


@pytest.mark.long
def test_the_published_protocol_chooses_by_the_test_split_and_marks_its_numbers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, _ = reproduce("doe.toml S1 --epochs 3 --protocol published", capsys, monkeypatch)
    done = read(next(Path("runs/doe-reproduced").glob("*/result.json")))
    assert (done.training_images, done.val_accuracy) == (1437, None)  # nothing was held out
    assert done.accuracy == max(epoch.val_accuracy for epoch in done.history)
    assert any(f"{100 * done.accuracy:.2f} *" in line for line in lines)
    assert (
        "* Of the epoch that was best on the test split, as the report chose; nothing held out: too high a number."
        in lines
    )


def test_a_report_that_held_images_out_is_reproduced_so_by_either_protocol(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "doe.toml").write_text(REPORT.replace("[published]", "[published]\nvalidates = true"))
    reproduce("doe.toml S1 --epochs 1 --protocol published", capsys, monkeypatch)
    assert read(next(Path("runs/doe-reproduced").glob("*/result.json"))).protocol == "held-out"


def test_a_row_goes_on_from_its_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_few(tmp_path)
    Path("doe.toml").write_text(REPORT.replace('"digits"', '"few.npz"'))

    def rows(runs: str) -> Reproduction:
        return full_runs.reproduce("doe.toml", ["T1"], flags={}, runs=tmp_path / runs, epochs=3, device="cpu")[0]

    whole = rows("whole")

    @contextmanager
    def stopping(*_: object) -> Iterator[Callable[[], bool]]:
        """As Ctrl-C in the first epoch, which is over in a moment."""
        yield lambda: True

    with monkeypatch.context() as patch:
        patch.setattr(full_runs, "stop_requested", stopping)
        with pytest.raises(KeyboardInterrupt):
            rows("resumed")
    (made,) = (tmp_path / "resumed").glob("*/*/checkpoint.pt")
    assert len(checkpoint.load(made, torch.device("cpu")).history) == 1
    resumed = rows("resumed")
    assert [each.val_accuracy for each in resumed.history] == [each.val_accuracy for each in whole.history]
    assert (resumed.accuracy, resumed.epoch) == (whole.accuracy, whole.epoch)


def test_where_one_row_cannot_be_trained_the_others_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", "http://127.0.0.1:9/resnet18-f37072fd.pth", False)
    lines, said = reproduce("doe.toml T2 S1 --epochs 1", capsys, monkeypatch, code=2)
    assert any(line.startswith("S1 ") for line in lines)
    assert said.startswith("search: T2: the weights of start = 'imagenet' cannot be downloaded (")
    assert said.count("\n") == 1


def test_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines, _ = reproduce("doe.toml S1 --epochs 1 --json", capsys, monkeypatch)
    (row,) = json.loads("\n".join(lines))
    assert (row["row"], row["protocol"], len(row["history"])) == ("S1", "held-out", 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("digits", "study digits holds no report to reproduce: give one of ganz-adya, keller, "),
        ("doe.toml S9", "no row 'S9' in this report: there are S1, T1, T2"),
        ("doe.toml S1 --protocol theirs", "'theirs' is unknown: give one of held-out, all-images, published"),
        ("doe.toml --epochs 0", "Invalid value for '--epochs'"),
        ("nowhere.toml", "study file nowhere.toml cannot be read"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    arguments: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, err = reproduce(arguments, capsys, monkeypatch, code=2)
    assert said in err
    assert err.count("\n") == 1
    assert not Path("runs").exists()


def read(path: Path) -> Reproduction:
    return Reproduction.model_validate_json(path.read_text())
