"""Two groups of runs compared: the intervals, the pairs, the verdict, and the tables for papers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_ind, ttest_rel

from search import tables
from search.groups import as_latex, as_markdown, compare_groups, table_of
from search.identity import open_study
from search.inspection import Reader
from search.records import GroupComparison
from search.run_folder import RunFolder
from search.uncertainty import paired, welch
from tests.support.commands import search
from tests.support.drawn import in_80_columns
from tests.support.runs import make_run, promoted

pytestmark = pytest.mark.usefixtures("in_lines")

RUNS = Path("runs")


def a_run(name: str, seed: int, full: float | None = None, **values: Any) -> RunFolder:
    folder = make_run(RUNS / name, [0.5, 0.6], seed=seed, **values)
    if full is not None:
        promoted(folder, 1, val_accuracy=full, test_accuracy=full - 0.1)
    return folder


def groups(**reached: list[float | None]) -> list[list[Reader]]:
    """A group for each name, of a run for each of these accuracies; their seeds are 0, 1, ..."""
    return [
        [Reader(a_run(f"{name}-{seed}", seed, full)) for seed, full in enumerate(values)]
        for name, values in reached.items()
    ]


def compared(**reached: list[float | None]) -> GroupComparison:
    one, other = groups(**reached)
    labels = [f"{name}-*" for name in reached]
    return compare_groups((labels[0], labels[1]), (one, other))


def test_the_intervals_are_those_of_scipy() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(0, 1, 5).tolist(), generator.normal(0.5, 2, 5).tolist()
    found, expected = paired(one, other), ttest_rel(other, one)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.p == pytest.approx(expected.pvalue)
    found, expected = welch(one, other[:3]), ttest_ind(other[:3], one, equal_var=False)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.p == pytest.approx(expected.pvalue)
    assert paired([0.1], [0.3]).low is None
    assert welch([0.1, 0.2], [0.3]).high is None
    assert (paired([0, 0], [1, 1]).low, paired([0, 0], [1, 1]).p, welch([1, 1], [1, 1]).p) == (1, 0, 1)


def test_of_2000_pairs_of_equal_methods_5_in_100_are_called_different() -> None:
    """Seeds that are easy or hard for both methods make unpaired intervals wide, and paired ones not."""
    generator = np.random.default_rng(0)
    seeds = generator.normal(0, 2, (2000, 1, 4))
    reached = (seeds + generator.normal(0, 1, (2000, 2, 4))).tolist()
    called = [
        found.low is not None and not found.low <= 0 <= (found.high or 0)
        for found in (paired(*each) for each in reached)
    ]
    assert np.mean(called) == pytest.approx(0.05, abs=2 * math.sqrt(0.05 * 0.95 / 2000))
    called = [
        found.low is not None and not found.low <= 0 <= (found.high or 0)
        for found in (welch(*each) for each in reached)
    ]
    assert np.mean(called) < 0.05


def test_runs_of_the_same_seeds_are_pairs() -> None:
    found = compared(tpe=[0.90, 0.92, 0.94], luck=[0.88, 0.90, 0.925])
    assert found.paired
    assert found.differences == {}
    full = found.measures[1]
    assert full.name == "full run, validation"
    assert full.difference == pytest.approx(-0.055 / 3)
    assert found.better == "tpe-*"
    assert found.verdict == (
        "tpe-* is better, by 1.83 points on validation (95 % interval -2.55 to -1.12; 3 pairs of the same seed, "
        "paired t, p = 0.0082)"
    )


def test_runs_of_other_seeds_are_compared_by_their_means() -> None:
    one, other = groups(tpe=[0.90, 0.92, 0.94], luck=[0.88, 0.90])
    found = compare_groups(("tpe-*", "luck-*"), (one, other))
    assert not found.paired
    assert found.differences == {"seed": ([0, 1, 2], [0, 1])}
    assert found.better is None
    assert found.verdict.startswith(
        "no verdict: luck-* differs by -3.00 points on validation, which may be chance (95 % interval -7.98 to +1.98"
    )
    assert found.verdict.endswith("Welch's t, p = 0.15)")


TABLE = """
                                                         difference (95 %
                         tpe-*           luck-*          interval)
