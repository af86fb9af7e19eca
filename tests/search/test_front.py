"""The best of every size: what a search along a front draws, stops, chooses and shows."""

import inspect
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

import space
from search import identity
from search import storage as storages
from search.commands import training
from search.errors import RunError, SpecError
from search.front import (
    LEAST,
    SIZE,
    Point,
    along,
    are_alike,
    carried,
    drawn_size,
    front_of,
    hypervolume,
    knee,
    point,
    points_of_trials,
    spread,
    standings,
    with_sizes,
)
from search.front_section import front_charts, front_section
from search.full_front import rows_of_front, runs_of_front
from search.full_runs import PromoteFlags
from search.pruner import MedianOfLike
from search.results import read_results
from search.run_folder import DataFacts, RunFacts, RunFolder, write_facts
from search.spec import PromoteSpec, StudySpec, load_study
from search.starts import enqueue_starts
from search.timing import measured
from search.trials import finished_trials, records
from tests.support.commands import search
from tests.support.runs import NEVER, TASK, make_run, promoted, run_study, study_spec
from tests.support.trainers import FakeTrainer
from train_core.limits import COSTS
from train_core.specs import ResNetSpec, TrainSpec, num_madds, num_params

pytestmark = pytest.mark.usefixtures("in_lines")

Run = Callable[[str], tuple[int, str, str]]


def front_spec(**changes: Any) -> StudySpec:
    """A study of digits with a front, its sizes set as a command sets them."""
    return with_sizes(study_spec(**{"front": ["params"], "pruner": NEVER, **changes}), TASK)


def by_size(network: ResNetSpec, recipe: TrainSpec) -> float:
    """Larger networks are better, and one kind of optimizer is at every size."""
    return 0.05 * math.log(num_params(network)) + (0.1 if recipe.optimizer == "adam" else 0.0)


# Drawn --------------------------------------------------------------------------------------------------------------


def test_sizes_go_from_the_smallest_network_or_a_64th_of_the_limit_to_the_limit() -> None:
    smallest = num_params(space.smallest(study_spec().space, TASK.task))
    sizes = cast(space.Range[float], front_spec().space.budget_fraction)
    assert sizes.low == pytest.approx(max(smallest / 20_000, LEAST))
    assert (sizes.high, sizes.log) == (1.0, True)
    large = cast(space.Range[float], front_spec(budget=5_000_000).space.budget_fraction)
    assert large.low == LEAST
    assert with_sizes(front_spec(), TASK) == front_spec()  # done again, as when a run is continued
    own = study_spec(front="params", space={"budget_fraction": {"low": 0.2, "high": 1, "log": True}})
    assert cast(space.Range[float], with_sizes(own, TASK).space.budget_fraction).low == 0.2
    assert with_sizes(study_spec(), TASK) == study_spec()


def test_each_trial_is_within_its_drawn_size_and_sizes_are_evenly_spread(tmp_path: Path) -> None:
    folder, spec = RunFolder(tmp_path), front_spec(trials=24)
    study = run_study(folder, spec, FakeTrainer(score=by_size))
    low = cast(space.Range[float], spec.space.budget_fraction).low
    trials = finished_trials(study)
    places = [math.log(trial.draw[SIZE] / low) / -math.log(low) for trial in trials]
    parts = [sum(int(4 * place) == part for place in places) for part in range(5)]
    assert all(4 <= part <= 7 for part in parts[:4]), parts
    assert parts[4] in (2, 3)  # as large as the limit
    for trial in trials:
        assert trial.parameters <= trial.draw[SIZE] * spec.budget
        assert set(trial.draw) == set(space.parameters(spec.space))


