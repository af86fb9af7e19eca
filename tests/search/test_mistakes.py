"""What a network gets wrong: the numbers are scikit-learn's, and the intervals hold what they promise."""

import io
import json
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import binom
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss

from search import comparison
from search.fidelity import standard_error
from search.inspection import Reader
from search.mistakes import (
    Mistakes,
    analyse,
    calibration,
    fit_temperature,
    mcnemar,
    mistakes_of,
    neighbours,
    paired,
    softmax,
    thresholds_for,
    wilson,
)
from search.mistakes_view import mistakes_view
from search.promotions import Promotion
from search.records import FullRun
from search.run_folder import RunFolder
from tests.support.commands import Search
from tests.support.commands import search as searched
from tests.support.predicted import drawn, predictions, promoted_with, store
from tests.support.runs import make_run, promoted

pytestmark = pytest.mark.usefixtures("in_lines")


@pytest.fixture
def folder() -> RunFolder:
    """A run with two trials, of which nothing is promoted."""
    return make_run(Path("runs/pets"), [0.5, 0.7])


@pytest.fixture
def run(folder: RunFolder) -> Promotion:
    """A full run of its second trial."""
    return promoted(folder, 1)


# ------------------------------------------------------------------------------------------------------- the numbers


def test_the_numbers_are_those_of_scikit_learn(run: Promotion) -> None:
    made = drawn(500, 7, margin=1.0)
    found = analyse(made, "pets", run, "val")
    labels, said = made.labels, made.said
    assert found.accuracy.value == accuracy_score(labels, said) == made.accuracy
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, said))
    assert found.macro_f1 == pytest.approx(f1_score(labels, said, average="macro"))
    assert found.calibration.loss == pytest.approx(log_loss(labels, softmax(made.logits.astype(np.float64))))
    assert [sum(row) for row in found.matrix] == [each.images for each in found.classes]
    assert sum(found.matrix[i][i] for i in range(7)) == 500 - len(found.mistakes)
    for i, each in enumerate(found.classes):
        assert each.recall is not None
        assert each.precision is not None
        assert each.recall.value == found.matrix[i][i] / each.images
        assert each.precision.value == found.matrix[i][i] / sum(row[i] for row in found.matrix)
        assert each.recall.low < each.recall.value < each.recall.high
        assert each.f1 == pytest.approx(2 / (1 / each.recall.value + 1 / each.precision.value))
    assert sum(each.images for each in found.confusions) == len(found.mistakes)
    assert [each.images for each in found.confusions] == sorted((e.images for e in found.confusions), reverse=True)
    assert found.baseline == 72 / 500  # the largest of seven classes
    certain = [each.probability for each in found.mistakes]
    assert certain == sorted(certain, reverse=True)
    assert [each.image for each in found.mistakes][: len(made.pictured)] == made.pictured.tolist()


def test_a_class_without_images_and_one_that_is_never_said_have_no_share(run: Promotion) -> None:
    made = predictions([0, 0, 1, 1], [[5, 0, 0], [5, 0, 1], [5, 0, 1], [0, 0, 4]], classes=("cat", "dog", "fish"))
    cat, dog, fish = analyse(made, "pets", run, "val").classes
    assert (dog.precision, fish.recall, fish.f1) == (None, None, None)
    assert dog.recall is not None
    assert (dog.recall.value, dog.f1) == (0, 0)
    assert cat.f1 == pytest.approx(0.8)
    found = analyse(made, "pets", run, "val")
    assert found.balanced_accuracy == 0.5
    assert [each.name for each in found.worst_classes] == ["dog", "cat", "fish"]


def test_where_all_is_right_there_is_no_temperature_and_nothing_to_list(run: Promotion) -> None:
    found = analyse(predictions([0, 1], [[9, 0], [0, 9]]), "pets", run, "val")
    assert (found.temperature, found.calibrated, found.mistakes, found.confusions) == (None, None, (), ())
    assert found.accuracy.high == 1 > found.accuracy.low


def test_the_calibration_error_is_the_weighted_gap_of_its_bins() -> None:
    logits = drawn(400, 5, margin=1.0).logits.astype(np.float64)
    labels = np.arange(400) % 5
    probabilities = softmax(logits)
    highest, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    error = 0.0
    for low in np.linspace(0, 1, 16)[:-1]:
        inside = (highest > low) & (highest <= low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - highest[inside].mean())
    measured = calibration(logits, labels)
    assert measured.error == pytest.approx(error)
    assert sum(each.images for each in measured.bins) == 400


