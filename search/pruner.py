"""When a trial is stopped early: below the median of completed trials that are like it."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState


class MedianOfLike(optuna.pruners.BasePruner):
    """The median rule (Golovin et al. 2017, Google Vizier) among trials with the same values of some parameters.

    Learning curves of different optimizers and schedules cross: compared with each other, the slow starters would all
    be stopped, and what short runs misjudge would be gone. A kind of which few are complete is never pruned. Only
    complete trials count, so that the bar rises as a search gets better.
    """

    def __init__(self, *, like: Sequence[str], startup_trials: int, warmup_epochs: int, min_values: int) -> None:
        self.like = tuple(like)
        self.startup_trials = startup_trials  # completed, of any kind, before any is pruned
        self.warmup_epochs = warmup_epochs  # of a trial before it can be pruned
        self.min_values = min_values  # completed, of the trial's kind, that have a score at this epoch
        self._peers: tuple[Any, list[FrozenTrial] | None] = (None, None)  # of the last trial, by its number and kind

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial's best score so far is below the median of its kind's scores at this epoch."""
        epoch = trial.last_step
        if epoch is None or epoch < self.warmup_epochs:
            return False
        # A parameter that no trial draws is the same for all of them.
        key = trial.number, [trial.params.get(name) for name in self.like]
        if self._peers[0] != key:  # once a trial: thousands of trials take their time to look through
            self._peers = key, self._complete(study, key[1])
        peers = self._peers[1]
        if peers is None:
            return False
        scores = [other.intermediate_values[epoch] for other in peers if epoch in other.intermediate_values]
        return len(scores) >= self.min_values and max(trial.intermediate_values.values()) < median(scores)

    def _complete(self, study: optuna.Study, kind: list[Any]) -> list[FrozenTrial] | None:
        """The completed trials of this kind; none where too few of any kind are complete."""
        complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if len(complete) < self.startup_trials:
            return None
        return [other for other in complete if [other.params.get(name) for name in self.like] == kind]
