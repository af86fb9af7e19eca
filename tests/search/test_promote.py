from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState

from search import promote as promotions
from search.errors import CheckpointError, RunError
from search.promote import Promotion, choose, finished, promote, read_result
from search.run_folder import PromotionFolder, RunFolder
from tests.train_core.tiny import NETWORK, tiny_data, tiny_recipe
from train_core import checkpoint
from train_core.data import Split
from train_core.loop import evaluate
from train_core.specs import TrainSpec
from train_core.state import EpochResult

DATA = tiny_data()
TEST = tiny_data(images=60).val


def add(study: optuna.Study, score: float, optimizer: str, state: TrialState = TrialState.COMPLETE) -> None:
    trial = optuna.trial.create_trial(
        value=score if state != TrialState.FAIL else None,
        state=state,
        user_attrs={
            "network": NETWORK.model_dump_json(),
            "recipe": tiny_recipe(optimizer=optimizer).model_dump_json(),
        },
    )
    study.add_trial(trial)


@pytest.fixture
def study() -> optuna.Study:
    made = optuna.create_study(direction="maximize", study_name="here")
    for score, optimizer in ((0.70, "sgd"), (0.90, "adam"), (0.88, "adam"), (0.60, "adamw"), (0.72, "sgd")):
        add(made, score, optimizer)
    add(made, 0.99, "sgd", TrialState.PRUNED)
    add(made, 0.99, "sgd", TrialState.FAIL)
    return made


@pytest.mark.parametrize(
    ("top", "chosen"),
    [(1, [1]), (2, [1, 4]), (3, [1, 4, 3]), (4, [1, 4, 3, 2]), (5, [1, 4, 3, 2, 0])],
)
def test_the_best_of_each_optimizer_comes_first_then_the_score_decides(
    study: optuna.Study, top: int, chosen: list[int]
) -> None:
    assert [trial.number for trial in choose(study, top)] == chosen


def test_asking_for_more_than_there_are_names_how_many_there_are(study: optuna.Study) -> None:
    with pytest.raises(RunError, match=r"top 6 were asked for, but 5 trials are complete: use --top 5"):
        choose(study, 6)


def test_nothing_finished_is_said_so() -> None:
    with pytest.raises(RunError, match=r"run 'empty' has no complete trial to promote: continue it with `search run`"):
        choose(optuna.create_study(study_name="empty"), 3)


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
    folder: Path,
    *,
    test: TestSplit | None = None,
    on_epoch: Callable[[EpochResult], None] = lambda result: None,
    **options: Any,
) -> Promotion:
    return promote(
        trial,
        PromotionFolder(folder),
        **({"epochs": 4, "seed": 0} | options),
        data=DATA,
        load_test=test or TestSplit(),
        device_name="a test",
        on_epoch=on_epoch,
    )


def test_a_promotion_trains_at_full_length_and_reads_the_test_split_once(study: optuna.Study, tmp_path: Path) -> None:
    test = TestSplit()

    def unread(result: EpochResult) -> None:
        assert test.reads == 0

    result = promoted(study.trials[0], tmp_path / "p", test=test, on_epoch=unread)
    assert test.reads == 1
    assert len(result.history) == result.recipe.epochs == 4
    assert result.short_score == 0.70
    assert result.val_accuracy == result.history[-1].val_accuracy
    state = checkpoint.load(tmp_path / "p" / "checkpoint.pt", torch.device("cpu"))
    assert result.test_accuracy == evaluate(state.scored, TEST, DATA.mean, DATA.std, "fp32").accuracy
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
    states = [checkpoint.load(tmp_path / name / "checkpoint.pt", torch.device("cpu")) for name in ("a", "b")]
    for first, second in zip(*(state.model.state_dict().values() for state in states), strict=True):
        assert torch.equal(first, second)


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
    monkeypatch.setattr(promotions, "recipe_of", lambda trial: wild)
    test = TestSplit()
    result = promoted(study.trials[0], tmp_path / "p", test=test)
    assert result.diverged is not None
    assert "epoch 1" in result.diverged
    assert (result.val_accuracy, result.test_accuracy, test.reads) == (None, None, 0)
    assert read_result(PromotionFolder(tmp_path / "p")) == result


def test_finished_promotions_are_listed_best_validation_first(study: optuna.Study, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for number in (0, 1):
        promoted(study.trials[number], folder.promotion(number, 4, 0).root)
    folder.promotion(3, 4, 0).root.mkdir(parents=True)  # begun, not finished
    found = finished(folder)
    assert {result.trial for result in found} == {0, 1}
    assert (found[0].val_accuracy or 0) >= (found[1].val_accuracy or 0)


def test_a_checkpoint_of_another_network_is_refused(study: optuna.Study, tmp_path: Path) -> None:
    promoted(study.trials[0], tmp_path / "p")
    (tmp_path / "p" / "result.json").unlink()
    with pytest.raises(CheckpointError, match="is of another network or recipe: delete it to start over"):
        promoted(study.trials[1], tmp_path / "p")


def test_a_damaged_checkpoint_or_result_is_named(study: optuna.Study, tmp_path: Path) -> None:
    folder = PromotionFolder(tmp_path / "p")
    folder.root.mkdir()
    folder.checkpoint.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt cannot be read"):
        promoted(study.trials[0], folder.root)
    folder.result.write_text('{"trial": 1')
    with pytest.raises(RunError, match=r"result\.json cannot be read: delete it"):
        read_result(folder)
