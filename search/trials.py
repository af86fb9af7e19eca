"""What a trial is: the only module that reads and names what a study stores about its trials.

A trial that has lost its process is run again as another trial of the study, its next attempt. The number of the first
attempt stands for all of them. Everything here follows only from the trials, so all workers agree.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from train_core.results import EpochResult
from train_core.specs import ResNetSpec, TrainSpec, num_madds, num_params

# Reasons of trials that are run again; the trial is the subject. FAULTED: the trace of the process names a fault, which
# follows in brackets. KILLED: the trace is empty. DIED: there is no trace.
INTERRUPTED, DIED, FAULTED = "interrupted", "lost its process", "ended its process"
KILLED = f"{DIED} (killed, or out of memory)"
DUPLICATE = "the same as trial "  # reason of a trial that was not trained; the number follows
REPEATED = "run again as trial "  # reason of an attempt that another attempt replaced; the number follows
SURPLUS = "not needed: the study is complete"  # reason of a trial if several workers began one for the last place
DIVERGED = "diverged"

# Names of a trial's attributes, in the study and in Optuna's dashboard.
NETWORK, RECIPE = "network", "recipe"  # as JSON
NETWORK_WORDS = "network in words"
PARAMETERS, MULTIPLY_ADDS = "parameters", "multiply-adds"
BASELINE = "baseline"  # the name of a baseline of the study file
START = "start"  # the source of a configuration that the study began with
WORKER = "worker"  # the worker that runs it
RETRY_OF = "retry_of"  # the number of the first attempt
REASON = "reason"  # why it ended, if it is not complete
TRAINING_S = "training time (s)"
ACCUMULATION_STEPS = "accumulation steps"  # if a batch did not fit into memory
ACCURACY, BALANCED = "validation accuracy", "balanced validation accuracy"  # after its last epoch

Outcome = Literal["complete", "pruned", "diverged", "failed", "running", "waiting", "interrupted", "duplicate"]
"""How a trial ended, or its current state; interrupted and duplicate ones do not count towards the study's total."""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial of a study, in the terms of this package; a thin wrapper around Optuna's trial."""

    optuna: FrozenTrial

    def __repr__(self) -> str:
        """For example `trial 4: [8,16] x [1,1] basic, 3x3 stem; 90.24 % on validation; 18,170 parameters`."""
        reached = f"{100 * self.score:.2f} % on validation" if self.score is not None else self.outcome
        parts = [self.network_words, reached, f"{self.parameters:,} parameters"] if self.is_decided else [reached]
        return f"trial {self.number}: {'; '.join(parts)}"

    @property
    def number(self) -> int:
        """The trial's number in the study."""
        return self.optuna.number

    @property
    def first_attempt(self) -> int:
        """The number of the trial's first attempt: its own, unless it is run again after an interruption."""
        number: int = self.optuna.user_attrs.get(RETRY_OF, self.optuna.number)
        return number

    @property
    def is_retry(self) -> bool:
        """Whether another attempt at the same trial was interrupted before it."""
        return RETRY_OF in self.optuna.user_attrs

    @property
    def is_decided(self) -> bool:
        """Whether its network and recipe are drawn and recorded."""
        return NETWORK in self.optuna.user_attrs

    @property
    def network(self) -> ResNetSpec:
        """The network that it trains; for a decided trial."""
        return ResNetSpec.model_validate_json(self.optuna.user_attrs[NETWORK])

    @property
    def recipe(self) -> TrainSpec:
        """The recipe that it trains by; for a decided trial."""
        return TrainSpec.model_validate_json(self.optuna.user_attrs[RECIPE])

    @property
    def network_words(self) -> str:
        """The network in a few words; for a decided trial."""
        return str(self.optuna.user_attrs[NETWORK_WORDS])

    @property
    def parameters(self) -> int:
        """Trainable parameters of its network; for a decided trial."""
        return int(self.optuna.user_attrs[PARAMETERS])

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one forward pass of its network; for a decided trial."""
        return int(self.optuna.user_attrs[MULTIPLY_ADDS])

    @property
    def baseline(self) -> str | None:
        """The name of the baseline that it is; None: it is not a baseline."""
        return self.optuna.user_attrs.get(BASELINE)

    @property
    def start(self) -> str | None:
        """Its source, if the study began with it because it did best on other images; None: otherwise."""
        return self.optuna.user_attrs.get(START)

    @property
    def given(self) -> str | None:
        """The name of the given configuration that it is; None: it was drawn."""
        return self.baseline or self.start

    @property
    def worker(self) -> str | None:
        """The worker that runs it, or ran it; None: not recorded."""
        return self.optuna.user_attrs.get(WORKER)

    @property
    def reason(self) -> str | None:
        """Why it ended, if it is not complete."""
        return self.optuna.user_attrs.get(REASON)

    @property
    def seconds(self) -> float | None:
        """Seconds of training and validation; None if it did not get that far."""
        return self.optuna.user_attrs.get(TRAINING_S)

    @property
    def accumulation_steps(self) -> int:
        """Number of parts in which each batch went through the network; more than 1 if it did not fit into memory."""
        return int(self.optuna.user_attrs.get(ACCUMULATION_STEPS, 1))

    @property
    def draw(self) -> dict[str, Any]:
        """The parameters that it drew."""
        return dict(self.optuna.params)

    @property
    def retry_draw(self) -> dict[str, Any]:
        """The parameters to run it again with: all of them if it is decided; otherwise those it was enqueued with.

        A draw that was interrupted is repeated from the beginning, so its sampler gives the same values.
        """
        enqueued: dict[str, Any] = self.optuna.system_attrs.get("fixed_params", {})
        return {**enqueued, **self.optuna.params} if self.is_decided else enqueued

    @property
    def curve(self) -> dict[int, float]:
        """Its score, a share of 1, after each finished epoch, in order."""
        return dict(sorted(self.optuna.intermediate_values.items()))

    @property
    def last_epoch(self) -> int:
        """The last finished epoch; 0: none."""
        return self.optuna.last_step or 0

    @property
    def started(self) -> datetime | None:
        """When a worker started it, in local time; None: it is waiting."""
        return self.optuna.datetime_start

    @property
    def ended(self) -> datetime | None:
        """When it ended, in local time; None: it has not ended."""
        return self.optuna.datetime_complete

    @property
    def score(self) -> float | None:
        """The score that compares trials: validation accuracy, or balanced accuracy if the study says so; a share of 1.

        At the end of its short run; None if it is not complete.
        """
        return self.optuna.value if self.is_complete else None

    @property
    def accuracy(self) -> float | None:
        """Validation accuracy after its last epoch, whatever the score is; None: not known."""
        return self.optuna.user_attrs.get(ACCURACY)

    @property
    def balanced(self) -> float | None:
        """Balanced validation accuracy after its last epoch, whatever the score is; None: not known."""
        return self.optuna.user_attrs.get(BALANCED)

    @property
    def last_score(self) -> float | None:
        """The score, or that of the last epoch before it was stopped; None: no epoch is finished."""
        return self.score if self.is_complete else self.optuna.intermediate_values.get(self.last_epoch)

    @property
    def is_complete(self) -> bool:
        """Whether its short run has reached its end."""
        return self.optuna.state == TrialState.COMPLETE

    @property
    def is_running(self) -> bool:
        """Whether a worker is running it, or was when it was lost."""
        return self.optuna.state == TrialState.RUNNING

    @property
    def is_waiting(self) -> bool:
        """Whether it is enqueued."""
        return self.optuna.state == TrialState.WAITING

    @property
    def is_pruned(self) -> bool:
        """Whether it was stopped early: worse than trials of its kind, or diverged."""
        return self.optuna.state == TrialState.PRUNED

    @property
    def has_verdict(self) -> bool:
        """Whether its result describes its network: complete, pruned or diverged."""
        return self.is_complete or self.is_pruned

    @property
    def was_interrupted(self) -> bool:
        """Whether it was ended from outside, so its end does not depend on its network."""
        return self.optuna.state == TrialState.FAIL and self._has_reason(INTERRUPTED, DIED, FAULTED)

    @property
    def is_surplus(self) -> bool:
        """Whether there was no place left for it; a larger study may have one."""
        return self._has_reason(SURPLUS)

    @property
    def is_repeated(self) -> bool:
        """Whether another attempt at the same trial came before it."""
        return self._has_reason(REPEATED)

    @property
    def failed_or_diverged(self) -> bool:
        """Whether it ended in an error, or its loss was not finite."""
        return self.optuna.state == TrialState.FAIL or self._has_reason(DIVERGED)

    @property
    def is_counted(self) -> bool:
        """Whether it counts towards the study's total once it has ended."""
        if self.is_complete:  # true for nearly all trials: the fast path
            return True
        return not (self.was_interrupted or self._has_reason(DUPLICATE, REPEATED, SURPLUS))

    @property
    def is_duplicate_or_surplus(self) -> bool:
        """Whether it was ended before training: a duplicate, or not needed."""
        return self._has_reason(DUPLICATE, SURPLUS)

    @property
    def outcome(self) -> Outcome:
        """How it ended, or its current state."""
        if self.is_complete:
            return "complete"
        if self.is_running or self.is_waiting:
            return "running" if self.is_running else "waiting"
        if not self.is_counted:
            return "interrupted" if self.was_interrupted else "duplicate"
        if self._has_reason(DIVERGED):
            return "diverged"
        return "pruned" if self.is_pruned else "failed"

    def _has_reason(self, *beginnings: str) -> bool:
        return not self.is_complete and (self.reason or "").startswith(beginnings)


