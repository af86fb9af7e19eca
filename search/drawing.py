"""Draws the next trial: not a duplicate of an earlier one, and not one too many.

Workers need no lock for this if the storage numbers trials and hands out enqueued ones one at a time, as all except
SQLite do. Trials are decided in the order of their numbers (`_wait_for_turn`), and each decision depends only on the
trials with lower numbers, which look the same to all workers.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import Trial, TrialState

import space as search_space
from search.data_shape import DataShape
from search.heartbeat import Worker
from search.optuna_access import fail, take, trial_id
from search.retries import retry_interrupted
from search.sampling import sampler_for
from search.spec import StudySpec
from search.trials import (
    BASELINE,
    DUPLICATE,
    NETWORK,
    RECIPE,
    REPEATED,
    RETRY_OF,
    START,
    SURPLUS,
    WORKER,
    Attempts,
    attributes,
    by_first_attempt,
    finished_trials,
    records,
)
from train_core.specs import Precision, ResNetSpec, TrainSpec

TURN_POLL_S = 0.02  # between checks of whether the earlier trials are decided
MAX_DUPLICATES = 50  # draws in a row; then the space contains nothing new
RANDOM_AFTER = 10  # after so many duplicates in a row, draws are random: TPE would repeat its favourites

# Names of attributes of the study.
FIRST_PHASE = "first phase"  # number of trials in the first of two phases
USED_UP = "used up"  # whether the space contains nothing new


@dataclass(frozen=True)
class Setting:
    """What every decision about a trial depends on, besides the earlier trials."""

    study: optuna.Study
    spec: StudySpec
    shape: DataShape
    precision: Precision
    worker: Worker


@dataclass(frozen=True)
class Drawn:
    """A trial that is decided but not yet trained."""

    trial: Trial
    network: ResNetSpec
    recipe: TrainSpec

    @property
    def first_attempt(self) -> int:
        """The number of the trial's first attempt: its own, unless it is run again after an interruption."""
        number: int = self.trial.user_attrs.get(RETRY_OF, self.trial.number)
        return number


def is_used_up(study: optuna.Study) -> bool:
    """Whether draw after draw was a duplicate."""
    return bool(study.user_attrs.get(USED_UP))


def has_room(study: optuna.Study, spec: StudySpec) -> bool:
    """Whether another trial can begin within the study's total."""
    trials = records(study)
    if len(trials) < spec.trials:  # the fast path: the trials fit, whether or not they count
        return True
    counted = [attempts for attempts in by_first_attempt(trials).values() if attempts.is_counted]
    waiting = sum(attempts.last.is_waiting for attempts in counted)
    # An enqueued trial already has its place.
    return len(counted) - waiting < spec.trials and (waiting > 0 or len(counted) < spec.trials)


def draw_trial(setting: Setting) -> Drawn | None:
    """Ask for the next trial that is not a duplicate, and record it in the study.

    None if the space seems to contain nothing new, or if other workers already have the trial or the study's last
    place. A first phase that finds nothing new ends; after it, so does the study, and this is recorded.
    """
    study, spec = setting.study, setting.spec
    if spec.phases.architecture and FIRST_PHASE not in study.user_attrs:
        # Recorded once: a larger total later does not start it again.
        study.set_user_attr(FIRST_PHASE, round(spec.phases.architecture * spec.trials))
    if is_used_up(study) and not records(study, TrialState.WAITING):
        return None
    for attempt in range(MAX_DUPLICATES):
        drawn, reason = _try_to_draw(setting, random=attempt >= RANDOM_AFTER)
        if drawn is not None:
            return drawn
        if not reason.startswith(DUPLICATE):
            return None
    counted = len(finished_trials(study))
    if counted < study.user_attrs.get(FIRST_PHASE, 0):
        study.set_user_attr(FIRST_PHASE, counted)
        return draw_trial(setting)
    study.set_user_attr(USED_UP, True)
    return None


