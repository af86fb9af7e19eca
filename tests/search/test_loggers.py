"""What loggers get of trials and full runs, that one that fails ends no search, and what the real ones write."""

import logging
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from search import loggers, notebook
from search.errors import SpecError
from search.identity import open_study
from search.loggers import LOGGERS, LoggedEvents, Loggers, Record, check_loggers, logging_to, outcome_of
from search.run_folder import RunFolder
from tests.support.commands import search
from tests.support.processes import FEW, with_few
from tests.support.runs import NEVER, make_run, network_of, promoted, recipe_of, run_study, study_spec
from tests.support.trainers import FakeTrainer, Recorder, epoch_result


class Notes:
    """A logger that keeps what it gets; `fails` is the method that raises."""

    made: ClassVar[list["Notes"]] = []
    fails = ""

    def __init__(self, folder: RunFolder) -> None:
        self.got: list[tuple[Any, ...]] = []
        self.made.append(self)
        self._note("make", folder.name)

    def _note(self, *what: Any) -> None:
        self.got.append(what)
        if what[0] == self.fails:
            raise OSError(28, "No space left on device")

    def begin(self, name: str, parameters: Mapping[str, Any]) -> None:
        self._note("begin", name, parameters)

    def log(self, name: str, metrics: Mapping[str, float], epoch: int) -> None:
        self._note("log", name, metrics, epoch)

    def end(self, name: str, outcome: Mapping[str, Any]) -> None:
        self._note("end", name, outcome)

    def close(self) -> None:
        self._note("close")


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> type[Notes]:
    """The logger `tensorboard`, which only keeps what it gets."""
    monkeypatch.setattr(Notes, "made", [])
    monkeypatch.setattr(Notes, "fails", "")
    monkeypatch.setitem(LOGGERS, "tensorboard", Record(package="search", make=Notes))
    return Notes


def searched(folder: RunFolder, *names: str) -> None:
    """Run two trials of four epochs with these loggers; nothing is trained."""
    spec = study_spec(trials=2, pruner=NEVER, portfolio=False)
    with logging_to(names, folder) as made:
        run_study(folder, spec, FakeTrainer(), events=LoggedEvents(made, Recorder()))


@pytest.mark.parametrize("name", ["tensorbord", "t"])
def test_a_logger_that_is_unknown(name: str) -> None:
    with pytest.raises(SpecError, match=f"--log '{name}' is unknown: give one of tensorboard, mlflow, wandb"):
        check_loggers([name])


