"""The command that measures a GPU, rehearsed on the CPU: what is kept of it, and what it does when time is short."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from benchmarks import __main__, cuda_tests, gpu, gpu_sections, nvidia_mps, timed
from benchmarks.gpu import Bench
from benchmarks.gpu_sections import REHEARSAL
from benchmarks.timed import Clock, OutOfTimeError, Section, Spread
from search.terminal import console
from train_core.device import pick_precision

ROOT = Path(__file__).parents[2]
HERE = "tests.benchmarks.test_gpu"

# ------------------------------------------------------------------------- sections, run in processes of their own


def broken(bench: Bench, clock: Clock) -> Iterator[timed.Row]:
    yield {"row": 1}
    raise ValueError("this\nis broken")


def dying(bench: Bench, clock: Clock) -> Iterator[timed.Row]:
    yield {"row": 1}
    os.abort()


def few_steps(bench: Bench, clock: Clock) -> Iterator[timed.Row]:
    yield from islice(gpu_sections.steps(bench, clock), 4)


def endless(bench: Bench, clock: Clock) -> Iterator[timed.Row]:
    sleeper = subprocess.Popen(["sleep", "1000"])
    try:
        yield {"pid": sleeper.pid}
        time.sleep(1000)
    finally:
        (Path.cwd() / "cleaned up").touch()


# ------------------------------------------------------------------------------------------------------ the command


def measure(words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit code of `python -m benchmarks gpu <words>`, run in this process."""
    monkeypatch.setattr(sys, "argv", ["benchmarks", "gpu", *words.split()])
    monkeypatch.setattr(gpu, "end_on_sigterm", lambda: None)  # this process has other tests to run
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the process that others are forked from
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    return int(ended.value.code or 0)