def test_along_multiply_adds_their_limit_is_shared_and_the_budget_is_a_limit() -> None:
    spec = front_spec(front=["madds"], max_madds=20_000_000)
    for seed in range(20):
        drawn = space.suggest(space.RandomTrial(random.Random(seed), spec.space), spec.space)
        network = space.network(drawn, spec.space, spec.limits, TASK.task)
        assert num_madds(network, TASK.size) <= drawn[SIZE] * 20_000_000
        assert num_params(network) <= spec.budget
    bounds = {each.limit.key: each.is_shared for each in spec.limits.bounds(TASK.size)}
    assert bounds == {"budget": False, "max_madds": True}


@pytest.mark.parametrize("changes", [{"front": "memory", "max_memory": "2MB"}, {"front": "file", "max_file": "150kB"}])
def test_along_what_the_network_takes_on_its_device_the_drawn_size_is_kept(changes: dict[str, Any]) -> None:
    spec = front_spec(**changes, budget=200_000)
    assert _largest_share(spec) <= 1 + 1e-9


def test_along_latency_the_drawn_size_is_kept() -> None:
    plain = study_spec(front=["latency"], max_latency="20ms", budget=200_000)
    timed = measured(plain, TASK, torch.device("cpu"), lambda network: 1e-3 + 1e-9 * num_madds(network, TASK.size))
    assert _largest_share(with_sizes(plain.model_copy(update={"timed": timed}), TASK)) <= 1 + 1e-9


def _largest_share(spec: StudySpec) -> float:
    """Of some draws, the largest share that a network takes of its drawn size."""
    (bound,) = along(spec, TASK.size)
    trial = space.RandomTrial(random.Random(0), spec.space)
    draws = [space.suggest(trial, spec.space) for _ in range(8)]
    networks = [space.network(draw, spec.space, spec.limits, TASK.task) for draw in draws]
    return max(bound.cost(each) / (float(draw[SIZE]) * bound.most) for draw, each in zip(draws, networks, strict=True))


def test_the_help_of_the_flag_names_every_cost() -> None:
    assert f"along this cost: {', '.join(COSTS[:-1])} or {COSTS[-1]}." in inspect.getsource(training.run)


def test_a_network_of_the_front_is_found_again_as_parameters() -> None:
    for changes in (
        {},
        {"front": ["madds"], "max_madds": 20_000_000},
        {"front": ["madds", "params"], "max_madds": 20_000_000},
    ):
        spec = front_spec(**changes)
        wanted = ResNetSpec(widths=(8, 16), blocks=(1, 1), in_channels=1, num_classes=10)
        found = space.as_parameters(wanted, {}, spec.space, spec.limits, size=TASK.size)
        assert found is not None
        assert found[SIZE] < 0.5
        assert space.network({**space.lowest(spec.space), **found}, spec.space, spec.limits, TASK.task) == wanted


def test_a_front_stopped_and_continued_is_the_front_run_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, pieces = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "pieces")
    whole.create()
    pieces.create()
    expected = run_study(whole, front_spec(trials=14), FakeTrainer(score=by_size))
    monkeypatch.setattr(identity, "connect", storages.connect)  # to SQLite, as for a user
    for trials in (4, 14):
        study = run_study(pieces, front_spec(trials=trials), FakeTrainer(score=by_size))
    assert [trial.params for trial in study.trials] == [trial.params for trial in expected.trials]


def test_sizes_follow_from_the_seed() -> None:
    spec = front_spec()
    assert [drawn_size(spec, i, 1) for i in range(5)] == [drawn_size(spec, i, 1) for i in range(5)]
    assert drawn_size(spec, 0, 1) != drawn_size(spec, 0, 2)


def test_the_sampler_learns_what_is_good_at_its_size_not_what_is_large(tmp_path: Path) -> None:
    study = run_study(RunFolder(tmp_path), front_spec(trials=60), FakeTrainer(score=by_size))
    late = study.trials[30:]
    adam = [trial for trial in late if trial.params["optimizer"] == "adam"]
    assert len(adam) > len(late) / 2  # a random draw takes it in a third of the cases
    small = [trial for trial in late if trial.params[SIZE] < 0.3]
    assert sum(trial.params["optimizer"] == "adam" for trial in small) > len(small) / 2


