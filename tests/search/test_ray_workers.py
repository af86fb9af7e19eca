import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from optuna.trial import TrialState

from search import full_runs, opening, ray_workers, searching
from search.errors import RunError, SpecError, UserError
from search.identity import open_study
from search.ray_workers import run_workers
from search.run_folder import RunFolder
from search.session import Session, load
from search.spec import StudySpec
from search.storage import parse_address
from tests.support.commands import search
from tests.support.postgres import PASSWORD, QUOTED, Server
from tests.support.processes import FEW, SHORT, run_folder, start, wait_for, with_few
from tests.support.runs import ended, finished_run


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


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray's workers do is done without torch, which takes seconds to import."""
    monkeypatch.setattr(ray_workers, "_with_threads", lambda work, threads: work())


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

    def remote(self, *, num_gpus: float, **_: object) -> Callable[..., Any]:
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
    monkeypatch.setattr(ray_workers, "_ray", lambda: ray)
    monkeypatch.setattr(ray_workers, "_start", lambda ray, address: None)
    with nullcontext() if asked else pytest.raises(UserError):
        run_workers(2, no_work, gpus_each=0, poll=fail, stop=lambda: asked)
    assert ray.cancelled == (2 if asked else 0)


class GpuRay(FakeRay):
    """One node with one GPU, as Ray finds it; what it is asked to do has ended at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        monkeypatch.setattr(ray_workers, "_ray", lambda: self)
        self.seen: list[str | None] = []  # what it saw of CUDA_VISIBLE_DEVICES, at each start
        self.asked: list[float] = []  # the share of a GPU for each worker, at each start
        self.devices: list[str] = []  # that the workers were told to train on

    def init(self, **_: object) -> None:
        self.seen.append(os.environ.get("CUDA_VISIBLE_DEVICES"))

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}]

    def remote(self, *, num_gpus: float, **_: object) -> Callable[..., Any]:
        self.asked.append(num_gpus)

        def begin(work: Any, threads: int) -> object:
            self.devices += [each for each in getattr(work, "args", ()) if isinstance(each, str)]
            return object()

        return lambda _: SimpleNamespace(remote=begin)

    def wait(self, running: list[object], timeout: float) -> tuple[list[object], list[object]]:
        return running, []


@pytest.mark.parametrize(
    ("gpu", "visible", "seen"),
    [
        (1, None, "1"),
        (1, "2,3", "3"),  # of those that this process sees
        (1, "GPU-1f3a, GPU-8c2b", "GPU-8c2b"),
        (0, "", ""),
        (None, None, None),
        (None, "2,3", "2,3"),
    ],
)
def test_ray_sees_the_gpu_that_was_chosen_and_no_other(
    gpu: int | None, visible: str | None, seen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    ray = GpuRay(monkeypatch)
    run_workers(2, no_work, gpus_each=None, poll=no_work, stop=lambda: False, gpu=gpu)
    assert ray.seen == [seen]
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
    assert ray.asked == [0.5]


@pytest.mark.filterwarnings("ignore")
def test_workers_on_one_gpu_of_two_are_all_on_that_one(
    tmp_path: Path, without_torch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real Ray, to which the driver of a machine with two GPUs is played."""
    from ray._private.accelerators import NvidiaGPUAcceleratorManager

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(NvidiaGPUAcceleratorManager, "get_current_node_num_accelerators", lambda: 2)

    def note() -> None:
        (tmp_path / str(os.getpid())).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        time.sleep(1)  # so that each of the two is begun in a process of its own

    run_workers(2, note, gpus_each=None, poll=no_work, stop=lambda: False, gpu=1)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["1", "1"]


