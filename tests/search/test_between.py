"""Between two steps: bars move a few times a second, and a request to stop is answered at once."""

from pathlib import Path

import pytest
import torch

from search import checkpoints
from search.between import BetweenSteps, StoppedInEpochError, Watcher
from search.checkpoints import PacedCheckpoints
from search.long_run import train_to_end
from search.run_folder import PromotionFolder, RunFolder
from search.trainer import Trainer
from tests.support.tiny import NETWORK, same, tiny_data, tiny_recipe, weights
from train_core import checkpoint

CPU = torch.device("cpu")


class Training:
    """A training on a clock that moves when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.now = 1000.0
        monkeypatch.setattr("search.between.time.monotonic", lambda: self.now)  # of checkpoints, too
        self.is_asked = False
        self.moves: list[float] = []
        self.said: list[str] = []
        watcher = Watcher(stop=lambda: self.is_asked, moved=self.moves.append, say=self.said.append)
        self.checkpoints = PacedCheckpoints(tmp_path / "c.pt", lambda *_: None, share=0.01, resumed=False)
        self.between = BetweenSteps(watcher, self.checkpoints)

    def train(self, epoch: int, steps: int, seconds: float, first: int = 1, last: int | None = None) -> None:
        """The steps from the first to the last of an epoch of so many, each of which takes so long."""
        for i in range(first, (last or steps) + 1):
            self.now += seconds
            self.between(epoch, i / steps)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Training:
    return Training(monkeypatch, tmp_path)


def test_a_bar_moves_four_times_a_second_at_most(training: Training) -> None:
    training.train(1, 1000, 0.01)
    assert 38 <= len(training.moves) <= 41
    assert training.moves == sorted(training.moves)
    assert 0.97 < training.moves[-1] <= 1
    training.train(2, 2, 1.0)
    assert training.moves[-2:] == [1.5, 2.0]
    assert training.said == []


def test_an_epoch_that_ends_soon_is_finished(training: Training) -> None:
    training.train(1, 100, 0.1, last=80)
    training.is_asked = True
    training.train(1, 100, 0.1, first=81)
    assert training.said == ["stopping when this epoch ends, in about 2 s"]


def test_a_longer_epoch_ends_at_the_next_step(training: Training) -> None:
    training.train(1, 100, 1.0, last=38)
    training.is_asked = True
    with pytest.raises(StoppedInEpochError):
        training.train(1, 100, 1.0, first=39)
    assert training.said == ["stopping now; this epoch (39 s of work) will be trained again"]


def test_where_the_device_is_behind_the_last_epoch_says_how_long_it_takes(training: Training) -> None:
    """On CUDA the steps of an epoch are launched in a moment."""
    training.train(1, 100, 0.1)
    training.now += 40  # the wait at the end of the epoch
    training.train(2, 100, 0.001, last=99)
    training.is_asked = True
    with pytest.raises(StoppedInEpochError):
        training.train(2, 100, 0.001, first=100)


def test_what_is_lost_since_the_last_checkpoint_is_said(training: Training) -> None:
    for epoch in (1, 2, 3):
        training.train(epoch, 10, 1.0)
    training.is_asked = True
    with pytest.raises(StoppedInEpochError):
        training.train(4, 10, 1.0)
    assert training.said == ["stopping now; the last 31 s of training will be done again"]


def stopping_in(epoch: int, said: list[str]) -> Watcher:
    """Asks to stop in the middle of this epoch, of which each seems to take a minute."""
    reached = [0.0]
    return Watcher(
        stop=lambda: reached[0] > epoch - 1, moved=lambda epochs: reached.__setitem__(0, epochs), say=said.append
    )


def test_a_short_run_that_is_stopped_in_an_epoch_goes_on_from_the_last_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("search.between.FINISH_S", -1.0)
    monkeypatch.setattr("search.between.MOVE_S", 0.0)
    monkeypatch.setattr(checkpoints, "MIN_INTERVAL_S", 0.0)
    monkeypatch.setattr("search.trainer.CHECKPOINT_SHARE", 1e9)
    said: list[str] = []
    for name in ("a", "b"):
        RunFolder(tmp_path / name).create()
    whole = [
        result.val_loss
        for result in Trainer(RunFolder(tmp_path / "a"), tiny_data(), CPU, Watcher())(NETWORK, tiny_recipe(), 0)
    ]
    folder = RunFolder(tmp_path / "b")
    stopped = Trainer(folder, tiny_data(), CPU, stopping_in(3, said))(NETWORK, tiny_recipe(), 0)
    assert [next(stopped).val_loss, next(stopped).val_loss] == whole[:2]
    with pytest.raises(StoppedInEpochError):
        next(stopped)
    assert said[0].startswith("stopping now; ")
    assert len(checkpoint.load(folder.trial_checkpoint(0), CPU).history) == 2
    assert [
        result.val_loss for result in Trainer(folder, tiny_data(), CPU, Watcher())(NETWORK, tiny_recipe(), 0)
    ] == whole


def test_a_full_run_that_is_stopped_in_an_epoch_ends_with_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("search.between.FINISH_S", -1.0)
    monkeypatch.setattr("search.between.MOVE_S", 0.0)

    def trained(name: str, watcher: Watcher) -> dict[str, torch.Tensor]:
        folder = PromotionFolder(tmp_path / name)
        state, _ = train_to_end(
            folder,
            NETWORK,
            tiny_recipe(),
            tiny_data(),
            save=checkpoint.save,
            on_epoch=lambda result: None,
            watcher=watcher,
        )
        return weights(state)

    whole = trained("whole", Watcher())
    with pytest.raises(KeyboardInterrupt):
        trained("stopped", stopping_in(2, []))
    assert same(trained("stopped", Watcher()), whole)