def test_one_trial_in_nine_may_be_as_large_as_the_limit(tmp_path: Path) -> None:
    sizes = [drawn_size(front_spec(), i, 1) for i in range(90)]
    assert sum(size == 1.0 for size in sizes) == 10
    assert min(sizes) < 1.2 * cast(space.Range[float], front_spec().space.budget_fraction).low


def test_a_good_draw_is_tried_at_the_sizes_that_it_was_not_tried_at(tmp_path: Path) -> None:
    study = run_study(RunFolder(tmp_path), front_spec(trials=12, sampler="random"), FakeTrainer(score=by_size))
    trials = finished_trials(study)
    assert all(SIZE not in (carried(trials, size) or {}) for size in (0.1, 1.0))
    for size in (0.1, 0.3, 1.0):
        draw = carried(trials, size)
        assert draw is not None
        assert draw["optimizer"] == "adam"
        its = [trial for trial in trials if draw.items() <= trial.draw.items()]
        assert its
        assert not any(are_alike(trial.draw[SIZE], size) for trial in its)
    assert carried(trials[:1], 1.0) is None  # it stands in the middle: nothing is known of it
    assert carried([], 1.0) is None


@pytest.mark.parametrize(("sampler", "is_carried"), [("tpe", True), ("random", False)])
def test_along_a_front_draws_are_repeated_at_other_sizes_but_not_in_a_control(
    sampler: str, *, is_carried: bool, tmp_path: Path
) -> None:
    study = run_study(RunFolder(tmp_path), front_spec(trials=30, sampler=sampler), FakeTrainer(score=by_size))
    draws = [str(sorted({**trial.params, SIZE: 0}.items())) for trial in study.trials]
    assert (len(set(draws)) < 25) == is_carried
    assert is_carried or len(set(draws)) == 30


def test_a_trial_stands_by_how_many_it_beats_for_its_size() -> None:
    assert standings([0.1, 0.1, 0.1], [0.5, 0.7, 0.5]) == pytest.approx([0.25, 1.0, 0.25])
    sizes = [1 / 16, 1 / 4, 1 / 4, 1.0]  # larger is better by 0.2 for each factor of 4
    assert standings(sizes, [0.4, 0.7, 0.5, 0.8]) == pytest.approx([0.5, 1.0, 0.0, 0.5])
    assert standings([0.1, 0.11], [None, 0.2]) == [-1.0, 1.0]
    assert standings([0.1], [0.3]) == [0.5]


def test_portfolio_starts_take_the_sizes_that_the_search_draws(tmp_path: Path) -> None:
    spec = front_spec(trials=12, space={"optimizer": ["sgd", "muon", "adamw"], "stages": 3})
    study = identity.open_study(RunFolder(tmp_path), create=True)
    starts = enqueue_starts(study, spec, TASK, list)
    assert len(starts) == len(set(starts)) == 5  # one configuration at three sizes, another one at two
    assert [start.startswith("portfolio: size ") for start in starts] == [False, True, True, False, True]
    assert enqueue_starts(study, spec, TASK, list) == starts  # done again, as after a kill
    assert len(records(study)) == 5
    assert all(SIZE not in trial.retry_draw for trial in records(study))


# Pruned -------------------------------------------------------------------------------------------------------------


