"""Processes that are there at once: forked from one that has read the large libraries, and this project.

To read torch and the others takes five to eight seconds of each process, and `tests.support.warm` saves two more. A
process whose environment has what modules of this project read when they are imported reads these modules itself.

A process has as many threads as torch would choose, or as OMP_NUM_THREADS says in its environment.
"""

import atexit
import io
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from multiprocessing import forkserver, resource_tracker
from multiprocessing.reduction import DupFd
from pathlib import Path
from threading import Thread
from typing import Any
from unittest import mock

import torch

LARGE = [
    "torch._dynamo",
    "torchvision",
    "optuna.artifacts",
    "optuna.importance",
    "optuna_dashboard",
    "alembic.command",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.orm",
    "scipy.stats",
    "sklearn.ensemble",
    "pandas",
    "plotly.graph_objects",
    "pydantic",
    "typer",
    "rich.progress",
    "tests.support.warm",
]

READ_ON_IMPORT = {"SEARCH_LEASE_S", "SEARCH_PATIENCE_S"}
"""What modules of this project read from the environment when they are imported (see `test_layout`)."""

ASLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Torch's threads sleep while they wait: by default they keep the processors busy, which other tests need."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(LARGE)


_server: Any = forkserver._forkserver  # has no public name


def start_server() -> str:
    """Start the fork server, unless it runs. Returns its address, which other processes can `use_server`."""
    # Read when torch and NumPy are imported: here, for all processes. NumPy would start its threads at once, and a
    # process that has threads should not be forked.
    path = os.pathsep.join(sys.path)  # this checkout's, which the server does not know otherwise
    with mock.patch.dict(os.environ, {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": path, **ASLEEP}):
        os.environ.pop("OMP_NUM_THREADS", None)
        _server.ensure_running()
    return str(_server._forkserver_address)


def use_server(address: str) -> None:
    """Use the fork server at this address, which lives as long as the process that started it."""
    _server._forkserver_address = address
    _server._forkserver_alive_fd = os.open(os.devnull, os.O_WRONLY)  # in place of the pipe by which others keep theirs
    _server.ensure_running = resource_tracker.ensure_running


class Forked:
    """`python -m <module> <arguments>`, the code `first` before it, or that alone.

    It has those methods of `subprocess.Popen` that tests use.
    """

    def __init__(
        self, arguments: list[str], first: str, cwd: Path, env: dict[str, str], module: str | None = "search"
    ) -> None:
        start_server()
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        ends = [DupFd(out_end), DupFd(err_end)]
        self._process = _context.Process(
            target=_run, args=(module, arguments, first, str(cwd), env, *ends), daemon=True
        )
        self._process.start()
        os.close(out_end)
        os.close(err_end)
        self.args = [module or "python", *arguments]
        self.pid = self._process.pid or 0
        self.stdout, self.stderr = os.fdopen(out, encoding="utf-8"), os.fdopen(err, encoding="utf-8")

    @property
    def returncode(self) -> int | None:
        """As `subprocess` has it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code, once it has ended."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when it has ended."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it says, when it has ended."""
        said: dict[Any, str] = {}
        readers = [
            Thread(target=lambda pipe=pipe: said.update({pipe: "" if pipe.closed else pipe.read()}), daemon=True)
            for pipe in (self.stdout, self.stderr)
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        for pipe in (self.stdout, self.stderr):
            pipe.close()
        return said[self.stdout], said[self.stderr]

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _run(module: str | None, arguments: list[str], first: str, cwd: str, env: dict[str, str], *ends: Any) -> None:
    """In the process: be what the command would be if it were started again."""
    for number, end in enumerate(ends, start=1):
        os.dup2(end.detach(), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = io.TextIOWrapper(io.FileIO(0))
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")), encoding="utf-8")
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(io.FileIO(2, "w")), encoding="utf-8", line_buffering=True)
    os.environ.clear()
    os.environ.update(env)
    if threads := env.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    os.chdir(cwd)
    if READ_ON_IMPORT & env.keys():
        from tests.support import warm  # which only the fork server has imported

        warm.forget()
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # it may have children
    sys.argv = [module or "-c", *arguments]
    try:
        if first:
            exec(first, {"__name__": "__main__"})
        if module:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
