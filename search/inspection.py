"""Reads runs, their trials and their full runs, for `list`, `status`, `trials` and `show`.

Reading changes nothing, so a running search is not affected. Imports no torch, so the answer is fast.
Accuracies are shares of 1, times are seconds or ISO 8601; every record is a JSON document.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from search.completion import run_folders
from search.drawing import is_used_up
from search.errors import RunError, SpecError, StorageError
from search.front import front_of, points_of_trials
from search.identity import open_study, spec_of
from search.night import read_night
from search.promotions import Promotion, finished, winner
from search.records import (
    ARCHIVED,
    FINISHED,
    PROMOTED,
    PROMOTING,
    SEARCHING,
    UNFINISHED,
    Attempt,
    FinishedFullRun,
    FrontNetwork,
    FullRun,
    PendingFullRun,
    Run,
    RunningTrial,
    ShortRun,
    Status,
    Trial,
    WaitingTrial,
    limits_of,
)
from search.rows import Rows, curve_rows, full_run_rows, trial_rows
from search.run_folder import RunFolder, as_kept, find_run_to_read, kind_of_storage, read_facts
from search.scores import always_largest
from search.storage import address_of
from search.trials import (
    Outcome,
    TrialRecord,
    best,
    by_first_attempt,
    different_networks,
    finished_trials,
    ranked,
    records,
    score_of,
)
from train_core.limits import LIMITS

RECENT = 20  # trials that speed is estimated from: it changes with the machines
ORDERS = ("score", "number", "parameters")
TableName = Literal["trials", "curves", "full runs"]
OUTCOMES: tuple[Outcome, ...] = ("complete", "pruned", "diverged", "failed")


class Reader:
    """Reads a run, repeatedly: its study is opened once."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.spec = spec_of(folder)
        self.study = open_study(folder)

    def status(self) -> Status:
        """The current state of the run.

        Raises:
            UserError: a result cannot be read.

        """
        self.spec = spec_of(self.folder)  # again: `search auto` changes the number of trials
        folder, spec, study, facts = self.folder, self.spec, self.study, read_facts(self.folder)
        trials, done, promotions = records(study), finished_trials(study), finished(folder)
        alive = set(folder.workers())
        running = tuple(_running(trial, folder, alive) for trial in trials if trial.is_running)
        workers = len({trial.worker for trial in running if trial.alive is not False})
        used_up = is_used_up(study)
        is_over = len(done) >= spec.trials or used_up
        if facts is not None and facts.archived:
            state = ARCHIVED
        elif alive or (workers and folder.address.is_shared and not is_over):
            state = SEARCHING
        elif folder.is_promoting:
            state = PROMOTING
        elif not is_over:
            state = UNFINISHED
        else:
            state = PROMOTED if winner(promotions) else FINISHED
        counted = Counter(trial.outcome for trial in done)
        return Status(
            **_summary_fields(folder),
            state=state,
            workers=workers,
            data=spec.data,
            score=spec.scored_by,
            **limits_of(spec.model_dump()),
            trials=len(done),
            trials_wanted=spec.trials,
            best_short=best_short(done),
            best_full=best_full(promotions),
            epochs=spec.epochs,
            always_largest=always_largest(facts.data.validation_images_of_classes, spec.scored_by) if facts else None,
            outcomes={outcome: counted[outcome] for outcome in OUTCOMES},
            networks=different_networks(done),
            used_up=used_up,
            running=running,
            waiting=waiting_trials(trials),
            images_per_second=_images_per_second(done[-RECENT:], folder),
            seconds_left=None if is_over else _seconds_left(done, running, spec.trials, workers),
            full_runs=len(promotions),
            full_runs_pending=tuple(_pending_full_runs(folder)),
            ready_by=_ready_by(folder),
            front=tuple(_front(self, done)),
        )


