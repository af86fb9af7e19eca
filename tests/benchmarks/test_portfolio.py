"""The portfolio that is shipped is what was measured."""

import json
from pathlib import Path

import pytest

from benchmarks import portfolio, portfolio_judged
from search.spec import load_study
from search.starts import Measured, shortlist

RUNS = Path(portfolio.__file__).with_name("portfolio.jsonl")


def test_the_shipped_numbers_are_those_of_the_measured_runs() -> None:
    lines = [json.loads(line) for line in RUNS.read_text().splitlines()]
    accuracies, draws = portfolio_judged.measured(lines)
    shipped = Measured.shipped()
    assert list(shipped.names) == list(draws)
    assert set(shipped.accuracies) <= set(accuracies)
    for task, measured in shipped.accuracies.items():
        assert measured == pytest.approx(accuracies[task], abs=1e-4)
    losses = portfolio_judged.judged(shipped.accuracies, [draw["optimizer"] for draw in shipped.draws])
    assert shipped.size == portfolio_judged.best_size(losses)


def test_the_configurations_are_those_of_the_runs() -> None:
    known = portfolio.configurations(load_study(str(portfolio.STUDY), {}).space)
    for line in map(json.loads, RUNS.read_text().splitlines()):
        name, draw = known[line["configuration"]]
        assert (name, line["draw"]) == (line["name"], {key: draw[key] for key in line["draw"]})


def test_a_list_is_judged_on_the_data_set_that_had_no_part_in_it() -> None:
    accuracies = {"cifar10-4k, 50": [0.9, 0.1, 0.5], "cifar100-6k, 50": [0.1, 0.9, 0.5], "signs, 50": [0.1, 0.9, 0.5]}
    assert [portfolio_judged.group_of(task) for task in accuracies] == ["cifar", "cifar100", "signs"]
    assert shortlist(accuracies, 1) == [1]
    losses = portfolio_judged.judged(accuracies, ["sgd"] * 3)
    assert losses[1]["cifar10-4k, 50"] == pytest.approx(80)  # the others chose the second
    assert losses[3] == pytest.approx(dict.fromkeys(accuracies, 0))