def score_of(trial: TrialRecord) -> float:
    """The score of a complete trial.

    Raises:
        ValueError: it is not complete.

    """
    if trial.score is None:
        raise ValueError(f"trial {trial.number} is not complete")
    return trial.score


def measures(result: EpochResult) -> dict[str, float]:
    """Both accuracies of a trial's last epoch, as the study stores them."""
    return {ACCURACY: result.val_accuracy} | ({} if result.val_balanced is None else {BALANCED: result.val_balanced})


def attributes(network: ResNetSpec, recipe: TrainSpec, size: tuple[int, int]) -> dict[str, Any]:
    """The attributes of a decided trial; `size` is the height and width of the images, in pixels.

    The network is the last to be written: once it is there, the trial is decided.
    """
    return {
        RECIPE: recipe.model_dump_json(),
        NETWORK_WORDS: str(network),
        PARAMETERS: num_params(network),
        MULTIPLY_ADDS: num_madds(network, size),
        NETWORK: network.model_dump_json(),
    }


def decided_attributes(trial: TrialRecord) -> dict[str, Any]:
    """The attributes that the next attempt at a trial keeps."""
    names = (BASELINE, START, RECIPE, NETWORK_WORDS, PARAMETERS, MULTIPLY_ADDS, NETWORK)
    return {name: trial.optuna.user_attrs[name] for name in names if name in trial.optuna.user_attrs}


