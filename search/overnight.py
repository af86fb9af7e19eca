"""`search auto`: one command for one night. It searches, trains the best in full runs and exports the model, in time.

`night` divides the time; this module does each part. The night is written to a file of the run, so the same command
continues with the remaining time after any interruption.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import optuna
import torch

from search import full_runs, night
from search.console import say_plan, say_winner
from search.drawing import is_used_up
from search.errors import OutOfTimeError, SpecError, UserError
from search.export import chosen, export_model, model_of
from search.fidelity import measured_on
from search.forecast import WORKERS_START_S, Speedup, epoch_seconds
from search.formatting import count, duration
from search.identity import spec_of
from search.ladder import choose
from search.night import FullRun, Kept, Known, Left, Lengths, Night, Pace, Plan, TooShortError, Tried, clock, read_night
from search.notes import publish
from search.opening import Opened, opened
from search.plan import Survey
from search.promotions import Promotion, best_run, finished, winner
from search.report import write_report
from search.results import read_results
from search.run_folder import RunFolder, RunRef, write_text
from search.searching import expected, search_on, working
from search.session import Placement, Session, worth_starting
from search.spec import StudySpec, load_study
from search.tables import promotion_table
from search.terminal import draw, program, say
from search.trials import TrialRecord, finished_trials, records
from train_core import checkpoint
from train_core.examples import FormatName
from train_core.formats import FORMATS, check_installed
from train_core.results import EpochResult

SAVED = 0.3  # share of the epochs of short runs that pruning is expected to save
LONGEST_S = 31 * 24 * 3600.0
REPORT_EVERY_S = 60.0
WORKERS_FROM_S = 1800.0  # in a shorter night, starting workers before each part would take too long
MOST_CANDIDATES = 50  # trials that are ranked for the full runs


@dataclass(frozen=True, kw_only=True)
class Time:
    """The length of a night, as the user gave it."""

    hours: float | None = None
    minutes: float | None = None
    until: str | None = None  # 08:00, or 2026-12-24 08:00

    def __str__(self) -> str:
        """As on the command line."""
        given = {"--hours": self.hours, "--minutes": self.minutes, "--until": self.until}
        return " ".join(f"{flag} {value}" for flag, value in given.items() if value is not None)

    def end(self, now: float) -> float:
        """When the night ends, in seconds since the epoch.

        Raises:
            SpecError: not exactly one of the three is given, it cannot be read, or it has passed.

        """
        if sum(value is not None for value in (self.hours, self.minutes, self.until)) != 1:
            raise SpecError("say how long it may take: give one of --hours 8, --minutes 30 and --until 08:00")
        if self.until is not None:
            return _end_of(self.until, now)
        seconds = 3600 * (self.hours or 0) + 60 * (self.minutes or 0)
        if not 0 < seconds <= LONGEST_S:
            raise SpecError(f"{self}: give a time of more than 0, and of a month at most")
        return now + seconds


def _end_of(text: str, now: float) -> float:
    """The next time of day, or the time on a given day."""
    here = datetime.fromtimestamp(now)
    for form in ("%H:%M", "%H:%M:%S"):
        try:
            clock = datetime.strptime(text, form)
        except ValueError:
            continue
        then = here.replace(hour=clock.hour, minute=clock.minute, second=clock.second, microsecond=0)
        return (then if then > here else then + timedelta(days=1)).timestamp()
    try:
        then = datetime.fromisoformat(text)
    except ValueError as error:
        raise SpecError(f"--until {text}: give a time of day as 08:00, or a day too, as '2026-12-24 08:00'") from error
    if then.timestamp() <= now:
        raise SpecError(f"--until {text} has passed: give a later time")
    return then.timestamp()


def auto(study: str, flags: Mapping[str, Any], ref: RunRef, placement: Placement, how_long: Time) -> RunFolder:
    """Search, train the best in full runs and export the model before the time is over. Returns the run's folder.

    The same command continues after an interruption, with the remaining time; with another time, or when the time is
    over, it starts another night with the same run. `study`, `flags`, `ref` and `placement` as in `api.run`.

    Raises:
        UserError: the user can fix it; the message says how.

    """
    if load_study(study, flags).front:
        raise SpecError(
            "`search auto` makes one model, not one of every size: leave out the front, or use `search run`, "
            "`search promote --front 5` and `search export --front`"
        )
    now = time.time()
    asked_end = how_long.end(now)
    if not placement.workers:
        workers = worth_starting(placement.device) if asked_end - now > WORKERS_FROM_S else 1
        placement = replace(placement, workers=workers)
    adapted = _Adapted(now=now, asked=str(how_long), end=asked_end, placement=placement)
    with opened(study, flags, ref, placement, adapt=adapted) as run:
        kept = adapted.kept
        if kept.done and kept.end > time.time():
            then = clock(kept.end, time.time())
            say(f"{run.folder.root}: this night is done; another begins with another time, or after {then}")
        else:
            with run.folder.spending_night():
                _spend(run, placement, kept, adapted.pace, adapted.lengths)
        _say_outcome(run)
    return run.folder


@dataclass
class _Adapted:
    """Fits the lengths of the runs to the time, before a study is made; those of an existing study stay."""

    now: float
    asked: str
    end: float
    placement: Placement
    kept: Kept = field(init=False)
    pace: Pace = field(init=False)
    lengths: Lengths = field(init=False)

    def __call__(self, spec: StudySpec, folder: RunFolder, session: Session, survey: Survey) -> StudySpec:
        """The spec with the lengths that fit.

        Raises:
            SpecError: nothing fits.

        """
        self.kept = self._continued(folder)
        seconds = self.kept.end - time.time()
        self.pace = _expected(spec, session, survey, self.placement.speedup(session))
        full = spec.promote.rungs[-1].epochs
        if folder.study_file.exists():
            known = spec_of(folder)
            self.lengths = Lengths(short=known.epochs, full=full)
            same = {"epochs": known.epochs, "trials": known.trials, "promote": known.promote}
            return spec.model_copy(update=same)
        try:
            plan = night.divide(seconds, Lengths(short=spec.epochs, full=full), self.pace)
        except TooShortError as error:
            raise SpecError(f"{self.asked} is too short: {_needed(error, self.pace)}") from error
        self.lengths = Lengths(short=plan.short_epochs, full=full)
        promote = {"ladder": "", "top": plan.rungs[-1].top, "epochs": plan.full_epochs}
        return spec.model_copy(
            update={
                "epochs": plan.short_epochs,
                "trials": plan.trials,
                "promote": spec.promote.model_copy(update=promote),
            }
        )

    def _continued(self, folder: RunFolder) -> Kept:
        """The interrupted night, if the same time is given and it is not over; otherwise a new one."""
        before = read_night(folder)
        if before is not None and before.asked == self.asked and before.end > self.now:
            return before
        return Kept(asked=self.asked, end=self.end)


def _expected(spec: StudySpec, session: Session, survey: Survey, speedup: Speedup) -> Pace:
    """The cost of an epoch, from a few timed steps; with several workers, beside the others."""
    epoch_s = expected(spec, survey, session).trial_s / spec.epochs * speedup.workers / speedup.low
    start_s = WORKERS_START_S[1] if speedup.workers > 1 else 0.0
    return Pace(
        epoch_s=epoch_s,
        full_epoch_s=night.HEAVIER * epoch_s,
        saved=SAVED,
        workers=speedup.workers,
        workers_start_s=start_s,
    )


def _needed(error: TooShortError, pace: Pace) -> str:
    minutes = max(1, -(-error.needed_s // 60))
    return (
        f"an epoch takes about {duration(pace.epoch_s)} here. Give at least --minutes {minutes:.0f}, "
        "a smaller --budget, or a faster --device"
    )


def _spend(run: Opened, placement: Placement, kept: Kept, pace: Pace, lengths: Lengths) -> None:
    """Do the work of the night."""
    work = _Work(run, placement, kept)
    work.keep()
    say_plan(run.plan(placement.speedup(run.session), others=len(run.folder.workers())))
    try:
        night.conduct(Night(end=kept.end, lengths=lengths, expected=pace), work)
    except TooShortError as error:
        if not winner(finished(run.folder)):
            left = duration(max(kept.end - time.time(), 0.0))
            raise OutOfTimeError(f"only {left} are left, which is too short: {_needed(error, pace)}") from error
    work.conclude()
    ended = len(finished_trials(run.study))
    write_text(run.folder.study_file, run.spec.model_copy(update={"trials": max(ended, 1)}).as_toml())
    work.keep(done=bool(winner(finished(run.folder))))


def _say_outcome(run: Opened) -> None:
    folder = run.folder
    runs = finished(folder)
    if not winner(runs):
        raise OutOfTimeError(
            f"no full run of {folder.name!r} was finished in time: the same command, given again, finishes it "
            f"(the best short run: search show {_best(run.study)} {folder.name})"
        )
    draw(promotion_table(runs))
    say_winner(runs, measured_on(folder, run.spec.scored_by))
    model = model_of(folder)
    then = f"predict {model} photo.png" if model else f"export {folder.name}"
    say(f"next: {program()} errors {folder.name}   or: {program()} {then}")
    say(f"report: {folder.report}")


def _best(study: optuna.Study) -> int:
    complete = [trial for trial in records(study) if trial.score is not None]
    return max(complete, key=lambda trial: trial.score or 0.0).number if complete else 0


def _format(wanted: FormatName) -> FormatName:
    """The study's format if it can be written here, otherwise the first one that can."""
    for name in (wanted, *FORMATS):
        try:
            check_installed(name)
        except UserError:
            continue
        return name
    return "safetensors"