────────────────────────────────────────────────────────────────────────────────
runs                     3               3
seeds                    0, 1, 2         0, 1, 2
trials in a run          2               2
epochs of its short      6               6
runs
epochs of its full runs  5               5
short run, validation    60.00 ± 0.00 %  60.00 ± 0.00 %  +0.00 (+0.00 to +0.00)
accuracy
full run, validation     92.00 ± 2.00 %  90.17 ± 2.25 %  -1.83 (-2.55 to -1.12)
accuracy
full run, test accuracy  82.00 ± 2.00 %  80.17 ± 2.25 %  -1.83 (-2.55 to -1.12)
tpe-* is better, by 1.83 points on validation (95 % interval -2.55 to -1.12; 3
pairs of the same seed, paired t, p = 0.0082)
"""


def test_the_table_fits_into_80_columns_and_is_there_for_papers() -> None:
    found = compared(tpe=[0.90, 0.92, 0.94], luck=[0.88, 0.90, 0.925])
    rows = table_of(found)
    drawn = in_80_columns(tables.groups_view(found, rows))
    assert drawn == TABLE.strip("\n")
    assert all(len(line) <= 80 for line in drawn.splitlines())
    markdown = as_markdown(rows).splitlines()
    assert markdown[:3] == [
        r"|  | tpe-\* | luck-\* | difference (95 % interval) |",
        "|---|---:|---:|---:|",
        "| runs | 3 | 3 |  |",
    ]
    assert markdown[-1] == "| full run, test accuracy | 82.00 ± 2.00 % | 80.17 ± 2.25 % | -1.83 (-2.55 to -1.12) |"
    latex = as_latex(rows).splitlines()
    assert latex[:3] == [
        r"\begin{tabular}{lrrr}",
        r"  \hline",
        r"   & tpe-{*} & luck-{*} & difference (95 \% interval) \\",
    ]
    assert latex[-3:] == [
        r"  full run, test accuracy & 82.00 $\pm$ 2.00 \% & 80.17 $\pm$ 2.25 \% & -1.83 (-2.55 to -1.12) \\",
        r"  \hline",
        r"\end{tabular}",
    ]


def test_names_are_escaped() -> None:
    rows = [["", "a_b & c%#$~^\\{}", "x|<y>"]]
    assert r"a\_b \& c\%\#\$\textasciitilde{}\textasciicircum{}\textbackslash{}\{\}" in as_latex(rows)
    assert r"| x\|\<y\> |" in as_markdown(rows)


@pytest.mark.parametrize(
    ("reached", "verdict"),
    [
        (
            {"a": [0.9, 0.9], "b": [0.9, None]},
            "no verdict: no full run of b-1 yet, and short runs alone decide nothing",
        ),
        (
            {"a": [0.9], "b": [0.95]},
            "no verdict: one run alone does not show what is chance: search with several seeds",
        ),
    ],
)
def test_too_little_gives_no_verdict(reached: dict[str, list[float | None]], verdict: str) -> None:
    found = compared(**reached)
    assert found.verdict.startswith(verdict)
    assert found.better is None


def test_what_cannot_be_compared_is_not() -> None:
    one, other = groups(a=[0.9, 0.91], b=[0.95, None])
    promoted(other[1].folder, 1, epochs=7)
    assert compare_groups(("a", "b"), (one, other)).verdict == (
        "no verdict: full runs of 5 and 7 epochs cannot be compared"
    )
    open_study(other[1].folder).set_user_attr("identity", {"data fingerprint": "another"})
    found = compare_groups(("a", "b"), (one, [Reader(each.folder) for each in other]))
    assert found.verdict == "not to be compared: their data differ"


def test_the_command_takes_patterns_and_lists(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, budget in (("a", 20_000), ("b", 30_000)):
        for seed in (0, 1):
            a_run(f"{name}-{seed}", seed, 0.9, budget=budget)
    for sides in ("'a-*' 'b-*'", "a-0,a-1 b-0,b-1", "'a-*' b-1,b-0"):
        code, out, err = search(f"compare {sides} --json", capsys, monkeypatch)
        found = json.loads(out)
        assert (code, err) == (0, "")
        assert list(found) == list(GroupComparison.__dataclass_fields__)
        assert [[run["name"] for run in group["runs"]] for group in found["groups"]] == [["a-0", "a-1"], ["b-0", "b-1"]]
        assert found["differences"] == {"budget": [[20_000], [30_000]]}
        assert found["paired"] is True
    _, out, _ = search("compare 'a-*' 'b-*'", capsys, monkeypatch)
    assert "no verdict: b-* differs by +0.00 points on validation, which may be chance" in out
    assert max(map(len, out.splitlines())) <= 100
    _, out, _ = search("compare a-0 b-0 --latex", capsys, monkeypatch)
    assert out.startswith("\\begin{tabular}{lrrr}\n")
    assert r"90.00 \% & 90.00 \% & +0.00 \\" in out
    mistakes = {
        "compare 'a-*' 'c-*'": "no run 'c-*' in runs: there are a-0, a-1, b-0, b-1",
        "compare 'a-*' a-1": "run 'a-1' is on both sides: compare groups that have no run in common",
        "compare a-0 b-0 --latex --json": "--markdown, --latex and --json are forms of one output: give one of them",
    }
    for command, said in mistakes.items():
        code, out, err = search(command, capsys, monkeypatch)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err