def _front(run: Reader, trials: Sequence[TrialRecord]) -> Iterable[FrontNetwork]:
    """The front of these trials; empty if the study has none, or the size of its images is not known."""
    facts = read_facts(run.folder)
    image = facts.data.size if facts is not None else None
    if not run.spec.front or image is None:
        return
    names: list[str] = [name for name in LIMITS if name in run.spec.front]
    for each in front_of(points_of_trials(run.spec, image, trials)):
        costs = dict(zip(names, each.costs, strict=True))
        yield FrontNetwork(trial=each.of.number, costs=costs, validation=each.score)


def _ready_by(folder: RunFolder) -> str | None:
    kept = read_night(folder)
    if kept is None or kept.done or kept.end < time.time():
        return None
    return datetime.fromtimestamp(kept.end).astimezone().isoformat(timespec="seconds")


def read_run(runs: Path, name: str | None, storage: str | None) -> Reader:
    """The run called `name` in the folder `runs`, or the last one used; in `storage`, if its study is kept there.

    Raises:
        UserError: there is none, or it cannot be read.

    """
    return Reader(find_run_to_read(runs, name, address_of(storage)))


def list_runs(runs: Path, storage: str | None) -> list[Run]:
    """All runs in the folder `runs`, the last one used first; for a broken run, its problem."""
    address = address_of(storage)
    out_of_reach: list[StorageError] = []  # tried once, not for every run in it

    def read(root: Path) -> Run:
        folder = RunFolder(root)
        kind = kind_of_storage(folder)
        try:
            if kind != "sqlite" and address is None:
                state = SEARCHING if folder.workers() else PROMOTING if folder.is_promoting else None
                spec = spec_of(folder)
                return Run(
                    **_summary_fields(folder),
                    state=state,
                    data=spec.data,
                    score=spec.scored_by,
                    **limits_of(spec.model_dump()),
                    trials_wanted=spec.trials,
                    best_full=best_full(finished(folder)),
                )
            if kind != "sqlite" and out_of_reach:
                raise out_of_reach[0]
            status = Reader(as_kept(root, address)).status()
            return Run(**{name: getattr(status, name) for name in Run.__dataclass_fields__})
        except Exception as error:  # noqa: BLE001  # a faulty run is listed as such, with the others
            if isinstance(error, StorageError) and kind != "sqlite":
                out_of_reach.append(error)
            return Run(
                **_summary_fields(folder), problem=(str(error).strip().splitlines() or [type(error).__name__])[0]
            )

    folders = run_folders(runs).values()
    return [read(root) for root in sorted(folders, key=lambda root: RunFolder(root).last_touched, reverse=True)]


def trials_of(run: Reader, order: str = "number") -> list[TrialRecord]:
    """The trials of a run that count and have ended, in one of `ORDERS`: the best, the first or the smallest first.

    By score, trials that are not complete come after the others, by number.

    Raises:
        SpecError: there is no such order.

    """
    if order not in ORDERS:
        raise SpecError(f"trials cannot be sorted by {order!r}: give one of {', '.join(ORDERS)}")
    trials = finished_trials(run.study)
    if order == "parameters":
        return sorted(trials, key=lambda trial: trial.parameters if trial.is_decided else math.inf)
    if order == "score":
        return [*ranked(trials), *(trial for trial in trials if trial.score is None)]
    return trials


def rows_of(run: Reader, trials: Sequence[TrialRecord], table: TableName) -> Rows:
    """These trials of a run, their curves (and those of the full runs), or the run's full runs, as plain rows.

    Raises:
        UserError: a full run's result cannot be read.

    """
    if table == "trials":
        return trial_rows(trials)
    full_runs = finished(run.folder)
    return full_run_rows(full_runs) if table == "full runs" else curve_rows(trials, full_runs, run.spec.scored_by)


