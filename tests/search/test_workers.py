import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search import workers
from search.errors import RunError, SpecError, UserError
from search.run_folder import RunFolder
from search.storage import parse_address
from search.study import open_study
from search.trials import ended
from search.workers import run_workers
from tests.support.postgres import PASSWORD, QUOTED, Server
from tests.support.processes import run_folder, start_anew, until, wait_for

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


def run(
    count: int, work: Callable[[], None] = no_work, gpus_each: float | None = None, address: str | None = None
) -> None:
    run_workers(count, work, gpus_each=gpus_each, poll=no_work, stop=lambda: False, address=address)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray of two nodes: one with a processor, one with two processors and what it takes for GPUs."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # Ray offers no more GPUs than are visible
        made.add_node(num_cpus=2, num_gpus=2)
    yield made.address
    made.shutdown()  # type: ignore[no-untyped-call]  # Ray's


class FakeRay:
    """One node whose tasks go on until they are cancelled."""

    def __init__(self) -> None:
        self.cancelled = 0

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 2.0}}]

    def remote(self, **_: object) -> Callable[..., Any]:
        return lambda work: SimpleNamespace(remote=lambda *_: object())

    def wait(self, running: list[object], timeout: float) -> tuple[list[object], list[object]]:
        return (running, []) if self.cancelled else ([], running)

    def cancel(self, task: object) -> None:
        self.cancelled += 1

    def get(self, task: object) -> None:
        pass

    def shutdown(self) -> None:
        pass


@pytest.mark.parametrize("asked", [True, False])
def test_a_storage_that_is_away_does_not_keep_the_workers_from_being_told(
    asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay()
    monkeypatch.setattr(workers, "_ray", lambda: ray)
    monkeypatch.setattr(workers, "_start", lambda ray, address: None)
    with nullcontext() if asked else pytest.raises(UserError):
        run_workers(2, no_work, gpus_each=0, poll=fail, stop=lambda: asked)
    assert ray.cancelled == (2 if asked else 0)


CPUS, GPUS = [{"CPU": 6.0}, {"CPU": 2.0}], [{"CPU": 64.0}, {"CPU": 4.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 2.0}]


@pytest.mark.parametrize(
    ("nodes", "count", "gpus_each", "part"),
    [
        (CPUS, 1, 0, 6),  # not the eight of all nodes, which none of them has
        (CPUS, 2, 0, 3),  # both on the larger one
        (CPUS, 5, 0, 1),
        (CPUS, 16, 0, 0.5),
        (GPUS, 4, 1, 2),  # where the GPUs are
        (GPUS, 2, 1, 4),
        (GPUS, 8, 0.5, 1),
        (GPUS, 2, 0, 32),
    ],
)
def test_each_worker_has_what_some_node_can_give(
    nodes: list[dict[str, float]], count: int, gpus_each: float, part: float
) -> None:
    assert workers._part_of(nodes, count, gpus_each) == part


def test_without_ray_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        RunError, match=r"^--workers needs Ray: pip install '\.\[ray\]' in the checkout; or .* joins the search$"
    ):
        run(2)


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_more_gpus_than_there_are_are_refused(cluster: str) -> None:
    with pytest.raises(
        SpecError, match=r"^3 workers with 1 of a GPU each need more than the 2 there are: give --gpus-per-worker 0.5$"
    ):
        run(3, gpus_each=1.0, address=cluster)


@pytest.mark.filterwarnings("ignore")
def test_what_a_worker_raises_is_raised(cluster: str) -> None:
    with pytest.raises(UserError, match=r"^this cannot be done: do something else$"):
        run(1, fail, address=cluster)


@pytest.mark.filterwarnings("ignore")
def test_each_worker_has_a_gpu_of_its_own(cluster: str, tmp_path: Path) -> None:
    def note() -> None:
        (tmp_path / os.environ["CUDA_VISIBLE_DEVICES"]).touch(exist_ok=False)

    run(2, note, gpus_each=1.0, address=cluster)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}


def test_workers_share_the_trials_and_one_that_is_killed_is_started_again(postgres: Server, tmp_path: Path) -> None:
    """And the password of the storage, which they have to learn, is in no title of theirs, and in no log."""
    url = postgres.new_database()
    sessions = set(Path("/tmp/ray").glob("session_2*"))
    process = start_anew(SEARCH, tmp_path, SEARCH_STORAGE=url)
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
    logs += [path for path in tmp_path.rglob("*") if path.is_file()]
    assert logs
    for secret in (PASSWORD, QUOTED):
        assert secret not in out + err
        assert not [title for title in titles if secret.encode() in title]
        assert not [path for path in logs if secret.encode() in path.read_bytes()]


def test_a_signal_ends_all_workers(tmp_path: Path) -> None:
    process = start_anew(f"{SEARCH} --trials 1000", tmp_path)
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
