"""When a trial is stopped early: below the median of completed trials that are like it."""

from collections.abc import Sequence
from statistics import median

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

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial's best score so far is below the median of its kind's scores at this epoch."""
        epoch = trial.last_step
        if epoch is None or epoch < self.warmup_epochs:
            return False
        complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if len(complete) < self.startup_trials:
            return False
        # A parameter that no trial draws is the same for all of them.
        kind = [trial.params.get(name) for name in self.like]
        scores = [
            other.intermediate_values[epoch]
            for other in complete
            if epoch in other.intermediate_values and [other.params.get(name) for name in self.like] == kind
        ]
        return len(scores) >= self.min_values and max(trial.intermediate_values.values()) < median(scores)
