"""Runs a study: asks for a trial, trains it for a short run, reports every epoch, prunes, tells.

The loop is our own (Optuna's ask and tell), so that every end of a trial is recorded in the same way, and an
interrupted trial is found and run again.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import optuna
from optuna.trial import Trial, TrialState

from search.between import StoppedInEpochError
from search.drawing import Drawn, Setting, draw_trial, has_room, is_used_up
from search.errors import StudyFailedError
from search.optuna_access import fail, storage_of, trial_again, trial_id
from search.pruner import MedianOfLike
from search.retries import retry_interrupted
from search.spec import StudySpec
from search.storage import RetryingStorage
from search.trials import (
    ACCUMULATION_STEPS,
    DIVERGED,
    INTERRUPTED,
    REASON,
    TRAINING_S,
    TrialRecord,
    finished_trials,
    measures,
    records,
)
from train_core.errors import DivergedError, UserError
from train_core.results import EpochResult, Score
from train_core.specs import ResNetSpec, TrainSpec

ALL_FAILED_AFTER = 5  # a study whose first trials all fail is stopped here
POLL_S = 1.0  # between checks of the last trials of other workers

log = logging.getLogger(__name__)


class Trainer(Protocol):
    """Trains networks, and keeps the state of those whose trial has no verdict yet."""

    def __call__(self, network: ResNetSpec, recipe: TrainSpec, first_attempt: int) -> Generator[EpochResult]:
        """Train a network by a recipe; yield after each epoch.

        If an earlier attempt at the same trial was interrupted, or closed after an epoch, its epochs are yielded again,
        and training continues from there. If an error is thrown into the generator, another worker has taken the trial,
        and no state is kept.
        """

    def forget(self, first_attempt: int) -> None:
        """Delete the state of a trial that has a verdict."""


class Events(Protocol):
    """Receives what happens in a study; each method's name says when it is called."""

    def trial_started(self, number: int, network: ResNetSpec, recipe: TrainSpec) -> None: ...  # noqa: D102  # its name says it
    def epoch_ended(self, number: int, result: EpochResult) -> None: ...  # noqa: D102  # its name says it
    def trial_ended(self, trial: TrialRecord, finished: list[TrialRecord]) -> None: ...  # noqa: D102  # its name says it


class _StoppedError(Exception):
    """The deadline or a stop request ends the trial between epochs."""


