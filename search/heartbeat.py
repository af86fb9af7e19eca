"""The processes that search in a run: which of them are alive, and how they avoid conflicts."""

import faulthandler
import logging
import os
import platform
import re
import secrets
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.trial import TrialState

from search.errors import RunError
from search.optuna_access import storage_of, study_id, trial_id
from search.run_folder import LOOK_S, RunFolder, is_held
from search.storage import RetryingStorage
from search.trials import DIED, FAULTED, KILLED, TrialRecord, records

LEASE_S = float(os.environ.get("SEARCH_LEASE_S", "60"))
"""Seconds without a new heartbeat after which a worker on another machine is presumed dead."""
BEAT = "beat"  # system attribute of a trial: a number that its worker increases

FAULTS = {
    "Segmentation fault": "segmentation fault",
    "Aborted": "abort",
    "Bus error": "bus error",
    "Illegal instruction": "illegal instruction",
    "Floating-point exception": "floating-point exception",
    "Floating point exception": "floating-point exception",  # in older Pythons
}
"""The fatal signals that Python traces, by the names in the trace."""

log = logging.getLogger(__name__)


def _kernel() -> str:
    """An id of the system; file locks are visible only to processes of the same system."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip()[:8] if boot.exists() else platform.node()


class Worker:
    """One of the processes that search in a run, while the context lasts.

    It holds a lock in the run folder, which the system frees when the process dies, however it dies. So workers on one
    machine know about each other at once. If the storage is shared, it also increases a number in its trial, the
    heartbeat, from a separate thread that a failing storage does not end. A worker elsewhere is presumed dead when its
    heartbeat has not changed for `LEASE_S` on the observer's own clock. No two clocks are compared.

    If a fatal signal ends the process, Python writes a stack trace to a file beside the lock, which tells other workers
    what happened (`how_died`).
    """

    def __init__(self, folder: RunFolder, study: optuna.Study) -> None:
        self.id = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._folder = folder
        self._study = study
        self._is_shared = folder.address.is_shared
        self._lock = FileLock(folder.worker_lock(self.id, _kernel()), timeout=LOOK_S)
        self._traced = ExitStack()
        self._trial_id: int | None = None
        self._watch = Watch()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True, name="beat")

    def __enter__(self) -> "Worker":
        if not self._is_shared and (
            elsewhere := [name for name, kernel in self._folder.workers().items() if kernel != _kernel()]
        ):
            raise RunError(
                f"{elsewhere[0]}, on another machine, searches in {self._folder.root}, where SQLite "
                "is for one machine: give all of them the same --storage, and another --name"
            )
        self._lock.acquire()
        self._traced.enter_context(_traced_to(self._folder.worker_trace(self.id)))
        if self._is_shared:
            self._thread.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._ended.set()
        if self._is_shared:
            self._thread.join()
        self._traced.close()
        self._lock.release()
        if error is None:
            # Otherwise it may have left a trial behind, as when the storage fails: the free lock shows this at once.
            Path(self._lock.lock_file).unlink(missing_ok=True)

    def alone(self) -> AbstractContextManager[object]:
        """Keep other workers out of this context, if the storage itself does not keep order.

        SQLite hands the same enqueued trial to several workers. Other storages do not, and need no lock.
        """
        return nullcontext() if self._is_shared else self._folder.alone()

    def has(self, trial_id: int | None) -> None:
        """Record which trial this worker has, if any."""
        self._trial_id = trial_id

    def is_dead(self, trial: TrialRecord) -> bool:
        """Whether the worker that has the running `trial` has died."""
        name = trial.worker
        if name == self.id:
            return False
        lock = self._folder.worker_lock(name, _kernel()) if name else None
        if lock is not None and lock.exists():
            return not is_held(lock)
        # Without a lock here, it never recorded its trial, or has ended, or is on another machine.
        return not self._is_shared or self._watch.is_silent(trial, time.monotonic())

    def how_died(self, trial: TrialRecord) -> str:
        """How the worker of `trial` died, as the reason why the trial ended.

        DIED if its trace cannot be found: its run folder is another one, or an error of its own ended it.
        """
        if (name := trial.worker) is None:
            return DIED
        try:
            trace = self._folder.worker_trace(name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return DIED
        if not trace:
            return KILLED
        found = re.match(r"Fatal Python error: (.+)", trace)
        fault = FAULTS.get(found[1]) if found else None
        return f"{FAULTED} ({fault})" if fault else DIED

    def others(self) -> set[str]:
        """The other workers of the run that are alive, as far as this process can see."""
        names = set(self._folder.workers())
        if self._is_shared:
            running = records(self._study, TrialState.RUNNING)
            names |= {trial.worker for trial in running if trial.worker is not None}
        return names - {self.id}

    def _live(self) -> None:
        """Send heartbeats, and watch those of others, until the context ends."""
        retrying = storage_of(self._study)
        storage = retrying.storage if isinstance(retrying, RetryingStorage) else retrying
        beats = 0
        while not self._ended.wait(LEASE_S / 6):
            beats += 1
            try:
                if (trial_id := self._trial_id) is not None:
                    storage.set_trial_system_attr(trial_id, BEAT, beats)
                states = (TrialState.RUNNING,)
                running = storage.get_all_trials(study_id(self._study), deepcopy=False, states=states)
                self._watch.look(map(TrialRecord, running), time.monotonic())
            except optuna.exceptions.UpdateFinishedTrialError:
                pass  # the thread that trains it will notice
            except Exception as error:  # noqa: BLE001  # it may be temporary; if not, the training thread raises it
                log.debug("no beat: %s", type(error).__name__)


def is_alive_elsewhere(study: optuna.Study, folder: RunFolder) -> str | None:
    """The name of a worker on another machine that is alive in a study of a shared storage; None if there is none.

    Running trials whose workers are unknown here are watched: their workers are alive if a heartbeat changes, and dead
    if none has changed for `LEASE_S`, or if the process of the trial was on this machine and its lock is free.
    """

    def beats() -> dict[int, tuple[str, int | None]]:
        running = [trial for trial in records(study, TrialState.RUNNING) if not _died_here(trial, folder)]
        return {trial_id(trial): (trial.worker or "a worker", _beat(trial)) for trial in running}

    before, until = beats(), time.monotonic() + LEASE_S
    while before and time.monotonic() < until:
        time.sleep(min(1.0, LEASE_S / 20))
        now = beats()
        for trial, (worker, beat) in now.items():
            if trial not in before or before[trial][1] != beat:
                return worker
        if before.keys() - now.keys():  # one of them has ended its trial, and may start the next
            return before[min(before.keys() - now.keys())][0]
    return None


def _died_here(trial: TrialRecord, folder: RunFolder) -> bool:
    """Whether the trial's worker was on this machine, and has died."""
    lock = folder.worker_lock(trial.worker, _kernel()) if trial.worker else None
    return lock is not None and lock.exists() and not is_held(lock)