def test_a_rehearsal_keeps_what_it_measures_whatever_becomes_of_a_section(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ours, real = f"{HERE}:", "benchmarks.gpu_sections:"
    sections = [
        Section(name="tests", measure=f"{ours}broken", needs=1, limit=20),
        Section(name="environment", measure=f"{real}environment", needs=1, limit=20),
        Section(name="packing", measure=f"{ours}dying", needs=1, limit=20),
        Section(name="search", measure=f"{ours}endless", needs=1, limit=6),
        Section(name="steps", measure=f"{ours}few_steps", needs=1, limit=60),
        Section(name="around", measure=f"{real}around", needs=1, limit=60),
        Section(name="long_run", measure=f"{ours}endless", needs=10_000, limit=20_000),
    ]
    monkeypatch.setattr(gpu, "sections", lambda cuda: sections)
    assert measure("--rehearse --minutes 2 --out gpu.json", monkeypatch) == 1  # some failed

    found = json.loads(Path("gpu.json").read_text())
    assert found["note"] == "rehearsal on a CPU: no figure here is of a GPU"
    assert found["command"] == "python -m benchmarks gpu --rehearse --minutes 2 --out gpu.json"
    assert (found["device"], found["torch"]) == ("CPU, 1 thread", torch.__version__)
    assert "made-up noise: 360 training" in found["data"]

    outcomes = found["sections"]
    assert {name: outcome["state"] for name, outcome in outcomes.items()} == {
        "tests": "failed",
        "environment": "measured",
        "packing": "failed",
        "search": "measured in part",
        "steps": "measured",
        "around": "measured",
        "long_run": "dropped",
    }
    assert outcomes["tests"]["why"] == "ValueError: this"
    assert 'raise ValueError("this\\nis broken")' in outcomes["tests"]["traceback"]
    assert outcomes["packing"]["why"] == "its process died (exit code -6)"
    assert outcomes["tests"]["rows"] == outcomes["packing"]["rows"] == [{"row": 1}]
    assert outcomes["search"]["seconds"] < 6.5
    assert (tmp_path / "cleaned up").exists()
    assert has_ended(outcomes["search"]["rows"][0]["pid"])
    assert outcomes["long_run"]["why"].endswith("s left, it needs about 10000 s")

    first = outcomes["steps"]["rows"][0]
    assert [row["network"] for row in outcomes["steps"]["rows"]] == ["A5", "B2", "small", "A5"]
    assert (first["network"], first["precision"], first["batch"]) == ("A5", "bf16", 8)
    assert first["steps"] == "eager: a capture needs CUDA"
    epoch = first["s an epoch"]
    assert (epoch["n"], len(epoch["values"])) == (2, 2)
    assert 0 < epoch["low"] <= epoch["median"] <= epoch["high"]
    assert epoch["median"] == pytest.approx(first["ms a step"]["median"] / 1000 * 50_000 / 8)
    sizes = {row["what"]: row["MB"] for row in outcomes["around"]["rows"] if "MB" in row}
    assert 1.3 < sizes["checkpoint, adamw"] / sizes["checkpoint, sgd"] < 2
    assert {row["value"] for row in outcomes["environment"]["rows"] if row["what"] == "card"} == {"needs CUDA"}

    said = capsys.readouterr().out
    assert "rehearsal on a CPU" in said
    assert "dropped: " in said
    assert "failed in" in said


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"  # one that nobody has waited for
    except (FileNotFoundError, ProcessLookupError):
        return False


def has_ended(pid: int) -> bool:
    """Whether the process ends within the time that a signal may take."""
    for _ in range(100):
        if not is_running(pid):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("no-such.npz", "gpu: there is no file no-such.npz: check the path"),
        ("cifr10", "gpu: unknown data set 'cifr10': did you mean cifar10?"),
        ("--minutes 0.5", "--minutes 0.5 is too short to begin: give at least 1"),
        ("--minutes nan", "--minutes nan is too short to begin: give at least 1"),
        ("--out no-such/gpu.json", "--out no-such/gpu.json: there is no folder no-such: make it first"),
        ("--out .", "--out . is a folder: name a file in it"),
        ("--sections step", "invalid choice: 'step'"),
    ],
)
def test_a_mistake_ends_it_in_one_line(
    words: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(f"--rehearse {words}", monkeypatch) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_other_arguments_are_the_trainers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--help"])
    with pytest.raises(SystemExit):
        __main__.main()
    assert "python -m benchmarks DATA [SECTION ...]" in capsys.readouterr().out


def test_all_sections_fit_into_an_hour_and_the_first_into_five_minutes() -> None:
    for cuda in (True, False):
        sections = gpu.sections(cuda=cuda)
        assert [section.name for section in sections] == list(gpu.TIMES)
        assert all(timed.ENDING_S < section.needs < section.limit for section in sections)
    *others, last = gpu.sections(cuda=True)
    assert last.name == "long_run"  # takes what the others leave
    assert sum(section.limit for section in others) < 15 * 60
    assert sum(section.limit for section in others[:3]) <= 5 * 60
    assert sum(section.needs for section in [*others, last]) < 10 * 60


# ----------------------------------------------------------------------------------------------------------- figures


def test_a_figure_has_its_range_and_number_beside_it() -> None:
    spread = Spread((2.034, 1.99, 2.1))
    assert str(spread) == "2.03 (1.99 to 2.1, n=3)"
    assert str(spread.times(1000)) == "2,034 (1,990 to 2,100, n=3)"
    assert spread.as_json() == {"median": 2.034, "low": 1.99, "high": 2.1, "n": 3, "values": (2.034, 1.99, 2.1)}


def test_nothing_is_begun_for_which_there_is_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(timed, "time", SimpleNamespace(monotonic=lambda: now))
    items = Clock(until=10).each("abcdefghi")
    assert next(items) == "a"
    now = 4.0
    assert next(items) == "b"  # 6 s are left, and the first took 4
    now = 7.0
    with pytest.raises(OutOfTimeError, match="after 2 of 9 measurements"):
        next(items)


@pytest.mark.parametrize(
    ("card", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 80GB HBM3", "fp32", 495e12),
        ("NVIDIA H100 PCIe", "fp16", 756e12),
        ("NVIDIA H200", "fp16", 989e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("Tesla T4", "fp16", None),
    ],
)
def test_the_peak_is_that_of_the_card_and_the_precision(card: str, precision: Any, peak: float | None) -> None:
    assert gpu_sections.peak_of(card, precision) == peak


# ---------------------------------------------------------------------------------------------------------- sections


def bench_in(folder: Path, **known: Any) -> Bench:
    return Bench(**{"data": None, "folder": folder, "cuda": False, **known})


def in_time(seconds: float = 100) -> Clock:
    return Clock(time.monotonic() + seconds)


def test_a_rehearsal_takes_a_few_images_of_each_class(tmp_path: Path) -> None:
    images = np.arange(600 * 8 * 8 * 3, dtype=np.uint8).reshape(600, 8, 8, 3)
    classes = np.array([f"class {i}" for i in range(20)])
    np.savez("own.npz", x_train=images, y_train=np.arange(600) % 20, classes=classes)
    few = gpu_sections.images_of(bench_in(tmp_path, data="own.npz"))
    data = gpu_sections.loaded(few)
    assert data.classes == tuple(classes.tolist())
    assert data.train.labels.bincount().tolist() == [20] * 20  # of 27 training images
    assert data.name == "own"
    assert gpu_sections.images_of(bench_in(tmp_path, data="own.npz", cuda=True)) == str(tmp_path / "own.npz")
    assert gpu_sections.images_of(bench_in(tmp_path, data="cifar10", cuda=True)) == "cifar10"


def test_memory_is_looked_at_after_each_trial(tmp_path: Path) -> None:
    bench = bench_in(tmp_path, source=gpu_sections.made_up(REHEARSAL, tmp_path / "noise.npz"))
    rows = list(gpu_sections.memory(bench, in_time()))
    assert [row["trial"] for row in rows] == list(range(1, 21))
    assert len({row["network"] for row in rows}) == 5
    assert {row["MiB reserved after it"] for row in rows} == {"needs CUDA"}


def test_a_row_that_fails_says_why_and_the_others_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def latency(*_: object) -> NoReturn:
        raise RuntimeError("CUDA error: out of luck\nCompile with ...")

    monkeypatch.setattr(gpu_sections, "latency", latency)
    bench = bench_in(tmp_path, source=gpu_sections.made_up(REHEARSAL, tmp_path / "noise.npz"))
    rows = list(gpu_sections.around(bench, in_time()))
    assert [row["failed"] for row in rows if row["what"] == "latency, fp32"] == [
        "RuntimeError: CUDA error: out of luck"
    ] * 3
    assert all("ms" in row for row in rows if row["what"] != "latency, fp32")


def test_a_search_and_a_long_run_of_its_best_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "quiet", False)  # restored at the end
    with pytest.raises(RuntimeError, match="measure the section `search`, too"):
        next(gpu_sections.long_run(bench_in(tmp_path), in_time()))
    noise = gpu_sections.made_up(replace(REHEARSAL, train=60, test=20), tmp_path / "noise.npz")
    bench = bench_in(tmp_path, data="as if they were real", source=noise)
    typical, *trials, all_trials = gpu_sections.search(bench, in_time())
    assert (typical["trial"], typical["precision"]) == ("typical network", pick_precision(torch.device("cpu")))
    assert (all_trials["trial"], all_trials["outcome"]) == ("all 2", "of 2")
    assert [trial["trial"] for trial in trials] == ["0", "1"]
    assert all_trials["s"] > sum(trial["s"] for trial in trials)

    monkeypatch.setattr(gpu_sections, "FULL", 4)
    pilot, long = gpu_sections.long_run(bench, in_time())
    assert (pilot["epochs"], long["epochs"]) == (3, 4)
    best = max(trials, key=lambda trial: float(trial["validation, %"]))
    assert pilot["network"] == long["network"] == best["network"]
    assert len(long["s an epoch"].values) == 3  # but the first
    assert 0 <= long["test, %"] <= 100

    late = gpu_sections.long_run(bench, in_time(0.0))
    next(late)
    with pytest.raises(OutOfTimeError, match="no time for 3 epochs"):
        next(late)


def test_only_the_tests_that_need_cuda_are_run_and_those_that_fail_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "test_made_up.py"
    file.write_text("""
import pytest
needs_cuda = pytest.mark.skipif(False, reason="needs a CUDA device")

def test_other():
    raise AssertionError("is not to be run")

@needs_cuda
@pytest.mark.parametrize("given", [1, 2])
def test_it(given):
    assert given == 1, "not one"

@pytest.mark.skipif(True, reason="needs an NVIDIA GPU")
def test_there():
    pass

@pytest.fixture
def broken():
    raise OSError("no room")

@needs_cuda
def test_set_up(broken):
    pass
""")
    monkeypatch.setattr(cuda_tests, "files", lambda: [file])
    rows = list(gpu_sections.tests(bench_in(tmp_path, cuda=True), in_time()))
    counted, *failed = rows
    assert counted == {"test": "all that need CUDA", "passed": 1, "failed": 2, "skipped": 1}
    assert [(row["test"].partition("::")[2], row["why"]) for row in failed] == [
        ("test_it[2]", "AssertionError: not one"),
        ("test_set_up", "OSError: no room"),
    ]


def test_the_tests_that_need_cuda_are_found() -> None:
    assert {"test_step.py", "test_augment.py"} <= {path.name for path in cuda_tests.files()}
    assert Path(__file__) not in cuda_tests.files()


def test_tests_that_cannot_be_run_are_a_failure_of_the_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", "python", "echo; echo nothing here; exit 4", monkeypatch)
    monkeypatch.setattr(sys, "executable", "python")
    section = gpu_sections.tests(bench_in(tmp_path, cuda=True), in_time())
    assert next(section) == {"test": "all that need CUDA", "passed": 0, "failed": 0, "skipped": 0}
    with pytest.raises(RuntimeError, match="pytest ended with exit code 4: nothing here"):
        next(section)


# -------------------------------------------------------------------------------------------------------- the card


def program(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program of this name first in the path."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_the_card_and_its_driver_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (78 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=132))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    answer = "echo '570.86.15, Default, Disabled, 1980 MHz, 700.00 W'"
    program(tmp_path / "bin", "nvidia-smi", answer, monkeypatch)
    card = gpu_sections._card()
    assert card["card"] == "NVIDIA H100 80GB HBM3"
    assert card["of it free, GiB"] == 78
    assert (card["driver_version"], card["compute_mode"]) == ("570.86.15", "Default")
    program(tmp_path / "bin", "nvidia-smi", "exit 9", monkeypatch)
    assert "exit status 9" in str(gpu_sections._card()["nvidia-smi"])


SERVICE = """
folder=$CUDA_MPS_PIPE_DIRECTORY
echo "$*" >> $folder/asked
if [ "$1" = -d ]; then sleep 100 > /dev/null 2>&1 & echo $! > $folder/nvidia-cuda-mps-control.pid; exit; fi
read command
echo $command >> $folder/asked
case $command in
  get_server_list) echo 4711;;
  quit) kill $(cat $folder/nvidia-cuda-mps-control.pid);;
esac
"""


def test_nvidias_service_runs_in_a_folder_of_its_own_and_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", nvidia_mps.CONTROL, SERVICE, monkeypatch)
    folder = tmp_path / "mps"
    assert nvidia_mps.is_installed()
    with nvidia_mps.running(folder):
        pid = int((folder / f"{nvidia_mps.CONTROL}.pid").read_text())
        assert is_running(pid)
        assert os.environ["CUDA_MPS_PIPE_DIRECTORY"] == os.environ["CUDA_MPS_LOG_DIRECTORY"] == str(folder)
        assert nvidia_mps.is_used(folder)
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
    assert has_ended(pid)
    nvidia_mps.stop(folder)  # once is enough
    assert (folder / "asked").read_text().split() == ["-d", "get_server_list", "quit"]


def test_a_service_that_does_not_quit_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", nvidia_mps.CONTROL, SERVICE.replace("quit) kill", "quit) sleep 3; kill"), monkeypatch)
    monkeypatch.setattr(nvidia_mps, "TIMEOUT_S", 1.0)
    with nvidia_mps.running(tmp_path / "mps"):
        pid = int((tmp_path / "mps" / f"{nvidia_mps.CONTROL}.pid").read_text())
    assert has_ended(pid)


def test_a_service_that_cannot_be_started_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", nvidia_mps.CONTROL, "exit 3", monkeypatch)
    with pytest.raises(RuntimeError, match="could not be started"), nvidia_mps.running(tmp_path / "mps"):
        pass
    assert not nvidia_mps.is_used(tmp_path / "mps")
