"""The surrogate and the comparison that rests on it, on made-up runs: nothing is trained."""

from typing import Any

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.peers import Account, Curve, Spread, curve, table
from benchmarks.surrogate import CHANCE, FULL, MIN_PAIRS, SHORT, STUDY, Surrogate, encode, network, random_params
from train_core.specs import num_params


def accuracy(params: dict[str, Any], epochs: int) -> float:
    """Longer runs are better, and so are larger networks; only long runs gain by dropout."""
    long = np.log(epochs) / np.log(FULL)
    size = num_params(network(params)) / STUDY.budget
    return float(0.3 + 0.2 * long + 0.2 * size + (long - 0.6) * params["block_dropout"])


def made_up_run(params: dict[str, Any], epochs: int, change: float = 0.0) -> dict[str, Any]:
    end = accuracy(params, epochs) + change
    values = [CHANCE + (end - CHANCE) * (epoch / epochs) ** 0.5 for epoch in range(1, epochs + 1)]
    entries = [{"val_accuracy": value, "last_val_accuracy": value} for value in values]
    return {"curve": entries, "test": [end, end], "diverged": None}


def line(config: int) -> dict[str, Any]:
    params = random_params(config)
    runs = {
        "full": made_up_run(params, 40),
        "short": made_up_run(params, 6),
        "again": made_up_run(params, 6, change=0.02 * (-1) ** config),
        "double": made_up_run(params, 12),
        "part": made_up_run(params, 40, change=-0.1),
    }
    return {"config": config, "params": params, "runs": runs}


@pytest.fixture(scope="module")
def surrogate() -> Surrogate:
    return Surrogate([line(config) for config in range(16)], models=["ridge"])


def test_it_says_what_was_measured_of_configurations_it_has_not_seen(surrogate: Surrogate) -> None:
    assert surrogate.quality.score > 0.5
    for seed in range(100, 105):
        params = random_params(seed)
        assert surrogate.full(params) == pytest.approx(accuracy(params, 40), abs=0.04)
        assert surrogate.curves(params).short[-1] == pytest.approx(accuracy(params, 6), abs=0.04)


def test_a_run_ends_between_shorter_and_longer_ones_and_repeats_itself(surrogate: Surrogate) -> None:
    params = random_params(100)
    ends = [np.mean([surrogate.run(params, epochs, seed)[-1] for seed in range(40)]) for epochs in (1, 6, 9, 12, 40)]
    assert ends == sorted(ends)
    for epochs in (1, SHORT, 9, FULL):
        run = surrogate.run(params, epochs, seed=3)
        assert len(run) == epochs
        assert run == surrogate.run(params, epochs, seed=3) != surrogate.run(params, epochs, seed=4)
        assert all(CHANCE <= each <= 1 for each in run)


def test_a_longer_cut_goes_on_where_a_shorter_one_ended(surrogate: Surrogate) -> None:
    params = random_params(100)
    assert surrogate.cut(params, 40, seed=0)[:9] == surrogate.cut(params, 9, seed=0)
    # Nine epochs of a long schedule are not nine annealed ones.
    assert surrogate.cut(params, 9, seed=0)[-1] != surrogate.run(params, 9, seed=0)[-1]


def test_noise_has_the_size_of_what_another_seed_changed(surrogate: Surrogate) -> None:
    params = random_params(100)
    ends = [surrogate.full_val(params, seed) for seed in range(300)]
    assert np.std(ends) == pytest.approx(0.02 / 2**0.5, rel=0.15)  # a difference of two runs has twice the variance
    assert np.mean(ends) == pytest.approx(surrogate.full(params), abs=0.01)


def test_a_world_differs_from_the_regression_as_much_as_that_was_off_and_is_smooth(surrogate: Surrogate) -> None:
    draws = [random_params(seed) for seed in range(60)]
    said = np.array([surrogate.full(params) for params in draws])
    worlds = [np.array([surrogate.world(seed).full(params) for params in draws]) for seed in (0, 0, 1)]
    assert (worlds[0] == worlds[1]).all()
    assert (worlds[0] != worlds[2]).any()
    # No more than half of what the made-up runs vary by: they are nearly additive.
    assert 0 < np.std(worlds[0] - said) < np.std(said) / 2


