"""What a run says while it works: live bars in a terminal, plain lines everywhere else and in the log file."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import truediv

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState
from rich.box import SIMPLE
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column, Table

from search.fidelity import TOPS, Fidelity, Interval
from search.formatting import count, duration, mean_and_deviation, percent, short_run
from search.ladder import network_of, recipe_of
from search.plan import SAMPLES, Estimate, Survey
from search.promotions import Promotion, refit_of, winner
from search.run_folder import RunFolder
from search.spec import StudySpec
from search.storage import redacted
from search.tables import best_table
from search.terminal import console, draw, is_drawn_on, log, say, tell
from search.trials import ended, seconds_of
from space import drawn_regularisers
from train_core.data import TrainingData
from train_core.device import describe
from train_core.results import EpochResult
from train_core.specs import Precision, ResNetSpec, TrainSpec, num_madds, num_params

TOO_LONG_S = 24 * 3600  # an estimate above this comes with advice
SHOWN = 5  # trials in the table at the end of a search


class _LogFormatter(logging.Formatter):
    """Each line with its time and process, and without passwords."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


class _LogFile(logging.FileHandler):
    """Appends to a file, as far as there is room for it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Do without: a full disk is dealt with, and told of, where something is lost by it."""


class _Warnings(logging.Handler):
    """Prints what the user should know while it goes on."""

    def emit(self, record: logging.LogRecord) -> None:
        # An error comes with a trial's verdict, which is told anyway.
        if record.levelno == logging.WARNING:
            tell(redacted(record.getMessage()))


@contextmanager
def logged_to(folder: RunFolder) -> Iterator[None]:
    """Write what is said to the run's log file as well, each line with its time; print what is warned of."""
    file = _LogFile(folder.log, encoding="utf-8")
    file.setFormatter(_LogFormatter("%(asctime)s  %(process)d  %(message)s"))
    handlers: list[logging.Handler] = [file, _Warnings()]
    loggers = (log, logging.getLogger("train_core"))
    for each in loggers:
        for handler in handlers:
            each.addHandler(handler)
        each.setLevel(logging.INFO)
        each.propagate = False
    try:
        yield
    finally:
        for each in loggers:
            for handler in handlers:
                each.removeHandler(handler)
        file.close()


def say_plan(
    folder: RunFolder,
    spec: StudySpec,
    data: TrainingData,
    where: torch.device,
    precision: Precision,
    found: Survey,
    baselines: Mapping[str, bool],
    done: int,
    expected: Estimate | None,
    hands: int,
    others: int,
) -> None:
    """Say what is about to happen, and what to do instead where it would take days.

    `hands` is the number of workers that this command starts, `others` of those that are at work already.
    """
    height, width = data.size
    colours = "RGB" if data.in_channels == 3 else "grey"
    test = "a test split that only `promote` reads" if data.has_test else "no test split"
    held = [name for name in baselines if baselines[name]]
    left_out = [name for name in baselines if not baselines[name]]
    networks = "network" if len(held) == 1 else "networks"
    first = f", first {len(held)} known {networks} ({', '.join(held)})" if held and not done else ""
    joining = f"joining {others} other search{'es' if others > 1 else ''}"
    kept = f", kept in {folder.storage}" if folder.storage else ""
    say(f"{folder.root}: {joining if others else 'continuing' if done else 'new study'}{kept}")
    say(
        f"data     {spec.data}: {len(data.train):,} training and {len(data.val):,} validation images, {height}x{width} "
        f"{colours}, {data.num_classes} classes, {test}"
    )
    note = "" if precision == "bf16" else " (no native bf16 here)" if spec.precision == "auto" else ""
    shared = f"; {hands} workers" if hands > 1 else ""
    say(f"device   {describe(where)}, {precision}{note}{shared}")
    limit = f", {spec.max_madds:,} multiply-adds" if spec.max_madds is not None else ""
    say(f"budget   {spec.budget:,} parameters{limit}")
    for what, network in (("smallest", found.smallest), (f"largest of {SAMPLES} draws", found.largest)):
        madds = num_madds(network, data.size)
        say(f"  {what}: {num_params(network):,} parameters, {madds:,} multiply-adds: {network}")
    say(f"trials   {spec.trials} of {short_run(spec)}{f', {done} done' if done else ''}{first}")
    if left_out and not done:
        say(f"         not among them, as budget or space do not hold them: {', '.join(left_out)}")
    if warning := regulariser_warning(spec):
        say(f"warning  {warning}")
    if expected is None:
        return
    # Not divided by the workers: on one device, several are little faster than one.
    left = expected.seconds * (spec.trials - done) / spec.trials
    say(
        f"time     at most {duration(left)}, less what pruning saves ({expected.images_per_second:,.0f} images/s "
        f"measured on {found.typical})"
    )
    if left > TOO_LONG_S:
        say(
            "         That is long: use a GPU. On this device, `search run cifar10-small` searches networks of 100,000 "
            "parameters, `search run digits` shows the whole loop in two minutes; --hours 8 stops in time."
        )


