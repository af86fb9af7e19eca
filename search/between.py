"""What happens between two training steps: the bar moves, and a request to stop is handled."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from search.checkpoints import PacedCheckpoints
from search.formatting import duration

FINISH_S = 3.0  # an epoch that is expected to end within this time is finished before the command stops
MOVE_S = 0.25  # between two updates of a bar
NOTHING_ELSE_S = 1.0  # if less passes between checkpoint and epoch, only this epoch is lost


class StoppedInEpochError(KeyboardInterrupt):
    """A request to stop has ended the training in the middle of an epoch; this epoch is lost."""


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """What a command does while a network trains."""

    stop: Callable[[], bool] = lambda: False  # whether a stop was requested
    moved: Callable[[float], None] = lambda epochs: None  # gets the epochs done, with the fraction of this one
    say: Callable[[str], None] = lambda line: None  # prints a line


class BetweenSteps:
    """Called between two training steps, as `train_core.loop.Between` requires; takes less than a microsecond.

    The first call after a request to stop decides: an epoch that will end within `FINISH_S` is finished, and the caller
    saves it. A longer one is cut off, and trained again when the command continues.
    """

    def __init__(self, watcher: Watcher, checkpoints: PacedCheckpoints) -> None:
        self._watcher = watcher
        self._checkpoints = checkpoints
        self._epoch = 0
        self._started = time.monotonic()  # of the epoch
        self._last_s = 0.0  # duration of the last epoch; 0: there was none yet
        self._next_move = 0.0
        self._is_finishing = False

    def __call__(self, epoch: int, share: float) -> None:
        """Move the bar, and handle a request to stop.

        Raises:
            StoppedInEpochError: the training stops here.

        """
        now = time.monotonic()
        if epoch != self._epoch:
            self._begin(epoch, now)
        if now >= self._next_move:
            self._next_move = now + MOVE_S
            self._watcher.moved(epoch - 1 + share)
        if self._watcher.stop() and not self._is_finishing:
            self._answer(now - self._started, share)

    def _begin(self, epoch: int, now: float) -> None:
        # The first call comes after the first step, which must be counted too; so the last epoch ends here.
        self._last_s = now - self._started if self._epoch else 0.0
        self._started = now if self._epoch else self._started
        self._epoch = epoch

    def _answer(self, spent: float, share: float) -> None:
        # On CUDA, the share runs ahead of the device; on a machine that has slowed down, the last epoch misleads.
        left = max(self._last_s - spent, spent / share * (1 - share))
        if left <= FINISH_S:
            self._is_finishing = True
            self._watcher.say(f"stopping when this epoch ends, in about {max(1, round(left))} s")
            return
        unsaved = time.monotonic() - self._checkpoints.saved_at
        if unsaved <= spent + NOTHING_ELSE_S:
            self._watcher.say(f"stopping now; this epoch ({duration(spent)} of work) will be trained again")
        else:
            self._watcher.say(f"stopping now; the last {duration(unsaved)} of training will be done again")
        raise StoppedInEpochError
