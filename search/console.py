"""The output of commands that train: live bars in a terminal, plain lines everywhere else and in the log file."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import truediv
from typing import Any

import optuna
from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table

from search.bars import bars_below
from search.between import FINISH_S
from search.data_shape import data_shape_of
from search.drawing import is_used_up
from search.fidelity import TOPS, Fidelity
from search.forecast import Pace, Span, Speedup, clock, full_runs_span, search_span, trials_within
from search.formatting import (
    count,
    duration,
    images_in_words,
    left_out_in_words,
    mean_and_deviation,
    percent,
    short_run,
    test_in_words,
    warnings_of,
)
from search.plan import SAMPLES, Estimate, Survey
from search.promotions import Promotion, refit_of, winner
from search.results import tie_of
from search.run_folder import RunFolder
from search.scores import always_largest, marked, named
from search.session import Session
from search.spec import StudySpec
from search.starts import sources_of
from search.storage import redacted
from search.streams import output_is_logged
from search.tables import best_so_far, best_table
from search.terminal import StopHint, console, draw, drawn_live, is_drawn_on, log, program, say, show, tell
from search.trial_lines import TrialColumns
from search.trials import TrialRecord, best, finished_trials, ranked, records, score_of
from train_core.census import lack_warning, leak_warning
from train_core.classes import images_of_classes
from train_core.device import describe
from train_core.printable import printable
from train_core.results import EpochResult, Score
from train_core.specs import Precision, ResNetSpec, TrainSpec, num_madds, num_params

TOO_LONG_S = 24 * 3600  # an estimate above this is printed with advice
ONE_THREAD_HELPS = 1.5  # if one thread is this many times as fast as all threads, it is advised
SHOWN = 5  # trials in the table at the end of a search, and in the view while it goes on
HIGH_ENOUGH = 24  # lines that a terminal needs for a table in that view


class _LogFormatter(logging.Formatter):
    """Each line with its time and process, without passwords."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


class _LogFile(logging.FileHandler):
    """Appends to a file while the disk has room."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Ignore the error: a full disk is reported where something else cannot be written."""


class _Warnings(logging.Handler):
    """Prints the log's warnings for the user while a command runs."""

    def emit(self, record: logging.LogRecord) -> None:
        # An error is part of a trial's verdict, which is printed anyway.
        if record.levelno == logging.WARNING:
            tell(redacted(record.getMessage()))