def show_trial(run: Reader, number: int) -> Trial:
    """All that is known of the trial with this number.

    Raises:
        UserError: there is no such trial, or a full run's result cannot be read.

    """
    trials = records(run.study)
    trial = next((trial for trial in trials if trial.number == number), None)
    if trial is None:
        numbers = f"they go from 0 to {trials[-1].number}" if trials else "it has none yet"
        raise RunError(f"run {run.folder.name!r} has no trial {number}: {numbers}")
    complete = ranked(trials)
    attempts = by_first_attempt(trials)[trial.first_attempt].attempts
    began = trial.started
    return Trial(
        run=run.folder.name,
        trial=number,
        outcome=trial.outcome,
        reason=trial.reason,
        score=run.spec.scored_by,
        validation=trial.score,
        validation_accuracy=trial.accuracy,
        validation_balanced=trial.balanced,
        rank=1 + sum(score_of(other) > trial.score for other in complete) if trial.score is not None else None,
        complete=len(complete),
        baseline=trial.baseline,
        start=trial.start,
        attempts=tuple(map(_attempt, attempts)),
        network_words=trial.network_words if trial.is_decided else None,
        recipe_words=str(trial.recipe) if trial.is_decided else None,
        parameters=trial.parameters if trial.is_decided else None,
        multiply_adds=trial.multiply_adds if trial.is_decided else None,
        drawn=trial.draw,
        network=trial.network.model_dump(mode="json") if trial.is_decided else None,
        recipe=trial.recipe.model_dump(mode="json") if trial.is_decided else None,
        worker=trial.worker,
        started=began.astimezone().isoformat(timespec="seconds") if began else None,
        seconds=trial.seconds,
        epochs=trial.recipe.epochs if trial.is_decided else None,
        curve=tuple(trial.curve.values()),
        full_runs=tuple(
            _full_run(result)
            for result in finished(run.folder)
            if result.trial in {attempt.number for attempt in attempts}
        ),
        on_front=number in {each.trial for each in _front(run, finished_trials(run.study))} if run.spec.front else None,
    )


def best_short(trials: Iterable[TrialRecord]) -> ShortRun | None:
    """The best complete trial; None if there is none."""
    first = best(trials)
    if first is None:
        return None
    return ShortRun(
        trial=first.number,
        validation=score_of(first),
        validation_accuracy=first.accuracy,
        validation_balanced=first.balanced,
        parameters=first.parameters,
        network=first.network_words,
    )


