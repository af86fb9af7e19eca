"""What happens between two steps of a training: a bar moves, and a request to stop is answered."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from search.checkpoints import PacedCheckpoints
from search.formatting import duration

FINISH_S = 3.0  # an epoch that is expected to end within this time is finished before the command stops
MOVE_S = 0.25  # between two moves of a bar
NOTHING_ELSE_S = 1.0  # between checkpoint and epoch: then only this epoch is lost


class StoppedInEpochError(KeyboardInterrupt):
    """A request to stop has ended the training in the middle of an epoch; nothing of this epoch is kept."""


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """What a command does while a network trains."""

    stop: Callable[[], bool] = lambda: False  # whether it was asked to stop
    moved: Callable[[float], None] = lambda epochs: None  # gets the epochs that are done, with the share of this one
    say: Callable[[str], None] = lambda line: None  # prints a line


class BetweenSteps:
    """Called between two steps of one training, as `train_core.loop.Between` says; costs less than a microsecond.

    The first call after a request to stop decides: an epoch that will end within `FINISH_S` is finished, to be saved by
    the caller. A longer one ends here; it is trained again when the command is given again.
    """

    def __init__(self, watcher: Watcher, checkpoints: PacedCheckpoints) -> None:
        self._watcher = watcher
        self._checkpoints = checkpoints
        self._epoch = 0
        self._started = time.monotonic()  # the epoch
        self._last_s = 0.0  # that the epoch before took; 0: it is the first
        self._next_move = 0.0
        self._is_finishing = False

    def __call__(self, epoch: int, share: float) -> None:
        """Move the bar, and answer a request to stop.

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
        # The first call comes after the first step, which has to be counted, too; so the epoch before ends here.
        self._last_s = now - self._started if self._epoch else 0.0
        self._started = now if self._epoch else self._started
        self._epoch = epoch

    def _answer(self, spent: float, share: float) -> None:
        # On CUDA the share runs ahead of the device; on a machine that has become slower, the last epoch misleads.
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