@contextmanager
def logged_to(folder: RunFolder) -> Iterator[None]:
    """Also write what is printed to the run's log file, each line with its time; print the warnings of the log."""
    file = _LogFile(folder.log, encoding="utf-8")
    file.setFormatter(_LogFormatter("%(asctime)s  %(process)d  %(message)s"))
    handlers: list[logging.Handler] = [file, _Warnings()]
    loggers = (log, logging.getLogger("train_core"))
    for logger in loggers:
        for handler in handlers:
            logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        with output_is_logged():
            yield
    finally:
        for logger in loggers:
            for handler in handlers:
                logger.removeHandler(handler)
        file.close()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search is about to do."""

    folder: RunFolder
    spec: StudySpec
    session: Session
    survey: Survey
    follows_size: Mapping[str, Any]  # dimensions that follow the size of the images, with their values
    baselines: Mapping[str, bool]  # by name: whether budget and space allow it
    starts: Sequence[str]  # the source of each configuration that did best on other images
    begun: bool  # whether a trial was started before, even if it has not ended
    done: int  # trials that ended before this command
    expected: Estimate | None  # None: nothing is left to do
    speedup: Speedup  # of the workers that this command starts
    hours: float | None  # after which it stops; None: only when it is done
    others: int  # workers that are searching already
    precision_seconds: Mapping[Precision, float]  # per step, for each precision that was measured
    relative: str = ""  # how a new run relates to an existing one; empty: no remark
    why_score: str = ""  # why its networks are compared by this score, if that was not given; empty: no remark

    @property
    def span(self) -> Span | None:
        """How long it will take; None: nothing is left to do."""
        if self.expected is None:
            return None
        return search_span(self.spec, self.expected.trial_s, self.done, self.speedup)


def say_plan(plan: Plan) -> None:
    """Print what the search will do, and an alternative if it would take days."""
    folder, spec, data = plan.folder, plan.spec, plan.session.data
    joining = f"joining {plan.others} other search{'es' if plan.others > 1 else ''}"
    kept = f", kept in {folder.storage}" if folder.storage else ""
    say(f"{folder.root}: {joining if plan.others else 'continuing' if plan.begun else 'new study'}{kept}")
    if plan.relative:
        say(f"  {plan.relative}")
    images = images_in_words(len(data.train), len(data.val), str(data_shape_of(data)))
    say(f"data     {spec.data}: {images}, {test_in_words(data.has_test, data.held_out)}")
    if plan.follows_size:
        values = ", ".join(f"{name} = {json.dumps(value)}" for name, value in plan.follows_size.items())
        say(f"  for images of this size: {values} (a study file can say otherwise)")
    for note in data.notes:
        say(f"  {note}")
    if left_out := left_out_in_words(data.left_out):
        say(f"  left out: {left_out}; `search data` lists them")
    for split, labels in data.lacking.items():
        say(f"warning  {lack_warning(split, labels)}")
    for split, number in data.copied.items():
        say(f"warning  {leak_warning(split, number)} `search data` names them")
    say(f"score    {_score_words(plan)}")
    say(f"device   {describe(plan.session.device)}, {_precision_words(plan)}")
    say(f"budget   {spec.limits}")
    survey = plan.survey
    for what, network in (("smallest", survey.smallest), (f"largest of {SAMPLES} draws", survey.largest)):
        madds = num_madds(network, data.size)
        others = spec.limits.others_in_words(network, data.size)
        say(f"  {what}: {num_params(network):,} parameters, {madds:,} multiply-adds{others}: {network}")
    _say_trials(plan)
    for warning in warnings_of(spec):
        say(f"warning  {warning}")
    if plan.expected is not None and plan.span is not None:
        _say_time(plan, plan.expected, plan.span)


def _score_words(plan: Plan) -> str:
    """The score, the reason for it, and its value without any network."""
    score, data = plan.spec.scored_by, plan.session.data
    images = [int(count) for count in images_of_classes(data.val.labels, data.num_classes).tolist()]
    least = always_largest(images, score)
    words = ", ".join(filter(None, (named(score), plan.why_score)))
    words += f" (always the largest class: {percent(least)})" if least is not None else ""
    return words + ('; class_weights = "balanced"' if plan.spec.space.class_weights == "balanced" else "")


def _precision_words(plan: Plan) -> str:
    """The precision, the reason for it, and how many workers train."""
    precision, seconds = plan.session.precision, plan.precision_seconds
    if seconds:
        note = " (measured: " + ", ".join(
            f"{1000 * step_s:.1f} ms a step in {kind}" for kind, step_s in seconds.items()
        )
        note += ")"
    else:
        note = " (no native bf16 here)" if precision != "bf16" and plan.spec.precision == "auto" else ""
    return f"{precision}{note}{f'; {plan.speedup.workers} workers' if plan.speedup.workers > 1 else ''}"


def _say_trials(plan: Plan) -> None:
    """Print how many trials there are, and which baselines come first."""
    allowed = [name for name in plan.baselines if plan.baselines[name]]
    refused = [name for name in plan.baselines if not plan.baselines[name]]
    first = f", first {count(len(allowed), 'baseline')} ({', '.join(allowed)})" if allowed and not plan.done else ""
    done = f", {plan.done} done" if plan.done else ""
    say(f"trials   {count(plan.spec.trials, 'short run')} of {short_run(plan.spec)}{done}{first}")
    behind = [max(number - len(allowed), 0) for number in (plan.done, plan.spec.trials)]  # the baselines
    if starts := plan.starts[slice(*behind)]:  # what is left after that waits for a larger total
        where = "before" if plan.spec.learn_from else "on other images"
        when, without = ("next", "") if plan.done else ("then", " (--no-portfolio: none)")
        say(f"         {when} {sources_of(starts)}, which did best {where}{without}")
    if refused and not plan.done:
        say(f"         not among them, outside the budget or the space: {', '.join(refused)}")


def _say_time(plan: Plan, expected: Estimate, span: Span) -> None:
    """Print how long the remaining trials will take, and when they will be done."""
    now = datetime.now()
    workers = f" with {count(plan.speedup.workers, 'worker')}" if plan.speedup.workers > 1 else ""
    say(f"time     about {span}{workers}, {span.done(now)}")
    say(f"         measured: {expected.images_per_second:,.0f} images/s on {plan.survey.typical}")
    if expected.one_thread >= ONE_THREAD_HELPS:
        say(
            f"warning  one thread trains {expected.one_thread:.1f} times as fast as all of them here, perhaps because "
            "other programs use the processor: stop, and start with OMP_NUM_THREADS=1"
        )
    if plan.hours is not None and span.high > plan.hours * 3600:
        fewest, most = trials_within(plan.spec, span, plan.done, plan.hours * 3600)
        which = f"{fewest:,} to {most:,}" if fewest < most else f"{most:,}"
        end = clock(now + timedelta(hours=plan.hours), now)
        say(f"         in {plan.hours:g} hours, until {end}: about {which} of the {count(plan.spec.trials, 'trial')}")
    elif span.high > TOO_LONG_S:
        say(
            "         That is long: use a GPU. On this device, `search run cifar10-small` searches networks of 100,000 "
            "parameters, `search run digits` shows the whole loop in two minutes; --hours 8 stops in time."
        )


def say_full_runs_time(epochs_of: Sequence[tuple[float, int]], speedup: Speedup) -> None:
    """Print how long full runs take, given (seconds per epoch, epochs) for each; nothing if there are none."""
    if epochs_of:
        span = full_runs_span(epochs_of, speedup)
        say(f"time     {count(len(epochs_of), 'full run')}: about {span}, {span.done(datetime.now())}")


def say_outcome(folder: RunFolder, spec: StudySpec, study: optuna.Study) -> None:
    """Print the progress of the study, its best trials, and what to do next."""
    done = finished_trials(study)
    complete = ranked(done)
    pruned = sum(trial.is_pruned for trial in done)
    say(
        f"{len(done)} of {count(spec.trials, 'trial')}: {len(complete)} complete, {pruned} pruned, "
        f"{len(done) - len(complete) - pruned} failed"
    )
    for trial in complete[:SHOWN]:
        figure = marked(percent(score_of(trial)), spec.scored_by)
        log.info("  %s  trial %d  %s  %s", figure, trial.number, trial.network, trial.recipe)
    if complete:
        draw(best_table(complete[:SHOWN], spec.scored_by))
    if is_used_up(study):
        say("the space holds no new network: draw after draw was tried before; promote the best, or widen the space")
    if len(done) < spec.trials and not is_used_up(study):
        say(f"stopped in time; run the same command to continue {folder.name}")
    elif complete:
        front = " --front 5" if spec.front else ""
        say(f"next: {program()} promote {folder.name}{front}   or: {program()} dashboard {folder.name}")
    say(f"report: {folder.report}")


class StudyProgress:
    """Prints a study's progress: a line for each trial that ends, and in a terminal a view below.

    The view has the best trials so far (if the terminal is high enough), a bar for the study, a bar for the trial in
    training, and how to stop. `stop` returns whether a stop was requested; `planned` is how long the search was
    expected to take.
    """

    def __init__(
        self,
        finished: Sequence[TrialRecord],
        trials: int,
        *,
        score: Score = "accuracy",
        logs: bool = True,
        stop: Callable[[], bool] = lambda: False,
        planned: Span | None = None,
    ) -> None:
        self.count = len(finished)
        self.score = score
        self.logs = logs  # whether to print to the log as well; other processes write their own lines there
        self.trials = trials
        self.best = best(finished)
        self._pace = Pace(trials, finished, time.monotonic(), planned)
        self._share = 0.0  # fraction of the trial that is being trained here
        self._reported = {trial.number for trial in finished}
        self._bars = bars_below()
        self._study: TaskID = self._bars.add_task("study", total=trials, completed=self.count, note=self._note())
        self._trial: TaskID = self._bars.add_task("trial", total=1, note="", visible=False)
        self._best_table: RenderableType = best_so_far(ranked(finished)[:SHOWN], score)
        self._columns = TrialColumns(trials, score)
        self._has_heading = False
        self._stop = stop
        self._workers_stop = False
        self._drawn = ExitStack()
        self.refresh: Callable[[], None] = lambda: None

    def __enter__(self) -> "StudyProgress":
        self.refresh = self._drawn.enter_context(drawn_live(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._drawn.close()

    def __rich__(self) -> RenderableType:
        """The current view."""
        is_high = console.height >= HIGH_ENOUGH and self.best is not None
        return Group(*((self._best_table,) if is_high else ()), self._bars, StopHint(self._stop))

    def trial_started(self, number: int, network: ResNetSpec, recipe: TrainSpec) -> None:
        """Start a new bar for the trial's epochs."""
        self._pace.trial_started(recipe.epochs)
        note = f"{num_params(network):,} parameters  {network}"
        self._bars.reset(self._trial, description=f"trial {number}", total=recipe.epochs, note=note, visible=True)

    def moved(self, epochs: float) -> None:
        """Move the bars to this number of epochs of the trial."""
        self._share = epochs / (self._bars.tasks[self._trial].total or 1)
        self._bars.update(self._trial, completed=epochs)
        self._bars.update(self._study, completed=self.count + self._share, note=self._note())

    def epoch_ended(self, number: int, result: EpochResult) -> None:
        """Move the bars, and show the epoch's score."""
        figure = marked(percent(result.validation(self.score)), self.score)
        note = f"{figure} at epoch {result.epoch}  {result.images / result.seconds:,.0f} images/s"
        self._bars.update(self._trial, note=note)
        self.moved(result.epoch)
        log.info("trial %d  %s", number, note)

    def trial_ended(self, trial: TrialRecord, finished: list[TrialRecord]) -> None:
        """Print a line: how the trial ended, and without a bar also how long the rest will take."""
        self.count = len(finished)
        before, self.best = self.best, best(finished)
        self._best_table = best_so_far(ranked(finished)[:SHOWN], self.score)
        self._share = 0.0
        self._reported.add(trial.number)
        self._pace.trial_ended(trial)
        note = self._note()
        if self.logs:
            log.info("%s  %s", _in_full(trial, self.count, self.trials, self.score), note)
        if not self._has_heading:
            self._has_heading = True
            show(self._columns.heading())
        is_best = self.best is not None and self.best != before and self.best.number == trial.number
        left = self._left()
        show(self._columns.line(self.count, trial, is_best=is_best, left=duration(left) if left is not None else ""))
        self._bars.update(self._study, completed=self.count, note=note)
        self._say_correction()

    def workers_stop(self) -> None:
        """Print, once, that the workers were asked to stop."""
        if not self._workers_stop:
            self._workers_stop = True
            say(f"stopping; each worker finishes its epoch if that takes at most {FINISH_S:.0f} s")

    def catch_up(self, study: optuna.Study) -> None:
        """Report the trials that other processes have ended since, and show their running trials in one bar."""
        done = finished_trials(study)
        for trial in done:
            if trial.number not in self._reported:
                self.trial_ended(trial, done)
        running = [trial for trial in records(study) if trial.is_running and trial.is_decided]
        epochs = [trial.recipe.epochs for trial in running]
        trained = [trial.last_epoch for trial in running]
        self._share = sum(map(truediv, trained, epochs))
        if epochs:
            self._pace.trial_started(epochs[0])
        self._bars.update(
            self._trial,
            description=count(len(running), "trial"),
            completed=sum(trained),
            total=sum(epochs),
            note=", ".join(_reached(trial, self.score) for trial in running),
            visible=bool(running),
        )
        self._bars.update(self._study, completed=self.count + self._share, note=self._note())

    def _note(self) -> str:
        """The best trial, and the time until the last one."""
        note = "none complete yet"
        if self.best:
            note = f"best {marked(percent(score_of(self.best)), self.score)} (trial {self.best.number})"
        left = self._left()
        return note if left is None else f"{note}, {duration(left)} left"

    def _left(self) -> float | None:
        """Seconds until the last trial; None: not known yet."""
        return self._pace.left(self.count, self._share, time.monotonic())

    def _say_correction(self) -> None:
        """Print, once, when the search will end, if that differs from the plan."""
        left = self._pace.correction(self.count, self._share, time.monotonic())
        if left is not None:
            now = datetime.now()
            line = (
                f"time     now about {duration(left)} left, done at about {clock(now + timedelta(seconds=left), now)}"
            )
            log.info("%s", line)
            if not is_drawn_on():  # otherwise the bar shows it
                tell(line)


