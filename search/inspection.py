"""What is known of runs, of their trials and of longer runs: what `list`, `status`, `show` and `compare` tell.

Reading changes nothing: a search that is going on does not notice. Imports no torch, so that the answer takes a moment.
Accuracies are shares of 1, times are seconds or ISO 8601; every class here is a JSON document as it stands.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.completion import run_folders
from search.errors import RunError, StorageError
from search.ladder import network_of, recipe_of
from search.promotions import Promotion, finished, winner
from search.run_folder import RunFolder, as_kept, find_run_to_read, kind_of_storage, read_facts
from search.spec import StudySpec, load_study
from search.storage import parse_address
from search.study import open_study
from search.trials import ended, outcome_of, root_of, roots, seconds_of

RECENT = 20  # trials that speed is taken from: it changes with the machines
OUTCOMES = ("complete", "pruned", "diverged", "failed")
SEARCHING, PROMOTING, UNFINISHED, FINISHED, PROMOTED = "searching", "promoting", "unfinished", "finished", "promoted"


@dataclass(frozen=True, kw_only=True)
class ShortRun:
    """The best trial by its short run."""

    trial: int
    validation: float
    parameters: int
    network: str


@dataclass(frozen=True, kw_only=True)
class FullRun:
    """The best network by its longer runs, over their seeds. Deviations are standard deviations; none: of one seed."""

    trial: int
    epochs: int
    seeds: int
    validation: float
    validation_deviation: float | None
    test: float | None
    test_deviation: float | None
    parameters: int
    network: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run in a few words. What cannot be told is none: of a broken run, or where the study is kept elsewhere."""

    name: str
    folder: str
    touched: str  # when something was last done in it
    storage: str  # what keeps the study: sqlite, postgresql, ...
    state: str | None = None  # searching, promoting, unfinished, finished (not promoted yet), promoted
    workers: int = 0  # that have a trial now
    data: str | None = None
    budget: int | None = None
    max_madds: int | None = None  # the limit on multiply-adds; none: also where there is none
    trials: int | None = None  # that have ended
    trials_wanted: int | None = None
    best_short: ShortRun | None = None
    best_full: FullRun | None = None
    problem: str | None = None  # why the rest cannot be told


@dataclass(frozen=True, kw_only=True)
class RunningTrial:
    """A trial that is being trained."""

    trial: int
    worker: str | None
    alive: bool | None  # none: its worker is on another machine
    epoch: int  # the last that ended; 0: none yet
    validation: float | None  # after that
    seconds: float | None  # since it began
    parameters: int | None
    network: str | None


@dataclass(frozen=True, kw_only=True)
class LongerRunAhead:
    """A longer run that is not finished, as far as its folder tells."""

    trial: int
    epochs: int
    seed: int
    refit: bool
    seconds_since_epoch: float | None  # since its last epoch ended; none: none has


@dataclass(frozen=True, kw_only=True)
class Status(Run):
    """How a run goes."""

    epochs: int  # of a short run
    outcomes: dict[str, int]  # trials that have ended, by `OUTCOMES`
    used_up: bool  # the space holds nothing new
    running: tuple[RunningTrial, ...]
    images_per_second: float | None  # that a worker trains on, over its last trials; none: nobody knows
    seconds_left: float | None  # of the search, at the pace of its trials so far; none: nobody knows, or it is over
    longer_runs: int  # finished
    longer_runs_ahead: tuple[LongerRunAhead, ...]

    @property
    def is_going_on(self) -> bool:
        """Whether anything may change while one looks."""
        return self.state in (SEARCHING, PROMOTING) or (self.state == UNFINISHED and self.storage != "sqlite")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One of the attempts at a trial."""

    trial: int
    outcome: str
    reason: str | None
    epochs: int


@dataclass(frozen=True, kw_only=True)
class LongerRun:
    """A longer run of a trial, finished."""

    epochs: int
    seed: int
    refit: bool
    validation: float | None
    test: float | None
    mirrored_test: float | None
    seconds: float
    diverged: str | None
    curve: tuple[float, ...]  # validation accuracy after each epoch


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Everything that is known of one trial."""

    run: str
    trial: int
    outcome: str
    reason: str | None
    validation: float | None  # its score; none: it came to none
    rank: int | None  # by that, among the complete ones; 1: the best
    complete: int  # trials that are
    baseline: str | None  # the known network that it is
    attempts: tuple[Attempt, ...]  # at this trial, this one included
    in_words: str | None
    recipe_in_words: str | None
    parameters: int | None
    multiply_adds: int | None
    drawn: dict[str, Any]  # what the sampler drew
    network: dict[str, Any] | None
    recipe: dict[str, Any] | None
    worker: str | None
    started: str | None
    seconds: float | None
    epochs: int | None  # that it was to have
    curve: tuple[float, ...]  # validation accuracy after each epoch
    longer_runs: tuple[LongerRun, ...]


