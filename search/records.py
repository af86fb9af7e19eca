"""The records of `list`, `status`, `show` and `compare`: their JSON documents, field by field.

The record of `errors` is in `search.mistakes`.

Accuracies are shares of 1, times are seconds or ISO 8601. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.mistakes import Paired
from train_core.limits import LIMITS
from train_core.results import Score

SEARCHING, PROMOTING, UNFINISHED, FINISHED, PROMOTED = "searching", "promoting", "unfinished", "finished", "promoted"
ARCHIVED = "archived"  # opened from an archive: readable, but no command can continue it


def limits_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The limits of a study, by their keys, from all its values; None for a missing or unknown limit."""
    return {limit.key: values.get(limit.key) for limit in LIMITS.values()}


@dataclass(frozen=True, kw_only=True)
class ShortRun:
    """The best trial by its short run."""

    trial: int
    validation: float  # by the run's score
    validation_accuracy: float | None
    validation_balanced: float | None  # balanced accuracy
    parameters: int
    network: str


@dataclass(frozen=True, kw_only=True)
class FullRun:
    """The best network by its full runs, over their seeds. Deviations are standard deviations; None: only one seed."""

    trial: int
    epochs: int
    seeds: int
    validation: float  # by the run's score
    validation_deviation: float | None
    validation_accuracy: float | None
    validation_balanced: float | None  # balanced accuracy
    test: float | None  # by the run's score
    test_deviation: float | None
    test_accuracy: float | None
    test_balanced: float | None
    parameters: int
    network: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run in a few words. None: not known, for example for a broken run or a study in a storage elsewhere."""

    name: str
    folder: str
    touched: str  # when it last changed
    storage: str  # what keeps the study: sqlite, postgresql, ...
    state: str | None = None  # searching, promoting, unfinished, finished (not promoted yet), promoted
    workers: int = 0  # workers that have a trial now
    data: str | None = None
    score: Score | None = None  # the score that its networks are compared by
    budget: int | None = None
    max_madds: int | None = None  # the limit on multiply-adds; None, here and below, also: no limit
    max_memory: int | None = None  # bytes
    max_file: int | None = None  # bytes
    max_latency: float | None = None  # seconds
    trials: int | None = None  # that have ended
    trials_wanted: int | None = None
    best_short: ShortRun | None = None
    best_full: FullRun | None = None
    problem: str | None = None  # why the other fields are not known


@dataclass(frozen=True, kw_only=True)
class RunningTrial:
    """A trial that is being trained."""

    trial: int
    worker: str | None
    alive: bool | None  # None: its worker is on another machine
    epoch: int  # the last finished epoch; 0: none yet
    validation: float | None  # after that epoch
    seconds: float | None  # since it began
    parameters: int | None
    network: str | None


@dataclass(frozen=True, kw_only=True)
class WaitingTrial:
    """An interrupted trial, which continues when a search has room for it."""

    trial: int  # the number of its first attempt
    epoch: int  # the last finished epoch of any attempt
    validation: float | None  # after that epoch
    parameters: int | None
    network: str | None


@dataclass(frozen=True, kw_only=True)
class PendingFullRun:
    """An unfinished full run, according to its folder."""

    trial: int
    epochs: int
    seed: int
    refit: bool
    seconds_since_epoch: float | None  # since its last epoch ended; None: no epoch has ended


@dataclass(frozen=True, kw_only=True)
class FrontNetwork:
    """A trial that no other trial beats in score at no more cost."""

    trial: int
    costs: dict[
        str, float
    ]  # by the names of the costs: parameters, madds, memory and file in bytes, latency in seconds
    validation: float  # by the run's score


@dataclass(frozen=True, kw_only=True)
class Status(Run):
    """The state of a run and of its trials."""

    epochs: int  # of a short run
    always_largest: float | None  # the score of always predicting the largest class; None: not known
    outcomes: dict[str, int]  # trials that have ended, by `OUTCOMES`
    networks: int  # number of different networks among the ended trials
    used_up: bool  # whether the space has no new network left
    running: tuple[RunningTrial, ...]
    waiting: tuple[WaitingTrial, ...]  # interrupted trials
    images_per_second: float | None  # training speed of a worker, over its last trials; None: not known
    seconds_left: float | None  # of the search, at the pace of its trials so far; None: not known, or it is over
    full_runs: int  # finished
    full_runs_pending: tuple[PendingFullRun, ...]
    ready_by: str | None  # the end time of `search auto`, ISO 8601; None: it is over, or there was none
    front: tuple[FrontNetwork, ...] = ()  # of the short runs, the smallest first; empty if the study has none

    @property
    def is_going_on(self) -> bool:
        """Whether anything may change soon."""
        return (
            self.ready_by is not None
            or self.state in (SEARCHING, PROMOTING)
            or (self.state == UNFINISHED and self.storage != "sqlite")
        )


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One of the attempts at a trial."""

    trial: int
    outcome: str
    reason: str | None
    epochs: int


