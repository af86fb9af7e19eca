"""Divides a night: short runs, longer runs of the best, full runs of the best of those, and a model at the end.

Nothing here trains or reads a clock. `divide` makes a plan from the remaining time and the cost of an epoch. `conduct`
follows it step by step, and divides the remaining time again when more is known. So the same code runs a real night, an
interrupted night, and the simulated nights of the tests and of `benchmarks/nights.py`.

The shares follow from measurements (docs/benchmarks.md). A short run finds the good third of all networks but cannot
order it, so several are trained longer. If few full runs fit, it is better to train configurations that did
best on other images than to do more short runs, so a short night has few short runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import ceil, floor
from statistics import median
from typing import Protocol

from pydantic import ValidationError

from search.forecast import clock as time_of_day
from search.formatting import count
from search.ladder import Rung
from search.run_folder import RunFolder
from train_core.specs import Frozen

HEAVIER = 1.3  # factor on the seconds of an epoch: promoted networks are larger than the mean of the draws
UNSURE = 1.03  # factor on the expected seconds of a run: it must fit even if it is somewhat slower
ALONE = 1.1  # factor on the time of a night's only full run: without it there is no model
LEAST_EPOCHS = 3  # a night too short for a full run of this length is refused
LONG = 12  # if this many full runs fit into a night, there is a rung between short and full runs
FEW, SHARE_OF_FEW = 4, 0.7  # if fewer full runs fit, they get a larger share of the night
SHARE_OF_FULL = 0.5  # share of full runs in a longer night without a rung between
SHARES = (0.2, 0.3)  # shares of the rung between and of the full runs, in a long night
BETWEEN = 0.3  # length of the rung between, as a share of a full run's
MOST_BETWEEN, MOST_FULL, MOST_SEEDS = 24, 5, 3
ELASTIC = 1.6  # if fewer full runs fit into a night, they are shortened
SHARE_OF_ONE = 0.65  # share of the one full run in such a night
CLOSING_SHARE, CLOSING_LEAST_S, CLOSING_MOST_S = 0.015, 10.0, 120.0  # for report and model
GRACE = 0.5  # share of this that the first full run may use
CLOSING_AGAIN = 1.5  # factor on the time that it took before
TOLD_AGAIN, TOLD_LEAST = 0.2, 2  # a plan is printed again if its trials change by more than this share, and number
NEAR_S = 1800.0  # a time of day closer than this is printed with seconds
RECENT_EPOCHS = 5  # a run's pace is the median of so many epochs: one slow epoch changes nothing
PRIOR_TRIALS = 3.0  # weight, in trials, of the first estimate of an epoch


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Epochs of a study's runs."""

    short: int
    full: int


