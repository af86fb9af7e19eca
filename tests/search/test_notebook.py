"""The Python way in: the same as the commands, with results to look at."""

import inspect
import os
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import search
from search import api, notebook
from search.commands import training
from search.errors import RunError, SpecError
from search.overnight import Time
from search.promotions import Promotion
from search.run_folder import RunRef, write_text
from search.session import Placement
from search.spec import StudySpec
from tests.support.forked import Forked
from tests.support.processes import with_few
from tests.support.runs import make_run, promoted
from train_core.reading import Reading

ROOT = Path(__file__).parents[2]


def test_the_package_offers_the_four_functions_and_no_others() -> None:
    assert search.auto is notebook.auto
    assert search.open_run is notebook.open_run
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


def test_a_run_is_opened_by_its_name_and_nothing_is_printed_or_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path / "runs" / "one", [0.5, 0.7, 0.6])
    before = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*")}
    result = search.open_run("one", runs=tmp_path / "runs")
    assert search.open_run().folder.root == Path("runs/one"), "in this folder, the run worked on last"
    best = result.trials[1]
    assert repr(result.best) == f"trial 1: {best.network_words}; 70.00 % on validation; {best.parameters:,} parameters"
    table = result._repr_html_().partition("<table>")[2]
    assert [row.split("</td>")[0] for row in table.split("<tr><td>")[1:]] == ["1", "2", "0"]
    assert "<th>validation accuracy of the short run</th>" in table
    assert capsys.readouterr() == ("", "")
    assert {path: path.stat().st_mtime_ns for path in folder.root.rglob("*")} == before
    with pytest.raises(RunError, match="no run 'two' in runs: there are one"):
        search.open_run("two")


def test_a_promoted_run_shows_its_full_runs(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.5, 0.6])
    for number in (0, 1):
        for seed in (0, 1):
            promoted(folder, number, seed=seed, val_accuracy=0.9 - number / 10 + seed / 100)
    result = notebook.SearchResult(folder)
    assert isinstance(result.best, Promotion)
    said = f"{result.best.network}; 91.00 % on validation, 80.00 % on test after 5 epochs; "
    assert repr(result.best) == str(result.best) == f"trial 0, seed 1: {said}{result.best.parameters:,} parameters"
    table = result._repr_html_().partition("<table>")[2]
    assert [row.split("</td>")[0] for row in table.split("<tr><td>")[1:]] == ["0", "1"]
    assert "<td>90.50 ± 0.71 %</td><td>80.00 ± 0.00 %</td><td>2</td>" in table
    diverged = promoted(folder, 0, seed=2, diverged="the loss was nan", val_accuracy=None)
    assert repr(diverged).endswith(f"; diverged within 5 epochs; {diverged.parameters:,} parameters")


def test_without_pandas_a_table_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    result = notebook.SearchResult(make_run(tmp_path / "run", [0.5]))
    for table in (result.trials_dataframe, result.curves_dataframe, result.full_runs_dataframe):
        with pytest.raises(
            RunError, match=r"^tables in Python need pandas: pip install '.\[notebook\]' in the checkout$"
        ):
            table()


def test_run_takes_what_the_command_takes() -> None:
    in_parts = {field.name for field in fields(Placement)} | {field.name for field in fields(RunRef)}
    keys = StudySpec.model_fields.keys() | Reading.model_fields.keys()  # the second in the first's table `reading`
    taken = inspect.signature(notebook.run).parameters.keys() | keys | in_parts
    assert inspect.signature(api.run).parameters.keys() - {"flags"} <= taken
    options = inspect.signature(training.run).parameters.keys() - {
        "images",
        "no_test",
    }  # the study file's short_run_images and test_fraction
    assert options <= taken


def test_auto_takes_what_the_command_takes() -> None:
    in_parts = {field.name for field in fields(Placement)} | {field.name for field in fields(RunRef)}
    keys = StudySpec.model_fields.keys() | Reading.model_fields.keys()
    taken = inspect.signature(notebook.auto).parameters.keys() | keys | in_parts
    assert inspect.signature(training.auto).parameters.keys() - {"no_test"} <= taken
    assert {field.name for field in fields(Time)} <= inspect.signature(notebook.auto).parameters.keys()


def test_auto_without_a_time_says_how_to_give_one() -> None:
    with pytest.raises(SpecError, match="say how long it may take: give one of --hours 8, --minutes 30 and --until"):
        notebook.auto("digits")


def test_a_run_without_an_exported_model_has_none(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.5])
    result = notebook.SearchResult(folder)
    assert result.model is None
    promoted(folder, 0)
    assert result.model is None
    file = folder.exported(folder.promotion(0, 5, 0), "safetensors")
    write_text(file, "a model")
    assert result.model == file


@pytest.mark.long
def test_auto_in_python_ends_with_a_model(tmp_path: Path) -> None:
    first = """
from search import auto

result = auto("digits", data="few.npz", name="night", minutes=1, budget="20k")
print(result.model, result.report(), sep="\\n")
"""
    process = Forked([], first, with_few(tmp_path), {**os.environ, "PYTHONPATH": str(ROOT)}, module=None)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    model, report = map(Path, out.splitlines()[-2:])
    assert (tmp_path / model).parent == tmp_path / "runs" / "night" / "exported"
    assert (tmp_path / model).exists()
    assert report == Path("runs/night/report.html")


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
