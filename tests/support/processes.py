"""The commands as processes of their own, for the tests that need the real thing."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import urlopen

import numpy as np

from search.run_folder import RunFolder
from tests.support.forked import Forked
from train_core.sources.downloads import digits

ROOT = Path(__file__).parents[2]
T = TypeVar("T")
FEW = "--data few.npz --name digits-20k"
"""For `search run digits`: a few of the images, which are trained on in a moment (see `with_few`)."""
SHORT = f"run digits {FEW} --trials 3 --epochs 2"
ALWAYS_SAVES = (  # after each epoch
    "from search import checkpoints, long_run, trainer; checkpoints.MIN_INTERVAL_S = 0; "
    "trainer.CHECKPOINT_SHARE = long_run.CHECKPOINT_SHARE = 1e9"
)

UNTIMED = "from search import searching; searching.estimate = lambda *_: None; "
"""A search has no forecast, for which it would train seven networks: as long as a short search takes."""


def start(command: str, folder: Path, first: str = "", **environment: str) -> Forked:
    """`search <command>` in `folder`, as a process of its own, which does `first` before.

    It has the threads that a user's has: as many as torch chooses, whatever OMP_NUM_THREADS is for the tests.
    """
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


def python(arguments: list[str], folder: Path) -> Forked:
    """`python <arguments>` in a folder that has a copy of the code, which is used instead of ours."""
    first = f"""
import runpy, sys
from tests.support import warm
warm.forget()
sys.path[:] = [{str(folder)!r}, *(path for path in sys.path if path != {str(ROOT)!r})]
"""
    what, *rest = arguments
    module = rest.pop(0) if what == "-m" else None
    if what == "-c":
        first += rest.pop(0)
    elif not module:
        first += f"runpy.run_path({what!r}, run_name='__main__')"
    return Forked(rest, first, folder, _environment(folder, {"PYTHONPATH": str(folder)}), module)


def _environment(folder: Path, more: dict[str, str]) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return {**ours, "SEARCH_CACHE": str(folder / "cache"), **more}


def with_few(folder: Path, images: int = 100) -> Path:
    """The folder, with so many training and as many test images of the digits in it, as `few.npz`."""
    np.savez(folder / "few.npz", **_few_digits(images))
    return folder


@cache
def _few_digits(images: int) -> dict[str, Any]:
    return {name: values[:images] for name, values in digits().arrays.items()}


def search(command: str, folder: Path, code: int = 0, first: str = "", **environment: str) -> str:
    """What `search <command>` prints, once it has ended with this exit code; it does `first` before."""
    process = start(command, folder, first, **environment)
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
    """Wait until the check returns something true; return that."""
    limit = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < limit
        time.sleep(0.005)
    return found


def run_folder(folder: Path) -> RunFolder:
    return RunFolder(folder / "runs" / "digits-20k")


@contextmanager
def serving(command: str, folder: Path, **environment: str) -> Iterator[tuple[str, Forked]]:
    """The address that `search dashboard` says it serves at, and its process; interrupted at the end."""
    process = start(f"dashboard {command}", folder, **environment)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.fullmatch(r"digits-20k: (http://\S+:\d+)(/dashboard/studies/1); Ctrl-C ends it\n", said)
        assert found, (said, process.stderr.read() if process.stderr and process.poll() is not None else "")
        yield found[1], process
        process.send_signal(signal.SIGINT)
        process.wait(60)
        assert process.stderr is not None
        # Not by `communicate`, which knows nothing of what `readline` has read ahead.
        out, err = process.stdout.read(), process.stderr.read()
        assert (process.returncode, out, err) == (0, environment.get("SAYS", ""), "")  # nothing else is ever said
    finally:
        process.kill()
        process.communicate()


@contextmanager
def proxy(url: str, port: int | None = None) -> Iterator[tuple[str, Forked]]:
    """The address of a `search storage serve` before the storage at `url`, and its process; killed at the end."""
    if port is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
    process = start(f"storage serve --port {port}", Path.cwd(), SEARCH_STORAGE=url)
    try:
        yield f"grpc://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.communicate()


def get(url: str) -> Any:
    with urlopen(url, timeout=30) as answer:
        return json.load(answer)
