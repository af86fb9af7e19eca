"""The notebooks and the Slurm script of examples/, run as they stand, on few images."""

import ast
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from search.night import read_night
from search.run_folder import RunFolder
from tests.support.documents import assert_accepted
from tests.support.notebooks import as_python, code_cells, kill_all, read, run_all
from tests.support.processes import FEW, until, wait_for, with_few

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SLURM = EXAMPLES / "slurm.sh"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
NIGHTS = 3
"""At most, until one is long enough: on a busy machine, a minute may be over before a full run ends."""


def test_there_is_a_notebook_for_each_service() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["colab", "kaggle"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_has_no_outputs_stored(path: Path) -> None:
    notebook = read(path)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    identifiers = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identifiers)) == len(identifiers)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", each) for each in identifiers)
    for cell in notebook["cells"]:
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            keys |= {"execution_count", "outputs"}
            assert (cell["execution_count"], cell["outputs"]) == (None, [])
            ast.parse(as_python("".join(cell["source"])))
        assert set(cell) == keys
        assert all(isinstance(line, str) for line in cell["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nbformat_accepts_a_notebook(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: the test above checks most of it")
    nbformat.validate(nbformat.read(path, as_version=4))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_gives_commands_that_the_command_line_takes(path: Path) -> None:
    cells = code_cells(path)
    values: dict[str, Any] = {"RUNS": "runs"}
    exec(cells["parameters"], values)
    assert {"STUDY", "TIME", "PACKAGE"} <= values.keys()
    (command,) = re.findall(r"^!(search [^|]+?)(?: 2>&1 \| cat)?$", cells["night"], re.M)
    assert_accepted(re.sub(r'"?\{(\w+)\}"?', lambda found: values[found[1]], command).split())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_without_the_package_and_its_address_a_notebook_says_what_to_do(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    install = as_python(code_cells(path)["install"])
    shell: list[str] = []
    with pytest.raises(SystemExit, match="set PACKAGE in the first cell to the address of the repository"):
        exec(install, {"PACKAGE": ""})
    exec(install, {"PACKAGE": "git+https://an.address", "shell": shell.append})
    assert shell == ['pip install --quiet "budget-search[onnx] @ {PACKAGE}"']


def test_on_kaggle_the_runs_of_an_earlier_version_are_copied_once(tmp_path: Path) -> None:
    (tmp_path / "input" / "night").mkdir(parents=True)
    (tmp_path / "input" / "night" / "study.toml").write_text("first")
    source = code_cells(EXAMPLES / "kaggle.ipynb")["folder"].replace("/kaggle/working", str(tmp_path / "working"))
    for content in ("first", "changed"):
        exec(source, {"PREVIOUS": str(tmp_path / "input")})
        assert Path("runs/night/study.toml").read_text() == "first"
        (tmp_path / "input" / "night" / "study.toml").write_text(content)


def test_on_colab_the_drive_is_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drive:
        mounted: str

        def mount(self, where: str) -> None:
            self.mounted = where

    class Colab:
        drive = Drive()

    monkeypatch.setitem(sys.modules, "google.colab", Colab)
    names: dict[str, Any] = {"DRIVE": "/content/drive"}
    exec(code_cells(EXAMPLES / "colab.ipynb")["folder"], names)
    assert Colab.drive.mounted == "/content/drive"
    assert names["RUNS"] == Path("/content/drive/MyDrive/runs")


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_that_is_killed_in_its_night_ends_with_a_prediction_when_it_is_run_again(
    path: Path, tmp_path: Path
) -> None:
    run = RunFolder(with_few(tmp_path) / "runs" / "digits-20k")
    parameters = {"TIME": "--minutes 1", "FLAGS": FEW}
    first = run_all(path, tmp_path, **parameters)
    wait_for(run.log, "at epoch 1")
    kill_all(first)
    assert not list((run.root / "exported").glob("*"))
    for _ in range(NIGHTS):
        again = run_all(path, tmp_path, **parameters)
        out, err = again.communicate(timeout=240)
        assert again.returncode == 0, err
        if list((run.root / "exported").glob("*.onnx")):
            break
    assert re.search(r"^displayed: The best network found for few\.npz within 20,000 parameters is ", out, re.M), (
        out + err
    )
    assert re.search(r'^displayed: <div><iframe srcdoc="&lt;!doctype html', out, re.M | re.I), out + err
    assert re.search(r"^digit\.png\s+\d ", out.splitlines()[-1]), out + err


@pytest.fixture
def slurm(tmp_path: Path) -> Any:
    """Starts the script as Slurm would: `srun` starts the real command or notes it, `scontrol` only notes its words."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, does in {
        "srun": 'shift; exec "$@"',
        "search": f'[ -n "$CODE" ] && exit "$CODE"; echo $$ >pid; exec {sys.executable} -m search "$@"',
        "scontrol": "",
    }.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "{name} $*" >>told\n{does}\n')
        program.chmod(0o755)

    def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "SLURM_JOB_ID": "17",
            "SLURM_CPUS_PER_TASK": "1",
            "CODE": "",
            **variables,
        }
        (tmp_path / "told").write_text("")
        return subprocess.Popen(
            ["bash", SLURM, *arguments],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def told(folder: Path) -> list[str]:
    return (folder / "told").read_text().splitlines()


def code_of(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=60)
    return process.returncode


def test_the_job_gives_a_command_that_the_command_line_takes(slurm: Any, tmp_path: Path) -> None:
    assert code_of(slurm("--budget", "2M", CODE="0", STUDY="cifar100", HOURS="11.5")) == 0
    assert told(tmp_path)[1:] == ["search auto cifar100 --hours 11.5 --budget 2M"]
    assert_accepted(told(tmp_path)[1].split())
    hours = re.search(r"HOURS:-([\d.]+)", SLURM.read_text())
    limit = re.search(r"--time=(\d+):00:00$", SLURM.read_text(), re.M)
    warning = re.search(r"TERM@(\d+)", SLURM.read_text())
    assert hours and limit and warning  # noqa: PT018  # each is a match
    assert float(hours[1]) * 3600 <= int(limit[1]) * 3600 - int(warning[1]), "the night ends before the signal comes"


@pytest.mark.parametrize(
    ("code", "restarts", "goes_on"), [(0, 0, False), (1, 0, False), (2, 0, False), (130, 3, True), (137, 100, False)]
)
def test_a_job_that_was_stopped_goes_back_into_the_queue(
    slurm: Any, tmp_path: Path, code: int, restarts: int, goes_on: bool
) -> None:
    assert code_of(slurm(CODE=str(code), SLURM_RESTART_COUNT=str(restarts))) == code
    assert told(tmp_path)[2:] == (["scontrol requeue 17"] if goes_on else [])


@pytest.mark.long
def test_a_job_that_gets_sigterm_continues_its_night_when_it_is_started_again(slurm: Any, tmp_path: Path) -> None:
    run = RunFolder(with_few(tmp_path) / "runs" / "digits-20k")
    arguments, hours = FEW.split(), {"STUDY": "digits", "HOURS": "0.025"}
    first = slurm(*arguments, **hours)
    wait_for(run.log, "at epoch 1")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    out, _ = first.communicate(timeout=60)
    assert first.returncode == 130, out
    assert told(tmp_path)[2:] == ["scontrol requeue 17"]
    begun = until(lambda: read_night(run))
    assert begun is not None
    again = slurm(*arguments, **hours, SLURM_RESTART_COUNT="1")
    out, _ = again.communicate(timeout=240)
    night = read_night(run)
    assert night is not None
    assert night.end == begun.end, "the same night"
    assert again.returncode == 0, out
    assert told(tmp_path)[2:] == []
    assert list((run.root / "exported").glob("trial-*"))