@pytest.fixture
def second_gpu(monkeypatch: pytest.MonkeyPatch) -> GpuRay:
    """A machine with two GPUs, of which the second was chosen."""

    def session(spec: StudySpec, device: str, progress: object) -> Session:
        assert device == "cuda:1"
        return Session(device=torch.device(device), precision="fp32", data=load(spec))

    for module in (opening, full_runs):
        monkeypatch.setattr(module, "open_session", session)
    monkeypatch.setattr(searching, "estimate", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return GpuRay(monkeypatch)


@pytest.mark.parametrize(
    "command",
    [
        "run digits --trials 6 --name few",
        "promote few --top 3 --epochs 7",
        "fidelity few --trials 4 --epochs 7",
    ],
)
def test_each_command_shares_the_gpu_that_was_chosen_and_names_a_flag_that_it_has(
    command: str, second_gpu: GpuRay, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run("few", 4)
    monkeypatch.setattr(full_runs.FullTrainer, "train", no_training)
    command += " --device cuda:1 --workers 3"
    code, out, err = search(f"{command} --gpus-per-worker 0.5", capsys, monkeypatch)
    advice = "--gpus-per-worker 0.333"
    assert (code, err) == (
        2,
        f"search: 3 workers with 0.5 of a GPU each need more than the 1 there are: give {advice}\n",
    )
    assert "GPU 1" in out
    assert "trains on all" not in out  # of the GPUs: one was chosen

    search(f"{command} {advice}", capsys, monkeypatch)
    search(command, capsys, monkeypatch)
    assert second_gpu.asked == [pytest.approx(1 / 3, abs=0.001)] * 2
    assert second_gpu.seen == ["1"] * 3
    assert second_gpu.devices == ["cuda"] * 6  # the only one that they see


def no_training(*_: object, **__: object) -> None:
    """What trains one by one when the workers have trained ahead."""
    raise UserError("enough")


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
    assert ray_workers._cpu_share(nodes, count, gpus_each) == part


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
def test_what_a_worker_raises_is_raised(cluster: str, without_torch: None) -> None:
    def fail() -> None:  # sent to the worker as it is; what a module holds, it would import, and torch with it
        from search.errors import UserError

        raise UserError("this cannot be done: do something else")

    with pytest.raises(UserError, match=r"^this cannot be done: do something else$"):
        run(1, fail, address=cluster)


@pytest.mark.filterwarnings("ignore")
def test_each_worker_has_a_gpu_of_its_own(cluster: str, without_torch: None, tmp_path: Path) -> None:
    def note() -> None:
        (tmp_path / os.environ["CUDA_VISIBLE_DEVICES"]).touch(exist_ok=False)

    run(2, note, gpus_each=1.0, address=cluster)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}


@pytest.mark.long
def test_workers_share_the_trials_and_each_that_is_killed_or_faults_is_started_again(
    postgres: Server, tmp_path: Path
) -> None:
    """The log says why. And the storage's password, which workers have to learn, is in no title of theirs, no log."""
    url, folder = postgres.new_database(), run_folder(tmp_path)
    sessions = set(Path("/tmp/ray").glob("session_2*"))
    process = start(f"run digits {FEW} --trials 6 --epochs 12 --workers 2", with_few(tmp_path), SEARCH_STORAGE=url)
    wait_for(folder.log, "trial 1  ")  # an epoch
    titles = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    (line, *_) = [line for line in folder.log.read_text().splitlines() if "trial 1  " in line]
    faulty = int(line.split()[2])
    os.kill(faulty, signal.SIGSEGV)
    (other,) = set(worker_processes(tmp_path)) - {faulty}
    os.kill(other, signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "; 2 workers" in out
    assert len(re.findall(r"^ *[1-6]/6 ", out, re.M)) == 6
    assert "  trial 1 ended its process (segmentation fault): it is run again\n" in folder.log.read_text()
    study = open_study(RunFolder(folder.root, parse_address(url)))
    assert study.trials[1].user_attrs["reason"] == "ended its process (segmentation fault)"
    assert len(ended(study)) == 6
    assert all(trial.state.is_finished() for trial in study.trials)
    trained_by = {trial.user_attrs["worker"] for trial in study.trials}
    assert len(trained_by) == 4  # processes
    ours = set(Path("/tmp/ray").glob("session_2*")) - sessions
    logs = [path for session in ours for path in (session / "logs").rglob("*") if path.is_file()]
    logs += [path for path in tmp_path.rglob("*") if path.is_file()]
    assert logs
    for secret in (PASSWORD, QUOTED):
        assert secret not in out + err
        assert not [title for title in titles if secret.encode() in title]
        assert not [path for path in logs if secret.encode() in path.read_bytes()]


@pytest.mark.long
def test_a_signal_ends_all_workers(tmp_path: Path) -> None:
    process = start(f"{SHORT} --trials 1000 --workers 2", with_few(tmp_path))
    wait_for(run_folder(tmp_path).log, "trial 1  ")
    processes = worker_processes(tmp_path)
    assert len(processes) == 2
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err.endswith("search: interrupted; run the same command to continue\n")
    # What the search was to begin with may still wait.
    states = {trial.state for trial in open_study(run_folder(tmp_path)).trials}
    assert not {state for state in states if not state.is_finished()} - {TrialState.WAITING}
    limit = time.monotonic() + 30
    while any(Path(f"/proc/{number}").exists() for number in processes):
        assert time.monotonic() < limit
        time.sleep(0.1)
