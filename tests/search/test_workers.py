import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.postgres import PASSWORD, QUOTED, Server
from search.errors import RunError, SpecError, UserError
from search.run_folder import RunFolder
from search.storage import parse_address
from search.study import open_study
from search.trials import ended
from search.workers import run_workers
from tests.search.processes import run_folder, start, until, wait_for

SEARCH = "run digits --trials 6 --epochs 2 --workers 2"


def worker_processes(folder: Path) -> list[int]:
    """The processes in which Ray does work for a command that was started in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::_with_threads" in (process / "cmdline").read_bytes() and (process / "cwd").readlink() == folder:
                found.append(int(process.name))
        except OSError:  # it has ended
            continue
    return found


def no_work() -> None:
    pass


def fail() -> None:
    raise UserError("this cannot be done: do something else")


def run(count: int, work: Callable[[], None] = no_work, gpus_each: float | None = None) -> None:
    run_workers(count, work, gpus_each=gpus_each, poll=no_work, stop=lambda: False)


def test_without_ray_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        RunError, match=r"^--workers needs Ray: pip install '\.\[ray\]' in the checkout; or .* joins the search$"
    ):
        run(2)


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_more_gpus_than_there_are_are_refused() -> None:
    with pytest.raises(
        SpecError, match=r"^2 workers with 1 of a GPU each need more than the 0 there are: give --gpus-per-worker 0$"
    ):
        run(2, gpus_each=1.0)


@pytest.mark.filterwarnings("ignore")
def test_what_a_worker_raises_is_raised() -> None:
    with pytest.raises(UserError, match=r"^this cannot be done: do something else$"):
        run(1, fail)


def test_workers_share_the_trials_and_one_that_is_killed_is_started_again(postgres: Server, tmp_path: Path) -> None:
    """And the password of the storage, which they have to learn, is in no title of theirs, and in no log."""
    url = postgres.new_database()
    sessions = set(Path("/tmp/ray").glob("session_2*"))
    process = start(SEARCH, tmp_path, SEARCH_STORAGE=url)
    wait_for(run_folder(tmp_path).log, "trial 1  ")
    titles = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    os.kill(until(lambda: worker_processes(tmp_path))[0], signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "; 2 workers" in out
    assert sum(" trial " in line and "/6  " in line for line in out.splitlines()) == 6
    study = open_study(RunFolder(run_folder(tmp_path).root, parse_address(url)))
    assert len(ended(study)) == 6
    assert all(trial.state.is_finished() for trial in study.trials)
    ours = set(Path("/tmp/ray").glob("session_2*")) - sessions
    logs = [path for session in ours for path in (session / "logs").rglob("*") if path.is_file()]
    assert logs
    for secret in (PASSWORD, QUOTED):
        assert secret not in out + err
        assert not [title for title in titles if secret.encode() in title]
        assert not [path for path in logs if secret.encode() in path.read_bytes()]


def test_a_signal_ends_all_workers(tmp_path: Path) -> None:
    process = start(f"{SEARCH} --trials 1000", tmp_path)
    wait_for(run_folder(tmp_path).log, "trial 1  ")
    processes = worker_processes(tmp_path)
    assert len(processes) == 2
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err.endswith("search: interrupted; the same command continues where it stopped\n")
    assert all(trial.state.is_finished() for trial in open_study(run_folder(tmp_path)).trials)
    limit = time.monotonic() + 30
    while any(Path(f"/proc/{number}").exists() for number in processes):
        assert time.monotonic() < limit
        time.sleep(0.1)