def regulariser_warning(spec: StudySpec) -> str:
    """What to know of a study whose short runs choose regularisers on all images; empty for any other."""
    drawn = drawn_regularisers(spec.space)
    if not drawn or spec.data_fraction < 1:
        return ""
    return (
        f"short runs choose {', '.join(drawn)} here: on all images they prefer less regularisation than long runs do, "
        'and this does not last. Let them train on a subset (short_run_images = "subset"), or hold these at a strong '
        "setting."
    )


def say_outcome(folder: RunFolder, spec: StudySpec, study: optuna.Study) -> None:
    """Say how far the study came, its best trials, and what to do next."""
    done = ended(study)
    complete = sorted(study.get_trials(states=[TrialState.COMPLETE]), key=lambda t: t.value or 0, reverse=True)
    pruned = sum(trial.state == TrialState.PRUNED for trial in done)
    say(
        f"{len(done)} of {spec.trials} trials: {len(complete)} complete, {pruned} pruned, "
        f"{len(done) - len(complete) - pruned} failed"
    )
    for trial in complete[:SHOWN]:
        log.info("  %s  trial %d  %s  %s", percent(trial.value or 0), trial.number, network_of(trial), recipe_of(trial))
    if complete:
        draw(best_table(complete[:SHOWN]))
    if study.user_attrs.get("used up"):
        say("this space is used up: draw after draw gave what was tried before; promote the best, or widen the space")
    if len(done) < spec.trials and not study.user_attrs.get("used up"):
        say(f"stopped in time; the same command continues {folder.name}")
    elif complete:
        say(f"next: search promote {folder.name}   or: search dashboard {folder.name}")
    say(f"report: {folder.report}")


class StudyProgress:
    """Tells how a study goes: a line for each trial that ends, and in a terminal two bars below."""

    def __init__(self, ended: list[FrozenTrial], trials: int, *, logs: bool = True) -> None:
        self.count = len(ended)
        self.logs = logs  # in the log, too; not where it is told of what other processes do, who write it there
        self.trials = trials
        self.best = _best(ended)
        self._started = time.monotonic()
        self._before = len(ended)
        self._share = 0.0  # of the trial that is being trained here
        self._told = {trial.number for trial in ended}
        self._bars = _bars()
        self._study: TaskID = self._bars.add_task("study", total=trials, completed=self.count, note=self._note())
        self._trial: TaskID = self._bars.add_task("trial", total=1, note="", visible=False)

    def __enter__(self) -> "StudyProgress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def trial_started(self, number: int, network: ResNetSpec, recipe: TrainSpec) -> None:
        """Begin a new bar for the trial's epochs."""
        note = f"{num_params(network):,} parameters  {network}"
        self._bars.reset(self._trial, description=f"trial {number}", total=recipe.epochs, note=note, visible=True)

    def epoch_ended(self, number: int, result: EpochResult) -> None:
        """Move the trial's bar on."""
        note = f"{percent(result.val_accuracy)} at epoch {result.epoch}  {result.images / result.seconds:,.0f} images/s"
        self._bars.update(self._trial, advance=1, note=note)
        self._share = result.epoch / (self._bars.tasks[self._trial].total or 1)
        self._bars.update(self._study, note=self._note())
        log.info("trial %d  %s", number, note)

    def trial_ended(self, trial: FrozenTrial, ended: list[FrozenTrial]) -> None:
        """Say how the trial came out, the best of all that ended, and how long the rest will take."""
        self.count = len(ended)
        self.best = _best(ended)
        self._share = 0.0
        self._told.add(trial.number)
        attributes = trial.user_attrs
        name = f" ({attributes['baseline']})" if "baseline" in attributes else ""
        note = self._note()
        line = f"{self.count:>4}/{self.trials}  trial {trial.number}{name}  {_verdict(trial)}  "
        seconds = seconds_of(trial)
        if "parameters" in attributes and seconds is not None:  # one that was given up may have neither
            line += f"{attributes['parameters']:,} parameters  {seconds:.0f} s  {attributes['in words']}"
        if parts := attributes.get("parts of a batch"):
            line += f"  (out of memory: batches in {parts} parts)"
        if self.logs:
            log.info("%s  %s", line, note)
        # Where there is a bar, it says the rest.
        tell(line if is_drawn_on() else f"{line}  {note}")
        self._bars.update(self._study, completed=self.count, note=note)

    def catch_up(self, study: optuna.Study) -> None:
        """Tell of the trials that other processes have ended since, and show those that they train, in one bar."""
        done = ended(study)
        for trial in done:
            if trial.number not in self._told:
                self.trial_ended(trial, done)
        running = [
            trial
            for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
            if "recipe" in trial.user_attrs
        ]
        epochs = [recipe_of(trial).epochs for trial in running]
        trained = [trial.last_step or 0 for trial in running]
        self._share = sum(map(truediv, trained, epochs))
        self._bars.update(
            self._trial,
            description=count(len(running), "trial"),
            completed=sum(trained),
            total=sum(epochs),
            note=", ".join(map(_reached, running)),
            visible=bool(running),
        )
        self._bars.update(self._study, note=self._note())

    def _note(self) -> str:
        """The best trial, and the time until the last one at the pace so far, that of a trial's epochs included."""
        note = f"best {percent(self.best.value or 0)} (trial {self.best.number})" if self.best else "none complete yet"
        done, left = self.count - self._before + self._share, self.trials - self.count - self._share
        if done > 0 and self.count < self.trials:
            note += f", {duration((time.monotonic() - self._started) / done * left)} left"
        return note