def test_the_temperature_that_the_logits_were_multiplied_by_is_found() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=2, size=(20_000, 5))
    labels = np.array([generator.choice(5, p=row) for row in softmax(logits)])
    temperature = fit_temperature(2.5 * logits, labels)
    assert temperature == pytest.approx(2.5, rel=0.05)
    assert calibration(2.5 * logits, labels).error > 0.1
    assert calibration(2.5 * logits / temperature, labels).error < 0.015


def test_thresholds_as_printed_answer_as_many_images_as_they_say(run: Promotion) -> None:
    made = drawn(1000, 4, margin=1.5)
    found = analyse(made, "pets", run, "val")
    highest = softmax(made.logits.astype(np.float64)).max(axis=1)
    for share, each in zip((1, 0.99, 0.95, 0.9, 0.8), found.thresholds, strict=True):
        answered = highest >= float(f"{each.threshold:.4f}")
        assert share <= each.answered == answered.mean() < share + 0.01
        assert each.accuracy is not None
        assert each.accuracy.value == made.is_right[answered].mean()
        assert each.wrong == (~made.is_right[answered]).sum()
        assert each.lost == pytest.approx(made.is_right.mean() - made.is_right[answered].sum() / 1000)
    assert thresholds_for(np.full(10, 0.99999)) == [0.0]


def test_on_test_the_temperature_and_the_thresholds_are_those_of_validation(folder: RunFolder) -> None:
    promoted_with(folder, 1, drawn(300, 3, margin=1.0), drawn(200, 3, seed=4, margin=1.0))
    validation, test = mistakes_of(folder), mistakes_of(folder, test=True)
    assert (validation.images, test.images) == (300, 200)
    assert validation.temperature == test.temperature
    assert [each.threshold for each in test.thresholds] == [each.threshold for each in validation.thresholds]
    assert test.thresholds[-1].answered != validation.thresholds[-1].answered


def test_of_several_seeds_the_best_on_validation_is_shown(folder: RunFolder) -> None:
    for seed, margin in ((0, 1.0), (1, 3.0), (2, 1.5)):
        promoted_with(folder, 1, drawn(300, 3, margin=margin), seed=seed)
    assert mistakes_of(folder).seed == 1


def test_classes_that_are_confused_with_each_other_become_neighbours() -> None:
    groups = [0, 1, 2, 0, 1, 2, 0, 1, 2]
    matrix = [[50 if i == j else 5 if groups[i] == groups[j] else 0 for j in range(9)] for i in range(9)]
    order = neighbours(matrix)
    assert sorted(order) == list(range(9))
    assert sum(groups[i] != groups[j] for i, j in pairwise(order)) == 2


# ----------------------------------------------------------------------------------------- what the intervals promise


@pytest.mark.long
@pytest.mark.parametrize("images", [20, 100, 1000])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_the_intervals_of_shares_hold_the_true_share_in_93_of_100_cases_or_more(share: float, images: int) -> None:
    """Exactly: the sum of the probabilities of all outcomes whose interval holds it."""
    intervals = [wilson(right, images) for right in range(images + 1)]
    held = [each.low <= share <= each.high for each in intervals]
    coverage = binom.pmf(np.arange(images + 1), images, share)[held].sum()
    assert 0.93 <= coverage < 0.97


def pairs(images: int, accuracy: float, number: int = 2000) -> Any:
    """Images that only the first and only the second of two equally good networks gets right; errors correlate 1/2."""
    discordant = accuracy * (1 - accuracy)
    shares = [discordant / 2, discordant / 2, 1 - discordant]
    return np.random.default_rng(0).multinomial(images, shares, size=number)[:, :2]


@pytest.mark.long
@pytest.mark.parametrize(("images", "accuracy"), [(100, 0.8), (287, 0.98), (1000, 0.95), (5000, 0.9)])
def test_of_2000_pairs_of_equally_good_networks_few_are_called_different(images: int, accuracy: float) -> None:
    called = np.mean([mcnemar(*pair) < 0.05 for pair in pairs(images, accuracy).tolist()])
    assert called <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize(("images", "accuracy"), [(1000, 0.95), (5000, 0.9)])
