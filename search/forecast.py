"""How long a command will take: estimated before it starts, and corrected while it runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean

from search.formatting import duration
from search.spec import StudySpec
from search.trials import TrialRecord

PRUNED = 0.5  # at most this share of the trials is pruned: the rule compares with a median (docs/benchmarks.md)
VARIES = 0.15  # by this share a machine is faster or slower than measured, from minute to minute
CPU_GAIN = 1.3  # of several workers compared with one that uses all threads of a CPU (README.md)
WORKERS_START_S = (8.0, 40.0)  # until Ray's workers begin to train: each imports torch and reads the images
CONCLUSION_S = (1.0, 8.0)  # for report and notes at the end
FULL_RUN_S = (0.5, 4.0)  # overhead of a full run: its network is made, tested and stored
DIFFERS = 1.25  # a corrected end is printed if it is this many times later, or earlier
RECENT = 20  # trials from which the share of pruned epochs is estimated


@dataclass(frozen=True)
class Span:
    """Seconds from `low` to `high`."""

    low: float
    high: float

    def longer(self, low: float, high: float) -> "Span":
        """The span with these seconds added."""
        return Span(self.low + low, self.high + high)

    def __str__(self) -> str:
        """For example `6 to 11 min`, `40 s to 2 min`, or `12 min` if both ends are the same."""
        low, high = duration(self.low), duration(self.high)
        if low == high:
            return high
        return f"{low.split()[0]} to {high}" if low.split()[1:] == high.split()[1:] else f"{low} to {high}"

    def done(self, now: datetime) -> str:
        """The time of day when it ends: `done between 18:40 and 18:45`, or `done at 18:40`."""
        first, last = (clock(now + timedelta(seconds=seconds), now) for seconds in (self.low, self.high))
        return f"done at {last}" if first == last else f"done between {first} and {last}"


def clock(moment: datetime, now: datetime) -> str:
    """A time of day: `18:40`; on another day `Tue 03:15`; from a week on `2026-12-08 03:15`."""
    if moment.date() == now.date():
        return f"{moment:%H:%M}"
    return f"{moment:%a %H:%M}" if moment - now < timedelta(days=6) else f"{moment:%Y-%m-%d %H:%M}"


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """How many times as fast as one worker the workers of a command are, from `low` to `high`."""

    low: float = 1.0
    high: float = 1.0
    workers: int = 1

    @classmethod
    def of(cls, workers: int, gpus: int) -> "Speedup":
        """The speedup on `gpus` GPUs; 0: on a CPU, where one worker already uses all threads.

        Workers with a GPU each do not slow each other down. Several workers on one GPU do; how much depends on the
        networks.
        """
        if workers == 1:
            return cls()
        if gpus == 0:
            return cls(high=min(CPU_GAIN, workers), workers=workers)
        return cls(low=min(workers, gpus), high=workers, workers=workers)

    def over(self, span: Span) -> Span:
        """How long the work takes with these workers, including their start."""
        if self.workers == 1:
            return span
        return Span(span.low / self.high, span.high / self.low).longer(*WORKERS_START_S)


def least_share(spec: StudySpec, done: int) -> float:
    """The share of the remaining epochs that is trained if the pruner stops as many trials as it can, at the earliest.

    `done` trials have ended.
    """
    left = max(1, spec.trials - done)
    whole = min(left, max(0, spec.pruner.startup_trials - done))
    earliest = min(1.0, max(1, math.ceil(spec.pruner.warmup * spec.epochs)) / spec.epochs)
    return (whole + (left - whole) * (1 - PRUNED * (1 - earliest))) / left


def search_span(spec: StudySpec, trial_s: float, done: int, speedup: Speedup) -> Span:
    """How long the remaining trials take, if each takes `trial_s` seconds unless it is pruned."""
    left = trial_s * (spec.trials - done)
    span = Span(left * least_share(spec, done) * (1 - VARIES), left * (1 + VARIES))
    return speedup.over(span).longer(*CONCLUSION_S)


def trials_within(spec: StudySpec, span: Span, done: int, seconds: float) -> tuple[int, int]:
    """The fewest and the most trials of the study that end within `seconds`, if the rest takes `span`."""
    left = spec.trials - done
    fewest, most = (min(left, int(left * seconds / whole)) for whole in (span.high, span.low))
    return done + fewest, done + most


def full_runs_span(epoch_seconds: Sequence[tuple[float, int]], speedup: Speedup) -> Span:
    """How long full runs take, given (seconds per epoch, epochs) for each."""
    whole = sum(seconds * epochs for seconds, epochs in epoch_seconds)
    low, high = (len(epoch_seconds) * each for each in FULL_RUN_S)
    span = Span(whole * (1 - VARIES) + low, whole * (1 + VARIES) + high)
    return speedup.over(span).longer(*CONCLUSION_S)


def epoch_seconds(trial: TrialRecord) -> float | None:
    """Seconds of one epoch of a trial's short run, including its evaluation; None: not known.

    An epoch on a part of the images has the same number of images; each of them is shown several times.
    """
    return trial.seconds / trial.last_epoch if trial.seconds and trial.last_epoch else None


class Pace:
    """The remaining time of a search, at the pace of its trials since this command began to train.

    `trials` is the study's total; `planned` is the time in the plan, None if there was none.
    """

    def __init__(self, trials: int, finished: Sequence[TrialRecord], started: float, planned: Span | None) -> None:
        self._trials = trials
        self._started = started
        self._planned = planned
        self._before = {trial.number for trial in finished}
        self._ended: list[TrialRecord] = [trial for trial in finished if trial.is_decided][-RECENT:]
        self._epochs = 0  # of the trials that have ended since then
        self._whole = max((trial.recipe.epochs for trial in self._ended[-1:]), default=0)  # epochs of a trial
        self._corrected = False

    def trial_started(self, epochs: int) -> None:
        """Record the number of epochs of a trial."""
        self._whole = epochs

    def trial_ended(self, trial: TrialRecord) -> None:
        """Count the trial."""
        if trial.is_decided and trial.number not in self._before:
            self._epochs += trial.last_epoch
            self._ended = [*self._ended, trial][-RECENT:]
            self._whole = trial.recipe.epochs

    def left(self, ended: int, running: float, now: float) -> float | None:
        """Seconds until the last trial; None: not known yet.

        `ended` trials have ended; `running` is how much of the running trials is done, for example 0.5 of one. The
        remaining trials are assumed to have as many epochs as the last trials had on average, including pruned ones, at
        the mean seconds of an epoch so far.
        """
        trained = self._epochs + running * self._whole
        if not trained or ended >= self._trials:
            return None
        kept = fmean(trial.last_epoch for trial in self._ended) if self._ended else self._whole
        epochs = kept * (self._trials - ended) - running * self._whole
        return max(0.0, epochs * (now - self._started) / trained)

    def correction(self, ended: int, running: float, now: float) -> float | None:
        """The seconds left, once, after a tenth of the trials, if they differ much from the plan; otherwise None."""
        since = ended - len(self._before)
        left = self.left(ended, running, now)
        if self._planned is None or self._corrected or left is None or since < math.ceil(self._trials / 10):
            return None
        self._corrected = True
        whole = now - self._started + left
        is_far = whole > DIFFERS * self._planned.high or whole * DIFFERS < self._planned.low
        return left if is_far else None
