"""What a study begins with: the portfolio, and what the user's own runs have taught."""

import math
from pathlib import Path

import pytest

from search.errors import RunError, SpecError
from search.identity import enqueue_baselines, join, open_study
from search.learning import AUTO, learned, runs_to_learn_from
from search.run_folder import RunFolder
from search.spec import load_study
from search.starts import Configuration, Measured, enqueue_starts, fitted, shortlist, source_of
from search.trials import finished_trials, records
from space import Space, all_dimensions, holds, parameters
from tests.support.runs import TASK, make_run, promoted, run_study, study_spec
from tests.support.trainers import FakeTrainer

pytestmark = pytest.mark.usefixtures("in_lines")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "here")
    made.create()
    return made


def test_a_shortlist_is_good_on_every_task_rather_than_in_the_mean() -> None:
    accuracies: dict[str, list[float | None]] = {"a": [0.9, 0.1, 0.8], "b": [0.1, 0.9, 0.8], "c": [0.5, 0.5, None]}
    assert shortlist(accuracies, 1) == [0]
    assert shortlist(accuracies, 2) == [0, 1]  # together the best on all, though the third is better in the mean
    assert shortlist(accuracies, 9) == [0, 1, 2]
    assert shortlist(accuracies, 2, among=[1, 2]) == [1, 2]
    assert shortlist({}, 3) == []


def test_of_configurations_that_add_nothing_one_of_another_optimizer_comes_first() -> None:
    accuracies: dict[str, list[float | None]] = {"a": [0.9, 0.8, 0.7, 0.6, 0.5]}
    assert shortlist(accuracies, 4) == [0, 1, 2, 3]
    assert shortlist(accuracies, 4, kinds=["muon", "muon", "sgd", "muon", "adamw"]) == [0, 2, 4, 1]


def test_the_shipped_portfolio_is_what_was_measured() -> None:
    shipped = Measured.shipped()
    assert len(shipped.names) == len(set(shipped.names)) == len(shipped.draws) >= 40
    for accuracies in shipped.accuracies.values():
        assert len(accuracies) == len(shipped.names)
        assert all(each is None or 0 <= each <= 1 for each in accuracies)
    assert 3 <= shipped.size <= 12


@pytest.mark.parametrize("study", ["digits", "cifar10-small", "cifar10", "cifar10-wide"])
def test_a_studys_portfolio_lies_in_its_space(study: str) -> None:
    space = load_study(study, {}).space
    dimensions = all_dimensions(space)
    found = Measured.shipped().portfolio(space)
    assert len(found) == Measured.shipped().size
    for each in found:
        values = fitted(each.draw, space)
        assert values is not None
        assert set(values) <= set(parameters(space))
        assert not [name for name, value in values.items() if not holds(dimensions[name], value)]


def test_a_configuration_is_fitted_to_a_space_by_the_nearest_numbers_and_a_rate_by_its_batch() -> None:
    space = Space.model_validate({"stages": {"low": 2, "high": 3}, "blocks": {"low": 1, "high": 2}, "batch_size": 32})
    shape = {"stages": 4, "blocks_1": 5, "block": "preact", "k1": 3}
    draw = {"optimizer": "sgd", "sgd_lr": 0.2, "batch_size": 128, **shape}
    nearest = {**shape, "stages": 3, "blocks_1": 2}
    # The space fixes the batch size, so it is no parameter.
    assert fitted(draw, space) == {"optimizer": "sgd", "sgd_lr": 0.05, **nearest}
    adam = fitted({**draw, "optimizer": "adamw", "adamw_lr": 0.002}, space)
    assert adam is not None
    assert math.isclose(adam["adamw_lr"], 0.001)
    assert fitted({**draw, "block": "pyramid"}, space) is None
    assert fitted(draw, space.model_copy(update={"optimizer": "adamw"})) is None
    assert fitted({**draw, "sgd_lr": 50.0}, space) is not None  # the greatest rate of the space


def test_a_study_begins_with_its_baselines_and_then_the_portfolio(folder: RunFolder) -> None:
    spec = load_study("digits", {"trials": 12})
    study = open_study(folder, create=True)
    enqueue_baselines(study, spec, TASK)
    starts = enqueue_starts(study, spec, TASK, list)
    assert [trial.start for trial in records(study)] == [None, *starts]
    assert len(starts) == Measured.shipped().size  # all of it, however few the trials are
    assert {source_of(start) for start in starts} == {"portfolio"}
    assert enqueue_starts(study, spec, TASK, list) == starts  # once
    assert len(records(study)) == 1 + len(starts)


def test_what_a_killed_process_has_not_enqueued_is_enqueued_by_the_next(folder: RunFolder) -> None:
    spec = load_study("digits", {"trials": 12})
    whole = open_study(make_run(folder.root.parent / "whole", spec=spec))
    starts = enqueue_starts(whole, spec, TASK, list)
    cut_off, first = open_study(folder, create=True), records(whole)[0]
    cut_off.enqueue_trial(first.retry_draw, user_attrs={"start": first.start})
    assert enqueue_starts(cut_off, spec, TASK, list) == starts
    assert [trial.start for trial in records(cut_off)] == starts


