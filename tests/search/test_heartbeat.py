"""Who is taken for dead: by locks on this machine, by beats elsewhere."""

import contextlib
import faulthandler
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from filelock import FileLock
from optuna.trial import TrialState

from search import heartbeat
from search.errors import RunError
from search.heartbeat import BEAT, LEASE_S, Watch, Worker
from search.run_folder import RunFolder
from search.storage import Address
from search.trials import DIED, KILLED, TrialRecord
from tests.support.processes import until

SHARED = Address("postgresql+psycopg://db/s")


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study()


def made(path: Path, storage: Address | None = None) -> RunFolder:
    folder = RunFolder(path, storage)
    folder.create()
    return folder


def running(study: optuna.Study, worker: str | None, beat: int | None = None) -> TrialRecord:
    trial = study.ask()
    if worker is not None:
        trial.set_user_attr("worker", worker)
    if beat is not None:
        study._storage.set_trial_system_attr(trial._trial_id, BEAT, beat)
    return TrialRecord(study.trials[-1])


def beating(study: optuna.Study, trial: TrialRecord, beat: int) -> TrialRecord:
    study._storage.set_trial_system_attr(trial.optuna._trial_id, BEAT, beat)
    return TrialRecord(study.trials[trial.number])


def test_on_one_machine_a_worker_is_dead_as_soon_as_its_lock_is_free(tmp_path: Path, study: optuna.Study) -> None:
    folder = made(tmp_path / "run")
    with Worker(folder, study) as worker:
        assert not worker.is_dead(running(study, worker.id))
        assert worker.is_dead(running(study, None))  # it never came so far
        assert worker.is_dead(running(study, "gone"))
        lock = folder.worker_lock("other", heartbeat._kernel())
        with FileLock(lock):
            assert not worker.is_dead(running(study, "other"))
            assert worker.others() == {"other"}
        assert worker.is_dead(running(study, "other"))
        assert worker.others() == set()
    assert folder.workers() == {}


def test_sqlite_is_refused_on_a_second_machine(tmp_path: Path, study: optuna.Study) -> None:
    folder = made(tmp_path / "run")
    refused = pytest.raises(
        RunError,
        match=r"^node7, on another machine, searches in .*run, where SQLite is .*: give .*--storage",
    )
    with FileLock(folder.worker_lock("node7", "another-kernel")), refused, Worker(folder, study):
        pass
    with Worker(folder, study):
        assert len(folder.workers()) == 1


def test_elsewhere_a_worker_is_dead_when_its_beat_stays_the_same(tmp_path: Path, study: optuna.Study) -> None:
    folder = made(tmp_path / "run", SHARED)
    worker = Worker(folder, study)  # not begun: the test looks at its own times
    trial = running(study, "elsewhere", beat=1)
    assert not worker.is_dead(trial)
    with FileLock(folder.worker_lock("here", heartbeat._kernel())):
        assert not worker.is_dead(running(study, "here"))
    assert worker.is_dead(running(study, "here"))  # its lock can be seen, and is free


def test_a_beat_that_changes_is_a_sign_of_life_and_one_that_does_not_is_none(study: optuna.Study) -> None:
    watch = Watch()
    steady, silent, never = (running(study, name, beat) for name, beat in (("a", 1), ("b", 5), ("c", None)))
    now, step = 1000.0, LEASE_S / 6
    for look in range(8):
        steady = beating(study, steady, look)
        watch.look([steady, silent, never], now)
        assert not watch.is_silent(steady, now)
        assert watch.is_silent(silent, now) == watch.is_silent(never, now) == (look * step > LEASE_S)
        now += step


def test_who_could_not_look_for_a_while_begins_to_watch_anew(study: optuna.Study) -> None:
    watch = Watch()
    trial = running(study, "elsewhere", 1)
    watch.look([trial], 0.0)
    assert not watch.is_silent(trial, 2 * LEASE_S)  # the storage was gone, for the others, too
    watch.look([trial], 2 * LEASE_S)
    assert not watch.is_silent(trial, 2 * LEASE_S)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGSEGV, "ended its process (segmentation fault)"),
        (signal.SIGABRT, "ended its process (abort)"),
        (signal.SIGBUS, "ended its process (bus error)"),
        (signal.SIGILL, "ended its process (illegal instruction)"),
        (signal.SIGFPE, "ended its process (floating-point exception)"),
        (signal.SIGKILL, KILLED),
    ],
)
def test_a_trace_names_the_signal_that_ended_the_process(
    number: signal.Signals, reason: str, tmp_path: Path, study: optuna.Study
) -> None:
    folder = made(tmp_path / "run")
    code = (
        "import faulthandler, os, sys; file = open(sys.argv[1], 'wb'); faulthandler.enable(file);"
        "os.kill(os.getpid(), int(sys.argv[2]))"
    )
    ended = subprocess.run([sys.executable, "-c", code, folder.worker_trace("other"), str(number.value)], check=False)
    assert ended.returncode == -number
    worker = Worker(folder, study)
    assert worker.how_died(running(study, "other")) == reason
    assert worker.how_died(running(study, "elsewhere")) == DIED
    assert worker.how_died(running(study, None)) == DIED


def test_a_trace_that_names_no_fault_explains_nothing(tmp_path: Path, study: optuna.Study) -> None:
    folder = made(tmp_path / "run")
    folder.worker_trace("other").write_bytes(b"\xff no trace of Python's")
    assert Worker(folder, study).how_died(running(study, "other")) == DIED


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("error", [None, OSError("the storage is gone")])
def test_a_worker_has_a_trace_file_until_it_ends(
    enabled: bool, error: Exception | None, tmp_path: Path, study: optuna.Study
) -> None:
    folder = made(tmp_path / "run")
    before = faulthandler.is_enabled()
    try:
        faulthandler.enable(2) if enabled else faulthandler.disable()
        with contextlib.suppress(OSError), Worker(folder, study) as worker:
            assert folder.worker_trace(worker.id).read_bytes() == b""
            assert faulthandler.is_enabled()
            if error:
                raise error
        assert not folder.worker_trace(worker.id).exists()
        assert faulthandler.is_enabled() == enabled
    finally:
        faulthandler.enable(2) if before else faulthandler.disable()


def once_failing(do: Callable[..., None]) -> Callable[..., None]:
    """The same, but that the first call fails as where a storage is away."""
    errors = iter([ConnectionError("gone")])

    def call(*arguments: object) -> None:
        for error in errors:
            raise error
        do(*arguments)

    return call


def test_a_worker_beats_while_it_has_a_trial(
    tmp_path: Path, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "LEASE_S", 0.06)
    folder = made(tmp_path / "run", SHARED)
    trial = study.ask()
    with Worker(folder, study) as worker:
        worker.has(trial._trial_id)
        assert until(lambda: study.trials[0].system_attrs.get(BEAT, 0) >= 3)
        monkeypatch.setattr(study._storage, "set_trial_system_attr", once_failing(study._storage.set_trial_system_attr))
        beats = study.trials[0].system_attrs[BEAT]
        assert until(lambda: study.trials[0].system_attrs[BEAT] >= beats + 3)
        study.tell(trial, state=TrialState.FAIL)  # by another worker: the thread bears it
        other = study.ask()
        worker.has(other._trial_id)
        assert until(lambda: study.trials[1].system_attrs.get(BEAT, 0) >= 3)
