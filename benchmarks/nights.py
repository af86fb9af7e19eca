"""`search auto` compared with plans that a careful user would write, in simulated worlds.

    python -m benchmarks.worlds --out worlds.jsonl --worlds 100 --methods auto+starts,plan-200x30+starts,...
    python -m benchmarks.worlds --table worlds.jsonl --reference auto+starts

Each has a night of a given number of epochs, in which it ends (a separate search for each length of the night). Short
runs have 6 epochs on a part of the images and full runs 40, which represents 30 and 200.

auto             the plan of `search.night`, step by step
plan-200x30      200 short runs and 3 full runs, and in a shorter night as many short runs as fit beside them; less than
                 six full runs' time: beside one
plan-60x60       runs of twice the length of a short run, without pruning, and then 2 full runs; in the shortest, 1
portfolio-full   full runs of the configurations that did best on other images, and nothing else
"""

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import optuna

from benchmarks.methods import TRIALS, Account, Method, SpentError, Starts, _OneWorker, _ShortRuns
from benchmarks.world import FULL, SHORT, STUDY, drawn_evenly
from search import study as studies
from search.data_shape import NAMED_SHAPES
from search.drawing import Setting
from search.ladder import choose
from search.night import FullRun, Known, Left, Lengths, Night, Pace, Plan, Tried, conduct
from search.starts import Configuration, enqueue_starts
from search.trials import TrialRecord, finished_trials, records

EPOCHS = (120, 240, 480, 1200)
SECONDS = 60.0  # of an epoch
SAVED = 0.3  # of the epochs of short runs, by pruning: the estimate before the night


class Search:
    """A study of short runs in a world."""

    def __init__(self, account: Account, starts: Starts, seed: int) -> None:
        self.account = account
        self.study = optuna.create_study(direction="maximize")
        self.spec = STUDY.model_copy(update={"seed": seed, "trials": TRIALS})
        self.shape = NAMED_SHAPES["cifar10"]
        known = [Configuration(f"portfolio: {number}", params) for number, params in enumerate(starts)]
        enqueue_starts(self.study, self.spec.model_copy(update={"portfolio": False}), self.shape, lambda: known)
        self.trainer = _ShortRuns(account, self.study, lambda trial: trial.params)

    def run(self, stop: Callable[[], bool]) -> None:
        """Do short runs until `stop`."""
        setting = Setting(self.study, self.spec, self.shape, "fp32", _OneWorker())
        studies.run(setting, self.trainer, self.trainer, stop=stop)

    def ranked(self, top: int) -> list[TrialRecord]:
        """The best, in the order of promotion: the best of each optimizer first."""
        scored = [(trial, trial.score) for trial in records(self.study) if trial.score is not None]
        return choose(scored, min(top, len(scored)), "optimizer")


class _Work:
    """A night's work in a world, whose clock is the account."""

    def __init__(self, account: Account, starts: Starts, seed: int) -> None:
        self.account = account
        self.searching = Search(account, starts, seed)
        self.scores: dict[FullRun, float] = {}
        self.short_epochs = 0
        self.plan: Plan | None = None

    def now(self) -> float:
        """The epochs so far, as seconds."""
        return self.account.spent * SECONDS

    def known(self) -> Known:
        """The work that is done so far."""
        trials = finished_trials(self.searching.study)
        length = {run.trial: (run.epochs, score) for run, score in sorted(self.scores.items(), key=_epochs)}
        best = sorted(self.searching.ranked(40), key=lambda each: length.get(each.number, (0, 0.0)), reverse=True)
        full = sum(run.epochs for run in self.scores)
        spent = self.account.spent - full
        return Known(
            short_epochs=SHORT,
            ended=len(trials),
            epochs=spent,
            seconds=spent * SECONDS,
            candidates=[Tried(trial=each.number, epoch_s=SECONDS) for each in best],
            finished=list(self.scores),
            finished_s=full * SECONDS,
        )

    def search(self, plan: Plan, left: Left) -> None:
        """Short runs."""
        self.searching.run(lambda: left() < SECONDS)

    def train(self, runs: Sequence[FullRun], until: float) -> bool:
        """A full run, or one between, which is annealed in its own length."""
        (run,) = runs  # there is one worker
        params = self.searching.study.get_trials(deepcopy=False)[run.trial].params
        if run.epochs == FULL:
            scores = [score for _, score in self.account.full_run(params)]
            score = scores[-1] if len(scores) == FULL else 0.0
        else:
            score = self.account.annealed(params, run.epochs)
        self.scores[run] = score
        return True

    def deliver(self) -> None:
        """Do nothing: the account knows the best network."""

    def searched(self) -> Plan | None:
        """Never interrupted."""
        return self.plan

    def end_search(self, plan: Plan) -> None:
        """Never interrupted."""

    def say(self, line: str) -> None:
        """Do nothing: nobody reads it."""