def test_a_trial_is_compared_with_those_of_like_size_that_are_no_larger() -> None:
    distributions = {SIZE: FloatDistribution(0.01, 1, log=True), "optimizer": CategoricalDistribution(["sgd"])}

    def trial(size: float, score: float, state: TrialState = TrialState.COMPLETE) -> optuna.trial.FrozenTrial:
        return create_trial(
            value=score if state == TrialState.COMPLETE else None,
            state=state,
            params={SIZE: size, "optimizer": "sgd"},
            distributions=dict(distributions),
            intermediate_values={1: score},
        )

    study = optuna.create_study(direction="maximize")
    for size, score in ((0.05, 0.5), (0.06, 0.5), (0.07, 0.5), (0.5, 0.9), (0.6, 0.9), (0.7, 0.9)):
        study.add_trial(trial(size, score))

    def is_pruned(size: float, score: float, *, by_size: bool = True) -> bool:
        pruner = MedianOfLike(like=["optimizer"], startup_trials=0, warmup_epochs=0, min_values=3, by_size=by_size)
        return pruner.prune(study, trial(size, score, TrialState.RUNNING))

    assert not is_pruned(0.08, 0.6)
    assert is_pruned(0.08, 0.6, by_size=False)
    assert is_pruned(0.08, 0.4)
    assert is_pruned(0.7, 0.8)
    assert not is_pruned(0.04, 0.3)  # all of like size are larger


# The front ----------------------------------------------------------------------------------------------------------


def points(*pairs: tuple[float, float]) -> list[Point[int]]:
    return [Point((1000 * size,), size, score, i) for i, (size, score) in enumerate(pairs)]


def test_a_front_has_what_no_other_beats() -> None:
    found = points((0.1, 0.5), (0.2, 0.4), (0.4, 0.8), (0.4, 0.7), (1.0, 0.8), (0.05, 0.2), (0.1, 0.5))
    assert [each.of for each in front_of(found)] == [5, 0, 2]


def test_of_two_costs_both_must_be_beaten() -> None:
    found = [Point((1.0, 9.0), 0.9, 0.5, "a"), Point((2.0, 1.0), 0.2, 0.5, "b"), Point((2.0, 9.0), 0.9, 0.5, "c")]
    assert [each.of for each in front_of(found)] == ["b", "a"]


def test_networks_are_chosen_evenly_in_the_logarithm_and_each_is_the_best_of_its_sizes() -> None:
    front = points((0.01, 0.1), (0.02, 0.3), (0.025, 0.5), (0.1, 0.6), (0.9, 0.8), (1.0, 0.9))
    assert [each.of for each in spread(front, 3)] == [2, 3, 5]
    assert [each.of for each in spread(front, 2)] == [2, 5]
    assert len(spread(front, 6)) == 6
    with pytest.raises(RunError, match=r"it has 6: continue the search .*, or ask for at most --front 6"):
        spread(front, 7)


def test_the_knee_is_highest_above_the_line_from_end_to_end() -> None:
    assert cast(Point[int], knee(points((0.01, 0.1), (0.03, 0.8), (0.3, 0.85), (1.0, 0.9)))).of == 1
    assert knee(points((0.01, 0.1), (1.0, 0.9))) is None
    assert knee(points((0.01, 0.1), (0.1, 0.2), (1.0, 0.9))) is None  # below the line


def test_the_hypervolume_is_the_mean_of_the_best_score_over_sizes() -> None:
    assert hypervolume([(1, 0.5), (10, 0.9)], 1, 100) == pytest.approx(0.7)
    assert hypervolume([(10, 0.9), (50, 0.1)], 1, 100) == pytest.approx(0.45)
    assert hypervolume([(0.1, 0.5), (1000, 0.9)], 1, 100) == pytest.approx(0.5)  # what lies outside


# Full runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with a front of params, whose images are known."""
    spec = front_spec(trials=12)
    folder = make_run(tmp_path / "runs" / "here", spec=spec, trainer=FakeTrainer(score=by_size))
    write_facts(folder, RunFacts(data=DataFacts(size=TASK.size, validation_images=300)))
    return folder


def chosen(folder: RunFolder, number: int) -> list[int]:
    spec = load_study(str(folder.study_file), {})
    trials = finished_trials(identity.open_study(folder))
    return [each.of.number for each in spread(front_of(points_of_trials(spec, TASK.size, trials)), number)]


