"""How long commands take: what is said before they start, and how it is corrected."""

from datetime import datetime

import optuna
import pytest
from optuna.trial import TrialState

from search.forecast import (
    CONCLUSION_S,
    FULL_RUN_S,
    VARIES,
    WORKERS_START_S,
    Pace,
    Span,
    Speedup,
    clock,
    epoch_seconds,
    full_runs_span,
    least_share,
    search_span,
    trials_within,
)
from search.spec import PrunerSpec
from search.trials import TrialRecord
from tests.support.runs import study_spec
from tests.support.tiny import NETWORK, tiny_recipe

NOW = datetime(2026, 11, 27, 18, 30)  # a Friday


def test_a_span_in_words_and_by_the_clock() -> None:
    assert [str(Span(*each)) for each in ((360, 660), (40, 130), (700, 710), (5000, 8000))] == [
        "6 to 11 min",
        "40 s to 2 min",
        "12 min",
        "83 min to 2.2 h",
    ]
    assert Span(600, 900).done(NOW) == "done between 18:40 and 18:45"
    assert Span(600, 601).done(NOW) == "done at 18:40"
    assert Span(3600, 12 * 3600).done(NOW) == "done between 19:30 and Sat 06:30"
    assert clock(datetime(2026, 12, 8, 3, 15), NOW) == "2026-12-08 03:15"


def test_the_pruner_stops_half_of_what_it_can_stop_at_most() -> None:
    pruner = PrunerSpec(startup_trials=4, warmup=1 / 3)
    spec = study_spec(trials=10, epochs=6, pruner=pruner)
    assert least_share(spec, 0) == pytest.approx((4 + 6 * (0.5 + 0.5 * 2 / 6)) / 10)
    assert least_share(spec, 8) == pytest.approx(0.5 + 0.5 * 2 / 6)
    assert least_share(study_spec(trials=3, pruner=pruner), 0) == 1


def test_a_search_takes_between_most_pruned_and_none_pruned() -> None:
    spec = study_spec(trials=10, epochs=6, pruner=PrunerSpec(startup_trials=10))
    span = search_span(spec, 60.0, 5, Speedup())
    assert span.low == pytest.approx(300 * (1 - VARIES) + CONCLUSION_S[0])
    assert span.high == pytest.approx(300 * (1 + VARIES) + CONCLUSION_S[1])
    assert trials_within(spec, Span(100, 200), 5, 100) == (7, 10)
    assert trials_within(spec, Span(100, 200), 5, 10_000) == (10, 10)


@pytest.mark.parametrize(
    ("workers", "gpus", "low", "high"), [(1, 0, 1, 1), (2, 0, 1, 1.3), (4, 1, 1, 4), (4, 4, 4, 4), (4, 8, 4, 4)]
)
def test_workers_are_as_fast_as_was_measured(workers: int, gpus: int, low: float, high: float) -> None:
    speedup = Speedup.of(workers, gpus)
    assert (speedup.low, speedup.high) == (low, high)
    start = WORKERS_START_S if workers > 1 else (0, 0)
    assert speedup.over(Span(100, 200)) == Span(100 / high + start[0], 200 / low + start[1])


def trial(number: int, epochs: int, seconds: float | None = None) -> TrialRecord:
    attributes = {"network": NETWORK.model_dump_json(), "recipe": tiny_recipe(epochs=4).model_dump_json()}
    made = optuna.trial.create_trial(
        state=TrialState.PRUNED if epochs < 4 else TrialState.COMPLETE,
        value=0.5,
        user_attrs=attributes | ({} if seconds is None else {"training time (s)": seconds}),
        intermediate_values=dict.fromkeys(range(1, epochs + 1), 0.5),
    )
    made.number = number
    return TrialRecord(made)


def test_full_runs_take_their_epochs_at_the_pace_of_the_short_runs() -> None:
    assert epoch_seconds(trial(0, 4, 6.0)) == 1.5
    assert epoch_seconds(trial(0, 4)) is None
    span = full_runs_span([(1.5, 20), (0.5, 20)], Speedup())
    assert span.low == pytest.approx(40 * (1 - VARIES) + 2 * FULL_RUN_S[0] + CONCLUSION_S[0])
    assert span.high == pytest.approx(40 * (1 + VARIES) + 2 * FULL_RUN_S[1] + CONCLUSION_S[1])


def test_the_time_left_follows_the_epochs_that_were_trained() -> None:
    """Ten trials of four epochs, each of which takes 2 s; every second trial is pruned after one epoch."""
    pace = Pace(10, [], started=1000.0, planned=None)
    assert pace.left(0, 0.0, now=1001.0) is None
    now = 1000.0
    for number in range(6):
        epochs = 4 if number % 2 == 0 else 1
        now += 2.0 * epochs
        pace.trial_ended(trial(number, epochs))
    # Four trials of 2.5 epochs in the mean are left.
    assert pace.left(6, 0.0, now) == pytest.approx(2.0 * 4 * 2.5)
    # Half of the seventh is trained.
    assert pace.left(6, 0.5, now + 4.0) == pytest.approx(2.0 * (4 * 2.5 - 2))
    assert pace.left(10, 0.0, now) is None


@pytest.mark.parametrize(("trial_s", "says"), [(100.0, False), (120.0, False), (140.0, True), (40.0, True)])
def test_a_wrong_plan_is_corrected_once_after_a_tenth_of_the_trials(trial_s: float, says: bool) -> None:
    pace = Pace(20, [], started=0.0, planned=Span(1500, 2000))
    pace.trial_ended(trial(0, 4))
    assert pace.correction(1, 0.0, trial_s) is None
    pace.trial_ended(trial(1, 4))
    left = pace.correction(2, 0.0, 2 * trial_s)
    assert left == (pytest.approx(18 * trial_s) if says else None)
    assert pace.correction(2, 0.0, 2 * trial_s) is None


def test_trials_from_before_are_no_measure_of_the_pace() -> None:
    before = [trial(0, 4), trial(1, 4)]
    pace = Pace(4, before, started=0.0, planned=None)
    assert pace.left(2, 0.0, 10.0) is None
    pace.trial_ended(trial(2, 4))
    assert pace.left(3, 0.0, 10.0) == pytest.approx(10.0)
