import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import FrozenTrial

from search import promoter
from search.errors import CheckpointError, RunError
from search.promoter import Promoter
from search.promotions import Promotion, finished, refit_of, winner
from search.run_folder import PromotionFolder, RunFolder, write_text
from search.trials import TrialRecord
from tests.support.runs import add_trial
from tests.support.tiny import tiny_data, tiny_recipe
from train_core import checkpoint
from train_core.data import Split
from train_core.loop import Evaluation, evaluate
from train_core.predictions import Predictions
from train_core.results import EpochResult
from train_core.specs import TrainSpec

DATA = tiny_data()
TEST = tiny_data(images=60).val


@pytest.fixture
def study() -> optuna.Study:
    made = optuna.create_study(direction="maximize", study_name="here")
    for score, optimizer in ((0.70, "sgd"), (0.90, "adam")):
        add_trial(made, score, optimizer)
    return made


class TestSplit:
    """Counts how often the test split is read."""

    __test__ = False

    def __init__(self, split: Split | None = TEST) -> None:
        self.split = split
        self.reads = 0

    def __call__(self) -> Split | None:
        self.reads += 1
        return self.split


def promoted(
    trial: FrozenTrial,
    root: Path,
    *,
    test: TestSplit | None = None,
    on_epoch: Callable[[EpochResult], None] = lambda result: None,
    mirrored: bool = False,
    asam: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> Promotion:
    """The trial trained for four epochs in the run folder `root`."""
    promoter = Promoter(
        folder=RunFolder(root),
        data=DATA,
        load_test=test or TestSplit(),
        device_name="a test",
        mirrored=mirrored,
        asam=asam,
    )
    return promoter.train(TrialRecord(trial), 4, seed, on_epoch, **options)


def folder_of(root: Path, trial: int = 0) -> PromotionFolder:
    return RunFolder(root).promotion(trial, 4, 0)


def test_a_promotion_trains_at_full_length_and_reads_the_test_split_once(study: optuna.Study, tmp_path: Path) -> None:
    test = TestSplit()

    def unread(result: EpochResult) -> None:
        assert test.reads == 0

    result = promoted(study.trials[0], tmp_path / "p", test=test, on_epoch=unread)
    assert test.reads == 1
    assert len(result.history) == result.recipe.epochs == 4
    assert result.short_score == 0.70
    assert result.val_accuracy == result.history[-1].val_accuracy
    state = checkpoint.load(folder_of(tmp_path / "p").checkpoint, torch.device("cpu"))
    assert result.test_accuracy == evaluate(state.eval_model, TEST, DATA.mean, DATA.std, "fp32").accuracy
    assert result.test_images == len(TEST)


def test_a_finished_promotion_is_read_back_and_neither_trained_nor_tested_again(
    study: optuna.Study, tmp_path: Path
) -> None:
    first = promoted(study.trials[0], tmp_path / "p")
    test = TestSplit()
    epochs: list[EpochResult] = []
    assert promoted(study.trials[0], tmp_path / "p", test=test, on_epoch=epochs.append) == first
    assert (test.reads, epochs) == (0, [])


def test_an_interrupted_promotion_goes_on_and_ends_with_the_same_weights(study: optuna.Study, tmp_path: Path) -> None:
    def interrupt(result: EpochResult) -> None:
        if result.epoch == 2:
            raise KeyboardInterrupt

    epochs: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        promoted(study.trials[0], tmp_path / "a", on_epoch=interrupt)
    resumed = promoted(study.trials[0], tmp_path / "a", on_epoch=lambda result: epochs.append(result.epoch))
    whole = promoted(study.trials[0], tmp_path / "b")
    assert epochs == [3, 4]
    assert resumed.test_accuracy == whole.test_accuracy
    states = [checkpoint.load(folder_of(tmp_path / name).checkpoint, torch.device("cpu")) for name in ("a", "b")]
    for first, second in zip(*(state.model.state_dict().values() for state in states), strict=True):
        assert torch.equal(first, second)


def test_a_full_disk_is_waited_for_where_the_result_is_written(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def full(path: Path, text: str) -> None:
        tries.append(path)
        if len(tries) == 1:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_text(path, text)

    monkeypatch.setattr(promoter, "write_text", full)
    result = promoted(study.trials[0], tmp_path, tests=False)
    assert tries == [folder_of(tmp_path).result] * 2
    assert folder_of(tmp_path).read(Promotion) == result


def test_seeds_give_other_runs(study: optuna.Study, tmp_path: Path) -> None:
    losses = {promoted(study.trials[0], tmp_path / str(seed), seed=seed).history[-1].val_loss for seed in (0, 1)}
    assert len(losses) == 2


def test_data_without_a_test_split_gives_no_test_number(study: optuna.Study, tmp_path: Path) -> None:
    result = promoted(study.trials[0], tmp_path / "p", test=TestSplit(None))
    assert result.test_accuracy is None
    assert result.test_images == 0
    assert result.val_accuracy is not None


def test_a_diverged_promotion_is_finished_with_its_reason_and_never_tested(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = TrainSpec.model_validate({**tiny_recipe().model_dump(), "lr": 1e30})
    monkeypatch.setattr(TrialRecord, "recipe", property(lambda trial: wild))
    test = TestSplit()
    result = promoted(study.trials[0], tmp_path / "p", test=test)
    assert result.diverged is not None
    assert "epoch 1" in result.diverged
    assert (result.val_accuracy, result.test_accuracy, test.reads) == (None, None, 0)
    assert folder_of(tmp_path / "p").read(Promotion) == result


def test_finished_promotions_are_listed_best_validation_first(study: optuna.Study, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for number in (0, 1):
        promoted(study.trials[number], tmp_path)
    folder.promotion(3, 4, 0).root.mkdir(parents=True)  # begun, not finished
    found = finished(folder)
    assert {result.trial for result in found} == {0, 1}
    assert (found[0].val_accuracy or 0) >= (found[1].val_accuracy or 0)


def test_a_checkpoint_or_a_result_of_another_network_is_refused(study: optuna.Study, tmp_path: Path) -> None:
    promoted(study.trials[0], tmp_path)
    folder_of(tmp_path).root.rename(folder_of(tmp_path, trial=1).root)
    with pytest.raises(RunError, match=r"is of another network or recipe: delete .* to train this one"):
        promoted(study.trials[1], tmp_path)
    folder_of(tmp_path, trial=1).result.unlink()
    with pytest.raises(CheckpointError, match=r"is of another network or recipe: delete .* to start over"):
        promoted(study.trials[1], tmp_path)


def test_a_damaged_checkpoint_or_result_is_named(study: optuna.Study, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    folder.root.mkdir(parents=True)
    folder.checkpoint.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged, or of another version"):
        promoted(study.trials[0], tmp_path)
    folder.result.write_text('{"trial": 1')
    with pytest.raises(RunError, match=r"result\.json cannot be read: delete it"):
        folder.read(Promotion)


def test_on_the_way_up_a_ladder_the_test_split_is_not_read_and_later_nothing_is_trained_again(
    study: optuna.Study, tmp_path: Path
) -> None:
    test, epochs = TestSplit(), list[EpochResult]()
    way_up = promoted(study.trials[0], tmp_path, test=test, tests=False)
    assert (way_up.test_accuracy, way_up.tested, test.reads) == (None, False, 0)
    final = promoted(study.trials[0], tmp_path, test=test, on_epoch=epochs.append)
    assert (epochs, test.reads) == ([], 1)
    at_once = promoted(study.trials[0], tmp_path / "at once")
    assert (final.test_accuracy, final.test_images) == (at_once.test_accuracy, len(TEST))


def test_mirrored_accuracy_can_be_asked_for_later_and_changes_nothing_else(study: optuna.Study, tmp_path: Path) -> None:
    plain = promoted(study.trials[0], tmp_path)
    mirrored = promoted(study.trials[0], tmp_path, mirrored=True)
    assert mirrored.mirrored_test_accuracy is not None
    without = {"mirrored_test_accuracy": None, "mirrored_test_balanced": None}
    assert mirrored.model_copy(update=without) == plain


def test_full_runs_take_sharpness_aware_steps_and_are_never_taken_for_plain_ones(
    study: optuna.Study, tmp_path: Path
) -> None:
    plain = promoted(study.trials[0], tmp_path / "plain")
    sharp = promoted(study.trials[0], tmp_path / "sharp", asam=0.5)
    assert TrialRecord(study.trials[0]).recipe.asam == 0  # the short run took plain steps
    assert (plain.recipe.asam, sharp.recipe.asam) == (0, 0.5)
    assert plain.history[-1].train_loss != sharp.history[-1].train_loss
    assert str(sharp.recipe).endswith("asam 0.5")
    for asam, name in ((0.5, "plain"), (0.0, "sharp"), (1.0, "sharp")):
        with pytest.raises(RunError, match=r"is of another network or recipe: delete .* to train this one"):
            promoted(study.trials[0], tmp_path / name, asam=asam)
        folder_of(tmp_path / name).result.rename(tmp_path / "kept.json")
        with pytest.raises(CheckpointError, match=r"is of another network or recipe: delete .* to start over"):
            promoted(study.trials[0], tmp_path / name, asam=asam)
        (tmp_path / "kept.json").rename(folder_of(tmp_path / name).result)
    assert promoted(study.trials[0], tmp_path / "sharp", asam=0.5) == sharp


def test_a_refit_trains_on_the_validation_images_too_and_is_no_rival(study: optuna.Study, tmp_path: Path) -> None:
    run = promoted(study.trials[0], tmp_path)
    refit = promoted(study.trials[0], tmp_path, refit=True)
    assert refit.history[-1].images > run.history[-1].images
    assert refit.val_accuracy is None
    assert refit.test_accuracy is not None
    both = finished(RunFolder(tmp_path))
    assert both == [run, refit]
    assert winner(both) == [run]
    assert refit_of(both, [run]) == refit
    assert refit_of([run], [run]) is None


@pytest.mark.parametrize(
    "changes",
    [{}, {"ema_decay": 0.9}, {"keep": "best"}, {"precision": "bf16"}],
    ids=["plain", "averaged", "best", "bf16"],
)
def test_what_is_stored_of_the_images_has_the_accuracies_that_are_reported(
    changes: dict[str, Any], study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = TrainSpec.model_validate({**tiny_recipe().model_dump(), "lr": 0.005, **changes})
    monkeypatch.setattr(TrialRecord, "recipe", property(lambda trial: recipe))
    passes: list[bool] = []

    def counted(*arguments: Any, mirrored: bool = False) -> Evaluation:
        passes.append(mirrored)
        return evaluate(*arguments, mirrored=mirrored)

    monkeypatch.setattr(promoter, "evaluate", counted)
    result = promoted(study.trials[0], tmp_path, mirrored=True)
    assert passes == [True]  # the plain accuracies come from the stored predictions
    folder = folder_of(tmp_path)
    validation, test = Predictions.read(folder.predictions("val")), Predictions.read(folder.predictions("test"))
    assert (validation.accuracy, test.accuracy) == (result.val_accuracy, result.test_accuracy)
    assert (validation.balanced, test.balanced) == (result.val_balanced, result.test_balanced)
    assert 0 < validation.accuracy < 1
    assert validation.classes == DATA.classes
    assert validation.labels.tolist() == DATA.val.labels.tolist()
    assert validation.digest != test.digest
    wrong = [number for number in validation.pictured.tolist() if not validation.is_right[number]]
    assert len(wrong) == len(validation.pictured) == min(int((~validation.is_right).sum()), 24)
    assert (validation.pictures == DATA.val.images[wrong].numpy()).all()


def test_predictions_are_written_again_after_a_kill_and_for_a_run_of_an_earlier_version(
    study: optuna.Study, tmp_path: Path
) -> None:
    result, folder = promoted(study.trials[0], tmp_path, tests=False), folder_of(tmp_path)
    whole = folder.predictions("val").read_bytes()
    folder.result.unlink()  # killed between the two
    folder.predictions("val").write_bytes(whole[:100])
    epochs: list[EpochResult] = []
    assert promoted(study.trials[0], tmp_path, tests=False, on_epoch=epochs.append) == result
    assert Predictions.read(folder.predictions("val")).accuracy == result.val_accuracy
    folder.predictions("val").unlink()
    assert promoted(study.trials[0], tmp_path, tests=False, on_epoch=epochs.append) == result
    assert Predictions.read(folder.predictions("val")).accuracy == result.val_accuracy
    assert epochs == []


def test_test_predictions_are_stored_when_the_test_split_is_read_and_not_later(
    study: optuna.Study, tmp_path: Path
) -> None:
    test, folder = TestSplit(), folder_of(tmp_path)
    promoted(study.trials[0], tmp_path, test=test, tests=False)
    assert not folder.predictions("test").exists()
    promoted(study.trials[0], tmp_path, test=test)
    folder.predictions("test").unlink()
    promoted(study.trials[0], tmp_path, test=test)
    assert (test.reads, folder.predictions("test").exists()) == (1, False)


def test_a_refit_and_a_diverged_run_have_no_validation_predictions(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        refit = promoted(study.trials[0], tmp_path, refit=True)
    folder = RunFolder(tmp_path).promotion(0, 4, 0, refit=True)
    assert not folder.predictions("val").exists()
    assert Predictions.read(folder.predictions("test")).accuracy == refit.test_accuracy
    wild = TrainSpec.model_validate({**tiny_recipe().model_dump(), "lr": 1e30})
    monkeypatch.setattr(TrialRecord, "recipe", property(lambda trial: wild))
    for _ in range(2):
        assert promoted(study.trials[0], tmp_path / "wild").diverged
    assert not folder_of(tmp_path / "wild").predictions("val").exists()
