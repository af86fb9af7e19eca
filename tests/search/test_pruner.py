import random

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.pruner import MedianOfLike

KINDS: dict[str, BaseDistribution] = {"optimizer": CategoricalDistribution(["sgd", "adam"])}


def trial(kind: str, scores: list[float], state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    return create_trial(
        value=scores[-1] if state == TrialState.COMPLETE else None,
        state=state,
        params={"optimizer": kind},
        distributions=KINDS,
        intermediate_values=dict(enumerate(scores, start=1)),
    )


@pytest.fixture
def study() -> optuna.Study:
    """Adam begins well and ends badly, SGD the other way round."""
    made = optuna.create_study(direction="maximize")
    for extra in (0.0, 0.02, 0.04):
        made.add_trial(trial("adam", [0.5 + extra, 0.6, 0.6]))
    for extra in (0.0, 0.02, 0.04):
        made.add_trial(trial("sgd", [0.2 + extra, 0.5, 0.9]))
    return made


def pruned(study: optuna.Study, kind: str, scores: list[float], **changes: object) -> bool:
    settings = {"like": ["optimizer"], "startup_trials": 3, "warmup_epochs": 0, "min_values": 3} | changes
    return MedianOfLike(**settings).prune(study, trial(kind, scores, TrialState.RUNNING))  # type: ignore[arg-type]  # of several types


def test_a_slow_starter_is_compared_with_slow_starters(study: optuna.Study) -> None:
    assert not pruned(study, "sgd", [0.23])
    assert pruned(study, "sgd", [0.21])
    assert pruned(study, "adam", [0.51])
    assert pruned(study, "sgd", [0.23], like=[])


def test_a_kind_of_which_few_are_complete_is_never_pruned(study: optuna.Study) -> None:
    assert not pruned(study, "sgd", [0.0], min_values=4)


def test_the_best_score_so_far_counts_not_the_last(study: optuna.Study) -> None:
    assert not pruned(study, "adam", [0.6, 0.1])


def test_nothing_is_pruned_before_the_warm_up_or_before_enough_trials(study: optuna.Study) -> None:
    assert not pruned(study, "sgd", [0.0], warmup_epochs=2)
    assert not pruned(study, "sgd", [0.0], startup_trials=7)
    assert not pruned(study, "sgd", [])


def test_a_stopped_trial_counts_with_the_best_that_it_had_reached(study: optuna.Study) -> None:
    assert pruned(study, "sgd", [0.21, 0.45])
    for _ in range(4):
        study.add_trial(trial("sgd", [0.21, 0.1], TrialState.PRUNED))
    assert not pruned(study, "sgd", [0.21])  # the median of 0.20, 0.22, 0.24 and four times 0.21
    assert not pruned(study, "sgd", [0.1, 0.1, 0.25])  # at an epoch that they had not seen
    assert pruned(study, "sgd", [0.1, 0.1, 0.2])


def test_half_of_equal_trials_are_stopped_however_many_there_are() -> None:
    made, generator = optuna.create_study(direction="maximize"), random.Random(0)
    for _ in range(300):
        score = generator.random()
        stopped = pruned(made, "sgd", [score])
        made.add_trial(trial("sgd", [score], TrialState.PRUNED if stopped else TrialState.COMPLETE))
    assert 0.4 < sum(each.state == TrialState.PRUNED for each in made.trials) / 300 < 0.6


def test_failed_trials_are_no_measure(study: optuna.Study) -> None:
    for _ in range(9):
        study.add_trial(trial("sgd", [0.9], TrialState.FAIL))
    assert not pruned(study, "sgd", [0.23])