def test_the_report_has_a_row_for_each_network_that_was_trained_along_the_front(run: RunFolder) -> None:
    numbers = chosen(run, 3)
    for number, score in zip(numbers, (0.7, 0.9, 0.905), strict=True):
        promoted(run, number, val_accuracy=score)
    results = read_results(run)
    rows = rows_of_front(results.spec, TASK.size, results.promotions, 300)
    assert [row.trial for row in rows] == numbers
    assert [row.same_as for row in rows] == [None, None, numbers[1]]  # half a point on 300 images
    assert [row.is_knee for row in rows] == [False, True, False]
    validation = rows[0].validation
    assert validation is not None
    assert validation.low < 0.7 < validation.high
    html = front_section(run, results)
    assert html.count("<tr") == 1 + 3
    assert f"not told from trial {numbers[1]}" in html
    assert "Kneedle" in html
    assert "not exported" in html
    (chart,) = front_charts(results, TASK.size, rows)
    names = {trace.name: len(trace.x) for trace in cast(Any, chart.figure).data}
    assert names["short run"] == 12
    assert (names["front of the full runs"], names["knee"], names["full run, beaten"]) == (3, 1, 0)


def test_a_network_that_is_beaten_in_full_is_said_to_be_and_is_not_exported(run: RunFolder) -> None:
    numbers = chosen(run, 3)
    for number, score in zip(numbers, (0.8, 0.7, 0.9), strict=True):
        promoted(run, number, val_accuracy=score)
    results = read_results(run)
    rows = rows_of_front(results.spec, TASK.size, results.promotions, 300)
    assert [row.beaten_by for row in rows] == [None, numbers[0], None]
    assert [each.trial for each in runs_of_front(run, results.spec)] == [numbers[0], numbers[2]]


def test_before_the_full_runs_the_report_says_how_to_start_them(run: RunFolder) -> None:
    html = front_section(run, read_results(run))
    assert "search promote here --front 5" in html
    assert "<table" not in html


