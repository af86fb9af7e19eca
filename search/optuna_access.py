"""The only module that uses Optuna's private names: ids of trials and studies, and a study's storage.

Optuna's public interface has no way to end a trial by its number from another process, to write a trial's system
attributes, or to read one trial again. If a release of Optuna changes these names, change this module.
"""

from typing import TYPE_CHECKING

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

if TYPE_CHECKING:
    from search.trials import TrialRecord


def storage_of(study: optuna.Study) -> BaseStorage:
    """The storage of the study."""
    return study._storage


def study_id(study: optuna.Study) -> int:
    """The study's id in its storage, used in addresses of the dashboard's pages."""
    return study._study_id


def trial_id(trial: "Trial | FrozenTrial | TrialRecord") -> int:
    """The trial's id in its storage, which is not its number in the study."""
    return trial._trial_id if isinstance(trial, Trial | FrozenTrial) else trial.optuna._trial_id


def take(study: optuna.Study, id_: int) -> Trial | None:
    """The waiting trial, started by this process as by `Study.ask`; None: another process was faster."""
    study._thread_local.cached_all_trials = None
    try:
        is_ours = storage_of(study).set_trial_state_values(id_, TrialState.RUNNING)
    except optuna.exceptions.UpdateFinishedTrialError:
        return None
    return Trial(study, id_) if is_ours else None


def trial_again(study: optuna.Study, id_: int) -> FrozenTrial:
    """The current state of the trial."""
    return storage_of(study).get_trial(id_)


def fail(study: optuna.Study, id_: int, reason: str) -> bool:
    """Mark the trial as failed for this reason. Returns False if it had already finished."""
    from search.trials import REASON

    try:
        storage_of(study).set_trial_user_attr(id_, REASON, reason)
        return storage_of(study).set_trial_state_values(id_, TrialState.FAIL)
    except optuna.exceptions.UpdateFinishedTrialError:
        return False
