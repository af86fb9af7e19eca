"""NVIDIA's Multi-Process Service: with it, kernels of several processes run on one GPU at the same time."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL
from unittest import mock

CONTROL = "nvidia-cuda-mps-control"
TIMEOUT_S = 10.0  # for the daemon to start, to answer or to quit


def is_installed() -> bool:
    """Whether the program that starts the service is installed."""
    return shutil.which(CONTROL) is not None


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """The service with its sockets and logs in `folder`, which is made; processes started meanwhile use it.

    Raises:
        RuntimeError: it cannot be started.

    """
    folder.mkdir(exist_ok=True)
    try:
        with mock.patch.dict(os.environ, _places(folder)):
            try:
                # Its output is not read: the daemon would hold the pipe open for as long as it lives.
                subprocess.run([CONTROL, "-d"], check=True, timeout=TIMEOUT_S, stdout=DEVNULL, stderr=DEVNULL)
            except (OSError, subprocess.SubprocessError) as error:
                raise RuntimeError(f"{CONTROL} could not be started ({error})") from error
            yield
    finally:
        stop(folder)


def is_used(folder: Path) -> bool:
    """Whether a process uses the service in `folder`: one that cannot reach it runs without it, and reports nothing."""
    try:
        return any(map(str.isdigit, _ask(folder, "get_server_list")))
    except (OSError, subprocess.SubprocessError):
        return False


def stop(folder: Path) -> None:
    """Stop the service in `folder`, if it is running; repeating this changes nothing."""
    pid_file = folder / f"{CONTROL}.pid"
    if not pid_file.exists():
        return
    try:
        _ask(folder, "quit")
    except (OSError, subprocess.SubprocessError):  # it waits for a process that hangs
        with suppress(OSError, ValueError):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
    pid_file.unlink(missing_ok=True)


def _ask(folder: Path, command: str) -> str:
    environment = {**os.environ, **_places(folder)}
    asked = subprocess.run(
        [CONTROL],
        input=f"{command}\n",
        env=environment,
        check=True,
        timeout=TIMEOUT_S,
        capture_output=True,
        text=True,
    )
    return asked.stdout


def _places(folder: Path) -> dict[str, str]:
    return {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