def test_without_pairs_equal_networks_are_told_apart_as_often_as_the_page_says(images: int, accuracy: float) -> None:
    """docs/report.md: two standard errors (ties) in about 5 of 100 cases; `compare` by images alone also in 5."""
    only = pairs(images, accuracy)
    difference = np.abs(only[:, 0] - only[:, 1]) / images
    assert np.mean(difference > 2 * standard_error(accuracy, images)) == pytest.approx(0.05, abs=0.015)
    spread = spread_of_images(accuracy, images, same=True)
    assert np.mean(difference > spread) == pytest.approx(0.05, abs=0.015)
    right = np.random.default_rng(0).binomial(images, accuracy, size=(2000, 2)) / images  # on images of their own
    spread = spread_of_images(accuracy, images, same=False)
    assert np.mean(np.abs(right[:, 0] - right[:, 1]) > spread) == pytest.approx(0.05, abs=0.015)


def full_run(validation: float, deviation: float, seeds: int) -> FullRun:
    known: Any = dict.fromkeys(FullRun.__dataclass_fields__)
    return FullRun(**known | {"validation": validation, "validation_deviation": deviation, "seeds": seeds})


def spread_of_images(accuracy: float, images: int, *, same: bool) -> float:
    runs = full_run(accuracy, 0.0, 3), full_run(accuracy, 0.0, 3)
    return comparison._spread_of_images(runs, (images, images), same=same)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_of_2000_pairs_of_equal_networks_with_seeds_at_most_5_in_100_are_called_different(
    ratio: float, seeds: int, same: bool
) -> None:
    """The standard deviation of the seeds is `ratio` times the standard error of an accuracy.

    On the same images, a half of its variance is of the images, and the same for both networks; the other half is each
    trained network's own. On images of their own, that half is the same for the seeds of a network alone.
    """
    images, accuracy, number = 1000, 0.95, 2000
    error = standard_error(accuracy, images)
    generator = np.random.default_rng(0)
    shared = generator.normal(0, error / math.sqrt(2), size=(number, 1 if same else 2, 1))
    own = generator.normal(0, math.hypot(error / math.sqrt(2), ratio * error), size=(number, 2, seeds))
    reached = accuracy + shared + own
    means, deviations = reached.mean(axis=2), reached.std(axis=2, ddof=1)
    called = 0
    for (one, other), (sd_one, sd_other) in zip(means.tolist(), deviations.tolist(), strict=True):
        runs = full_run(one, sd_one, seeds), full_run(other, sd_other, seeds)
        between = comparison._spread_of_seeds(*runs)
        assert between is not None
        spread = math.hypot(between, comparison._spread_of_images(runs, (images, images), same=same))
        called += abs(one - other) > spread
    assert called / number <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / number)


def test_mcnemars_test_is_that_of_a_fair_coin() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 0) == pytest.approx(2 / 2**5)
    assert mcnemar(0, 10) == mcnemar(10, 0) == pytest.approx(2 / 2**10)


def test_only_the_same_images_are_compared() -> None:
    one, other = drawn(100, 3, margin=1.0), drawn(100, 3, seed=2, margin=1.0)
    found = paired(one, other)
    assert found is not None
    assert found.only_first - found.only_second == round(100 * (one.accuracy - other.accuracy))
    assert paired(one, drawn(100, 3, digest="others")) is None


# ------------------------------------------------------------------------------------------------------- the terminal