@dataclass(frozen=True, kw_only=True)
class Pace:
    """The costs of runs, in seconds."""

    epoch_s: float  # an epoch of a network of the space, with validation: the mean over the draws
    full_epoch_s: float  # an epoch of a network that is promoted
    start_s: float = 0.0  # time before the first epoch of a run
    saved: float = 0.0  # share of the epochs of short runs that pruning saves
    workers: int = 1  # number of runs at a time; an epoch is timed beside the others
    workers_start_s: float = 0.0  # time until workers have started

    def short_run(self, epochs: int) -> float:
        """A short run, minus what pruning saves."""
        return self.start_s + self.epoch_s * epochs * (1 - self.saved)

    def short_runs_in(self, seconds: float, epochs: int) -> int:
        """How many short runs fit into `seconds`."""
        return floor(max(seconds - self.workers_start_s, 0.0) * self.workers / self.short_run(epochs))

    def full_run(self, epochs: int, epoch_s: float | None = None) -> float:
        """A run of a promoted network, with a margin; `epoch_s`: the seconds of an epoch of this network."""
        epoch_s = self.full_epoch_s if epoch_s is None else epoch_s
        return self.workers_start_s + self.start_s + epoch_s * epochs * UNSURE

    def full_runs(self, number: int, epochs: int) -> float:
        """`number` of these runs, one for each worker at a time."""
        return ceil(number / self.workers) * self.full_run(epochs)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the remaining time is spent."""

    short_epochs: int
    trials: int  # short runs that are expected to fit, in addition to those that are done
    short_s: float  # seconds for them
    rungs: tuple[Rung, ...]  # the runs after the short ones; the last rung are the full runs
    rung_s: tuple[float, ...]  # seconds for each, where known
    seeds: int  # full runs of each network
    closing_s: float  # seconds for the report and the model

    @property
    def full_epochs(self) -> int:
        """Epochs of a full run."""
        return self.rungs[-1].epochs


class TooShortError(Exception):
    """The time is too short for a useful model."""

    def __init__(self, needed_s: float) -> None:
        super().__init__(f"at least {needed_s:.0f} seconds are needed")
        self.needed_s = needed_s


def divide(seconds: float, lengths: Lengths, pace: Pace, *, is_fixed: bool = False) -> Plan:
    """Divide the remaining seconds of a night.

    `is_fixed`: the length of the short runs is given, because some are done already. Otherwise, if no full run of the
    study's length fits, they are shortened together with the full runs.

    Raises:
        TooShortError: not even `LEAST_EPOCHS` of one network fit.

    """
    closing_s = _closing(seconds)
    left = seconds - closing_s
    least = pace.workers_start_s + pace.short_run(1) + pace.full_run(LEAST_EPOCHS)
    if left < least:
        raise TooShortError(max(least + CLOSING_LEAST_S, least / (1 - CLOSING_SHARE)))
    fitting = left / pace.full_run(lengths.full)  # full runs of one worker
    short = lengths.short
    between: tuple[Rung, ...] = ()
    seeds = 1
    if fitting < ELASTIC:
        spendable = max(left * SHARE_OF_ONE, pace.full_run(LEAST_EPOCHS))
        full = Rung(top=min(MOST_FULL, pace.workers), epochs=_epochs_in(spendable, pace, most=lengths.full))
        if not is_fixed:
            short = max(1, round(lengths.short * full.epochs / lengths.full))
    elif fitting * pace.workers < LONG or fitting * SHARES[-1] < 1:
        share = SHARE_OF_FEW if fitting < FEW else SHARE_OF_FULL
        full = Rung(top=min(MOST_FULL, max(1, round(fitting * share)) * pace.workers), epochs=lengths.full)
    else:
        for_between, for_full = (share * left for share in SHARES)
        epochs = max(lengths.short + 1, round(BETWEEN * lengths.full))
        number = min(MOST_BETWEEN, floor(for_between / pace.full_run(epochs)) * pace.workers)
        runs = max(2, floor(for_full / pace.full_run(lengths.full)) * pace.workers)
        full = Rung(top=min(MOST_FULL, runs), epochs=lengths.full)
        seeds = max(1, min(MOST_SEEDS, runs // full.top))
        if number > full.top and epochs < lengths.full:
            between = (Rung(top=number, epochs=epochs),)
    rungs = (*between, full)
    rung_s = [pace.full_runs(rung.top * (seeds if rung is full else 1), rung.epochs) for rung in rungs]
    short_s = max(left - sum(rung_s), 0.0)
    trials = max(1, pace.short_runs_in(short_s, short))
    return Plan(
        short_epochs=short,
        trials=trials,
        short_s=short_s,
        rungs=rungs,
        rung_s=tuple(rung_s),
        seeds=seeds,
        closing_s=closing_s,
    )


def _closing(seconds: float) -> float:
    return min(max(CLOSING_SHARE * seconds, CLOSING_LEAST_S), CLOSING_MOST_S)


def _epochs_in(seconds: float, pace: Pace, *, most: int) -> int:
    """Epochs of a promoted network that fit into so many seconds: `LEAST_EPOCHS` to `most`."""
    seconds -= pace.workers_start_s + pace.start_s
    return max(LEAST_EPOCHS, min(most, floor(seconds / (pace.full_epoch_s * UNSURE))))


# What is known, and the next step ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A complete short run."""

    trial: int
    epoch_s: float  # seconds of an epoch of its network


@dataclass(frozen=True, kw_only=True)
class FullRun:
    """A run of a promoted network, finished or planned."""

    trial: int
    epochs: int
    seed: int = 0  # index of the seed, from 0


@dataclass(frozen=True, kw_only=True)
class Known:
    """The work that is done so far."""

    short_epochs: int | None = None  # of a short run; None: the first has not begun
    ended: int = 0  # short runs, pruned ones included
    epochs: int = 0  # trained in these
    seconds: float = 0.0  # spent on these
    candidates: Sequence[Tried] = ()  # in the order in which they are promoted: by their longest runs, then by score
    finished: Sequence[FullRun] = ()  # runs after the short runs
    finished_s: float = 0.0  # spent on these
    begun: Mapping[FullRun, int] = field(default_factory=dict)  # interrupted runs, with the epochs that they have
    slower: float = 1.0  # how many times slower full runs are than the short runs of the same trials were; at least 1

    @property
    def costed(self) -> Sequence[Tried]:
        """The candidates, with the seconds that an epoch takes at the pace of the latest full run."""
        if self.slower == 1:
            return self.candidates
        return [replace(tried, epoch_s=self.slower * tried.epoch_s) for tried in self.candidates]


