"""How one front is compared with separate searches."""

from typing import Any

import pytest

from benchmarks.front import BEYOND, SHARES, recommended, table
from search.front import hypervolume


def test_what_counts_is_the_test_accuracy_of_the_best_on_validation_that_is_no_larger() -> None:
    found = [(10.0, 0.5, 0.4), (100.0, 0.4, 0.9), (100.0, 0.8, 0.7)]
    assert recommended(found, 1, 10, 1000) == pytest.approx(hypervolume([(10, 0.5), (100, 0.8)], 10, 1000))
    assert recommended(found, 2, 10, 1000) == pytest.approx(0.55)  # half 0.4 and half 0.7; 0.9 is never recommended
    assert recommended(found[1:], 2, 10, 1000) == pytest.approx(0.35)  # nothing up to a size of 100


def test_a_pair_counts_when_all_its_searches_are_done() -> None:
    budget = 32_000
    lines: list[dict[str, Any]] = [
        {"data": "d", "seed": 0, "share": share, "trials": [[share * budget, 0.5, 0.5]]} for share in SHARES
    ]
    best = [[SHARES[0] * budget, 0.6, 0.6]]
    complete = [*lines, {"data": "d", "seed": 0, "share": None, "trials": best}]
    unfinished = [{**line, "seed": 1} for line in lines]
    assert BEYOND > 1
    assert "| d | 1 | 60.0 | 50.0 | +10.0 | +10.0 |" in table([*complete, *unfinished])