def test_what_does_not_fit_takes_no_place(folder: RunFolder) -> None:
    spec = load_study("digits", {"trials": 3})
    draw = {"optimizer": "lion", "block": "basic"}
    starts = enqueue_starts(open_study(folder, create=True), spec, TASK, lambda: [Configuration("trial 1 of a", draw)])
    assert len(starts) == Measured.shipped().size
    assert source_of(starts[0]) == "portfolio"


def test_a_study_that_is_given_more_trials_later_has_the_same_ones(tmp_path: Path) -> None:
    designs = []
    for totals in ((8,), (1, 3, 8)):
        folder = RunFolder(tmp_path / f"in {len(totals)}")
        folder.create()
        for total in totals:
            spec = load_study("digits", {"trials": total, "epochs": 1})
            enqueue_starts(open_study(folder, create=True), spec, TASK, list)
            run_study(folder, spec, FakeTrainer())
            assert len(finished_trials(open_study(folder))) == total
        designs.append([(trial.start, trial.network, trial.recipe) for trial in finished_trials(open_study(folder))])
    assert designs[0] == designs[1]
    assert [start is not None for start, *_ in designs[0]] == [True] * 5 + [False] * 3


def test_the_trials_of_a_portfolio_say_so_and_are_different(folder: RunFolder) -> None:
    spec = load_study("digits", {"trials": 12, "epochs": 1})
    study = open_study(folder, create=True)
    starts = enqueue_starts(study, spec, TASK, list)
    run_study(folder, spec, FakeTrainer())
    first = [trial for trial in records(study) if trial.start]
    assert [trial.start for trial in first] == starts
    assert len({(trial.network, trial.recipe) for trial in first}) == len(first)


def test_a_study_that_has_begun_gets_no_portfolio_and_one_can_do_without(folder: RunFolder) -> None:
    spec = load_study("digits", {"trials": 12})
    study = open_study(folder, create=True)
    assert enqueue_starts(study, spec.model_copy(update={"portfolio": False}), TASK, list) == []
    study.ask()
    assert enqueue_starts(study, spec, TASK, list) == []


def test_what_a_study_began_with_stays_in_its_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = study_spec(trials=1, learn_from=["cats"])
    run = make_run(tmp_path / "begun", [0.5], spec=spec)
    later = spec.model_copy(update={"trials": 2, "portfolio": False, "learn_from": ()})
    joined = join(run, later, TASK)
    kept = load_study(str(run.study_file), {})
    assert joined.spec == kept
    assert (kept.trials, kept.portfolio, kept.learn_from) == (2, True, ("cats",))
    assert caplog.messages == ["the study has begun: --no-portfolio and --learn-from do not change its first trials"]
    fresh = make_run(tmp_path / "fresh", spec=spec)
    join(fresh, later, TASK)
    assert load_study(str(fresh.study_file), {}).portfolio is False


def test_the_best_of_a_run_are_learned_by_its_full_runs_first(tmp_path: Path) -> None:
    first = make_run(tmp_path / "runs" / "cats", [0.5, 0.9, 0.7, 0.8], spec=study_spec(trials=4))
    promoted(first, 2)
    new = RunFolder(tmp_path / "runs" / "dogs")
    spec = study_spec(trials=12, learn_from=["cats"])
    found = learned(spec, new)
    assert [each.source for each in found] == [f"trial {i} of cats" for i in (2, 1, 3, 0)]
    assert [source_of(each.source) for each in found] == ["cats"] * 4
    study = open_study(make_run(tmp_path / "runs" / "empty", spec=spec))
    starts = enqueue_starts(study, spec, TASK, lambda: found)
    assert starts[:4] == [each.source for each in found]
    assert {source_of(start) for start in starts[4:]} == {"portfolio"}
    old, again = records(open_study(first)), records(study)
    assert [trial.retry_draw["block"] for trial in again[:4]] == [old[i].draw["block"] for i in (2, 1, 3, 0)]


def test_auto_names_the_runs_of_the_same_space(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    make_run(runs / "same", [0.5], spec=study_spec(trials=1))
    make_run(runs / "other", [0.5], spec=study_spec(trials=1, space={"stages": 2}))
    spec = study_spec(learn_from=[AUTO])
    assert runs_to_learn_from(spec, RunFolder(runs / "new")) == ("same",)
    assert runs_to_learn_from(spec, RunFolder(runs / "same")) == ()
    with pytest.raises(RunError, match="no run 'dogs'"):
        runs_to_learn_from(study_spec(learn_from=["dogs"]), RunFolder(runs / "new"))
    with pytest.raises(SpecError, match="--learn-from new: a run cannot learn from itself: name another run"):
        runs_to_learn_from(study_spec(learn_from=["new"]), RunFolder(runs / "new"))


def test_a_space_that_holds_nothing_of_the_portfolio_is_searched_without_it(folder: RunFolder) -> None:
    spec = study_spec(trials=12, space={"optimizer": "lion"})
    assert enqueue_starts(open_study(folder, create=True), spec, TASK, list) == []