@contextmanager
def _traced_to(path: Path) -> Iterator[None]:
    """Make Python write a stack trace to this file if a fatal signal ends the process; otherwise delete the file."""
    was_enabled = faulthandler.is_enabled()
    with path.open("wb") as file:
        faulthandler.disable()  # so that this handler is the first to be called, before one that Ray may have set
        faulthandler.enable(file)
        try:
            yield
        finally:
            faulthandler.disable()
            if was_enabled and sys.__stderr__ is not None:
                faulthandler.enable(sys.__stderr__)
    path.unlink(missing_ok=True)


class Watch:
    """Remembers since when the heartbeat of each running trial is unchanged. All times are of one monotonic clock."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int | None, float]] = {}  # by trial: its heartbeat, and when it was first seen
        self._last_look = float("-inf")

    def look(self, running: Iterable[TrialRecord], now: float) -> None:
        """Record the heartbeats of the running trials."""
        if now - self._last_look > LEASE_S / 2:
            self._seen.clear()  # after a sleep, or without the storage, this watch has missed the heartbeats
        self._last_look = now
        beats = {trial_id(trial): _beat(trial) for trial in running}
        self._seen = {
            trial: self._seen[trial] if trial in self._seen and self._seen[trial][0] == beat else (beat, now)
            for trial, beat in beats.items()
        }

    def is_silent(self, trial: TrialRecord, now: float) -> bool:
        """Whether the trial's heartbeat has been the same for `LEASE_S`."""
        if now - self._last_look > LEASE_S / 2:
            return False
        beat, since = self._seen.get(trial_id(trial), (None, now))
        return beat == _beat(trial) and now - since > LEASE_S


def _beat(trial: TrialRecord) -> int | None:
    return trial.optuna.system_attrs.get(BEAT)