PETS = predictions(
    [0] * 8 + [1] * 8 + [2] * 4,
    [[3.0, 0, 0]] * 7 + [[0, 4.0, 1]] + [[0, 3.0, 0]] * 5 + [[1.0, 0, 0]] * 3 + [[0, 0, 3.0]] * 3 + [[2.0, 0, 1]],
    classes=("cat", "dog", "fish"),
    files=[f"val/{i:02}.jpg" for i in range(20)],
)
ERRORS = """
pets, trial 1, seed 0, 5 epochs: 20 validation images
accuracy     75.0 % (53.1 to 88.8): 5 of 20 wrong
balanced     75.00 % (mean recall); macro F1 76.94 %
baseline     40.00 %, by always saying cat
calibration  error 23.44 points (ECE, 15 bins); 16.47 with temperature 1.15
Classes, the lowest recall first (with 95 % intervals; in %)
class  images  recall      interval  precision       interval    F1
───────────────────────────────────────────────────────────────────
dog         8    62.5  30.6 to 86.3       83.3   43.6 to 97.0  71.4
fish        4    75.0  30.1 to 95.4      100.0  43.9 to 100.0  85.7
cat         8    87.5  52.9 to 97.8       63.6   35.4 to 84.8  73.7
The most frequent confusions
true  said  images  of its class
────────────────────────────────
dog   cat        3       37.50 %
cat   dog        1       12.50 %
fish  cat        1       25.00 %
"""
MOST_CERTAIN = """
The most certain mistakes
true  said  probability  of the true one  file
────────────────────────────────────────────────────
cat   dog       93.62 %           1.71 %  val/07.jpg
fish  cat       66.52 %          24.47 %  val/19.jpg
dog   cat       57.61 %          21.19 %  val/13.jpg
dog   cat       57.61 %          21.19 %  val/14.jpg
dog   cat       57.61 %          21.19 %  val/15.jpg
"""


def in_a_terminal(mistakes: Mistakes, **options: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80, highlight=False)
    with console.capture() as captured:
        console.print(mistakes_view(mistakes, **options))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def test_the_terminal_shows_classes_confusions_mistakes_and_thresholds(folder: RunFolder, search: Search) -> None:
    promoted_with(folder, 1, PETS)
    shown = in_a_terminal(mistakes_of(folder))
    assert shown.startswith(ERRORS.strip())
    assert MOST_CERTAIN.strip() in shown
    assert '"None of these": no answer if the highest probability is below a threshold' in shown
    assert max(map(len, shown.split("\n"))) <= 80
    assert search("errors pets").split() == shown.split()
    assert search("errors").split() == shown.split()  # of the run used last


def test_json_has_the_whole_record(folder: RunFolder, search: Search) -> None:
    promoted_with(folder, 1, PETS)
    found = json.loads(search("errors --json"))
    assert set(found) == set(Mistakes.__dataclass_fields__)
    assert found["matrix"] == [[7, 1, 0], [3, 5, 0], [1, 0, 3]]
    assert found["mistakes"][0]["file"] == "val/07.jpg"
    assert found["classes"][1]["recall"]["value"] == 0.625


def test_files_are_lines_for_a_pipe(folder: RunFolder, search: Search) -> None:
    promoted_with(folder, 1, PETS)
    lines = search("errors --files").splitlines()
    assert lines[0] == "val/07.jpg\tcat\tdog"
    assert len(lines) == 5


def test_many_classes_are_cut_off_unless_all_are_asked_for(folder: RunFolder, search: Search) -> None:
    made = drawn(2000, 50, margin=2.0)
    promoted_with(folder, 1, made)
    found = mistakes_of(folder)
    shown = search("errors")
    assert "and 30 classes with a higher recall: --all" in shown
    assert f"and {len(found.confusions) - 10} rarer confusions: --all" in shown
    assert f"and {len(found.mistakes) - 10} less certain mistakes: --all" in shown
    whole = search("errors --all")
    assert "--all" not in whole
    assert len(whole.splitlines()) > 50 + len(found.confusions) + len(found.mistakes)
    assert "\x1b" not in in_a_terminal(
        analyse(drawn(9, 3, classes=("\x1b[2J", "b", "c")), "pets", promoted(folder, 1), "val")
    )


def test_another_trial_is_chosen_by_its_number(folder: RunFolder, search: Search) -> None:
    promoted_with(folder, 1, PETS)
    promoted_with(folder, 0, drawn(30, 3), val_accuracy=0.1)
    assert json.loads(search("errors --trial 0 --json"))["images"] == 30
    assert json.loads(search("errors --json"))["images"] == 20


