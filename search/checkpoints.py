"""How often a training run saves its state, so that being killed costs little and saving costs little."""

import time
from collections.abc import Callable
from pathlib import Path

from search.storage import write_with_retries
from train_core import checkpoint
from train_core.state import TrainState

MIN_INTERVAL_S = 1.0  # between two checkpoints

Save = Callable[[TrainState, Path], None]


class PacedCheckpoints:
    """Saves a run's state to `path` at the ends of epochs, as often as `share` of its time allows.

    A kill, or a stop in the middle of an epoch, costs at most one epoch and one interval. The interval is
    `MIN_INTERVAL_S`, or the time of a save divided by `share` if that is longer. So if an epoch takes longer than the
    interval, each epoch is saved.
    """

    def __init__(self, path: Path, save: Save, *, share: float, resumed: bool) -> None:
        self._path = path
        self._save = save
        self._share = share
        self.saved_at = time.monotonic()  # when the state on disk was reached, to the knowledge of this process
        # An interrupted run gains at least one epoch, however soon it is interrupted again.
        self._due = time.monotonic() + (0 if resumed else MIN_INTERVAL_S)

    def save_if_due(self, state: TrainState) -> None:
        """Save the state if the last checkpoint is old enough."""
        if time.monotonic() > self._due:
            self.save(state)

    def save(self, state: TrainState) -> None:
        """Save the state now."""
        started = time.monotonic()
        self._save(state, self._path)
        self.saved_at = time.monotonic()
        took = self.saved_at - started
        self._due = time.monotonic() + max(MIN_INTERVAL_S, took / self._share)


def save_checkpoint(state: TrainState, path: Path, stop: Callable[[], bool]) -> None:
    """Save a checkpoint; if the disk is full, try again until there is room or `stop` returns True."""
    write_with_retries(lambda: checkpoint.save(state, path), path, stop)