def _try_to_draw(setting: Setting, *, random: bool) -> tuple[Drawn | None, str]:
    """A decided trial, or None and the reason why the trial was ended."""
    study, spec = setting.study, setting.spec
    trial = _ask(study)
    setting.worker.has(trial_id(trial))
    trial.set_user_attr(WORKER, setting.worker.id)
    others = _wait_for_turn(study, trial.number, setting.worker)
    # Another attempt at a trial that was cut off while it was drawn is drawn in the same way.
    first_attempt = trial.user_attrs.get(RETRY_OF, trial.number)
    before = [attempts for attempts in others if attempts.number < first_attempt]
    reason = _rejection_reason(trial, others, sum(attempts.is_counted for attempts in before), spec)
    if reason is None:
        first_phase = study.user_attrs.get(FIRST_PHASE, 0)
        study.sampler = sampler_for(spec, before, first_phase=first_phase, random=random)
        network, recipe = _design(trial, setting)
        decided = attributes(network, recipe, setting.shape.size)
        reason = _duplicate_reason({name: decided[name] for name in (NETWORK, RECIPE)}, trial, others)
        if reason is None:
            for name, value in decided.items():
                trial.set_user_attr(name, value)
            return Drawn(trial, network, recipe), ""
    fail(study, trial_id(trial), reason)
    return None, reason


def _ask(study: optuna.Study) -> Trial:
    """The next trial: interrupted ones come before all that are waiting or new."""
    for waiting in records(study, TrialState.WAITING):
        if waiting.is_retry and (trial := take(study, trial_id(waiting))) is not None:
            return trial
    return study.ask()


def _wait_for_turn(study: optuna.Study, number: int, worker: Worker) -> Sequence[Attempts]:
    """Wait until each trial with a lower number is decided or has lost its worker; returns all other trials."""
    while True:
        others = [trial for trial in records(study) if trial.number != number]
        undecided = [trial for trial in others if trial.number < number and trial.is_running and not trial.is_decided]
        if not undecided:
            return list(by_first_attempt(others).values())
        if any(worker.is_dead(trial) for trial in undecided):
            retry_interrupted(study, worker)
        time.sleep(TURN_POLL_S)


def _rejection_reason(trial: Trial, others: Sequence[Attempts], place: int, spec: StudySpec) -> str | None:
    """The reason to end this trial before it is drawn, or None.

    Another worker runs the same retry or baseline, or no place is left: `place` trials before it count.
    """
    if RETRY_OF in trial.user_attrs:
        first_attempt = next(each for each in others if each.number == trial.user_attrs[RETRY_OF])
        earlier = (each.number for each in first_attempt.attempts if each.is_counted and each.number < trial.number)
        first = next(earlier, None)
        return f"{REPEATED}{first}" if first is not None else None
    given = trial.user_attrs.get(BASELINE) or trial.user_attrs.get(START)
    for other in others if given is not None else ():
        if other.number < trial.number and other.is_counted and other.last.given == given:
            return f"{DUPLICATE}{other.last.number}"
    return SURPLUS if place >= spec.trials else None


def _duplicate_reason(drawn: dict[str, str], trial: Trial, others: Sequence[Attempts]) -> str | None:
    """The reason to end a trial whose network and recipe were tried before, or None.

    Different draws can be the same network: they differ in a parameter that it does not use, or slightly in size.
    """
    first_attempt = trial.user_attrs.get(RETRY_OF)
    for other in others:
        if other.number != first_attempt and other.is_counted and drawn.items() <= other.last.optuna.user_attrs.items():
            return f"{DUPLICATE}{other.last.number}"
    return None


def _design(trial: Trial, setting: Setting) -> tuple[ResNetSpec, TrainSpec]:
    """The network and the recipe that the trial draws."""
    spec, shape = setting.spec, setting.shape
    # Everything is suggested before anything can end the trial: if a trial lacked a parameter, the sampler would remove
    # that parameter from its joint model for good.
    draw = search_space.suggest(trial, spec.space)
    network = search_space.network(draw, spec.space, spec.limits, shape.task)
    recipe = search_space.recipe(
        draw, epochs=spec.epochs, seed=spec.seed, precision=setting.precision, data_fraction=spec.data_fraction
    )
    return network, recipe
