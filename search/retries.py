"""Trials that have lost their process: found, and run again or given up."""

import logging

import optuna

from search.heartbeat import Worker
from search.optuna_access import fail, trial_again, trial_id
from search.trials import (
    DIED,
    FAULTED,
    INTERRUPTED,
    KILLED,
    RETRY_OF,
    Attempts,
    TrialRecord,
    by_first_attempt,
    decided_attributes,
    records,
)

MAX_DEATHS = 8  # times that the process died with the same trial, without a new epoch; then the trial is failed, ...
MAX_FAULTS = 2  # ... or after this many deaths by a fault, such as a segmentation fault

log = logging.getLogger(__name__)


def retry_interrupted(study: optuna.Study, worker: Worker) -> list[TrialRecord]:
    """Enqueue every interrupted trial once, and log how its process died, if it did. Repeating this changes nothing.

    A trial that has lost its process `MAX_DEATHS` times, or `MAX_FAULTS` times in a fault that Python saw, without a
    new epoch, is failed for good, because it is probably the cause. Returns the trials that are failed here.
    """
    failed: list[TrialRecord] = []
    trials = records(study)
    undecided = {trial.first_attempt for trial in trials if not trial.has_verdict}  # or an attempt has none
    for attempts in by_first_attempt(trial for trial in trials if trial.first_attempt in undecided).values():
        if not attempts.last.has_verdict:
            failed += _retry(study, worker, attempts)
    return failed


def _retry(study: optuna.Study, worker: Worker, trial: Attempts) -> list[TrialRecord]:
    """Enqueue the trial again if its worker is lost; returns the attempts that are failed for good here."""
    last = trial.last
    dead = {
        attempt.number: worker.how_died(attempt)
        for attempt in trial.attempts
        if attempt.is_running and worker.is_dead(attempt)
    }
    cut_off = [
        (attempt, dead.get(attempt.number) or attempt.reason or DIED)
        for attempt in trial.attempts
        if attempt.number in dead or attempt.was_interrupted
    ]
    hopeless = _why_hopeless(cut_off) if dead else None
    reasons = {number: f"given up: {hopeless}" if hopeless else reason for number, reason in dead.items()}
    ended_here = [
        attempt
        for attempt in trial.attempts
        if attempt.number in dead and fail(study, trial_id(attempt), reasons[attempt.number])
    ]
    if hopeless:
        for attempt in ended_here:
            name = _name(trial, attempt)
            log.warning("trial %s %s: it counts as failed, and the search goes on", name, hopeless)
        return [TrialRecord(trial_again(study, trial_id(attempt))) for attempt in ended_here]
    if len(ended_here) < len(dead):
        return []  # the others have ended after all, or another worker found them at the same time
    running = [attempt for attempt in trial.attempts if attempt.is_counted and attempt.number not in dead]
    draw = last.retry_draw
    if not running and (ended_here or last.was_interrupted) and draw:
        study.enqueue_trial(draw, user_attrs={**decided_attributes(last), RETRY_OF: trial.number})
    for attempt in ended_here:
        then = "it is run again" if draw else "another trial is drawn in its place"
        log.warning("trial %d %s: %s", trial.number, dead[attempt.number], then)
    return []


def _why_hopeless(cut_off: list[tuple[TrialRecord, str]]) -> str | None:
    """Why a trial is not run again, given the reasons for which its attempts ended; None if it is run again.

    Counted are attempts that ended with their process since the last attempt that reached a new epoch. That attempt
    counts only if it ended in a fault.
    """
    furthest, deaths = 0, 0
    faults: list[str] = []
    for attempt, reason in cut_off:
        deaths += reason != INTERRUPTED
        if attempt.last_epoch > furthest:
            furthest, deaths = attempt.last_epoch, 0
            faults.clear()
        if reason.startswith(FAULTED):
            faults.append(reason.removeprefix(FAULTED).strip(" ()"))
    if len(faults) >= MAX_FAULTS:
        before, last = faults[-2:]
        return f"{FAULTED} ({last}) twice" if before == last else f"{FAULTED} twice ({before}, then {last})"
    if deaths >= MAX_DEATHS:
        _, last = cut_off[-1]
        return f"{DIED} {deaths} times{KILLED.removeprefix(DIED) if last == KILLED else ''}"
    return None


def _name(trial: Attempts, attempt: TrialRecord) -> str:
    """The number of the trial, and that of the attempt: `3 (run again as trial 5)`."""
    again = f" (run again as trial {attempt.number})" if attempt.number != trial.number else ""
    return f"{trial.number}{again}"