@pytest.mark.parametrize("command", ["run digits --log mlflow", "auto digits --minutes 1 --log mlflow"])
def test_a_package_that_is_missing_is_said_before_anything_is_made(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    code, out, err = search(command, capsys, monkeypatch)
    assert (code, out) == (2, "")
    assert err == "search: --log mlflow needs mlflow: pip install '.[mlflow]' in the checkout\n"
    assert not Path("runs").exists()


def test_each_record_has_the_extra_that_it_names() -> None:
    root = Path(__file__).parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert all(extras[each.package][0].startswith(each.package) for each in LOGGERS.values())


@pytest.mark.usefixtures("in_lines")
def test_a_trial_is_logged_with_parameters_metrics_and_outcome(notes: type[Notes], tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", spec=study_spec(trials=2, pruner=NEVER, portfolio=False))
    searched(folder, "tensorboard", "tensorboard")
    (made,) = notes.made
    kinds = [each[0] for each in made.got]
    assert kinds == ["make", *(["begin", *["log"] * 4, "end"] * 2), "close"]
    _, name, parameters = made.got[1]
    trial = open_study(folder).trials[0]
    assert name == "trial-0000"
    assert parameters["network"] == str(network_of(trial))
    assert parameters["optimizer"] == recipe_of(trial).optimizer
    assert parameters["lr"] == recipe_of(trial).lr
    assert all(isinstance(value, int | float | str) for value in parameters.values())
    _, _, metrics, epoch = made.got[5]
    assert (epoch, metrics["validation/accuracy"], metrics["validation/loss"]) == (4, trial.value, 1.0)
    assert made.got[6][2]["outcome"] == "complete"
    assert made.got[6][2]["validation"] == trial.value


@pytest.mark.usefixtures("in_lines")
@pytest.mark.parametrize(("fails", "calls"), [("make", 1), ("begin", 2), ("log", 3), ("end", 7), ("close", 14)])
def test_a_logger_that_fails_ends_no_search_and_is_warned_of_once(
    notes: type[Notes], tmp_path: Path, caplog: pytest.LogCaptureFixture, fails: str, calls: int
) -> None:
    notes.fails = fails
    folder = make_run(tmp_path / "run", spec=study_spec(trials=2, pruner=NEVER, portfolio=False))
    with caplog.at_level(logging.WARNING):
        searched(folder, "tensorboard")
    assert len([trial for trial in open_study(folder).trials if trial.value]) == 2
    said = "warning: --log tensorboard failed (No space left on device): all else goes on without it"
    assert [record.getMessage() for record in caplog.records] == [said]
    assert len(notes.made[0].got) == calls


@pytest.mark.usefixtures("in_lines")
def test_a_full_run_that_is_finished_already_is_not_logged_again(notes: type[Notes], tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.5])
    run = promoted(folder, 0)
    with logging_to(["tensorboard"], folder) as made:
        made.full_run("full", run.network, run.recipe)
        made.end("full", outcome_of(run))
        assert [each[0] for each in notes.made[0].got] == ["make"]
        after = made.full_run("full", run.network, run.recipe)
        for result in run.history:
            after(result)
        made.end("full", outcome_of(run))
    assert [each[0] for each in notes.made[0].got] == ["make", "begin", *["log"] * 5, "end", "close"]
    assert notes.made[0].got[-2][2] == {"outcome": "finished", "validation": 0.9, "test": 0.8, "seconds": 12.3}


@pytest.mark.long
def test_commands_log_their_trials_and_full_runs(
    notes: type[Notes], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_few(tmp_path)
    command = f"run digits {FEW} --trials 1 --epochs 1 --log tensorboard"
    assert search(command, capsys, monkeypatch)[0] == 0
    assert search("promote --top 1 --epochs 2 --log tensorboard", capsys, monkeypatch)[0] == 0
    short, full = notes.made
    assert [each[:2] for each in short.got] == [
        ("make", "digits-20k"),
        ("begin", "trial-0000"),
        ("log", "trial-0000"),
        ("end", "trial-0000"),
        ("close",),
    ]
    name = "trial-0000-epochs-2-seed-0"
    assert [each[:2] for each in full.got][1:] == [
        ("begin", name),
        ("log", name),
        ("log", name),
        ("end", name),
        ("close",),
    ]
    assert full.got[1][2]["epochs"] == 2
    assert full.got[4][2]["test"] is not None


def test_in_python_one_logger_or_several() -> None:
    assert notebook._placement_from({"log": "mlflow"}).log == ("mlflow",)
    assert notebook._placement_from({"log": ["mlflow", "wandb"]}).log == ("mlflow", "wandb")


@pytest.fixture
def logged(tmp_path: Path, in_lines: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that logs a finished full run and one that was cut off, with a real package; returns the run."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)

    def do(name: str) -> RunFolder:
        pytest.importorskip(LOGGERS[name].package, reason=f"{name} is not installed: pip install '.[{name}]'")
        folder = make_run(tmp_path / "run", [0.5])
        run = promoted(folder, 0)
        made = Loggers([name], folder)
        after = made.full_run("whole", run.network, run.recipe)
        for result in run.history:
            after(result)
        made.end("whole", outcome_of(run))
        made.full_run("cut", run.network, run.recipe)(epoch_result(1, 0.25))
        made.close()
        assert name in made._all, "it has not failed"
        return folder

    return do


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_the_event_files(logged: Any) -> None:
    folder = logged("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder.root / "tensorboard" / "whole")).Reload()
    points = [(each.step, round(each.value, 3)) for each in found.Scalars("validation/accuracy")]
    assert points == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4), (5, 0.5)]
    assert found.Scalars("outcome/test")[0].value == pytest.approx(0.8)
    cut = EventAccumulator(str(folder.root / "tensorboard" / "cut")).Reload()
    assert [each.step for each in cut.Scalars("validation/loss")] == [1]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_mlflow_reads_its_database(logged: Any) -> None:
    folder = logged("mlflow")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("run")
    runs = {each.info.run_name: each for each in client.search_runs([experiment.experiment_id])}
    assert {name: run.info.status for name, run in runs.items()} == {"whole": "FINISHED", "cut": "KILLED"}
    assert runs["whole"].data.metrics["outcome/test"] == 0.8
    assert runs["whole"].data.params["epochs"] == "5"
    assert runs["whole"].data.tags["outcome"] == "finished"
    history = client.get_metric_history(runs["whole"].info.run_id, "validation/accuracy")
    assert [each.step for each in history] == [1, 2, 3, 4, 5]
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_wandb_writes_offline(logged: Any) -> None:
    folder = logged("wandb")
    assert os.environ["WANDB_MODE"] == "offline"
    offline = sorted((folder.root / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(offline) == 2
    assert any(b"validation/accuracy" in file.read_bytes() for file in offline)