@dataclass(frozen=True, kw_only=True)
class Compared(Run):
    """One of two runs that are compared."""

    epochs_short: int  # trained in all, by trials that have ended
    epochs_long: int  # trained in all, by longer runs


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs, side by side."""

    runs: tuple[Compared, Compared]
    differences: dict[str, tuple[Any, Any]]  # of their study files and data, by name
    difference: float | None  # the second's validation accuracy less the first's; none: not to be compared
    spread: float | None  # what such a difference may be by chance; none: not known
    better: str | None  # the run that is, by more than the spread
    verdict: str  # the same in words


class Reader:
    """Reads a run, again and again: its study is opened once."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.spec = load_study(str(folder.study_file), {})
        self.study = open_study(folder)

    def status(self) -> Status:
        """How the run goes now.

        Raises:
            UserError: a result cannot be read.

        """
        folder, spec, study = self.folder, self.spec, self.study
        trials, done, promotions = study.get_trials(deepcopy=False), ended(study), finished(folder)
        alive = set(folder.workers())
        running = tuple(_running(trial, folder, alive) for trial in trials if trial.state == TrialState.RUNNING)
        workers = len({each.worker for each in running if each.alive is not False})
        used_up = bool(study.user_attrs.get("used up"))
        is_over = len(done) >= spec.trials or used_up
        if alive or (workers and folder.address.is_shared and not is_over):
            state = SEARCHING
        elif folder.is_promoting:
            state = PROMOTING
        elif not is_over:
            state = UNFINISHED
        else:
            state = PROMOTED if winner(promotions) else FINISHED
        counted = Counter(map(outcome_of, done))
        return Status(
            **_outside(folder),
            state=state,
            workers=workers,
            data=spec.data,
            budget=spec.budget,
            max_madds=spec.max_madds,
            trials=len(done),
            trials_wanted=spec.trials,
            best_short=best_short(done),
            best_full=best_full(promotions),
            epochs=spec.epochs,
            outcomes={outcome: counted[outcome] for outcome in OUTCOMES},
            used_up=used_up,
            running=running,
            images_per_second=_images_per_second(done[-RECENT:], folder),
            seconds_left=None if is_over else _seconds_left(done, running, spec.trials, workers),
            longer_runs=len(promotions),
            longer_runs_ahead=tuple(_ahead(folder)),
        )


def read_run(runs: Path, name: str | None, storage: str | None) -> Reader:
    """The run called `name` in the folder `runs`, or the one worked on last; in `storage`, if it is kept in one.

    Raises:
        UserError: there is none, or it cannot be read.

    """
    return Reader(find_run_to_read(runs, name, parse_address(storage) if storage else None))


def list_runs(runs: Path, storage: str | None) -> list[Run]:
    """All runs in the folder `runs`, the one worked on last first; of a broken one, what its problem is."""
    address = parse_address(storage) if storage else None
    out_of_reach: list[StorageError] = []  # asked once, not by every run in it

    def read(root: Path) -> Run:
        folder = RunFolder(root)
        kind = kind_of_storage(folder)
        try:
            if kind != "sqlite" and address is None:
                state = SEARCHING if folder.workers() else PROMOTING if folder.is_promoting else None
                spec = load_study(str(folder.study_file), {})
                return Run(
                    **_outside(folder),
                    state=state,
                    data=spec.data,
                    budget=spec.budget,
                    max_madds=spec.max_madds,
                    trials_wanted=spec.trials,
                    best_full=best_full(finished(folder)),
                )
            if kind != "sqlite" and out_of_reach:
                raise out_of_reach[0]
            status = Reader(as_kept(root, address)).status()
            return Run(**{name: getattr(status, name) for name in Run.__dataclass_fields__})
        except Exception as error:  # noqa: BLE001  # whatever is wrong with one run, the others are listed
            if isinstance(error, StorageError) and kind != "sqlite":
                out_of_reach.append(error)
            return Run(**_outside(folder), problem=(str(error).strip().splitlines() or [type(error).__name__])[0])

    folders = run_folders(runs).values()
    return [read(root) for root in sorted(folders, key=lambda root: RunFolder(root).last_touched, reverse=True)]