def test_a_run_without_a_front_has_no_such_section(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs" / "plain", [0.5])
    assert front_section(folder, read_results(folder)) == ""


def test_of_two_costs_each_has_its_chart(tmp_path: Path) -> None:
    spec = front_spec(trials=6, front=["params", "madds"], max_madds=20_000_000)
    folder = make_run(tmp_path / "runs" / "two", spec=spec, trainer=FakeTrainer(score=by_size))
    titles = [
        cast(Any, each.figure).layout.xaxis.title.text for each in front_charts(read_results(folder), (32, 32), [])
    ]
    assert titles == ["Trainable parameters", "Multiply-adds of one forward pass"]


def test_a_point_has_the_larger_share_of_two_limits_as_its_size() -> None:
    spec = front_spec(front=["params", "madds"], max_madds=20_000_000)
    network = space.smallest(spec.space, TASK.task)
    found = point(spec, TASK.size, lambda each: each, lambda _: 0.5, network)
    assert found.costs == (num_params(network), num_madds(network, TASK.size))
    assert found.size == max(found.costs[0] / spec.budget, found.costs[1] / 20_000_000)


def test_promote_flags_name_the_front_alone() -> None:
    plan = PromoteFlags(front=5, epochs=7).over(PromoteSpec(top=2, epochs=20))
    assert (plan.front, [str(rung) for rung in plan.rungs]) == (5, ["5x7"])
    assert PromoteFlags(front=5).over(PromoteSpec(ladder="4x5,2x9")).rungs[0].epochs == 9
    assert PromoteFlags(top=1).over(PromoteSpec(front=4)).front == 0
    for flags in (PromoteFlags(front=3, top=2), PromoteFlags(front=3, ladder="3x5")):
        with pytest.raises(SpecError, match="--front says which trials, and how many: leave out --top and --ladder"):
            flags.over(PromoteSpec())
    with pytest.raises(SpecError, match="--front 1 is no front: give the number of networks along it, 2 or more"):
        PromoteFlags(front=1).over(PromoteSpec())


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"front": ("size",)},
            "--front: 'size' is no cost: give params, madds, memory, file or latency",
        ),
        ({"front": ("params", "madds", "file")}, "--front: should have at most 2 items, not 3"),
        ({"front": ("params", "params")}, "study digits: front: the same cost is named twice: name it once"),
        (
            {"front": ("latency",)},
            "study digits: front: the largest size is not known: give --max-latency, or max_latency in the file",
        ),
        ({"front": ("params",), "trials": 1}, "study digits: front: one trial has no front: give --trials 2 or more"),
        (
            {"front": ("params",), "phases": {"architecture": 0.5}},
            "study digits: front: a study of two phases keeps a few networks, not one of every size: leave out one",
        ),
    ],
)
def test_an_impossible_front_is_refused_in_one_line(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        load_study("digits", flags)
    assert str(refused.value) == message


def test_a_limit_that_leaves_no_room_for_sizes_is_refused_in_one_line() -> None:
    smallest = num_params(space.smallest(study_spec().space, TASK.task))
    with pytest.raises(SpecError, match=r"leaves no room for several sizes: give a larger --budget$"):
        front_spec(budget=round(1.5 * smallest))


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    return lambda command: search(command, capsys, monkeypatch)


def test_commands_that_need_a_front_say_so_in_one_line(
    run_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/plain"), [0.5, 0.6])
    promoted(RunFolder(Path("runs/plain")), 0)
    for command in ("promote plain --front 2", "export plain --front"):
        code, _, err = run_command(command)
        assert (code, err.count("\n")) == (2, 1)
        assert "run 'plain' has no front: leave out --front, or search with `search run --front params`" in err
    code, _, err = run_command("export plain --front --trial 0")
    assert (code, err.strip()) == (2, "search: --front exports several networks, and --trial one: give one of them")
    Path("front.toml").write_text('data = "digits"\nbudget = 20_000\nfront = "params"\n')
    code, _, err = run_command("auto front.toml --minutes 5")
    assert (code, err.count("\n")) == (2, 1)
    assert "makes one model, not one of every size" in err


# The real thing -----------------------------------------------------------------------------------------------------


def test_a_small_real_front_from_the_search_to_the_model_files(
    run_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study.toml").write_text(
        'data = "digits"\nbudget = 8_000\nfront = ["params"]\ntrials = 8\nepochs = 4\n'
        "[space]\nstages = 2\nblocks = 1\nstem_stride = 2\nstem_pool = true\nbatch_size = 128\nse_reduction = 0\n"
    )
    code, out, err = run_command("run study.toml --name f")
    assert code == 0, err
    assert "next:" in out
    assert "promote f --front 5" in out
    code, out, err = run_command("promote f --front 2 --epochs 2")
    assert code == 0, err
    assert "The front of the full runs" in out
    folder = RunFolder(Path("runs/f"))
    assert "search promote f --front 2 --epochs 2" in folder.facts.read_text()
    trained = {each.root.name for each in folder.promotions()}
    assert len(trained) == 2
    code, out, err = run_command("promote f --front 2 --epochs 2")  # done again, nothing is trained
    assert {each.root.name for each in folder.promotions()} == trained
    code, out, err = run_command("export f --front --format safetensors")
    assert code == 0, err
    files = {path.name for path in (folder.root / "exported").glob("*.safetensors")}
    assert files == {f"{run.root.name}.safetensors" for run in folder.promotions() if f"{run.root.name}.s" in out}
    assert files
    code, out, err = run_command("report f")
    page = folder.report.read_text()
    assert "The best of every size" in page
    assert all(f'href="exported/{name}"' in page for name in files)
    if keep := os.environ.get("KEEP_FRONT"):
        shutil.copytree(folder.root, keep, dirs_exist_ok=True)
    code, out, err = run_command("status f --once")
    assert "front" in out