Left = Callable[[], float]
"""Returns the seconds left for short runs; called before each of them."""


class Work(Protocol):
    """The actions of a night, and the current state of the work."""

    def now(self) -> float:
        """The time in seconds since the epoch."""

    def known(self) -> Known:
        """The work that is done so far."""

    def search(self, plan: Plan, left: Left) -> None:
        """Do short runs while `left` returns enough time."""

    def train(self, runs: Sequence[FullRun], until: float) -> bool:
        """Train networks beside each other to their end, or stop at `until`. Returns whether all are finished.

        A single run stops as well where `is_too_slow`, if the night has no finished run yet.
        """

    def deliver(self) -> None:
        """Write the model of the best full run so far."""

    def searched(self) -> Plan | None:
        """The plan with which the short runs of this night ended; None: they have not ended."""

    def end_search(self, plan: Plan) -> None:
        """Record that the short runs have ended, with this plan."""

    def say(self, line: str) -> None:
        """Print a line for the user."""


@dataclass(frozen=True, kw_only=True)
class Night:
    """The end of a night, and the initial estimates."""

    end: float  # seconds since the epoch
    lengths: Lengths  # as the study has them
    expected: Pace  # before anything is measured

    def pace(self, known: Known) -> Pace:
        """The costs of runs: the estimate, corrected by measurements."""
        slower = known.slower
        if not known.epochs:
            return replace(
                self.expected, epoch_s=slower * self.expected.epoch_s, full_epoch_s=slower * self.expected.full_epoch_s
            )
        short = known.short_epochs or self.lengths.short
        weight = PRIOR_TRIALS / (PRIOR_TRIALS + known.epochs / short)
        measured = (known.seconds - known.ended * self.expected.start_s) / known.epochs
        epoch_s = slower * (weight * self.expected.epoch_s + (1 - weight) * max(measured, 0.0))
        heavier = self.expected.full_epoch_s / self.expected.epoch_s
        trained = 1 - known.epochs / max(known.ended * short, known.epochs)
        return replace(
            self.expected,
            epoch_s=epoch_s,
            full_epoch_s=epoch_s * heavier,
            saved=weight * self.expected.saved + (1 - weight) * trained,
        )

    def plan(self, known: Known, now: float) -> Plan:
        """The plan for the remaining time.

        The whole night is divided, including the time already spent, and the spent time is then subtracted. If only the
        remaining time were divided each time, the full runs would never get enough.
        """
        pace = self.pace(known)
        spent = (known.seconds + known.finished_s) / pace.workers
        lengths = replace(self.lengths, short=known.short_epochs or self.lengths.short)
        seconds, is_fixed = self.end - now + spent, known.short_epochs is not None
        plan = divide(seconds, lengths, pace, is_fixed=is_fixed)
        if known.candidates:
            if plan.full_epochs < lengths.full:  # its possible length depends on the network
                first = replace(pace, full_epoch_s=known.costed[0].epoch_s)
                epochs = divide(seconds, lengths, first, is_fixed=is_fixed).full_epochs
                plan = replace(plan, rungs=(Rung(top=plan.rungs[-1].top, epochs=epochs),))
            plan = self._that_fits(plan, known, now)
        short_s = max(self.end - now - plan.closing_s - sum(plan.rung_s), 0.0)
        return replace(plan, short_s=short_s, trials=pace.short_runs_in(short_s, plan.short_epochs))

    def _that_fits(self, plan: Plan, known: Known, now: float) -> Plan:
        """The plan with the real cost of its full runs, and with fewer of them if they do not fit."""
        pace, candidates = self.pace(known), known.costed
        full = plan.rungs[-1]
        for top in range(full.top, 0, -1):
            costs = [tried.epoch_s for tried in candidates[:top]]
            costs += [pace.full_epoch_s] * (top - len(costs))
            lanes = sorted(costs * plan.seeds, reverse=True)[:: pace.workers]  # the slowest of those at a time
            seconds = sum(pace.full_run(full.epochs, cost) for cost in lanes)
            seconds *= ALONE if len(lanes) == 1 else 1
            if top == 1 or sum(plan.rung_s[:-1]) + seconds <= self.end - now - plan.closing_s:
                break
        rungs = (*plan.rungs[:-1], Rung(top=top, epochs=full.epochs))
        return replace(plan, rungs=rungs, rung_s=(*plan.rung_s[:-1], seconds))

    def for_search(self, plan: Plan, known: Known, now: float) -> float:
        """Seconds that the plan leaves for short runs; 0 or less if another one is unlikely to end in time.

        Without a complete short run, there is nothing to promote: the search continues while a full run could follow.
        """
        if not known.candidates:
            return self.end - now - plan.closing_s - self.pace(known).full_run(LEAST_EPOCHS)
        return plan.short_s if plan.trials else 0.0

    def next_runs(self, plan: Plan, known: Known, now: float) -> list[FullRun]:
        """The next runs to train beside each other: at most one for each worker, all of the same length."""
        runs: list[FullRun] = []
        while len(runs) < self.expected.workers:
            begun = {run: epochs for run, epochs in known.begun.items() if run not in runs}
            after = replace(known, finished=[*known.finished, *runs], begun=begun)
            run = self.next_run(plan, after, now)
            if run is None or (runs and run.epochs != runs[0].epochs):
                break
            runs.append(run)
        return runs

    def next_run(self, plan: Plan, known: Known, now: float) -> FullRun | None:
        """The next run of the rungs that fits before the end; None: nothing fits, or all is done.

        An interrupted run is finished first. Time left beyond the plan goes to further candidates, and then to further
        seeds of the best ones.
        """
        left, candidates = self.end - plan.closing_s - now, known.costed
        done = {(run.trial, run.epochs, run.seed) for run in known.finished}
        pace = self.pace(known)

        def cost(candidate: Tried, epochs: int) -> float:
            return pace.full_run(epochs, candidate.epoch_s)

        costs = {candidate.trial: candidate for candidate in candidates}
        for run, trained in sorted(known.begun.items(), key=_most_trained):
            if run.trial in costs and cost(costs[run.trial], run.epochs - trained) <= left:
                return run
        lengths = [run.epochs for run in known.finished]
        for rung in plan.rungs[:-1]:
            if max(lengths, default=0) > rung.epochs:
                continue  # full runs have begun
            for candidate in candidates[: rung.top]:
                kept = cost(candidates[0], plan.full_epochs)  # for at least one full run
                if (candidate.trial, rung.epochs, 0) not in done and cost(candidate, rung.epochs) + kept <= left:
                    return FullRun(trial=candidate.trial, epochs=rung.epochs)
        between = {rung.epochs for rung in plan.rungs[:-1]}
        epochs = max((length for length in lengths if length not in between), default=0)
        if not epochs:
            is_one = plan.rungs[-1].top * plan.seeds <= pace.workers  # then it has a margin of its own
            epochs = self._full_length(candidates, left / (ALONE if is_one else 1), pace)
        for seed in range(MOST_SEEDS):
            for candidate in candidates[: plan.rungs[-1].top if seed else len(candidates)]:
                if (candidate.trial, epochs, seed) not in done and cost(candidate, epochs) <= left:
                    return FullRun(trial=candidate.trial, epochs=epochs, seed=seed)
        return None

    def _full_length(self, candidates: Sequence[Tried], left: float, pace: Pace) -> int:
        """The epochs of a full run: those of the study, or if none fits, as many as the first candidate can have."""
        if not candidates:
            return self.lengths.full
        first = replace(pace, full_epoch_s=candidates[0].epoch_s)
        return max(LEAST_EPOCHS, _epochs_in(left, first, most=self.lengths.full))