def show_trial(run: Reader, number: int) -> Trial:
    """Everything that is known of the trial with this number.

    Raises:
        UserError: there is no such trial, or a longer run's result cannot be read.

    """
    trials = run.study.get_trials(deepcopy=False)
    trial = next((trial for trial in trials if trial.number == number), None)
    if trial is None:
        there = f"they go from 0 to {trials[-1].number}" if trials else "it has none yet"
        raise RunError(f"run {run.folder.name!r} has no trial {number}: {there}")
    known = trial.user_attrs
    complete = sorted((each.value or 0 for each in trials if each.state == TrialState.COMPLETE), reverse=True)
    is_complete = trial.state == TrialState.COMPLETE
    attempts = roots(trials)[root_of(trial)].attempts
    network, recipe = (network_of(trial), recipe_of(trial)) if {"network", "recipe"} <= set(known) else (None, None)
    return Trial(
        run=run.folder.name,
        trial=number,
        outcome=outcome_of(trial),
        reason=known.get("reason"),
        validation=trial.value if is_complete else None,
        rank=complete.index(trial.value or 0) + 1 if is_complete else None,
        complete=len(complete),
        baseline=known.get("baseline"),
        attempts=tuple(map(_attempt, attempts)),
        in_words=known.get("in words"),
        recipe_in_words=str(recipe) if recipe else None,
        parameters=known.get("parameters"),
        multiply_adds=known.get("multiply-adds"),
        drawn=dict(trial.params),
        network=network.model_dump(mode="json") if network else None,
        recipe=recipe.model_dump(mode="json") if recipe else None,
        worker=known.get("worker"),
        started=trial.datetime_start.astimezone().isoformat(timespec="seconds") if trial.datetime_start else None,
        seconds=seconds_of(trial),
        epochs=recipe.epochs if recipe else None,
        curve=tuple(accuracy for _, accuracy in sorted(trial.intermediate_values.items())),
        longer_runs=tuple(
            _longer_run(result)
            for result in finished(run.folder)
            if result.trial in {attempt.number for attempt in attempts}
        ),
    )


def compare(one: Reader, other: Reader) -> Comparison:
    """Two runs side by side. None is called better for a difference that chance may have made.

    Raises:
        UserError: a result cannot be read.

    """
    specs = [_flat(each.spec) | _fingerprint(each) for each in (one, other)]
    names = [*specs[0], *(name for name in specs[1] if name not in specs[0])]
    sides = _compared(one), _compared(other)
    differences = {
        name: (specs[0].get(name), specs[1].get(name)) for name in names if specs[0].get(name) != specs[1].get(name)
    }
    difference, spread, verdict = _judged(sides, differences, [_validation_images(each) for each in (one, other)])
    clear = difference is not None and spread is not None and abs(difference) > spread
    return Comparison(
        runs=sides,
        differences=differences,
        difference=difference,
        spread=spread,
        better=sides[(difference or 0) > 0].name if clear else None,
        verdict=verdict,
    )