def best_full(promotions: Sequence[Promotion]) -> FullRun | None:
    """The network that won, by validation; None if there is none."""
    best_runs = winner(promotions)
    if not best_runs:
        return None
    validation = [run.val_score for run in best_runs if run.val_score is not None]
    tested = [run.test_score for run in best_runs if run.test_score is not None]
    return FullRun(
        trial=best_runs[0].trial,
        epochs=best_runs[0].recipe.epochs,
        seeds=len(best_runs),
        validation=fmean(validation),
        validation_deviation=_deviation(validation),
        validation_accuracy=_mean(run.val_accuracy for run in best_runs),
        validation_balanced=_mean(run.val_balanced for run in best_runs),
        test=fmean(tested) if tested else None,
        test_deviation=_deviation(tested),
        test_accuracy=_mean(run.test_accuracy for run in best_runs),
        test_balanced=_mean(run.test_balanced for run in best_runs),
        parameters=best_runs[0].parameters,
        network=str(best_runs[0].network),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of the known values."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _deviation(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _summary_fields(folder: RunFolder) -> dict[str, Any]:
    """The fields of a run that follow from its folder alone."""
    touched = datetime.fromtimestamp(folder.last_touched).astimezone().isoformat(timespec="seconds")
    return {
        "name": folder.name,
        "folder": str(folder.root),
        "touched": touched,
        "storage": kind_of_storage(folder),
    }


def _running(trial: TrialRecord, folder: RunFolder, alive: set[str]) -> RunningTrial:
    is_elsewhere = folder.address.is_shared and trial.worker not in alive
    return _running_on(trial, None if is_elsewhere else trial.worker in alive)


def _running_on(trial: TrialRecord, alive: bool | None) -> RunningTrial:
    began = trial.started
    return RunningTrial(
        trial=trial.number,
        worker=trial.worker,
        alive=alive,
        epoch=trial.last_epoch,
        validation=trial.last_score,
        seconds=max(0.0, (datetime.now() - began).total_seconds()) if began else None,
        parameters=trial.parameters if trial.is_decided else None,
        network=trial.network_words if trial.is_decided else None,
    )


def running_trials(trials: Sequence[TrialRecord]) -> tuple[RunningTrial, ...]:
    """The trials that workers on other machines train: whether these are alive is not known here."""
    return tuple(_running_on(trial, None) for trial in trials if trial.is_running)


def waiting_trials(trials: Sequence[TrialRecord]) -> tuple[WaitingTrial, ...]:
    """The interrupted trials that no worker has now."""
    return tuple(_waiting(trials))


def _waiting(trials: Sequence[TrialRecord]) -> Iterable[WaitingTrial]:
    for attempts in by_first_attempt(trials).values():
        last = attempts.last
        if attempts.drew_nothing or not (last.was_interrupted or (last.is_waiting and last.is_retry)):
            continue
        furthest = max(attempts.attempts, key=lambda trial: trial.last_epoch)
        yield WaitingTrial(
            trial=attempts.number,
            epoch=furthest.last_epoch,
            validation=furthest.last_score,
            parameters=last.parameters if last.is_decided else None,
            network=last.network_words if last.is_decided else None,
        )


def _seconds_left(
    done: Sequence[TrialRecord], running: Sequence[RunningTrial], wanted: int, workers: int
) -> float | None:
    """Seconds until the last trial, if all take as long as the ended ones took on average."""
    taken = [trial.seconds for trial in done if trial.seconds is not None]
    if not taken:
        return None
    begun = [trial.seconds for trial in running if trial.alive is not False and trial.seconds is not None]
    under_way = sum(min(seconds, fmean(taken)) for seconds in begun)
    return max(0.0, fmean(taken) * (wanted - len(done)) - under_way) / max(workers, 1)


def _images_per_second(done: Sequence[TrialRecord], folder: RunFolder) -> float | None:
    """Training images per second over these trials, including the time of evaluations. None: not known."""
    facts = read_facts(folder)
    training_images = facts.data.training_images if facts is not None else None
    if not training_images:
        return None
    images, taken = 0, 0.0
    for trial in done:
        if trial.seconds is not None and trial.is_decided:
            an_epoch = training_images - training_images % min(trial.recipe.batch_size, training_images)
            images, taken = images + an_epoch * len(trial.curve), taken + trial.seconds
    return images / taken if images and taken else None


def _pending_full_runs(folder: RunFolder) -> Iterable[PendingFullRun]:
    for run in folder.promotions():
        if not run.result.exists():
            trial, epochs, seed, refit = run.of
            since = max(0.0, time.time() - run.checkpoint.stat().st_mtime) if run.checkpoint.exists() else None
            yield PendingFullRun(trial=trial, epochs=epochs, seed=seed, refit=refit, seconds_since_epoch=since)


def _attempt(trial: TrialRecord) -> Attempt:
    return Attempt(
        trial=trial.number,
        outcome=trial.outcome,
        reason=trial.reason,
        epochs=len(trial.curve),
    )


def _full_run(result: Promotion) -> FinishedFullRun:
    return FinishedFullRun(
        epochs=result.recipe.epochs,
        seed=result.seed,
        refit=result.refit,
        validation=result.val_score,
        test=result.test_score,
        mirrored_test=result.mirrored_test_score,
        validation_accuracy=result.val_accuracy,
        validation_balanced=result.val_balanced,
        test_accuracy=result.test_accuracy,
        test_balanced=result.test_balanced,
        seconds=result.seconds,
        diverged=result.diverged,
        curve=result.curve,
    )
