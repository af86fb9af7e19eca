"""What networks are compared by: chosen by the classes, kept by the run, and said wherever a score is shown."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search import scores, searching
from search.cautions import cautions
from search.fidelity import effective_images, measured_on, standard_error
from search.identity import open_study
from search.plan import Estimate
from search.promoter import Promoter
from search.promotions import finished, winner
from search.report import write_report
from search.results import headline, read_results, remarks
from search.run_folder import RunFolder, write_text
from search.spec import load_study
from search.trials import best, records
from tests.support.commands import search
from tests.support.runs import NEVER, make_run, promoted
from tests.support.tiny import tiny_data
from tests.support.trainers import FakeTrainer, epoch_result, in_turn
from train_core import checkpoint
from train_core.loop import evaluate

COUNTS = st.lists(st.integers(1, 1000), min_size=2, max_size=12)


@pytest.mark.parametrize(
    ("images", "score"),
    [([220, 40, 8], "balanced"), ([30, 10], "balanced"), ([29, 10], "accuracy"), ([5000] * 10, "accuracy")],
)
def test_three_times_as_many_images_in_the_largest_class_make_it_balanced(images: list[int], score: str) -> None:
    assert scores.chosen(images) == score
    assert bool(scores.reason(images, [f"c{i}" for i in range(len(images))])) == (score == "balanced")


def test_the_reason_names_the_largest_and_the_smallest_class() -> None:
    said = "because class cat has 2,200 training images and ship 8"
    assert scores.reason([2200, 40, 8], ["cat", "dog", "ship"]) == said


def test_always_answering_the_largest_class_is_right_for_its_share_or_for_one_class_of_all() -> None:
    assert scores.always_largest([19, 3, 1], "accuracy") == 19 / 23
    assert scores.always_largest([19, 3, 1], "balanced") == 1 / 3
    assert scores.always_largest([19, 3, 0], "balanced") == 1 / 2  # a class without images has no recall
    assert scores.always_largest([], "accuracy") is None


@given(counts=COUNTS, recall=st.floats(0.05, 0.95))
def test_a_balanced_accuracy_is_as_uncertain_as_an_accuracy_on_fewer_images(counts: list[int], recall: float) -> None:
    images = effective_images(counts)
    assert 1 <= images <= sum(counts)
    exact = (sum(recall * (1 - recall) / count for count in counts)) ** 0.5 / len(counts)
    assert standard_error(recall, images) == pytest.approx(exact, rel=0.3)  # rounded to whole images
    assert effective_images([counts[0]] * 5) == 5 * counts[0]
    assert effective_images([*counts, 0]) == images


def test_the_standard_error_of_a_balanced_accuracy_is_that_of_simulated_answers() -> None:
    counts, generator = np.array([200, 60, 20]), np.random.default_rng(0)
    recalls = generator.binomial(counts, 0.8, size=(20_000, 3)) / counts
    assert standard_error(0.8, effective_images(counts.tolist())) == pytest.approx(recalls.mean(1).std(), rel=0.03)


def balanced_run(root: Path, accuracies: list[float], **values: Any) -> RunFolder:
    """A run whose trials have these accuracies, and 1 less each as balanced accuracy; 23 validation images."""
    trainer = FakeTrainer(in_turn(accuracies), balanced=lambda accuracy: 1 - accuracy)
    changes = {"trials": len(accuracies), "epochs": 1, "pruner": NEVER, **values}
    folder = make_run(root, trainer=trainer, **changes)
    write_text(
        folder.facts, json.dumps({"data": {"validation_images": 23, "validation_images_of_classes": [19, 3, 1]}})
    )
    return folder


@pytest.mark.parametrize(("score", "first"), [("balanced", 1), ("accuracy", 2), ("auto", 2)])
def test_the_best_trial_is_the_best_by_the_study_s_score(
    score: str, first: int, tmp_path: Path, in_lines: None
) -> None:
    folder = balanced_run(tmp_path / "run", [0.6, 0.5, 0.9], score=score)
    study = open_study(folder)
    trials = records(study)
    found = best(trials)
    assert found is not None
    assert found.number == first
    assert [trial.accuracy for trial in trials] == [0.6, 0.5, 0.9]
    assert [trial.balanced for trial in trials] == pytest.approx([0.4, 0.5, 0.1])
    values = [trial.balanced if score == "balanced" else trial.accuracy for trial in trials]
    assert [trial.score for trial in trials] == values
    assert [list(trial.curve.values()) for trial in trials] == [[value] for value in values]
    prefix = "balanced " if score == "balanced" else ""
    assert study.metric_names == [f"{prefix}validation accuracy"]


def promote_two(folder: RunFolder) -> None:
    for trial, accuracy, balanced in ((0, 0.9, 0.4), (1, 0.8, 0.6)):
        history = tuple(epoch_result(epoch, accuracy, balanced=balanced) for epoch in (1, 2))
        values: dict[str, Any] = {
            "score": "balanced",
            "val_accuracy": accuracy,
            "val_balanced": balanced,
            "history": history,
        }
        promoted(folder, trial, epochs=2, test_accuracy=accuracy, test_balanced=balanced - 0.1, **values)


def test_the_winner_is_the_best_by_the_study_s_score(tmp_path: Path, in_lines: None) -> None:
    folder = balanced_run(tmp_path / "run", [0.6, 0.5], score="balanced")
    promote_two(folder)
    (run,) = winner(finished(folder))
    assert (run.trial, run.val_score, run.test_score, run.curve) == (1, 0.6, 0.5, (0.6, 0.6))
    assert measured_on(folder, "balanced") == 6
    assert measured_on(folder, "accuracy") == 23
    results = read_results(folder)
    said = " ".join([headline(results), *remarks(results), *cautions(results)])
    assert "it reaches 60.00 % balanced accuracy on validation, by which it was chosen; 50.00 % balanced acc" in said
    assert "Always answering the largest class reaches 33.33 % balanced accuracy on validation." in said
    assert "What counts as 6 validation images, because the smallest classes have few: differences under " in said
    assert "The balanced validation accuracy of the best of 2 is likely up to " in said
    assert "so few images of the smallest classes do not tell the two apart" in said


def test_the_report_says_which_score_it_shows(tmp_path: Path, in_lines: None) -> None:
    folder = balanced_run(tmp_path / "run", [0.6, 0.5], score="balanced")
    promote_two(folder)
    page = write_report(folder).read_text()
    assert page.count('"Balanced validation accuracy (%)"') == 4  # the axes; the panels have none
    assert '"Validation accuracy (%)"' not in page
    assert "Chosen by the full run's balanced validation accuracy." in page
    assert "50.00 % balanced on validation" in page  # of trial 1, in a hover
    assert "Validation<br>balanced accuracy" in page
    assert "Test<br>balanced accuracy" in page


def test_a_full_run_measures_both_and_counts_by_the_study_s_score(tmp_path: Path, in_lines: None) -> None:
    folder = balanced_run(tmp_path / "run", [0.6], score="balanced")
    (trial,) = records(open_study(folder))
    trial.optuna.user_attrs["network"] = trial.network.model_copy(
        update={"num_classes": 3, "in_channels": 3}
    ).model_dump_json()
    data, test = tiny_data(), tiny_data(images=60).val
    promoter = Promoter(
        folder=folder, data=data, load_test=lambda: test, device_name="a test", mirrored=True, score="balanced"
    )
    run = promoter.train(trial, 2, 0, lambda result: None)
    state = checkpoint.load(folder.promotion(trial.number, 2, 0).checkpoint, data.train.images.device)
    for mirrored, accuracy, balanced in (
        (False, run.test_accuracy, run.test_score),
        (True, run.mirrored_test_accuracy, run.mirrored_test_score),
    ):
        measured = evaluate(state.final_model, test, data.mean, data.std, "fp32", mirrored=mirrored)
        assert (accuracy, balanced) == (measured.accuracy, measured.balanced)
    assert run.val_score == run.val_balanced == run.history[-1].val_balanced
    assert run.short_score == pytest.approx(0.4)


def unequal(path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [60, 20, 10])
    pixels = generator.integers(0, 255, (90, 8, 8, 3), np.uint8)
    np.savez(path, x_train=pixels, y_train=labels, classes=np.array(["cat", "dog", "ship"]))


def test_a_search_of_unequal_classes_says_by_what_it_compares_and_keeps_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "Trainer", lambda *_: FakeTrainer(balanced=lambda accuracy: accuracy / 2))
    monkeypatch.setattr(searching, "estimate", lambda *_: Estimate(images_per_second=1234.5, trial_s=22.5))
    unequal(Path("animals.npz"))
    run = "run digits --data animals.npz --budget 20k --epochs 2"

    def said(command: str) -> str:
        code, out, err = search(command, capsys, monkeypatch)
        assert (code, err) == (0, "")
        return " ".join(out.split())

    out = said(f"{run} --trials 2")
    why = "because class cat has 41 training images and ship 6"
    assert f"score balanced accuracy, {why} (always the largest class: 33.33 %)" in out
    assert " trial balanced size time left " in out  # the heading of the trials' lines
    assert "Best trials (score: balanced validation accuracy after the short run)" in out
    assert load_study("runs/animals-20k/study.toml", {}).score == "balanced"
    assert f"score balanced accuracy, {why}" in said(f"{run} --trials 3")
    code, _, err = search(f"{run} --trials 3 --score accuracy", capsys, monkeypatch)
    assert code == 2
    assert "run 'animals-20k' was made with score balanced, not accuracy: give the same, or another --name" in err

    status = json.loads(said("status --json"))
    assert (status["score"], status["always_largest"]) == ("balanced", 1 / 3)
    first = status["best_short"]
    assert first["validation"] == first["validation_balanced"] == first["validation_accuracy"] / 2
    assert "score balanced accuracy (always the largest class: 33.33 %)" in said("status")
    assert f"{100 * first['validation']:.2f} % balanced, trial {first['trial']}" in said("status")
    assert f"complete, {100 * first['validation']:.2f} % balanced, number 1 of 3" in said(f"show {first['trial']}")
    assert "balanced validation accuracy of the short run" in said("show 0")
    assert json.loads(said("show 0 --json"))["score"] == "balanced"
    assert f"{100 * first['validation']:.2f} b" in said("list")

    out = said(f"{run} --trials 1 --score accuracy --name by-accuracy")
    assert "score accuracy (always the largest class: 66.67 %)" in out
    assert " balanced" not in out
    verdict = "not to be compared: one chose by accuracy, the other by balanced accuracy"
    for name in ("animals-20k", "by-accuracy"):
        folder = RunFolder(Path("runs") / name)
        promoted(folder, 0, val_balanced=0.5, score=load_study(str(folder.study_file), {}).scored_by)
    assert verdict in said("compare animals-20k by-accuracy")
