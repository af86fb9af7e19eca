"""Simulated nights: a clock that is moved by hand, and runs that take what they cost."""

import itertools
import random
import re
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from search.ladder import Rung
from search.night import (
    FullRun,
    Known,
    Left,
    Lengths,
    Night,
    Pace,
    Plan,
    TooShortError,
    Tried,
    conduct,
    divide,
    in_words,
    is_too_slow,
    times_slower,
)

LENGTHS = Lengths(short=30, full=200)
MINUTE, HOUR = 60.0, 3600.0


def _score(tried: tuple[float, Tried]) -> float:
    return tried[0]


class KilledError(Exception):
    """The process ends."""


@dataclass
class Simulated:
    """A machine with a network of its own cost for each trial, whose time goes by without being waited for."""

    epoch_s: float  # the mean, in truth
    start_s: float
    pruned: float  # share of the short runs that are stopped after a third
    generator: random.Random
    kills: list[float]  # when the process is killed
    lost_s: float = 0.0  # until it is started again
    workers: int = 1
    slow_from: float = float("inf")  # when others begin to use the machine
    slowdown: float = 1.0  # an epoch takes so many times longer from then on
    at: float = 0.0
    short_epochs: int | None = None
    going: tuple[float, int, bool] | None = None  # the short run that was interrupted: seconds, epochs, whether pruned
    trained: int = 0  # its epochs
    ended: int = 0
    epochs: int = 0
    seconds: float = 0.0
    tried: list[tuple[float, Tried]] = field(default_factory=list)  # the best is the last
    cost: dict[int, float] = field(default_factory=dict)  # seconds of an epoch of each of these
    finished: list[FullRun] = field(default_factory=list)
    finished_s: float = 0.0
    partly: dict[FullRun, int] = field(default_factory=dict)  # epochs that an interrupted run has
    paces: dict[FullRun, list[float]] = field(default_factory=dict)  # seconds of its epochs
    plan: Plan | None = None
    said: list[str] = field(default_factory=list)
    delivered: list[int] = field(default_factory=list)  # finished runs at each delivery

    def now(self) -> float:
        return self.at

    def _epoch(self, epoch_s: float) -> float:
        """Seconds of an epoch that begins now."""
        return epoch_s * (self.slowdown if self.at >= self.slow_from else 1)

    def known(self) -> Known:
        return Known(
            short_epochs=self.short_epochs,
            ended=self.ended,
            epochs=self.epochs,
            seconds=self.seconds,
            candidates=self._candidates(),
            finished=list(self.finished),
            finished_s=self.finished_s,
            begun={run: epochs for run, epochs in self.partly.items() if run not in self.finished},
            slower=1.0 if self.finished else self._times_slower(),
        )

    def _times_slower(self) -> float:
        """How many times slower the begun run is than its trial was."""
        return max((times_slower(seconds, self.cost[run.trial]) for run, seconds in self.paces.items()), default=1.0)

    def _candidates(self) -> list[Tried]:
        longest: dict[int, int] = {}
        for run in self.finished:
            longest[run.trial] = max(longest.get(run.trial, 0), run.epochs)
        best = [tried for _, tried in reversed(self.tried[-40:])]
        return sorted(best, key=lambda tried: -longest.get(tried.trial, 0))

    def search(self, plan: Plan, left: Left) -> None:
        self.short_epochs = self.short_epochs or plan.short_epochs
        while (room := left()) > 0:
            if self.going is None:
                epoch_s = self.epoch_s * self.generator.lognormvariate(0, 0.5) / 1.13
                is_pruned = self.ended >= 5 and self.generator.random() < self.pruned
                epochs = max(1, self.short_epochs // 3) if is_pruned else self.short_epochs
                self.going = epoch_s, epochs, is_pruned
            epoch_s, epochs, is_pruned = self.going  # an interrupted run goes on
            started = self.at
            self._pass(self.start_s)
            self.seconds += self.start_s
            for _ in range(epochs - self.trained):
                seconds = self._epoch(epoch_s)
                if self.at - started + seconds > room:
                    return
                self._pass(seconds / self.workers)  # as one of so many at a time
                self.seconds += seconds
                self.trained += 1
                self.epochs += 1
            self.ended += 1
            self.going, self.trained = None, 0
            if not is_pruned:
                self.cost[self.ended] = epoch_s
                insort(self.tried, (self.generator.random(), Tried(trial=self.ended, epoch_s=epoch_s)), key=_score)

    def train(self, runs: Sequence[FullRun], until: float) -> bool:
        assert len(runs) <= self.workers
        assert len({run.epochs for run in runs}) == 1
        started = self.at
        self._pass(self.start_s)
        takes = {run: self._epoch(self.cost[run.trial]) for run in runs}  # the epoch that each is in
        ends = {run: self.at + takes[run] for run in runs}
        is_first = len(runs) == 1 and not self.finished
        while ends:
            run = min(ends, key=lambda each: ends[each])
            if ends[run] > until:
                return False
            self._pass(max(ends[run] - self.at, 0.0))
            self.partly[run] = self.partly.get(run, 0) + 1
            self.paces.setdefault(run, []).append(takes[run])
            if is_first and is_too_slow(self.paces[run], run.epochs - self.partly[run], until - self.at):
                return False
            takes[run] = self._epoch(self.cost[run.trial] * self.generator.uniform(0.97, 1.03))
            ends[run] = self.at + takes[run]
            if self.partly[run] >= run.epochs:
                del ends[run]
                self.finished.append(run)
                self.finished_s += self.at - started
        return True

    def deliver(self) -> None:
        self.delivered.append(len(self.finished))

    def searched(self) -> Plan | None:
        return self.plan

    def end_search(self, plan: Plan) -> None:
        self.plan = plan

    def say(self, line: str) -> None:
        self.said.append(line)

    def _pass(self, seconds: float) -> None:
        if self.kills and self.at + seconds > self.kills[0]:
            self.at = self.kills.pop(0) + self.lost_s
            raise KilledError
        self.at += seconds


def spend(night: Night, machine: Simulated) -> None:
    """Conduct the night, started again whenever it is killed."""
    while True:
        try:
            conduct(night, machine)
            return
        except KilledError:
            continue


@pytest.mark.parametrize("length", [10 * MINUTE, 30 * MINUTE, 2 * HOUR, 8 * HOUR, 24 * HOUR])
@pytest.mark.parametrize(
    ("epoch_s", "workers"), [(2.0, 1), (8.0, 1), (30.0, 1), (90.0, 1), (300.0, 1), (20.0, 4), (90.0, 4), (300.0, 4)]
)
def test_every_night_ends_in_time_with_a_full_run(epoch_s: float, length: float, workers: int) -> None:
    for pruned, error, kills in itertools.product((0.0, 0.5, 0.8), (0.6, 1.0, 1.6), (0, 2)):
        generator = random.Random(f"{epoch_s} {length} {pruned} {error} {kills}")
        when = sorted(generator.uniform(0, 0.8 * length) for _ in range(kills))
        machine = Simulated(epoch_s, min(2.0, epoch_s), pruned, generator, when, 0.02 * length, workers)
        expected = Pace(
            epoch_s=epoch_s / error, full_epoch_s=1.3 * epoch_s / error, start_s=1.0, saved=0.3, workers=workers
        )
        night = Night(end=length, lengths=LENGTHS, expected=expected)
        try:
            spend(night, machine)
        except TooShortError:
            assert length < 30 * epoch_s
            continue
        about = f"{pruned=} {error=} {kills=}: ended at {machine.at / length:.3f}, " + "\n".join(machine.said)
        assert machine.at <= 1.01 * length, about
        if length >= 30 * epoch_s:
            assert machine.finished, about
            # What a kill costs may leave no time for the last of two or three full runs, and then it ends early.
            # Of several at a time, all wait for the slowest, which the plan knows only from their short runs.
            is_few = length < 6 * LENGTHS.full * epoch_s
            least = 0.85 if not is_few else (0.6 if kills else 0.85) - (0.1 if workers > 1 else 0)
            assert machine.at >= least * length, about
        if workers == 1:
            assert machine.delivered == list(range(1, len(machine.finished) + 1)), about
        else:
            assert machine.delivered == sorted(set(machine.delivered)), about


@pytest.mark.parametrize("slowdown", [1.5, 3.0, 8.0])
@pytest.mark.parametrize("length", [3 * MINUTE, 10 * MINUTE, 8 * HOUR])
def test_a_machine_that_becomes_slower_has_a_model_in_time(length: float, slowdown: float) -> None:
    for epochs, begins, seed in itertools.product((60, 1_500), (0.0, 0.2, 0.5, 0.7, 0.9, 0.97), range(3)):
        epoch_s = length / epochs
        if (1 - begins) * length < 15 * slowdown * epoch_s:
            continue  # what is left is too short
        generator = random.Random(f"{length} {slowdown} {epochs} {begins} {seed}")
        machine = Simulated(
            epoch_s, min(0.2, epoch_s), 0.5, generator, [], slow_from=begins * length, slowdown=slowdown
        )
        night = Night(end=length, lengths=LENGTHS, expected=Pace(epoch_s=epoch_s, full_epoch_s=1.3 * epoch_s))
        spend(night, machine)
        about = f"{epochs=} {begins=}: ended at {machine.at / length:.3f}, " + "\n".join(machine.said)
        assert machine.finished, about
        assert machine.at <= 1.01 * length, about


def test_one_slow_epoch_or_a_late_one_does_not_stop_a_run() -> None:
    assert not is_too_slow([1.0] * 4 + [3.0], epochs=20, left_s=21)
    assert not is_too_slow([3.0], epochs=20, left_s=40)  # a first epoch is slower than the others
    assert not is_too_slow([3.0, 1.0], epochs=20, left_s=21)
    assert is_too_slow([1.0] * 4 + [3.0], epochs=12, left_s=13)  # the next would be too late for a shorter run
    assert is_too_slow([1.0] * 2 + [3.0] * 3, epochs=20, left_s=21)
    assert not is_too_slow([3.0] * 5, epochs=20, left_s=9)  # a shorter run would not end either


def test_an_interrupted_full_run_is_finished_before_another_begins() -> None:
    night = Night(end=10 * HOUR, lengths=LENGTHS, expected=Pace(epoch_s=10, full_epoch_s=10))
    plan = divide(10 * HOUR, LENGTHS, night.expected)
    stopped = FullRun(trial=3, epochs=187)
    known = Known(candidates=[Tried(trial=7, epoch_s=10.0), Tried(trial=3, epoch_s=10.0)], begun={stopped: 170})
    assert night.next_run(plan, known, 9 * HOUR) == stopped  # the 17 epochs that are left fit
    assert night.next_run(plan, known, 9.95 * HOUR) != stopped  # now they do not


def test_workers_train_the_next_runs_at_a_time_and_all_of_one_length() -> None:
    pace = Pace(epoch_s=10, full_epoch_s=10, workers=4)
    night = Night(end=24 * HOUR, lengths=LENGTHS, expected=pace)
    known = Known(candidates=[Tried(trial=i, epoch_s=10.0) for i in range(6)], short_epochs=30)
    between, full = Rung(top=6, epochs=60), Rung(top=3, epochs=200)
    plan = Plan(short_epochs=30, trials=0, short_s=0, rungs=(between, full), rung_s=(1200, 2000), seeds=1, closing_s=60)
    runs = night.next_runs(plan, known, 10 * HOUR)
    assert runs == [FullRun(trial=i, epochs=60) for i in range(4)]
    known = replace(known, finished=runs)
    runs = night.next_runs(plan, known, 10 * HOUR)
    assert runs == [FullRun(trial=i, epochs=60) for i in (4, 5)]  # the full runs wait for the end of this rung
    known = replace(known, finished=[*known.finished, *runs])
    assert night.next_runs(plan, known, 10 * HOUR) == [FullRun(trial=i, epochs=200) for i in range(4)]
    # One that was interrupted comes first, and others beside it.
    known = replace(known, begun={FullRun(trial=5, epochs=200): 100})
    assert [run.trial for run in night.next_runs(plan, known, 10 * HOUR)] == [5, 0, 1, 2]
    assert night.next_runs(plan, known, 23.6 * HOUR) == [FullRun(trial=5, epochs=200)]  # the others do not fit


def test_more_workers_do_more_in_the_same_night() -> None:
    alone, four = (divide(8 * HOUR, LENGTHS, Pace(epoch_s=10, full_epoch_s=13, workers=n)) for n in (1, 4))
    assert four.trials > 3 * alone.trials
    assert four.rungs[-1].top * four.seeds >= 2 * alone.rungs[-1].top * alone.seeds
    assert (len(alone.rungs), len(four.rungs)) == (1, 2)


def test_a_night_that_goes_on_after_its_short_runs_prints_what_is_left() -> None:
    machine = Simulated(10.0, 0.0, 0.0, random.Random(0), kills=[6.5 * HOUR])
    night = Night(end=8 * HOUR, lengths=LENGTHS, expected=Pace(epoch_s=10, full_epoch_s=13))
    with pytest.raises(KilledError):
        conduct(night, machine)
    assert machine.plan is not None  # the short runs have ended
    machine.said.clear()
    conduct(night, machine)
    (said,) = machine.said
    assert re.fullmatch(r"from [\d:]+ the best \w+ for 200 epochs(, \d seeds each)?; ready by \d\d:\d\d", said), said


def test_a_plan_without_short_runs_does_not_name_them() -> None:
    plan = Plan(
        short_epochs=6, trials=0, short_s=0.0, rungs=(Rung(top=1, epochs=20),), rung_s=(60.0,), seeds=1, closing_s=8.0
    )
    assert "short" not in in_words(plan, end=100.0, now=0.0)