def run(
    setting: Setting,
    trainer: Trainer,
    events: Events,
    *,
    left: Callable[[], float] = lambda: float("inf"),
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run trials until the study has `spec.trials`, until no seconds are `left`, or until `stop`.

    Before each trial, `left` returns the remaining seconds; the trial stops before an epoch that takes longer.

    Other workers may do the same at the same time. The last trials are waited for, whichever worker runs them, and run
    again here if their worker dies.

    Raises:
        StudyFailedError: the first trials all failed, or the last ones all for the same reason.

    """
    study, spec, worker = setting.study, setting.spec, setting.worker
    study.pruner = _pruner(spec)
    epoch_s = 0.0  # of the last epoch: another one begins only if it fits before the deadline
    stop_retrying_when(study, stop)
    while len(finished_trials(study)) < spec.trials and (seconds := left()) > epoch_s and not stop():
        deadline = time.monotonic() + seconds
        drawn: Drawn | None = None
        try:
            with worker.alone():
                failed = retry_interrupted(study, worker)
                drawn = draw_trial(setting) if has_room(study, spec) else None
            for trial in failed:
                events.trial_ended(trial, finished_trials(study))
            if failed:
                _stop_if_nothing_works(study)
            if drawn is None:
                if is_used_up(study) and not records(study, TrialState.RUNNING):
                    break
                time.sleep(POLL_S)
                continue
            ended, epoch_s = _run_trial(setting, drawn, trainer, events, deadline, stop)
        except optuna.exceptions.UpdateFinishedTrialError:
            # For example after a long sleep of this machine. The trial's checkpoint has what was trained.
            log.warning("a trial was taken from this worker, whose heartbeat had stopped: another worker runs it again")
            continue
        except BaseException as error:
            # If the storage itself is gone, the next start finds the trial still running.
            with contextlib.suppress(Exception):
                if drawn is not None:
                    fail(study, trial_id(drawn.trial), INTERRUPTED)
            if isinstance(error, _StoppedError | StoppedInEpochError):
                return
            raise
        finally:
            worker.has(None)
        events.trial_ended(ended, finished_trials(study))
        _stop_if_nothing_works(study)
    if trials := finished_trials(study):
        _stop_if_all_failed(trials)


def stop_retrying_when(study: optuna.Study, stop: Callable[[], bool]) -> None:
    """When `stop` returns True, stop waiting for a storage that does not answer."""
    storage = storage_of(study)
    if isinstance(storage, RetryingStorage):
        storage.stop = stop


def _pruner(spec: StudySpec) -> MedianOfLike:
    return MedianOfLike(
        like=spec.pruner.like,
        startup_trials=spec.pruner.startup_trials,
        warmup_epochs=round(spec.pruner.warmup * spec.epochs),
        min_values=spec.pruner.min_values,
        by_size=bool(spec.front),
    )


@dataclass
class _Verdict:
    """The current or final outcome of a short run."""

    state: TrialState = TrialState.COMPLETE
    reason: str | None = None
    last: EpochResult | None = None
    trained_s: float = 0.0
    """Seconds of its epochs, including those of earlier attempts."""


def _run_trial(
    setting: Setting,
    drawn: Drawn,
    trainer: Trainer,
    events: Events,
    deadline: float,
    stop: Callable[[], bool],
) -> tuple[TrialRecord, float]:
    """Run a trial to its verdict, and record it; returns the trial, and the seconds that its last epoch took."""
    trial, started = drawn.trial, time.monotonic()
    events.trial_started(trial.number, drawn.network, drawn.recipe)
    verdict = _short_run(
        drawn, trainer, events, setting.spec.scored_by, lambda seconds: stop() or time.monotonic() + seconds > deadline
    )
    last = verdict.last
    # Epochs of an earlier attempt took their time as well.
    trial.set_user_attr(TRAINING_S, round(max(time.monotonic() - started, verdict.trained_s), 3))
    for name, value in measures(last).items() if last is not None else ():
        trial.set_user_attr(name, value)
    if last is not None and last.accumulation_steps > 1:
        trial.set_user_attr(ACCUMULATION_STEPS, last.accumulation_steps)
    if verdict.reason is not None:
        trial.set_user_attr(REASON, verdict.reason)
    is_complete = verdict.state == TrialState.COMPLETE and last is not None
    score = last.validation(setting.spec.scored_by) if is_complete and last is not None else None
    ended = _tell(setting.study, trial, score, verdict.state)
    trainer.forget(drawn.first_attempt)
    return ended, last.seconds if last is not None else 0.0


def _short_run(
    drawn: Drawn, trainer: Trainer, events: Events, score_name: Score, must_stop: Callable[[float], bool]
) -> _Verdict:
    """Train until the end, until the pruner or an error stops it, or until `must_stop` for one more epoch's seconds.

    Raises:
        _StoppedError: it must stop.

    """
    trial, verdict = drawn.trial, _Verdict()
    with contextlib.closing(trainer(drawn.network, drawn.recipe, drawn.first_attempt)) as results:
        while verdict.state == TrialState.COMPLETE:
            # Errors of the trainer concern this network; errors of the storage, outside of this `try`, do not.
            try:
                result = next(results, None)
            except (UserError, OSError):
                raise
            except DivergedError as error:
                # Pruned, not failed: the sampler learns nothing from a failed trial, but much from this one.
                verdict.state, verdict.reason = TrialState.PRUNED, f"{DIVERGED}: {error}"
                break
            except Exception as error:  # the study continues after any error in one trial
                first_line = (str(error).strip().splitlines() or [""])[0]
                verdict.state, verdict.reason = TrialState.FAIL, f"{type(error).__name__}: {first_line}"
                log.exception("trial %d failed", trial.number)
                break
            if result is None:
                break
            verdict.last, verdict.trained_s = result, verdict.trained_s + result.seconds
            try:
                trial.report(result.validation(score_name), result.epoch)
            except optuna.exceptions.UpdateFinishedTrialError as error:
                results.throw(error)
            events.epoch_ended(trial.number, result)
            if result.epoch < drawn.recipe.epochs:
                if trial.should_prune():
                    verdict.state = TrialState.PRUNED
                    verdict.reason = f"below the median of its kind at epoch {result.epoch}"
                elif must_stop(result.seconds):
                    raise _StoppedError
    return verdict


def _tell(study: optuna.Study, trial: Trial, score: float | None, state: TrialState) -> TrialRecord:
    """Record the verdict.

    Raises:
        UpdateFinishedTrialError: another worker presumed this one dead.

    """
    try:
        record = TrialRecord(study.tell(trial, score, state, skip_if_finished=True))
    except optuna.exceptions.UpdateFinishedTrialError:  # for example if it was recorded, and the answer was lost
        record = TrialRecord(trial_again(study, trial_id(trial)))
    if record.was_interrupted:
        raise optuna.exceptions.UpdateFinishedTrialError
    return record


def _stop_if_nothing_works(study: optuna.Study) -> None:
    trials = finished_trials(study)
    if len(trials) < ALL_FAILED_AFTER:
        return
    _stop_if_all_failed(trials)
    last = trials[-ALL_FAILED_AFTER:]
    if {trial.outcome for trial in last} == {"failed"} and len({trial.reason for trial in last}) == 1:
        raise StudyFailedError(
            f"the last {ALL_FAILED_AFTER} trials all failed with: {last[-1].reason}; fix the cause and run the same "
            "command to continue"
        )


def _stop_if_all_failed(trials: list[TrialRecord]) -> None:
    if all(trial.failed_or_diverged for trial in trials):
        which = f"the first {len(trials)} trials all" if len(trials) > 1 else "the only trial"
        diverged = all_diverged(trials)
        advice = lower_rates(trials) if diverged else "fix the data or the space, and start again under another --name"
        raise StudyFailedError(
            f"{which} {'diverged' if diverged else 'failed'}, {'the last ' if len(trials) > 1 else ''}with: "
            f"{trials[-1].reason}; {advice}"
        )


def all_diverged(trials: Sequence[TrialRecord]) -> bool:
    """Whether there are trials and all of them diverged."""
    return bool(trials) and all(trial.outcome == "diverged" for trial in trials)


def lower_rates(trials: Sequence[TrialRecord]) -> str:
    """What to do about trials that all diverged."""
    rates = sorted({f"{trial.recipe.optimizer}_lr" for trial in trials if trial.is_decided})
    return f"set lower rates under [space] in a study file ({', '.join(rates)}), and start again under another --name"