def ranked(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The complete trials, the best first: the only definition of "better". Equal ones are in order."""
    scored = [(trial.score, trial) for trial in trials]
    pairs = sorted(((score, -trial.number, trial) for score, trial in scored if score is not None), key=_score_and_age)
    return [trial for _, _, trial in reversed(pairs)]


def _score_and_age(pair: tuple[float, int, TrialRecord]) -> tuple[float, int]:
    return pair[0], pair[1]


def best(trials: Iterable[TrialRecord]) -> TrialRecord | None:
    """The best complete trial; None if no trial is complete."""
    return next(iter(ranked(trials)), None)


def records(study: optuna.Study, *states: TrialState) -> list[TrialRecord]:
    """The study's trials, by number; only those in these states, if any are given."""
    return [TrialRecord(trial) for trial in study.get_trials(deepcopy=False, states=states or None)]


def finished_trials(study: optuna.Study) -> list[TrialRecord]:
    """The trials that count towards the total and have ended: complete, pruned, diverged or failed."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [trial for trial in records(study, *ended) if trial.is_counted]


def different_networks(trials: Iterable[TrialRecord]) -> int:
    """The number of different networks in these trials."""
    return len({trial.network_words for trial in trials if trial.is_decided})


def has_begun(study: optuna.Study) -> bool:
    """Whether any trial has been started, including one that was interrupted and is yet to be tried again."""
    return any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))


@dataclass(slots=True)
class Attempts:
    """A trial with all its attempts, in order."""

    number: int  # number of the first attempt
    attempts: list[TrialRecord]

    @property
    def last(self) -> TrialRecord:
        """The attempt that is running, gave the verdict, or will be followed by another."""
        if len(self.attempts) == 1:
            return self.attempts[0]
        return next(trial for trial in reversed(self.attempts) if not trial.is_repeated)

    @property
    def drew_nothing(self) -> bool:
        """Whether it was interrupted before it was decided: there is nothing to run again."""
        return self.last.was_interrupted and not self.last.retry_draw

    @property
    def is_counted(self) -> bool:
        """Whether it has, or will have, a place among the trials of the study."""
        if self.attempts[-1].is_complete:  # true for nearly all trials: the fast path
            return True
        return not (self.drew_nothing or any(trial.is_duplicate_or_surplus for trial in self.attempts))


def by_first_attempt(trials: Iterable[TrialRecord]) -> Mapping[int, Attempts]:
    """The trials by the number of their first attempt, in order."""
    found: dict[int, Attempts] = {}
    for trial in trials:
        number = trial.first_attempt
        if number in found:
            found[number].attempts.append(trial)
        else:
            found[number] = Attempts(number, [trial])
    return found