def test_what_is_not_stored_is_said_in_one_line(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(command: str) -> str:
        code, out, err = searched(command, capsys, monkeypatch)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        return err

    assert "no run 'nowhere' in runs: there are pets" in said("errors nowhere")
    assert "run 'pets' has no finished full run, only short ones: train its best with `search promote" in said("errors")
    run = promoted(folder, 1)
    old = said("errors")
    assert "no stored validation predictions of trial 1 of run 'pets' (of an earlier version), promote again" in old
    assert "the test images are read only once: leave out --test" in said("errors --test")
    assert "trial 0 of run 'pets' has no finished full run: give one of 1" in said("errors --trial 0")
    promoted_with(folder, 0, PETS, val_accuracy=0.1)
    assert "--test is for the best full run alone, trial 1: leave out --trial 0" in said("errors --test --trial 0")
    assert "leave out one of them" in said("errors --files --json")
    path = folder.promotion(1, 5, 0).predictions("val")
    path.write_bytes(b"PK nothing")
    assert "predictions-val.npz cannot be read, delete it, and `search promote pets` writes it again" in said("errors")
    store(folder, run, drawn(30, 3, margin=1.0))
    assert "the images of run 'pets' come from no files: leave out --files" in said("errors --files")
    promoted_with(folder, 0, PETS, val_accuracy=0.1, tested=False)
    promoted_with(folder, 1, PETS, tested=False)
    assert "the test split is not read for it yet: `search promote pets` reads it" in said("errors --test")
    promoted_with(folder, 1, PETS)
    assert "no test predictions of trial 1 of run 'pets': its data have no test split" in said("errors --test")
    assert "Invalid value for '--trial'" in said("errors --trial -1")


def test_errors_needs_no_torch(monkeypatch: pytest.MonkeyPatch, folder: RunFolder) -> None:
    promoted_with(folder, 1, PETS)
    code = "import sys; sys.argv[0] = 'search'; from search.cli import main; main()"
    command = [sys.executable, "-X", "importtime", "-c", code, "errors"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "torch" not in done.stderr
    assert done.stdout.isascii()
    assert "75.0 %" in done.stdout


# ---------------------------------------------------------------------------------------- two runs, image by image


def right(images: int, wrong: range) -> Any:
    """Predictions of two classes that are right except for these images."""
    logits = [[1.0, 0.0] if i in wrong else [0.0, 1.0] for i in range(images)]
    return predictions([1] * images, logits)


@pytest.mark.parametrize(
    ("first", "second", "better", "words"),
    [
        ([range(30)], [range(10, 20)], "two", "two is better, as trained: of the same 200 validation images, only one"),
        ([range(5)], [range(3, 10)], None, "no verdict: of the same 200 validation images, only one gets 5 right"),
        (
            [range(30), range(31)],
            [range(9), range(8)],
            "two",
            "two is better, by 11.00 points on validation, where between seeds 1.52 points can be chance",
        ),
        ([range(30), range(5)], [range(9), range(8)], None, "but the means of the seeds differ by"),
    ],
    ids=["one seed", "chance", "seeds", "seeds differ"],
)
def test_two_runs_are_compared_on_the_same_images(
    first: list[range], second: list[range], better: str | None, words: str, search: Search
) -> None:
    readers = []
    for name, seeds in (("one", first), ("two", second)):
        folder = make_run(Path("runs") / name, [0.5])
        for seed, wrong in enumerate(seeds):
            promoted_with(folder, 0, right(200, wrong), seed=seed)
        readers.append(Reader(folder))
    found = comparison.compare(*readers)
    assert words in found.verdict
    assert "McNemar's exact test, p " in found.verdict
    assert found.better == better
    assert found.paired is not None
    assert found.paired.only_first == len({*second[0]} - {*first[0]})
    assert found.paired.only_second == len({*first[0]} - {*second[0]})
    assert json.loads(search("compare one two --json"))["paired"]["p"] == found.paired.p


def test_without_the_same_images_accuracies_are_compared() -> None:
    one, two = (make_run(Path("runs") / name, [0.5]) for name in ("one", "two"))
    _, other = (promoted_with(folder, 0, right(200, range(9))) for folder in (one, two))
    assert comparison.compare(Reader(one), Reader(two)).paired is not None
    store(two, other, drawn(200, 2, digest="others"))
    found = comparison.compare(Reader(one), Reader(two))
    assert (found.paired, found.better) == (None, None)
    assert found.verdict == "no verdict: one seed alone does not show what is chance: promote with --seeds 3"
    two.promotion(0, 5, 0).predictions("val").write_bytes(b"")
    assert comparison.compare(Reader(one), Reader(two)).paired is None
