"""What a reader of results is warned of, and where each warning begins; and where the best network comes from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search.cautions import cautions
from search.fidelity import Agreement, Fidelity, Pair
from search.formatting import Interval
from search.results import Results, read_results, remarks
from search.run_folder import RunFolder
from search.trials import TrialRecord
from tests.support.runs import promoted, study_spec


def results_of(trials: list[tuple[TrialState, str]], **values: Any) -> Results:
    """A run with trials of these states, whose networks have these names."""
    study = optuna.create_study(direction="maximize")
    for state, network in trials:
        score = 0.9 if state == TrialState.COMPLETE else None
        attributes = {"network": "{}", "network in words": network}
        study.add_trial(optuna.trial.create_trial(value=score, state=state, user_attrs=attributes))
    spec = study_spec(space={"flip": False})
    records = [TrialRecord(trial) for trial in study.trials]
    return Results(name="a run", spec=spec, study=study, trials=records, promotions=[], **values)


@pytest.mark.parametrize(("ended", "pruned", "is_said"), [(20, 17, True), (20, 16, False), (19, 18, False)])
def test_many_pruned_trials_are_said(ended: int, pruned: int, is_said: bool) -> None:
    states = [TrialState.PRUNED] * pruned + [TrialState.COMPLETE] * (ended - pruned)
    said = cautions(results_of([(state, str(i)) for i, state in enumerate(states)]))
    assert said == (
        [
            "17 of 20 trials (85.00 %) were pruned, so the best was chosen from 3 complete trials. A larger "
            "`pruner.startup_trials` or `pruner.warmup` prunes fewer."
        ]
        if is_said
        else []
    )


@pytest.mark.parametrize(("ended", "networks", "is_said"), [(20, 11, True), (20, 12, False), (19, 1, False)])
def test_few_different_networks_are_said(ended: int, networks: int, is_said: bool) -> None:
    said = cautions(results_of([(TrialState.COMPLETE, str(i % networks)) for i in range(ended)]))
    assert [each.partition(":")[0] for each in said] == (
        ["20 trials had only 11 different networks (55.00 %)"] if is_said else []
    )


@pytest.mark.parametrize(("images", "is_said"), [(None, False), (38, True), (499, True), (500, False)])
def test_few_validation_images_are_said(images: int | None, is_said: bool) -> None:
    said = cautions(results_of([(TrialState.COMPLETE, "one")], measured_on=images))
    assert bool(said) == is_said
    if images == 38:
        assert said == ["38 validation images: differences under 11 points are noise."]


@pytest.mark.parametrize(("low", "is_said"), [(-0.09, True), (0.0, True), (0.1, False)])
def test_short_runs_that_may_rank_or_not_are_said(low: float, is_said: bool) -> None:
    pairs = tuple(Pair(trial=i, family="all", short=i / 10, long=i / 10) for i in range(5))
    known = Agreement(epochs=4, pairs=pairs, spearman=Interval(0.7, low, 1.0), kendall=0.0, regret={1: 0})
    fidelity = Fidelity(epochs=40, lengths=(known,), families={}, best_only=False, complete=5, tolerance=0.01)
    said = cautions(results_of([(TrialState.COMPLETE, "one")], fidelity=fidelity))
    assert [each.partition(":")[0] for each in said] == (
        ["Short runs of 4 epochs may rank this space or not"] if is_said else []
    )


def given(folder: RunFolder, **names: str) -> Results:
    """The run, whose best trial the search was given, under these attributes."""
    results = read_results(folder)
    results.complete[0].optuna.user_attrs.update(names)
    return results


def test_a_best_network_that_the_search_was_given_is_said_to_be_so(mixed: RunFolder) -> None:
    own = "the best short run of a network that it drew reached 60.00 %."
    said = f"It is the baseline lenet-sized, which the search was given; {own}"
    assert remarks(given(mixed, baseline="lenet-sized"))[0] == said
    said = f"It is one of the portfolio's starts (narrow sgd), not drawn by this search; {own}"
    assert remarks(given(mixed, start="portfolio: narrow sgd"))[0] == said
    assert (
        remarks(given(mixed, start="trial 3 of cats"))[0]
        == f"It is trial 3 of cats, with which the search began; {own}"
    )
    assert not any("drew" in each for each in remarks(read_results(mixed)))


def test_full_runs_are_compared_with_full_runs_of_networks_that_it_drew(mixed: RunFolder) -> None:
    promoted(mixed, 5, val_accuracy=0.9)
    alone = remarks(given(mixed, baseline="lenet-sized"))[0]
    assert alone.endswith("; there is no full run of a network that it drew to compare with.")
    promoted(mixed, 0, val_accuracy=0.85)
    beside = remarks(given(mixed, baseline="lenet-sized"))[0]
    assert beside.endswith("; the best full run of a network that it drew reached 85.00 %.")


def test_what_applies_is_said_together_the_most_important_first(tmp_path: Path) -> None:
    results = results_of([(TrialState.COMPLETE, "one")] * 3 + [(TrialState.PRUNED, "one")] * 17, measured_on=38)
    said = cautions(replace(results))
    assert [each.split()[1] for each in said] == ["validation", "of", "trials"]


@pytest.mark.parametrize(("always_largest", "is_said"), [(0.9, True), (0.95, True), (0.5, False), (None, False)])
def test_a_network_that_has_learned_nothing_is_said(always_largest: float | None, is_said: bool) -> None:
    said = cautions(results_of([(TrialState.COMPLETE, "a")], always_largest=always_largest, measured_on=5000))
    assert any("no better than always answering the largest class" in each for each in said) == is_said
