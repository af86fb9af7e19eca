"""How often a run saves its state."""

from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest

from search.checkpoints import PacedCheckpoints
from train_core.state import TrainState

STATE = cast(TrainState, None)  # nothing looks at it


class Clock:
    """Time that passes when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("search.checkpoints.time.monotonic", lambda: self.now)


@pytest.mark.parametrize("share", [0.01, 0.03])
@pytest.mark.parametrize("save_s", [0.004, 0.4])
def test_saving_takes_its_share_of_the_time_or_happens_once_a_second(
    share: float, save_s: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock, saved = Clock(monkeypatch), []

    def save(state: TrainState, path: Path) -> None:
        saved.append(clock.now)
        clock.now += save_s

    paced = PacedCheckpoints(tmp_path / "c.pt", save, share=share, resumed=False)
    for _ in range(1000):
        clock.now += 0.5  # an epoch
        paced.save_if_due(STATE)
    assert (len(saved) - 1) * save_s <= share * (clock.now - 1000)
    gaps = [later - earlier for earlier, later in pairwise(saved)]
    assert max(gaps) <= max(1.0, save_s / share) + 0.5 + save_s + 1e-6
    assert saved[0] - 1000 <= 1.5 + 1e-6


def test_a_resumed_run_saves_after_its_first_epoch_and_another_waits_a_second(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock, saved = Clock(monkeypatch), []
    for resumed in (True, False):
        paced = PacedCheckpoints(tmp_path / "c.pt", lambda state, path: saved.append(path), share=0.01, resumed=resumed)
        clock.now += 0.1
        paced.save_if_due(STATE)
        assert len(saved) == 1
    paced.save(STATE)
    assert saved == 2 * [tmp_path / "c.pt"]