def _epochs(item: tuple[FullRun, float]) -> tuple[int, float]:
    return item[0].epochs, item[1]


def auto(account: Account, starts: Starts, seed: int) -> None:
    """Our plan, for each length of the night."""
    pace = Pace(epoch_s=SECONDS, full_epoch_s=SECONDS, saved=SAVED)
    for epochs in EPOCHS:
        if epochs <= account.budget:
            alone = Account(account.world, epochs)
            night = Night(end=epochs * SECONDS, lengths=Lengths(short=SHORT, full=FULL), expected=pace)
            with contextlib.suppress(SpentError):
                conduct(night, _Work(alone, starts, seed))
            _add(account, alone, epochs)


def plan_200x30(account: Account, starts: Starts, seed: int) -> None:
    """Many short runs, few full ones."""
    for epochs in EPOCHS:
        if epochs <= account.budget:
            _fixed(account, starts, seed, epochs, top=3 if epochs >= 6 * FULL else 1)


def _fixed(account: Account, starts: Starts, seed: int, epochs: int, top: int) -> None:
    alone = Account(account.world, epochs - top * FULL)
    searching = Search(alone, starts, seed)
    with contextlib.suppress(SpentError):
        searching.run(lambda: alone.budget - alone.spent < SHORT)
    alone.budget = epochs
    for trial in searching.ranked(top):
        for _ in alone.full_run(trial.optuna.params):
            pass
    _add(account, alone, epochs)


def plan_60x60(account: Account, starts: Starts, seed: int) -> None:
    """Fewer runs of twice the length."""
    for epochs in EPOCHS:
        if epochs <= account.budget:
            top = 2 if epochs >= 3 * FULL + SHORT else 1
            alone, generator = Account(account.world, epochs), np.random.default_rng(seed)
            number = (epochs - top * FULL) // (2 * SHORT)
            drawn = [*starts[:number], *(drawn_evenly(generator) for _ in range(number - len(starts)))]
            scored = [(alone.annealed(params, 2 * SHORT), i) for i, params in enumerate(drawn)]
            for _, i in sorted(scored, reverse=True)[:top]:
                for _ in alone.full_run(drawn[i]):
                    pass
            _add(account, alone, epochs)


def portfolio_full(account: Account, starts: Starts, _seed: int) -> None:
    """No search at all."""
    for epochs in EPOCHS:
        if epochs <= account.budget:
            alone = Account(account.world, epochs)
            with contextlib.suppress(SpentError):
                for params in starts:
                    for _ in alone.full_run(params):
                        pass
            _add(account, alone, epochs)


def _add(account: Account, alone: Account, epochs: int) -> None:
    account.spent, account.trials = epochs, alone.trials
    account.points.append((epochs, alone.points[-1][1]))


NIGHTS: dict[str, Method] = {
    "auto": auto,
    "plan-200x30": plan_200x30,
    "plan-60x60": plan_60x60,
    "portfolio-full": portfolio_full,
}