def is_too_slow(epoch_s: Sequence[float], epochs: int, left_s: float) -> bool:
    """Whether a run that has `epochs` left cannot end in `left_s` seconds at its pace, while a shorter one can.

    `epoch_s` are the seconds of its latest epochs. Because each run is annealed within its own length, a run that is
    stopped before its end is no model: if the machine has become slower, a shorter run has to begin in its place.
    """
    recent, last = _recent(epoch_s), epoch_s[-1]
    if len(epoch_s) > 1 and epochs * recent > left_s >= _shortest(recent):
        return True
    # One slow epoch decides only if there is no time to wait for the next.
    return epochs * last > left_s >= _shortest(last) > left_s - last


def times_slower(epoch_s: Sequence[float], expected_s: float) -> float:
    """How many times slower the latest epochs of a run are than expected; at least 1.

    The last epoch counts as in `is_too_slow`, so a run that was stopped for it is not begun again.
    """
    return max(1.0, _recent(epoch_s) / expected_s, epoch_s[-1] / expected_s)


def _recent(epoch_s: Sequence[float]) -> float:
    """The median of the latest epochs; without the first, in which much is set up, if there are others."""
    return median((epoch_s[1:] or epoch_s)[-RECENT_EPOCHS:])


def _shortest(epoch_s: float) -> float:
    """Seconds of the shortest full run, with an epoch more for what goes on around it."""
    return (LEAST_EPOCHS + 1) * epoch_s * UNSURE


