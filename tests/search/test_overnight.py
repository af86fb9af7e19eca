"""`search auto`: how its time is given, and a real night that is killed twice."""

import json
import os
import re
import time
from datetime import datetime
from pathlib import Path

import pytest
import torch

from search import api, full_runs, night, session
from search.errors import SpecError
from search.night import Kept, read_night
from search.overnight import Time, auto
from search.promotions import finished
from search.run_folder import RunFolder, RunRef
from search.session import Placement
from search.spec import load_study
from tests.support.commands import search
from tests.support.processes import FEW, start, wait_for, with_few

NOW = datetime(2026, 11, 27, 22, 30).timestamp()


@pytest.mark.parametrize(
    ("given", "end"),
    [
        (Time(hours=8), datetime(2026, 11, 28, 6, 30)),
        (Time(minutes=0.5), datetime(2026, 11, 27, 22, 30, 30)),
        (Time(until="08:00"), datetime(2026, 11, 28, 8)),
        (Time(until="23:15"), datetime(2026, 11, 27, 23, 15)),
        (Time(until="2026-11-29 07:00"), datetime(2026, 11, 29, 7)),
    ],
)
def test_the_end_of_a_night(given: Time, end: datetime) -> None:
    assert given.end(NOW) == end.timestamp()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Time(), "say how long it may take: give one of --hours 8, --minutes 30 and --until 08:00"),
        (Time(hours=8, until="08:00"), "give one of"),
        (Time(hours=0), "--hours 0: give a time of more than 0"),
        (Time(hours=1e9), "--hours 1000000000.0: give a time of more than 0, and of a month at most"),
        (Time(minutes=float("nan")), "--minutes nan: give a time of more than 0"),
        (Time(minutes=-3), "--minutes -3: give a time of more than 0"),
        (Time(until="2026-11-27 08:00"), "--until 2026-11-27 08:00 has passed: give a later time"),
        (Time(until="eight"), "--until eight: give a time of day as 08:00"),
    ],
)
def test_a_time_that_is_none(given: Time, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        given.end(NOW)


def test_a_time_too_short_says_what_would_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = search("auto digits --minutes 0.05", capsys, monkeypatch)
    assert code == 2
    assert re.fullmatch(
        r"search: --minutes 0\.05 is too short: an epoch takes about [\d.]+ (s|ms) here\. Give at least --minutes 1, "
        r"a smaller --budget, or a faster --device\n",
        err,
    ), err
    assert not (tmp_path / "runs").exists()


def test_a_damaged_file_of_the_night_is_none(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert read_night(folder) is None
    folder.night.write_text('{"asked": "--hours')
    assert read_night(folder) is None
    folder.night.write_text(Kept(asked="--hours 8", end=NOW).model_dump_json())
    assert read_night(folder) == Kept(asked="--hours 8", end=NOW)


def test_a_night_that_ends_between_two_rungs_tests_its_best_and_exports_it_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(with_few(tmp_path))
    ref, flags = RunRef("digits-20k"), {"data": "few.npz", "trials": 4, "epochs": 1}
    folder = api.run("digits", flags, ref, Placement(device="cpu"))
    full_runs.fidelity(ref, Placement(device="cpu"), trials=4, epochs=2)  # as on a rung: the test split is not read
    assert [run.tested for run in finished(folder)] == [False] * 4
    monkeypatch.setattr(night, "conduct", lambda *_: None)
    flags = {"data": "few.npz", "epochs": 1}
    assert auto("digits", flags, ref, Placement(device="cpu"), Time(minutes=5)).root == folder.root
    assert sorted(run.tested for run in finished(folder)) == [False, False, False, True]
    (best,) = [run for run in finished(folder) if run.tested]
    (model,) = (folder.root / "exported").glob("trial-*.onnx")
    assert model.name == f"trial-{best.trial:04}-epochs-2-seed-0.onnx"
    assert best.test_accuracy is not None
    assert f"{100 * best.test_accuracy:.2f} %" in Path(f"{model}.md").read_text()


@pytest.mark.parametrize(
    ("device", "gpus", "mps", "ray", "workers"),
    [
        ("cuda", 4, False, True, 4),
        ("cuda", 4, True, True, 8),
        ("cuda:1", 4, False, True, 1),
        ("cuda:1", 4, True, True, 2),
        ("cuda", 4, False, False, 1),
        ("cpu", 0, True, True, 1),
    ],
)
def test_as_many_workers_start_as_train_more_than_one(
    device: str, gpus: int, mps: bool, ray: bool, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "pick_device", torch.device)
    monkeypatch.setattr(session, "find_spec", lambda name: name if ray else None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    if mps:
        (tmp_path / "nvidia-cuda-mps-control.pid").write_text(f"{os.getpid()}\n")
    assert session.worth_starting(device) == workers


@pytest.mark.parametrize("left_behind", ["", "no number", "4194305"])  # above the largest process number
def test_an_mps_that_has_ended_does_not_run(left_behind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert not session.mps_is_running()
    (tmp_path / "nvidia-cuda-mps-control.pid").write_text(left_behind)
    assert not session.mps_is_running()


@pytest.mark.long
def test_a_night_of_two_workers_ends_in_time_with_tested_full_runs(tmp_path: Path) -> None:
    folder = with_few(tmp_path)
    process = start(f"auto digits {FEW} --minutes 3 --workers 2", folder)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    run = RunFolder(folder / "runs" / "digits-20k")
    runs = finished(run)
    assert len(runs) >= 2
    assert all(each.tested for each in runs)
    assert out.count("is trained") >= 2
    processes = set(re.findall(r"^\S+ \S+ +(\d+) +trial \d+.* epoch \d+", run.log.read_text(), re.MULTILINE))
    assert len(processes) >= 2
    assert list((run.root / "exported").glob("trial-*.onnx"))


@pytest.mark.long
def test_a_night_that_is_killed_twice_ends_in_time_with_a_model_and_a_report(tmp_path: Path) -> None:
    folder = with_few(tmp_path)
    command = f"auto digits {FEW} --minutes 1.5"
    run = RunFolder(folder / "runs" / "digits-20k")
    began = time.time()
    process = start(command, folder)
    wait_for(run.log, "epoch 2")
    process.kill()
    process.communicate()
    begun = read_night(run)
    assert begun is not None
    assert 90 <= begun.end - began <= 180  # from when the command was given, which has to start first
    process = start(command, folder)
    wait_for(run.log, "seed 0  epoch ")
    process.kill()
    process.communicate()
    process = start(command, folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    night = read_night(run)
    assert night is not None
    assert night.done
    assert night.end == begun.end
    assert time.time() <= night.end + 1
    best = [each for each in finished(run) if each.test_accuracy is not None]
    assert best
    assert "model so far: runs/digits-20k/exported/trial-" in out
    assert list((run.root / "exported").glob("trial-*"))
    assert run.report.exists()
    # Fewer, where the machine has become slower since.
    assert 3 <= best[0].recipe.epochs <= load_study(str(run.study_file), {}).promote.epochs
    assert json.loads(run.night.read_text())["asked"] == "--minutes 1.5"
