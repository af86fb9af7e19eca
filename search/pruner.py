"""When a trial is stopped early: below the median of the trials before it that are like it."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.front import SIZE, are_alike


class MedianOfLike(optuna.pruners.BasePruner):
    """The median rule (Golovin et al. 2017, Google Vizier) among trials with the same values of some parameters.

    Learning curves of different optimizers and schedules cross: compared with each other, the slow starters would all
    be stopped, and what short runs misjudge would be gone. A kind of which there are few is never pruned.

    Trials that were stopped count with the best that they had reached. If only complete trials counted, each of them
    would be above the median of those before it, so the bar would rise and rise: of 200 random draws, 67 % were stopped
    instead of 47 %, and of the best twenty, 35 % instead of 10 % (in made-up worlds: docs/benchmarks.md).

    In a study of networks of every size, a trial is compared with those of like size that are no larger: one that is
    worse than half of them is not on the front, while one that is worse than larger ones may be.
    """

    def __init__(
        self, *, like: Sequence[str], startup_trials: int, warmup_epochs: int, min_values: int, by_size: bool = False
    ) -> None:
        self.like = tuple(like)
        self.by_size = by_size  # whether trials of like size alone are compared
        self.startup_trials = startup_trials  # completed, of any kind, before any is pruned
        self.warmup_epochs = warmup_epochs  # of a trial before it can be pruned
        self.min_values = min_values  # of the trial's kind, that have a score
        self._peers: tuple[Any, list[FrozenTrial] | None] = (None, None)  # of the last trial, by its number and kind

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial's best score so far is below the median of its kind's scores at this epoch."""
        epoch = trial.last_step
        if epoch is None or epoch < self.warmup_epochs:
            return False
        # A parameter that no trial draws is the same for all of them.
        kind = self._kind(trial)
        key = trial.number, kind
        if self._peers[0] != key:  # once a trial: thousands of trials take their time to look through
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
        """The completed and stopped trials of this kind; none where too few of any kind are complete."""
        ended = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])
        if sum(other.state == TrialState.COMPLETE for other in ended) < self.startup_trials:
            return None
        return [other for other in ended if self._kind(other) == kind]


def _of_size(trial: FrozenTrial, others: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those of the others that are of like size, and no larger."""
    size = trial.params[SIZE]
    return [other for other in others if other.params[SIZE] <= size and are_alike(other.params[SIZE], size)]


def _score_at(trial: FrozenTrial, epoch: int) -> float | None:
    """The trial's score at this epoch; of one that was stopped before, its best until then."""
    values = trial.intermediate_values
    if epoch in values or trial.state == TrialState.COMPLETE:
        return values.get(epoch)
    return max(values.values(), default=None)
