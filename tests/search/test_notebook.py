"""The Python way in: the same as the commands, with results to look at."""

import inspect
import os
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest

import search
from search import api, cli, notebook
from search.errors import SpecError
from search.promotions import Promotion
from search.run_folder import RunRef
from search.session import Placement
from search.spec import StudySpec
from search.trials import TRAINING_S
from tests.support.forked import Forked
from tests.support.runs import ended, make_run, promoted, run_study, study_spec
from tests.support.trainers import FakeTrainer
from train_core.reading import Reading

ROOT = Path(__file__).parents[2]


def test_the_package_offers_the_two_functions_and_no_others() -> None:
    assert search.run is notebook.run
    assert search.promote is notebook.promote
    with pytest.raises(AttributeError, match="has no attribute 'prune'"):
        search.prune  # noqa: B018  # the access is what is tested


def test_a_result_reads_what_a_run_came_to(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.5, 0.7, 0.6])
    result = notebook.SearchResult(folder)
    assert result.best is not None
    assert result.best == result.trials[1]
    assert str(result).startswith("The best network found for digits within 20,000 parameters is ")
    assert "3 of 3 trials have ended" in str(result)
    assert "<b>run</b>: The best network" in result._repr_html_()
    assert result.report() == folder.report
    assert folder.report.exists()
    longer = promoted(folder, 0)
    assert result.promotions == [longer]
    assert isinstance(result.best, Promotion)
    assert result.promotions == [longer]
    assert "90.00 % on validation" in str(result), "what was added since is shown"


def test_trials_are_a_table(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [])
    study = run_study(folder, study_spec(trials=4), FakeTrainer())
    table = notebook.SearchResult(folder).trials_dataframe()
    assert isinstance(table, pd.DataFrame)
    assert list(table["score"]) == [trial.value for trial in ended(study)]
    assert list(table["param budget_fraction"]) == [trial.params["budget_fraction"] for trial in ended(study)]
    assert {"number", "outcome", "parameters", "multiply-adds", "network in words", TRAINING_S} <= set(table.columns)


def test_run_takes_what_the_command_takes() -> None:
    in_parts = {field.name for field in fields(Placement)} | {field.name for field in fields(RunRef)}
    keys = StudySpec.model_fields.keys() | Reading.model_fields.keys()  # the second in the first's table `reading`
    taken = inspect.signature(notebook.run).parameters.keys() | keys | in_parts
    assert inspect.signature(api.run).parameters.keys() - {"flags"} <= taken
    options = inspect.signature(cli.run).parameters.keys() - {
        "images",
        "no_test",
    }  # the study file's short_run_images and test_fraction
    assert options <= taken


def test_a_mistake_is_the_same_error_as_on_the_command_line() -> None:
    with pytest.raises(SpecError, match="is less than the smallest network of this space"):
        notebook.run("digits", budget=12)
    with pytest.raises(SpecError, match="is not a positive whole number"):
        notebook.run("digits", budget="many")


@pytest.mark.long
def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    """As a script, though on fewer images than there are, and in a forked process."""
    first = f"""
import runpy
from train_core.sources import downloads
from train_core.sources.contents import Contents

every = downloads.digits().arrays
downloads.digits = lambda: Contents(arrays={{name: values[:200] for name, values in every.items()}})
runpy.run_path({str(ROOT / "examples" / "digits.py")!r}, run_name="__main__")
"""
    process = Forked([], first, tmp_path, {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, module=None)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "on the test images" in out
    (report,) = tmp_path.glob("runs/*/report.html")
    assert out.splitlines()[-1] == str(report.relative_to(tmp_path))
    assert isinstance(notebook.SearchResult(RunRef(None, tmp_path / "runs").find()).best, Promotion)