def _best(trials: list[FrozenTrial]) -> FrozenTrial | None:
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return max(complete, key=lambda trial: trial.value or 0, default=None)


@contextmanager
def loading_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Bars for what loading data takes: called with what is being done, how much is done, and of how much."""
    with _bars() as bars:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, note="")
            bars.update(tasks[what], completed=done, total=total or None)

        yield progress


@contextmanager
def epoch_bar(description: str, epochs: int) -> Iterator["EpochBar"]:
    """A bar for one full run."""
    with _bars() as bars:
        yield EpochBar(bars, bars.add_task(description, total=epochs, note=""))


class EpochBar:
    """Moves on by one at every epoch; in the log, a line for every tenth of the run."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def epoch_ended(self, result: EpochResult) -> None:
        """Move the bar on."""
        task = self._bars.tasks[0]
        epochs = int(task.total or 1)
        left = result.seconds * (epochs - result.epoch)
        score, speed = percent(result.val_accuracy), f"{result.images / result.seconds:,.0f} images/s"
        # The most important first: a narrow terminal cuts off the end.
        self._bars.update(self._task, completed=result.epoch, note=f"{score}, {duration(left)} left  {speed}")
        if result.epoch * 10 // epochs > (result.epoch - 1) * 10 // epochs:
            line = f"{task.description}  epoch {result.epoch}/{epochs}  {score} validation  {speed}"
            log.info("%s", line)
            if not is_drawn_on():
                tell(line)


def say_winner(promotions: list[Promotion]) -> None:
    """Say which network won, by validation, and what it came to; a refit's number has a line of its own."""
    best = winner(promotions)
    if not best:
        return
    say(f"best on validation: trial {best[0].trial}, {best[0].network}; {best[0].recipe}")
    if len(best) > 1:
        tested = [run.test_accuracy for run in best if run.test_accuracy is not None]
        test = f", test {mean_and_deviation(tested)}" if len(tested) == len(best) else ""
        validation = mean_and_deviation([run.val_accuracy or 0 for run in best])
        say(f"  {len(best)} seeds, mean and standard deviation: validation {validation}{test}")
    if (refit := refit_of(promotions, best)) and refit.test_accuracy is not None:
        say(f"  trained once more, on the validation images, too: test {percent(refit.test_accuracy)}")


def fidelity_table(found: Fidelity) -> Table:
    """How well shorter runs rank, by length and by family; narrow enough for 80 columns."""
    table = Table(
        title=f"Shorter runs against {found.epochs} epochs: rank correlation; points lost by promoting the best k only",
        title_justify="left",
        box=SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("run")
    for heading in ("trials", "Spearman", "Kendall", *(f"k = {top}" for top in TOPS)):
        table.add_column(heading, justify="right")
    table.caption, table.caption_justify = "Below each: its 95 % interval (bootstrap over the trials).", "left"
    rows = {count(each.epochs, "epoch"): each for each in found.lengths}
    rows |= {f"{name} alone": each for name, each in found.families.items()}
    for name, each in rows.items():
        regrets = [
            f"{100 * regret.value:.1f}\n{100 * regret.low:.1f} to {100 * regret.high:.1f}" if regret else ""
            for regret in map(each.regret.get, TOPS)
        ]
        ranks = [
            f"{_hundredths(known.value)}\n{_hundredths(known.low)} to {_hundredths(known.high)}"
            for known in (each.spearman, each.kendall)
        ]
        table.add_row(name, str(len(each.pairs)), *ranks, *regrets)
    return table


def interval(known: Interval) -> str:
    """As in `.62 (.10 to .88)`."""
    return f"{_hundredths(known.value)} ({_hundredths(known.low)} to {_hundredths(known.high)})"


def _hundredths(number: float) -> str:
    return f"{number:.2f}".replace("0.", ".")


def _reached(trial: FrozenTrial) -> str:
    """As in `trial 7 90.24 %`, short, since there are several in a line."""
    epoch = trial.last_step
    return f"trial {trial.number} {'begun' if epoch is None else percent(trial.intermediate_values[epoch])}"


def _verdict(trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE:
        return percent(trial.value or 0)
    last = f"{percent(trial.value)}, " if trial.value is not None else ""
    return f"{last}{trial.state.name.lower()}: {trial.user_attrs.get('reason', '')}"


def _bars() -> Progress:
    """Live bars; nothing where the output is neither a terminal nor a notebook."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed}/{task.total}"),
        # What there is no room for is cut off here, and nowhere else.
        TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        console=console,
        expand=True,
        transient=True,
        disable=not is_drawn_on(),
    )
