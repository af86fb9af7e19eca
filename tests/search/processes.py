"""The commands as processes of their own, for the tests that need the real thing."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from search.run_folder import RunFolder
from tests.forked import Forked

T = TypeVar("T")
SHORT = "run digits --trials 3 --epochs 2"
ALWAYS_SAVES = (  # after each epoch
    "from search import checkpoints, long_run, trainer; checkpoints.MIN_INTERVAL_S = 0; "
    "trainer.CHECKPOINT_SHARE = long_run.CHECKPOINT_SHARE = 1e9"
)


def start(command: str, folder: Path, first: str = "", **environment: str) -> Forked:
    """`search <command>` in `folder`, as a process of its own, which does `first` before."""
    return Forked(command.split(), first, folder, _environment(folder, environment))


def start_anew(command: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """The same, not forked but as a user starts it: slower, and for `ps` a process with this command line."""
    return subprocess.Popen(
        [sys.executable, "-m", "search", *command.split()],
        cwd=folder,
        env=_environment(folder, environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _environment(folder: Path, more: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "SEARCH_CACHE": str(folder / "cache"), **more}


def search(command: str, folder: Path, code: int = 0, **environment: str) -> str:
    """What `search <command>` prints, once it has ended with this exit code."""
    process = start(command, folder, **environment)
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    return out + err


def wait_for(path: Path, text: str = "", seconds: float = 120) -> None:
    """Wait until the file is there and holds the text."""
    limit = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text(errors="replace")):
        assert time.monotonic() < limit, f"{path} never said {text!r}"
        time.sleep(0.005)


def until(check: Callable[[], T], seconds: float = 120) -> T:
    """Wait until the check comes to something; returns that."""
    limit = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < limit
        time.sleep(0.005)
    return found


def run_folder(folder: Path) -> RunFolder:
    return RunFolder(folder / "runs" / "digits-20k")
