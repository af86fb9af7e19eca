"""The made-up worlds, and the comparison of methods in them: nothing is trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from benchmarks import methods, pruned, worlds
from benchmarks.methods import METHODS, NEEDS, ROUND, Account, SpentError, ours
from benchmarks.variants import VARIANTS, around, promote_end
from benchmarks.world import (
    CHANCE,
    DEVIATION,
    DIMENSIONS,
    FULL,
    GROUPS,
    MEAN,
    MOST_OF_RATE,
    SHARES,
    SHORT,
    Params,
    World,
    agreement,
    between,
    drawn_evenly,
    encoded,
    reference,
    total_share,
)
from benchmarks.worlds import EPOCHS, POSSIBLE, best_possible, found, line, portfolio, rows, run, shown
from search.pruner import MedianOfLike

MANY = [World(number) for number in range(20)]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def draws(number: int, seed: int = 0) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    return [drawn_evenly(generator) for _ in range(number)]


# The worlds


def test_the_rate_has_a_third_of_the_variance_at_most_and_every_other_group_a_part_of_it() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)
    assert all(world.shares["rate"] <= MOST_OF_RATE for world in MANY)
    shares = {name: [total_share(world, columns) for world in MANY] for name, columns in GROUPS.items()}
    assert max(shares["rate"]) < MOST_OF_RATE + 0.03
    assert np.mean(shares["rate"]) < 0.25
    assert np.mean(shares["architecture"]) > 0.25
    assert np.mean(shares["regularisers"]) > 0.15
    assert np.mean(shares["optimizer"]) > 0.2


def test_two_worlds_correlate_as_two_real_tasks_do_where_the_rate_is_good() -> None:
    known = between(MANY)
    assert 0.5 < np.mean(known) < 0.7
    assert min(known) < 0.5  # some tasks are unlike others


def test_the_best_rate_differs_by_optimizer_and_by_world() -> None:
    best = np.array([world._best for world in MANY])
    assert best.std(axis=0).min() > 0.2
    assert (best.max(axis=1) - best.min(axis=1)).mean() > 0.2
    assert 0.2 < np.corrcoef(best[:, 0], best[:, 1])[0, 1] < 0.9


def test_true_accuracies_have_the_spread_of_real_ones_and_far_too_high_rates_diverge() -> None:
    accuracies = np.array([world.accuracies(reference()) for world in MANY])
    lost = accuracies == CHANCE
    assert accuracies[~lost].mean() == pytest.approx(MEAN, abs=0.005)
    assert accuracies[~lost].std() == pytest.approx(DEVIATION, rel=0.15)
    assert 0.005 < lost.mean() < 0.06
    highest = [{**params, "optimizer": "sgd", "sgd_lr": 0.6, "batch_size": 32} for params in draws(1)]
    lowest = [{**params, "sgd_lr": 0.03} for params in highest]
    assert any(world.diverges(highest[0]) for world in MANY)
    assert not any(world.diverges(lowest[0]) for world in MANY)


def test_short_scores_rank_as_the_measured_ones_did() -> None:
    known = [agreement(world, draws=200) for world in MANY[:8]]
    mean = {name: np.mean([each[name] for each in known]) for name in known[0]}
    assert mean["6 epochs on a part"] == pytest.approx(0.84, abs=0.05)
    assert mean["6 epochs"] == pytest.approx(0.58, abs=0.06)
    assert mean["12 epochs"] == pytest.approx(0.72, abs=0.06)
    assert mean["cut at 6"] == pytest.approx(0.40, abs=0.06)
    assert mean["cut at 13"] == pytest.approx(0.70, abs=0.06)
    assert mean["40 epochs"] > 0.97


def test_short_runs_on_all_images_misjudge_regularisers() -> None:
    """With the sign that an effect has in full runs, cut runs see the opposite, and a part of the images a third."""
    world = MANY[0]
    kinds: dict[str, Callable[[Params], float]] = {
        "true": world.accuracy,
        "all": lambda params: world.short(params, part=False)[-1],
        "part": lambda params: world.short(params, part=True)[-1],
    }
    effects = {}
    for name, score in kinds.items():
        halves = []
        for value in (0, 4):
            some: list[Params] = [{**params, "crop_padding": value} for params in draws(300)]
            halves.append(np.mean([score(params) for params in some if not world.diverges(params)]))
        effects[name] = halves[1] - halves[0]
    assert abs(effects["part"]) < abs(effects["true"])
    assert abs(effects["all"] + 0.3 * effects["true"]) < abs(effects["true"])


def test_a_run_repeats_itself_and_never_falls_below_chance() -> None:
    world, params = World(3), draws(1)[0]
    assert world.cut(params) == World(3).cut(params) != World(4).cut(params)
    assert world.cut(params, 9) == world.cut(params)[:9]
    assert world.short(params, part=True) != world.short(params, part=False)
    assert world.annealed(params, FULL) == world.cut(params)[-1]
    assert min(min(world.cut(each)) for each in draws(50)) >= CHANCE


def test_a_configuration_is_encoded_by_what_it_uses() -> None:
    params = {**draws(1)[0], "stages": 3, "optimizer": "sgd"}
    assert np.array_equal(encoded(params), encoded({**params, "blocks_4": 5, "growth_4": 2.5, "muon_lr": 0.1}))
    assert not np.array_equal(encoded(params), encoded({**params, "sgd_lr": params["sgd_lr"] * 1.1}))


# The methods

OWN = [name for name in {**METHODS, **VARIANTS} if name not in NEEDS and name != "promote-end"]
"""Those that need no other package. `promote-end` searches four times, up to 1,200 epochs, which takes a minute."""


@pytest.mark.parametrize("name", OWN)
def test_a_method_spends_no_more_than_its_epochs(name: str) -> None:
    account = Account(World(0), budget=125)
    with pytest.raises(SpentError):
        {**METHODS, **VARIANTS}[name](account, portfolio(0), 0)
    assert 100 <= account.spent <= 125
    assert account.points
    assert account.points[-1][1] == account.at(1200) > CHANCE


def test_ours_begins_with_the_portfolio_and_promotes_one_after_each_round() -> None:
    account = Account(World(0), budget=ROUND * SHORT + FULL)
    with pytest.raises(SpentError):
        ours(account, portfolio(0), 0)
    assert account.best[0] == FULL
    assert account.trials >= ROUND + 1
    starts = Account(World(0), budget=5 * SHORT)
    with pytest.raises(SpentError):
        ours(starts, portfolio(0), 0)
    assert starts.at(1200) in {World(0).accuracy(params) for params in portfolio(0)}


def test_of_runs_of_equal_length_the_best_on_validation_is_recommended() -> None:
    world = World(0)
    account = Account(world, budget=1000)
    one, other = draws(2)
    account.saw(one, 6, 0.5)
    account.saw(other, 6, 0.4)
    assert account.at(1200) == world.accuracy(one)
    account.saw(other, 40, 0.3)
    assert account.at(1200) == world.accuracy(other)


def test_a_run_that_diverges_costs_one_epoch() -> None:
    world = next(world for world in MANY if np.any(world.accuracies(reference()) == CHANCE))
    lost = next(params for params in draws(1000) if world.diverges(params))
    account = Account(world, budget=100)
    assert list(account.full_run(lost)) == [(1, CHANCE)]
    assert account.annealed(lost, 13) == CHANCE
    assert account.spent == 2


def test_a_configuration_around_another_is_of_the_space_and_mostly_the_same() -> None:
    generator = np.random.default_rng(0)
    params = draws(1)[0]
    for _ in range(50):
        near = around(params, generator)
        assert near.keys() == params.keys()
        assert sum(near[name] == params[name] for name in params) > len(params) / 3
        for name, value in near.items():
            assert value in DIMENSIONS[name] if isinstance(DIMENSIONS[name], tuple) else DIMENSIONS[name].low <= value


def test_at_the_end_three_are_promoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.variants.EPOCHS", (240,))
    account = Account(World(0), budget=1200)
    promote_end(account, (), 0)
    assert account.trials >= 20 + 3
    assert [spent for spent, _ in account.points] == [240]


def test_a_package_that_is_not_there_is_said_with_the_way_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(methods.NEEDS, "smac", "no_such_package")
    assert not worlds.installed("smac+starts")
    assert "'.[peers]'" in capsys.readouterr().out
    assert worlds.installed("random")


def test_the_pruner_stops_fewer_of_the_best_than_one_whose_bar_rises() -> None:
    worlds = [World(number) for number in range(3)]
    kept, risen = (
        np.array(
            [
                np.mean(each[: pruned.BEST])
                for each in (pruned.stopped(world, pruned.with_defaults(rule)) for world in worlds)
            ]
        )
        for rule in (MedianOfLike, pruned.Survivors)
    )
    assert kept.mean() < risen.mean()


# The comparison


def test_the_portfolio_of_a_world_is_measured_in_others() -> None:
    assert len(portfolio(0)) == 5
    assert portfolio(0) != portfolio(1)
    assert all(params.keys() == DIMENSIONS.keys() for params in portfolio(0))
    better = [np.mean([World(n).accuracy(params) for params in portfolio(n)]) for n in range(6)]
    assert np.mean(better) > MEAN + DEVIATION / 2


def test_the_best_possible_is_above_all_random_draws() -> None:
    world = World(1)
    assert best_possible(world) > world.accuracies(reference()).max()
    assert line(POSSIBLE, 1)["accuracy"] == [best_possible(world)] * len(EPOCHS)


def test_a_comparison_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "worlds.jsonl"
    run(path, ["random", "random+starts"], range(2), 120)
    before = path.read_text()
    assert [json.loads(each)["world"] for each in before.splitlines()] == [0, 0, 1, 1]
    run(path, ["random", "random+starts"], range(2), 120)
    assert path.read_text() == before
    run(path, ["random"], range(1, 3), 240)  # a longer search replaces a shorter one
    added = [json.loads(each) for each in path.read_text().splitlines()[4:]]
    assert [(each["world"], each["method"], len(each["accuracy"])) for each in added] == [
        (1, "random", 2),
        (2, "random", 2),
    ]
    known = found(map(json.loads, path.read_text().splitlines()))
    assert [len(known["random"][number]) for number in range(3)] == [1, 2, 2]
    assert known["random"][1][:1] == json.loads(before.splitlines()[2])["accuracy"]


def test_the_table_is_of_paired_differences(tmp_path: Path) -> None:
    ends = {"ours+starts": [0.70, 0.72, 0.74], "other": [0.69, 0.70, 0.71], "short": [0.68, 0.74]}
    lines = [
        {"world": world, "method": name, "accuracy": [end - 0.1, end - 0.05, end, *([] if name == "short" else [end])]}
        for name, values in ends.items()
        for world, end in enumerate(values)
    ]
    table = rows(found(lines))
    assert [row.method for row in table] == ["ours+starts", "short", "other"]
    _, short, other = table
    assert other.worlds == [3, 3, 3, 3]
    assert short.worlds == [2, 2, 2]
    assert short.difference[0].value == pytest.approx(0.0)
    assert other.difference[-1].value == pytest.approx(-0.02)
    assert -0.0301 < other.difference[-1].low < -0.02 < other.difference[-1].high < -0.0099
    text = shown(table)
    assert "| ours+starts | 62.00 % | 67.00 % | 72.00 % | 72.00 % | 3 |" in text
    assert "| short | +0.00 (-2.00 to +2.00) |" in text
    assert "-2.00 (-3.00 to -1.00)" in text
