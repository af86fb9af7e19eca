"""Trials, curves and full runs as tables: in the terminal, as CSV, as JSON and as DataFrames."""

import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from search import inspection, tables
from search.inspection import Reader
from search.notebook import SearchResult
from search.promotions import finished
from search.rows import CURVE_COLUMNS, FULL_RUN_COLUMNS, TRIAL_COLUMNS
from search.run_folder import RunFolder
from tests.support.commands import search
from tests.support.drawn import in_80_columns
from tests.support.runs import make_run, promoted

pytestmark = pytest.mark.usefixtures("in_lines")


@pytest.fixture
def folder(mixed: RunFolder) -> RunFolder:
    """A run with trials of all kinds and two full runs, in the folder of runs here."""
    promoted(mixed, 0, seed=1, val_accuracy=0.8)
    promoted(mixed, 5)
    return mixed


def printed(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    code, out, err = search(f"{command} --runs .", capsys, monkeypatch)
    assert (code, err) == (0, "")
    return out


def test_a_trial_has_a_row_with_what_was_drawn_its_recipe_and_its_curve(folder: RunFolder) -> None:
    run = Reader(folder)
    trials = inspection.trials_of(run)
    table = inspection.rows_of(run, trials, "trials")
    assert table.columns[: len(TRIAL_COLUMNS)] == TRIAL_COLUMNS
    assert table.columns[-3:] == ("epoch_1", "epoch_2", "epoch_3")
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in table.columns)
    first, second, pruned, diverged, failed, last = table.rows
    assert (first["number"], first["outcome"], first["score"], first["epochs"]) == (0, "complete", 0.6, 3)
    assert [first[f"epoch_{epoch}"] for epoch in (1, 2, 3)] == list(trials[0].curve.values())
    assert first["recipe_optimizer"] == trials[0].recipe.optimizer
    assert first["network_widths"] == json.dumps(list(trials[0].network.widths))
    drawn = {name.removeprefix("drawn_"): value for name, value in second.items() if name.startswith("drawn_")}
    assert drawn == {name.lower(): value for name, value in trials[1].draw.items()}
    assert [row["outcome"] for row in (pruned, diverged, failed)] == ["pruned", "diverged", "failed"]
    assert (pruned["score"], pruned["epoch_3"]) == (None, None)
    assert failed["reason"] == "ValueError: no <room> left"
    assert last["score"] == trials[5].score == pytest.approx(0.7)


def test_csv_json_and_dataframe_are_one_table(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = SearchResult(folder)
    frames = {
        "": result.trials_dataframe(),
        "--full-runs": result.full_runs_dataframe(),
        "--curves": result.curves_dataframe(),
    }
    for flag, frame in frames.items():
        from_csv = pd.read_csv(io.StringIO(printed(f"trials mixed --csv {flag}", capsys, monkeypatch)))
        from_json = json.loads(printed(f"trials mixed --json {flag}", capsys, monkeypatch))
        assert list(from_csv.columns) == list(frame.columns) == list(from_json[0])
        assert len(from_csv) == len(frame) == len(from_json)
        for i, row in enumerate(from_json):
            for name, value in row.items():
                seen, framed = from_csv[name].iloc[i], frame[name].iloc[i]
                assert (pd.isna(seen), pd.isna(framed)) == (value is None, value is None) or value == seen == framed
    assert list(frames["--full-runs"].columns[: len(FULL_RUN_COLUMNS)]) == list(FULL_RUN_COLUMNS)
    assert list(frames["--full-runs"]["test_accuracy"]) == [0.8, 0.8]
    curves = frames["--curves"]
    assert list(curves.columns) == list(CURVE_COLUMNS)
    assert set(curves["run"]) == {"short", "full"}
    short = curves[(curves["run"] == "short") & (curves["trial"] == 5)]
    assert list(short["epoch"]) == [1, 2, 3]
    assert list(short["validation_accuracy"])[-1] == pytest.approx(0.7)
    full = curves[(curves["run"] == "full") & (curves["trial"] == 5)]
    assert list(full["validation_accuracy"]) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert list(full["learning_rate"]) == [0.1] * 5


TABLE = """
Trials (score: validation accuracy after the last epoch, of all that have ended)
trial  outcome     score  parameters  optimizer  network                 seconds
────────────────────────────────────────────────────────────────────────────────
"""


def test_the_table_of_trials_fits_into_80_columns_the_best_first(folder: RunFolder) -> None:
    run = Reader(folder)
    drawn = in_80_columns(tables.trials_table(inspection.trials_of(run, "score")))
    head, rows = drawn.splitlines()[:3], drawn.splitlines()[3:]
    assert all(len(line) <= 80 for line in drawn.splitlines())
    assert head[0] == TABLE.strip().splitlines()[0]
    assert [row.split()[:3] for row in rows if row[:5].strip()] == [
        ["5", "complete", "70.00"],
        ["0", "complete", "60.00"],
        ["1", "complete", "50.00"],
        ["2", "pruned", "3.33"],
        ["3", "diverged", "90.00"],
        ["4", "failed", f"{inspection.trials_of(run)[4].parameters:,}"],
    ]
    numbers = [trial.number for trial in inspection.trials_of(run, "parameters")]
    assert sorted(numbers, key=lambda number: inspection.trials_of(run)[number].parameters) == numbers
    full = in_80_columns(tables.full_runs_table(finished(folder)))
    assert "90.00 %" in full


def test_a_run_without_trials_has_tables_with_their_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "new")
    assert printed("trials new --csv", capsys, monkeypatch) == f"{','.join(TRIAL_COLUMNS)}\n"
    assert printed("trials new --csv --full-runs", capsys, monkeypatch) == f"{','.join(FULL_RUN_COLUMNS)}\n"
    assert printed("trials new", capsys, monkeypatch) == "no trial has ended yet: see `search status`\n"
    said = printed("trials new --full-runs", capsys, monkeypatch)
    assert said == "no full run is finished yet: train the best trials with `search promote`\n"
    assert list(SearchResult(RunFolder(tmp_path / "new")).trials_dataframe().columns) == list(TRIAL_COLUMNS)


MISTAKES = [
    ("trials nowhere", "no run 'nowhere' in"),
    ("trials new --sort size", "trials cannot be sorted by 'size': give one of score, number, parameters"),
    ("trials new --csv --json", "--json and --csv are two forms of one output: give one of them"),
    ("trials new --csv --curves --full-runs", "--full-runs and --curves are two tables: give one of them"),
    ("trials new --curves", "--curves has a row for each epoch, too many for a terminal: add --csv or --json"),
    ("trials new --csv --curves --sort score", "--sort orders trials: leave it out with --full-runs and --curves"),
]


def test_mistakes_are_answered_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "new")
    for command, said in MISTAKES:
        code, out, err = search(f"{command} --runs .", capsys, monkeypatch)
        assert (code, out, err.count("\n")) == (2, "", 1), command
        assert said in err
