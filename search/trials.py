"""What a study's trials say of themselves: which count, which were cut off, which belong together.

A trial that is cut off is tried again as another one, its next attempt. The first attempt's number, the root, stands
for all of them. Everything here is worked out from the trials alone, so that all workers come to the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

# Reasons of trials that are tried again; the trial is the subject. FAULTED: the trace of the process names a fault, in
# brackets after it. KILLED: the trace is empty. DIED: there is no trace.
INTERRUPTED, DIED, FAULTED = "interrupted", "lost its process", "ended its process"
KILLED = f"{DIED} (killed, or out of memory)"
_DIED_BEFORE = "its process died"  # DIED in older studies
DUPLICATE = "the same as trial "  # reason of a trial that was not trained; the number follows
REPEATED = "tried again as trial "  # reason of an attempt that another one came before; the number follows
SURPLUS = "one more than there were to be"  # reason of a trial that several workers began for the last place

TRAINED = "training time (s)"  # attribute of a trial that has its verdict


@dataclass(slots=True)
class Root:
    """A trial with all the attempts at it."""

    number: int
    attempts: list[FrozenTrial]

    @property
    def last(self) -> FrozenTrial:
        """The attempt that is at work, gave the verdict, or is to be followed by another."""
        if len(self.attempts) == 1:
            return self.attempts[0]
        return next(trial for trial in reversed(self.attempts) if not _has_reason(trial, REPEATED))

    @property
    def drew_nothing(self) -> bool:
        """Whether it was cut off before it was decided what it is: there is nothing to try again."""
        return was_interrupted(self.last) and not params_of(self.last)

    @property
    def counts(self) -> bool:
        """Whether it has, or will have, a place among the trials of the study."""
        if self.attempts[-1].state == TrialState.COMPLETE:  # as nearly all: the shortest way
            return True
        return not (self.drew_nothing or any(_has_reason(trial, DUPLICATE, SURPLUS) for trial in self.attempts))


def roots(trials: Iterable[FrozenTrial]) -> dict[int, Root]:
    """The trials by their roots, in order."""
    found: dict[int, Root] = {}
    for trial in trials:
        number = root_of(trial)
        if number in found:
            found[number].attempts.append(trial)
        else:
            found[number] = Root(number, [trial])
    return found


def root_of(trial: FrozenTrial) -> int:
    """The number of the first attempt at this trial."""
    number: int = trial.user_attrs.get("retry_of", trial.number)
    return number


def seconds_of(trial: FrozenTrial) -> float | None:
    """How long it was trained; none where it was given up before."""
    seconds: float | None = trial.user_attrs.get(TRAINED, trial.user_attrs.get("seconds"))  # as older studies say
    return seconds


def params_of(trial: FrozenTrial) -> dict[str, object]:
    """The parameters to try it again with: all of them once it is decided; before that those it was enqueued with.

    A draw that was cut off in its middle is drawn anew, from its beginning: its sampler then gives what it would have
    given. After some values that are there already, it would give others.
    """
    enqueued: dict[str, object] = trial.system_attrs.get("fixed_params", {})
    return {**enqueued, **trial.params} if "network" in trial.user_attrs else enqueued


def was_interrupted(trial: FrozenTrial) -> bool:
    """Whether the trial was cut off from outside, so that it says nothing about its network."""
    return trial.state == TrialState.FAIL and _has_reason(trial, INTERRUPTED, DIED, FAULTED, _DIED_BEFORE)


def was_surplus(trial: FrozenTrial) -> bool:
    """Whether there was no place for the trial: in a larger study there may be one."""
    return _has_reason(trial, SURPLUS)


def counts(trial: FrozenTrial) -> bool:
    """Whether the trial counts towards the total if it has ended, or ends."""
    if trial.state == TrialState.COMPLETE:  # as nearly all: the shortest way
        return True
    return not (was_interrupted(trial) or _has_reason(trial, DUPLICATE, REPEATED, SURPLUS))


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count towards the total: complete, pruned or failed; not the interrupted, nor duplicates."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [trial for trial in study.get_trials(deepcopy=False, states=states) if counts(trial)]


def outcome_of(trial: FrozenTrial) -> str:
    """One of complete, pruned, diverged, failed; running, waiting; interrupted; duplicate (one that does not count)."""
    if trial.state in (TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE):
        return trial.state.name.lower()
    if not counts(trial):
        return "interrupted" if was_interrupted(trial) else "duplicate"
    if _has_reason(trial, "diverged"):
        return "diverged"
    return "pruned" if trial.state == TrialState.PRUNED else "failed"


def failed_or_diverged(trial: FrozenTrial) -> bool:
    """Whether the trial failed or diverged."""
    return trial.state == TrialState.FAIL or _has_reason(trial, "diverged")


def _has_reason(trial: FrozenTrial, *beginnings: str) -> bool:
    reason = trial.user_attrs.get("reason")
    return reason is not None and trial.state != TrialState.COMPLETE and str(reason).startswith(beginnings)
