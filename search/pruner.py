"""When a trial is stopped early: below the median of the earlier trials of its kind."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.front import SIZE, are_alike


class MedianOfLike(optuna.pruners.BasePruner):
    """The median rule (Golovin et al. 2017, Google Vizier) among trials with the same values of some parameters.

    Learning curves of different optimizers and schedules cross. If they were compared with each other, all slow
    starters would be stopped, and the configurations that short runs misjudge would be lost. A kind with few trials is
    never pruned.

    Stopped trials count with the best score that they had reached. If only complete trials counted, each of them would
    be above the median of those before it, so the bar would keep rising: of 200 random draws, 67 % were stopped instead
    of 47 %, and of the best twenty, 35 % instead of 10 % (in simulated worlds: docs/benchmarks.md).

    In a study of networks of every size, a trial is compared with trials of similar size that are no larger: if it is
    worse than half of them, it is not on the front, but it may be worse than larger ones.
    """

    def __init__(
        self, *, like: Sequence[str], startup_trials: int, warmup_epochs: int, min_values: int, by_size: bool = False
    ) -> None:
        self.like = tuple(like)
        self.by_size = by_size  # whether only trials of similar size are compared
        self.startup_trials = startup_trials  # completed trials of any kind before any trial is pruned
        self.warmup_epochs = warmup_epochs  # of a trial, before it can be pruned
        self.min_values = min_values  # scores needed at this epoch from trials of the same kind
        self._peers: tuple[Any, list[FrozenTrial] | None] = (None, None)  # of the last trial, by its number and kind

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial's best score so far is below the median of its kind's scores at this epoch."""
        epoch = trial.last_step
        if epoch is None or epoch < self.warmup_epochs:
            return False
        # A parameter that no trial draws is the same for all of them.
        kind = self._kind(trial)
        key = trial.number, kind
        if self._peers[0] != key:  # once per trial: looking through thousands of trials takes time
            peers = self._ended(study, kind)
            self._peers = key, _of_size(trial, peers) if self.by_size and peers else peers
        peers = self._peers[1]
        if peers is None:
            return False
        scores = [score for other in peers if (score := _score_at(other, epoch)) is not None]
        return len(scores) >= self.min_values and max(trial.intermediate_values.values()) < median(scores)

    def _kind(self, trial: FrozenTrial) -> list[Any]:
        return [trial.params.get(name) for name in self.like]

    def _ended(self, study: optuna.Study, kind: list[Any]) -> list[FrozenTrial] | None:
        """The completed and stopped trials of this kind; None if too few trials of any kind are complete."""
        ended = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])
        if sum(other.state == TrialState.COMPLETE for other in ended) < self.startup_trials:
            return None
        return [other for other in ended if self._kind(other) == kind]


def _of_size(trial: FrozenTrial, others: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those of the other trials that are of similar size and no larger."""
    size = trial.params[SIZE]
    return [other for other in others if other.params[SIZE] <= size and are_alike(other.params[SIZE], size)]


def _score_at(trial: FrozenTrial, epoch: int) -> float | None:
    """The trial's score at this epoch; if it was stopped before, its best until then."""
    values = trial.intermediate_values
    if epoch in values or trial.state == TrialState.COMPLETE:
        return values.get(epoch)
    return max(values.values(), default=None)