@contextmanager
def loading_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Bars for loading data: call the result with the name of the step, how much is done, and the total."""
    with bars_below() as bars:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(escape(printable(what)), note="")
            bars.update(tasks[what], completed=done, total=total or None)

        yield progress


@contextmanager
def epoch_bar(
    description: str,
    epochs: int,
    score: Score = "accuracy",
    stop: Callable[[], bool] = lambda: False,
    *,
    held_out: bool = True,
) -> Iterator["EpochBar"]:
    """A bar for one full run of a study that compares by `score`; `stop` returns whether a stop was requested.

    `held_out`: the validation images are not trained on. If False, the accuracy on the training images is shown.
    """
    bars = bars_below()
    bar = EpochBar(bars, bars.add_task(description, total=epochs, note=""), score, held_out=held_out)
    with drawn_live(Group(bars, StopHint(stop))) as bar.refresh:
        yield bar


class EpochBar:
    """Follows the epochs; in the log, it writes a line for every tenth of the run."""

    def __init__(self, bars: Progress, task: TaskID, score: Score = "accuracy", *, held_out: bool = True) -> None:
        self._score: Score = score
        self._held_out = held_out
        self._bars = bars
        self._task = task
        self.refresh: Callable[[], None] = lambda: None

    def moved(self, epochs: float) -> None:
        """Move the bar to this number of epochs."""
        self._bars.update(self._task, completed=epochs)

    def epoch_ended(self, result: EpochResult) -> None:
        """Move the bar, and show the epoch's score."""
        task = self._bars.tasks[0]
        epochs = int(task.total or 1)
        left = result.seconds * (epochs - result.epoch)
        figure, images = percent(result.train_accuracy), "training"
        if self._held_out:
            figure, images = marked(percent(result.validation(self._score)), self._score), "validation"
        speed = f"{result.images / result.seconds:,.0f} images/s"
        # The most important first: a narrow terminal cuts off the end.
        self._bars.update(self._task, completed=result.epoch, note=f"{figure}, {duration(left)} left  {speed}")
        if result.epoch * 10 // epochs > (result.epoch - 1) * 10 // epochs:
            line = f"{task.description}  epoch {result.epoch}/{epochs}  {figure} {images}  {speed}"
            log.info("%s", line)
            if not is_drawn_on():
                tell(line)