def _most_trained(begun: tuple[FullRun, int]) -> tuple[int, int, int]:
    """Sort key for interrupted runs: the longest first, then the one with most epochs; deterministic."""
    run, trained = begun
    return -run.epochs, -trained, run.trial


def conduct(night: Night, work: Work) -> Plan:
    """Do the work of a night, continuing after an interruption; returns the last plan.

    Raises:
        TooShortError: the remaining time is too short for a model. Nothing was trained.

    """
    plan = work.searched()
    if plan is None:
        plan = _search(night, work)
    else:
        work.say(in_words(replace(plan, trials=0, short_s=0.0), night.end, work.now()))
    stopped: list[FullRun] = []
    while True:
        runs = night.next_runs(plan, work.known(), work.now())
        if not runs or runs == stopped:
            return plan
        # A first model that is somewhat late is better than a shorter run in its place.
        grace_s = GRACE * plan.closing_s if len(runs) == 1 and not work.known().finished else 0.0
        if not work.train(runs, night.end - plan.closing_s + grace_s):
            stopped = runs  # if it was too slow, a shorter one may fit
            continue
        started = work.now()
        work.deliver()
        plan = replace(plan, closing_s=max(plan.closing_s, CLOSING_AGAIN * (work.now() - started)))


def _search(night: Night, work: Work) -> Plan:
    """Do the short runs; returns the plan that was in use at their end."""
    plan = said = night.plan(work.known(), work.now())
    said_in_all = work.known().ended + said.trials
    work.say(in_words(plan, night.end, work.now()))

    def left() -> float:
        """Seconds left for short runs; 0 or less if another one is unlikely to end. Prints a changed plan."""
        nonlocal plan, said, said_in_all
        known, now = work.known(), work.now()
        plan = night.plan(known, now)
        in_all = known.ended + plan.trials
        if plan.rungs != said.rungs or abs(in_all - said_in_all) > max(TOLD_AGAIN * said_in_all, TOLD_LEAST):
            said, said_in_all = plan, in_all
            work.say(f"now {in_words(plan, night.end, now)}")
        return night.for_search(plan, known, now)

    work.search(plan, left)
    work.end_search(plan)
    return plan


def in_words(plan: Plan, end: float, now: float) -> str:
    """Example: until 05:40 about 90 short runs of 20 epochs; from 05:40 the best 2 for 200 epochs; ready by 08:00."""
    at = now + plan.short_s
    parts = []
    if plan.trials:
        runs = f"{count(plan.trials, 'short run')} of {count(plan.short_epochs, 'epoch')}"
        parts.append(f"until {clock(at, now)} about {runs}")
    for rung, seconds in zip(plan.rungs, plan.rung_s, strict=True):
        best = f"the best {rung.top}" if rung.top > 1 else "the best one"
        seeds = f", {plan.seeds} seeds each" if plan.seeds > 1 and rung is plan.rungs[-1] else ""
        parts.append(f"from {clock(at, now)} {best} for {count(rung.epochs, 'epoch')}{seeds}")
        at += seconds
    return f"{'; '.join(parts)}; ready by {clock(end, now)}"


def clock(at: float, now: float) -> str:
    """A time of day, with seconds if it is near."""
    then = datetime.fromtimestamp(at)
    return f"{then:%H:%M:%S}" if at - now < NEAR_S else time_of_day(then, datetime.fromtimestamp(now))


# What a run keeps of its night ---------------------------------------------------------------------------------------


class Kept(Frozen):
    """A night, as stored in a file of its run."""

    asked: str  # as the user gave the time
    end: float  # seconds since the epoch
    told: str = ""  # the plan, as it was last printed
    searched: Plan | None = None  # the plan with which its short runs ended
    done: bool = False


def read_night(folder: RunFolder) -> Kept | None:
    """The night of a run that was started last; None: there was none, or its file is damaged."""
    try:
        return Kept.model_validate_json(folder.night.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None