@dataclass
class _Work:
    """The steps of a real night, as `night.Work` describes them."""

    run: Opened
    placement: Placement
    kept: Kept
    exported: Promotion | None = None  # the full run whose model was written last
    report_due: float = 0.0  # when the report is due again

    def now(self) -> float:
        """The current time."""
        return time.time()

    def keep(self, **changes: Any) -> None:
        """Store the night."""
        self.kept = self.kept.model_copy(update=changes)
        write_text(self.run.folder.night, self.kept.model_dump_json(indent=2) + "\n")

    def known(self) -> Known:
        """The state in the study and the run folder."""
        ended = finished_trials(self.run.study)
        runs = finished(self.run.folder)
        done = [run for run in runs if not run.refit]
        first_seed = self.run.spec.seed
        begun = self._begun()
        return Known(
            short_epochs=self.run.spec.epochs,
            ended=len(ended),
            epochs=sum(len(trial.curve) for trial in ended),
            seconds=sum(trial.seconds or 0.0 for trial in ended),
            candidates=self._candidates(runs),
            finished=[FullRun(trial=run.trial, epochs=run.recipe.epochs, seed=run.seed - first_seed) for run in done],
            finished_s=sum(run.seconds for run in done),
            begun={run: len(seconds) for run, seconds in begun.items()},
            slower=1.0 if done else self._slower(begun),
        )

    def _slower(self, begun: Mapping[FullRun, Sequence[float]]) -> float:
        """How many times slower interrupted full runs are than the short runs of their trials were."""
        expected = {run: epoch_seconds(self._trial(run.trial)) for run in begun}
        return max(
            (night.times_slower(begun[run], seconds) for run, seconds in expected.items() if seconds and begun[run]),
            default=1.0,
        )

    def _begun(self) -> dict[FullRun, list[float]]:
        """Full runs that were interrupted, with the seconds of the epochs that their checkpoints have."""
        begun: dict[FullRun, list[float]] = {}
        for folder in self.run.folder.promotions():
            trial, epochs, seed, refit = folder.of
            if folder.result.exists() or refit or not checkpoint.exists(folder.checkpoint):
                continue
            with suppress(UserError):  # a damaged checkpoint is reported when its run is trained
                history = checkpoint.load(folder.checkpoint, torch.device("cpu")).history
                run = FullRun(trial=trial, epochs=epochs, seed=seed - self.run.spec.seed)
                begun[run] = [result.seconds for result in history]
        return begun

    def _candidates(self, runs: Sequence[Promotion]) -> list[Tried]:
        """Complete trials: by their longest runs, then in the order of promotion. Diverged ones are left out."""
        lost = {run.trial for run in runs if run.diverged}
        scored = [
            (trial, trial.score)
            for trial in records(self.run.study)
            if trial.score is not None and trial.number not in lost
        ]
        ordered = choose(scored, min(MOST_CANDIDATES, len(scored)), self.run.spec.promote.families)
        longest = {run.trial: (run.recipe.epochs, run.ranking_score) for run in reversed(runs)}
        ordered.sort(key=lambda trial: longest.get(trial.number, (0, 0.0)), reverse=True)
        paces = [(trial, epoch_seconds(trial)) for trial in ordered]
        return [Tried(trial=trial.number, epoch_s=seconds) for trial, seconds in paces if seconds is not None]

    def search(self, plan: Plan, left: Left) -> None:
        """Do short runs, as `search run` does. If pruning saves time, there are more than planned."""
        run = self.run
        while (seconds := left()) > 0 and not is_used_up(run.study):
            ended = finished_trials(run.study)
            trials = len(ended) + max(1, plan.trials if not ended else self._that_fit(seconds))
            self.run = run = replace(run, spec=run.spec.model_copy(update={"trials": trials}))
            write_text(run.folder.study_file, run.spec.as_toml())
            until = time.time() + seconds
            with working(run, until) as search:
                search_on(replace(search, left=left), run.session, self.placement, ended)
            if len(finished_trials(run.study)) == len(ended):
                return  # the last trial was stopped in time

    def _that_fit(self, seconds: float) -> int:
        known = self.known()
        return int(seconds * known.ended / max(known.seconds, 1e-9))

    def train(self, runs: Sequence[FullRun], until: float) -> bool:
        """Do full runs, as `search promote` does: several at a time in workers."""
        spec = self.run.spec
        between = {rung.epochs for rung in self.kept.searched.rungs[:-1]} if self.kept.searched else set()
        out_of_time = partial(_is_after, until)
        first = _Watched(epochs=runs[0].epochs, until=until)
        is_watched = len(runs) == 1 and not finished(self.run.folder)
        wanted = [(self._trial(run.trial), run.epochs, spec.seed + run.seed) for run in runs]
        with self._trainer() as trainer:
            timed = replace(trainer, stop=lambda: trainer.stop() or out_of_time() or first.too_slow, say=_nothing)
            if is_watched:
                timed = replace(timed, epoch_ended=first.epoch_ended)
            try:
                if len(runs) > 1:
                    timed.train_ahead(wanted)
                for trial, epochs, seed in wanted:
                    timed.train(trial, epochs, seed, tests=epochs not in between)
            except KeyboardInterrupt:
                if trainer.stop() or not (out_of_time() or first.too_slow):
                    raise
                which, length = ", ".join(f"trial {run.trial}" for run in runs), count(runs[0].epochs, "epoch")
                if out_of_time():
                    say(f"{which}: the time is over before all {length} are done")
                else:
                    say(f"{which}: {length} would not end in time, because training has become slower: fewer are begun")
                return False
        return True

    @contextmanager
    def _trainer(self) -> Iterator[full_runs.FullTrainer]:
        run, promote = self.run, self.run.spec.promote
        with (
            run.folder.promoting(beside_search=True),
            full_runs.full_trainer(
                run.folder, run.spec, run.session, self.placement, mirrored=promote.mirrored, asam=promote.asam
            ) as trainer,
        ):
            yield trainer

    def _trial(self, number: int) -> TrialRecord:
        return next(trial for trial in records(self.run.study) if trial.number == number)

    def deliver(self) -> None:
        """Export the model of the best full run if it is a new one; write the report from time to time."""
        self._export_best()
        if time.time() >= self.report_due:
            self._report()

    def conclude(self) -> None:
        """Test the best full run, if the time was over before the last rung did; write model and report."""
        runs = finished(self.run.folder)
        longest = max((run.recipe.epochs for run in runs if run.diverged is None), default=0)
        best = best_run([run for run in runs if run.recipe.epochs == longest])
        if best is not None and not best.tested:
            with self._trainer() as trainer:
                trainer.train(self._trial(best.trial), best.recipe.epochs, best.seed)
        self._export_best(again=True)  # the card names all full runs
        self._report()

    def _report(self) -> None:
        folder = self.run.folder
        results = read_results(folder)
        write_report(folder, results)
        publish(folder, results, self.run.session.data.size)
        self.report_due = time.time() + REPORT_EVERY_S

    def _export_best(self, *, again: bool = False) -> None:
        run = self.run
        results = read_results(run.folder)
        if not winner(results.promotions) or ((best := chosen(run.folder, None)) == self.exported and not again):
            return
        try:
            exported = export_model(
                run.folder, best, run.spec, run.session.data, _format(run.spec.format), trials=len(results.trials)
            )
        except UserError as error:  # the training is kept; `search export` can be tried again
            say(f"warning: no model was written: {error}")
        else:
            if best != self.exported:
                say(f"model so far: {exported}")
            self.exported = best

    def searched(self) -> Plan | None:
        """The recorded plan."""
        return self.kept.searched

    def end_search(self, plan: Plan) -> None:
        """Record it."""
        self.keep(searched=plan)

    def say(self, line: str) -> None:
        """Print the line, log it, and store it for `search watch`."""
        self.keep(told=line)
        say(f"plan     {line}")


@dataclass
class _Watched:
    """The night's first full run: whether it can end in time."""

    epochs: int
    until: float
    seconds: list[float] = field(default_factory=list)  # of its epochs in this process
    too_slow: bool = False

    def epoch_ended(self, result: EpochResult) -> None:
        """Decide whether a shorter run has to take its place."""
        self.seconds.append(result.seconds)
        self.too_slow = night.is_too_slow(self.seconds, self.epochs - result.epoch, self.until - time.time())


def _nothing(_line: str) -> None:
    """Print nothing: nobody has asked to stop."""


def _is_after(until: float) -> bool:
    return time.time() > until