def say_winner(promotions: list[Promotion], measured_on: int | None) -> None:
    """Print which network is the best on validation, its accuracies, and any tie; a refit has its own line.

    `measured_on` is the number of validation images that standard errors follow from; None: not known.
    """
    best_runs = winner(promotions)
    if not best_runs:
        return
    say(f"best on validation: trial {best_runs[0].trial}, {best_runs[0].network}; {best_runs[0].recipe}")
    score = best_runs[0].score
    if len(best_runs) > 1:
        tested = [run.test_score for run in best_runs if run.test_score is not None]
        test = f", test {marked(mean_and_deviation(tested), score)}" if len(tested) == len(best_runs) else ""
        validation = mean_and_deviation([run.val_score for run in best_runs if run.val_score is not None])
        say(f"  {len(best_runs)} seeds, mean and standard deviation: validation {marked(validation, score)}{test}")
    if tie := tie_of(promotions, measured_on):
        say(f"  {tie}")
    if (refit := refit_of(promotions, best_runs)) and refit.test_score is not None:
        say(f"  trained once more, also on the validation images: test {marked(percent(refit.test_score), score)}")


def fidelity_table(fidelity: Fidelity) -> Table:
    """How well shorter runs rank, by length and by family; narrow enough for 80 columns."""
    title = f"Shorter runs against {count(fidelity.epochs, 'epoch')}: rank correlation; "
    title += "points lost by promoting the best k only"
    table = Table(
        title=title,
        title_justify="left",
        box=SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("run")
    for heading in ("trials", "Spearman", "Kendall", *(f"k = {top}" for top in TOPS)):
        table.add_column(heading, justify="right")
    table.caption = "Below Spearman's correlation: its 95 % interval."
    table.caption_justify = "left"
    rows = {count(agreement.epochs, "epoch"): agreement for agreement in fidelity.lengths}
    rows |= {f"{name} alone": agreement for name, agreement in fidelity.families.items()}
    for name, agreement in rows.items():
        regrets = [f"{100 * agreement.regret[top]:.1f}" if top in agreement.regret else "" for top in TOPS]
        rank = agreement.spearman
        ranks = [f"{rank.value:.2f}\n{rank.low:.2f} to {rank.high:.2f}", f"{agreement.kendall:.2f}"]
        table.add_row(name, str(len(agreement.pairs)), *ranks, *regrets)
    return table


def _reached(trial: TrialRecord, score: Score) -> str:
    """For example `trial 7 90.24 %`; short, because several fit in a line."""
    last = trial.last_score
    return f"trial {trial.number} {'begun' if last is None else marked(percent(last), score)}"


def _in_full(trial: TrialRecord, number: int, trials: int, score: Score) -> str:
    """The line of the log for a trial that has ended."""
    name = f" ({trial.given})" if trial.given else ""
    words = [f"{number:>4}/{trials}", f"trial {trial.number}{name}", _verdict(trial, score)]
    if trial.is_decided and trial.seconds is not None:  # a trial that was given up may lack both
        words += [f"{trial.parameters:,} parameters", f"{trial.seconds:.0f} s", trial.network_words, str(trial.recipe)]
    if trial.accumulation_steps > 1:
        words.append(f"(out of memory: batches in {trial.accumulation_steps} parts)")
    return "  ".join(words)


def _verdict(trial: TrialRecord, score: Score) -> str:
    if trial.score is not None:
        return marked(percent(trial.score), score)
    last = f"{marked(percent(trial.last_score), score)}, " if trial.is_pruned and trial.last_score is not None else ""
    return f"{last}{'pruned' if trial.is_pruned else 'failed'}: {trial.reason or 'no reason is known'}"