def best_short(trials: Iterable[FrozenTrial]) -> ShortRun | None:
    """The best of those that are complete; none where there is none."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = max(complete, key=lambda trial: trial.value or 0, default=None)
    if best is None:
        return None
    return ShortRun(
        trial=best.number,
        validation=best.value or 0.0,
        parameters=best.user_attrs["parameters"],
        network=best.user_attrs["in words"],
    )


def best_full(promotions: Sequence[Promotion]) -> FullRun | None:
    """The network that won, by validation; none where there is none."""
    best = winner(promotions)
    if not best:
        return None
    validation = [run.val_accuracy or 0.0 for run in best]
    tested = [run.test_accuracy for run in best if run.test_accuracy is not None]
    return FullRun(
        trial=best[0].trial,
        epochs=best[0].recipe.epochs,
        seeds=len(best),
        validation=fmean(validation),
        validation_deviation=_deviation(validation),
        test=fmean(tested) if tested else None,
        test_deviation=_deviation(tested),
        parameters=best[0].parameters,
        network=str(best[0].network),
    )


def _deviation(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _outside(folder: RunFolder) -> dict[str, Any]:
    """What a folder tells of its run from outside."""
    touched = datetime.fromtimestamp(folder.last_touched).astimezone().isoformat(timespec="seconds")
    return {
        "name": folder.name,
        "folder": str(folder.root),
        "touched": touched,
        "storage": kind_of_storage(folder),
    }


def _running(trial: FrozenTrial, folder: RunFolder, alive: set[str]) -> RunningTrial:
    known, began = trial.user_attrs, trial.datetime_start
    worker = known.get("worker")
    is_elsewhere = folder.address.is_shared and worker not in alive
    epoch = trial.last_step or 0
    return RunningTrial(
        trial=trial.number,
        worker=worker,
        alive=None if is_elsewhere else worker in alive,
        epoch=epoch,
        validation=trial.intermediate_values.get(epoch),
        seconds=max(0.0, (datetime.now() - began).total_seconds()) if began else None,
        parameters=known.get("parameters"),
        network=known.get("in words"),
    )


def _seconds_left(
    done: Sequence[FrozenTrial], running: Sequence[RunningTrial], wanted: int, workers: int
) -> float | None:
    """Until the last trial, if all take as long as those that have ended took in the mean."""
    taken = [seconds for trial in done if (seconds := seconds_of(trial)) is not None]
    if not taken:
        return None
    under_way = sum(min(each.seconds or 0.0, fmean(taken)) for each in running if each.alive is not False)
    return max(0.0, fmean(taken) * (wanted - len(done)) - under_way) / max(workers, 1)


def _images_per_second(done: Sequence[FrozenTrial], folder: RunFolder) -> float | None:
    """How many images these trials trained on in a second of their time, the scoring after each epoch included."""
    there: int = read_facts(folder).get("data", {}).get("training images", 0)
    images, taken = 0, 0.0
    for trial in done:
        if (seconds := seconds_of(trial)) is not None and "recipe" in trial.user_attrs:
            an_epoch = there - there % min(recipe_of(trial).batch_size, there) if there else 0  # whole batches
            images, taken = images + an_epoch * len(trial.intermediate_values), taken + seconds
    return images / taken if images and taken else None


def _ahead(folder: RunFolder) -> Iterable[LongerRunAhead]:
    for each in folder.promotions():
        if not each.result.exists():
            trial, epochs, seed, refit = each.of
            since = max(0.0, time.time() - each.checkpoint.stat().st_mtime) if each.checkpoint.exists() else None
            yield LongerRunAhead(trial=trial, epochs=epochs, seed=seed, refit=refit, seconds_since_epoch=since)


def _attempt(trial: FrozenTrial) -> Attempt:
    return Attempt(
        trial=trial.number,
        outcome=outcome_of(trial),
        reason=trial.user_attrs.get("reason"),
        epochs=len(trial.intermediate_values),
    )


def _longer_run(result: Promotion) -> LongerRun:
    return LongerRun(
        epochs=result.recipe.epochs,
        seed=result.seed,
        refit=result.refit,
        validation=result.val_accuracy,
        test=result.test_accuracy,
        mirrored_test=result.mirrored_test_accuracy,
        seconds=result.seconds,
        diverged=result.diverged,
        curve=tuple(each.val_accuracy for each in result.history),
    )


def _compared(run: Reader) -> Compared:
    status, done = run.status(), ended(run.study)
    return Compared(
        **{name: getattr(status, name) for name in Run.__dataclass_fields__},
        epochs_short=sum(len(trial.intermediate_values) for trial in done),
        epochs_long=sum(len(result.history) for result in finished(run.folder)),
    )


def _flat(spec: StudySpec) -> dict[str, Any]:
    """The spec, one name and one value for each thing that can be set; known networks in words."""
    flat: dict[str, Any] = {}
    for name, value in spec.model_dump(mode="json", exclude={"published"}).items():  # which no search reads
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat | {f"baselines.{name}": str(network) for name, network in spec.baselines.items()}


def _fingerprint(run: Reader) -> dict[str, Any]:
    name = "data fingerprint"
    return {name: run.study.user_attrs.get("identity", {}).get(name)}


def _validation_images(run: Reader) -> int | None:
    images: int | None = read_facts(run.folder).get("data", {}).get("validation images")
    return images


def _judged(
    sides: tuple[Compared, Compared], differences: dict[str, Any], images: Sequence[int | None]
) -> tuple[float | None, float | None, str]:
    """By how much the second's full runs are better, what of it may be chance, and what follows, in words."""
    one, other = (side.best_full for side in sides)
    if "data fingerprint" in differences:
        return None, None, "not to be compared: their data differ"
    if one is None or other is None:
        without = " and ".join(side.name for side in sides if side.best_full is None)
        return None, None, f"no verdict: no full run of {without} yet, and short runs alone decide nothing"
    difference = other.validation - one.validation
    if one.epochs != other.epochs:
        return difference, None, f"no verdict: full runs of {one.epochs} and of {other.epochs} epochs are no rivals"
    if one.validation_deviation is None or other.validation_deviation is None:
        return difference, None, "no verdict: by one seed each, nobody knows what chance made: promote with --seeds 3"
    seeds = math.hypot(one.validation_deviation, other.validation_deviation)
    # Of an accuracy that is measured on so few images.
    measured = [(full.validation, n) for full, n in zip((one, other), images, strict=True) if n]
    errors = [math.sqrt(share * (1 - share) / n) for share, n in measured]
    spread = max(seeds, math.hypot(*errors))
    points = f"{100 * abs(difference):.2f} points on validation"
    if abs(difference) <= spread:
        return difference, spread, f"no verdict: they differ by {points}, within the spread of {100 * spread:.2f}"
    better = sides[difference > 0].name
    return difference, spread, f"{better} is better, by {points}, more than the spread of {100 * spread:.2f}"