@dataclass(frozen=True, kw_only=True)
class FinishedFullRun:
    """A finished full run of a trial."""

    epochs: int
    seed: int
    refit: bool
    validation: float | None  # by the run's score, as `test` and `curve`
    test: float | None
    mirrored_test: float | None
    validation_accuracy: float | None
    validation_balanced: float | None  # balanced accuracy
    test_accuracy: float | None
    test_balanced: float | None
    seconds: float
    diverged: str | None
    curve: tuple[float, ...]  # on validation, after each epoch


@dataclass(frozen=True, kw_only=True)
class Trial:
    """All that is known of one trial."""

    run: str
    trial: int
    outcome: str
    reason: str | None
    score: Score  # the score that the run's networks are compared by
    validation: float | None  # by this score; None: it is not complete
    validation_accuracy: float | None  # after its last epoch
    validation_balanced: float | None  # balanced accuracy, after its last epoch
    rank: int | None  # by this score, among the complete trials; 1: the best
    complete: int  # number of complete trials
    baseline: str | None  # its name, if it is a baseline
    start: str | None  # its source, if the study began with it because it did best on other images
    attempts: tuple[Attempt, ...]  # all attempts at this trial, including this one
    network_words: str | None
    recipe_words: str | None
    parameters: int | None
    multiply_adds: int | None
    drawn: dict[str, Any]  # what the sampler drew
    network: dict[str, Any] | None
    recipe: dict[str, Any] | None
    worker: str | None
    started: str | None
    seconds: float | None
    epochs: int | None  # the planned number
    curve: tuple[float, ...]  # on validation, after each epoch
    full_runs: tuple[FinishedFullRun, ...]
    on_front: bool | None = None  # whether no other short run beats it at no more cost; None: the study has no front


@dataclass(frozen=True, kw_only=True)
class Compared(Run):
    """One of two runs that are compared."""

    epochs_short: int  # trained in all, by trials that have ended
    epochs_full: int  # trained in all, by full runs


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs, side by side."""

    runs: tuple[Compared, Compared]
    differences: dict[str, tuple[Any, Any]]  # in their study files and data, by name
    difference: float | None  # validation score of the second minus that of the first; None: not comparable
    spread: float | None  # how large such a difference may be by chance, in 95 of 100 cases; None: not known
    paired: Paired | None  # one network of each on the same validation images; None: not stored, or other images
    better: str | None  # the run that is better by more than chance, if any
    verdict: str  # the same in words


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group of runs that is compared with another one."""

    name: str  # as in the command
    runs: tuple[Compared, ...]
    seeds: tuple[int, ...]  # of each run


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A figure of the best network of each run, and the difference between two groups. None: not known."""

    name: str
    values: tuple[tuple[float | None, ...], tuple[float | None, ...]]  # of each run
    means: tuple[float | None, float | None]
    deviations: tuple[float | None, float | None]  # standard deviations over the runs; None: only one run
    difference: float | None  # mean of the second group minus mean of the first
    low: float | None  # its 95 % interval; None: only one run
    high: float | None
    p: float | None  # of Student's t, two-sided


@dataclass(frozen=True, kw_only=True)
class GroupComparison:
    """Two groups of runs, side by side."""

    groups: tuple[Group, Group]
    paired: bool  # runs of the same seed are compared with each other
    differences: dict[str, tuple[list[Any], list[Any]]]  # settings with different values, and the values of each group
    measures: tuple[Measure, ...]
    better: str | None  # the group that is better by more than chance, if any
    verdict: str  # the same in words