def test_what_a_configuration_does_not_use_changes_nothing() -> None:
    params = random_params(0) | {"optimizer": "sgd"}
    assert (encode(params) == encode(params | {"adam_lr": 0.01, "adamw_weight_decay": 0.2})).all()
    assert (encode(params) != encode(params | {"sgd_lr": 0.5})).any()


def test_a_run_that_diverged_ends_at_chance() -> None:
    lines = [line(config) for config in range(MIN_PAIRS)]
    lines[0]["runs"]["full"] = {"curve": [{"train_loss": 3.0}], "test": None, "diverged": "loss nan"}
    assert Surrogate(lines, models=["ridge"]).rows[0, -1] == CHANCE


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        Surrogate([line(config) for config in range(MIN_PAIRS - 1)])


@pytest.mark.parametrize("name", ["ours", "ours-held", "one-epoch", "tpe-constraint", "tpe-pruned"])
def test_a_method_spends_no_more_than_its_epochs_and_none_on_what_is_too_large(surrogate: Surrogate, name: str) -> None:
    account = Account(surrogate, seed=1, budget=330)
    with pytest.raises(peers._SpentError):
        peers.PEERS[name](account)
    assert 250 < account.spent <= 330
    assert account.points
    assert all(num_params(network(params)) <= STUDY.budget for _, params in account.scored)
    assert account.points[-1][1] == surrogate.full(max(account.scored, key=lambda pair: pair[0])[1])


def test_ours_pays_for_its_short_runs_and_promotes_two_of_each_round(surrogate: Surrogate) -> None:
    account = Account(surrogate, seed=0, budget=12 * SHORT + 2 * FULL + 1)
    peers.ours(account)
    assert len(account.scored) == 2
    assert account.points[0][0] == 12 * SHORT + FULL
    params = account.scored[0][1]
    assert surrogate.part(params, seed=0)[-1] == pytest.approx(accuracy(dict(params), FULL) - 0.1, abs=0.06)


def test_the_same_seed_gives_the_same_curve(surrogate: Surrogate) -> None:
    assert curve(peers.ours, surrogate, 0, 330) == curve(peers.ours, surrogate, 0, 330)


def test_a_width_that_is_drawn_gives_the_network_it_names() -> None:
    params = random_params(0) | {"growth_2": 1.5, "growth_3": 2.0}
    assert peers.widened({**params, "stages": 3}, 16).widths == (16, 24, 48)


def test_the_table_counts_epochs_to_what_random_draws_reach() -> None:
    curves = {
        "random": [Curve(((40, 0.5), (80, 0.6))), Curve(((40, 0.4), (120, 0.6)))],
        "ours": [Curve(((30, 0.6), (50, 0.7))), Curve(((60, 0.7),))],
    }
    best, other = table(curves, [0.6, 0.6], budget=120)
    assert (best.name, best.epochs.median, best.share, best.reached) == ("ours", 45, 45 / 120, 1)
    assert best.quality[30].median == pytest.approx((0.6 + CHANCE) / 2)  # with one seed there is nothing yet
    assert best.gain.median == pytest.approx(0.1)
    assert (other.epochs.median, other.worse_than_ours) == (100, 1)
    assert "| ours |" in peers.shown([best, other])


def test_the_interval_holds_the_median() -> None:
    spread = Spread.of([0.1, 0.2, 0.3, 0.4, 0.5])
    assert spread.low < spread.median == 0.3 < spread.high


def test_a_method_whose_package_is_missing_is_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(peers.NEEDS, "smac", "no_such_package")
    assert not peers.installed("smac")
    assert "'.[peers]'" in capsys.readouterr().out
    assert peers.installed("random")
