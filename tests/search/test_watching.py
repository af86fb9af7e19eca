"""`search status` beside a search that is really going on, in a terminal: live, in colours or without, until Ctrl-C."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.inspection import Reader
from search.run_folder import RunFolder
from tests.support.forked import Forked
from tests.support.processes import search, start, wait_for, with_few

LONG = "run digits --data few.npz --trials 50 --epochs 40 --name long"
SLOWLY = """
import time
from search import trainer

train = trainer.train
trainer.train = lambda *args, **options: (time.sleep(0.2) or result for result in train(*args, **options))
"""
"""Rests after each epoch, so that those who watch have the processors."""


@pytest.fixture(scope="module")
def searching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Forked]]:
    """A folder in which a search has trained its first epochs, and goes on."""
    folder = with_few(tmp_path_factory.mktemp("watched"))
    process = start(LONG, folder, SLOWLY, OMP_NUM_THREADS="1")  # two would wait for those who watch
    wait_for(folder / "runs" / "long" / "search.log", "at epoch 2")
    yield folder, process
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


def in_a_terminal(command: str, folder: Path, until_drawn: int = 0, **environment: str) -> tuple[str, int]:
    """What a terminal gets from `search <command>`, and its exit code.

    Ctrl-C is pressed once it has been drawn so often; with 0, it ends by itself.
    """
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    process = subprocess.Popen(
        [sys.executable, "-m", "search", *command.split()],
        cwd=folder,
        env={**os.environ, "COLUMNS": "80", "TERM": "xterm", **environment},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen, pressed = "", False
    while process.poll() is None:
        seen += _read(ours)
        if until_drawn and not pressed and seen.count("searching") >= until_drawn:
            process.send_signal(signal.SIGINT)
            pressed = True
        time.sleep(0.02)
    seen += _read(ours)
    os.close(ours)
    return seen, process.returncode


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 100_000).decode(errors="replace")
    except (BlockingIOError, OSError):
        return ""


COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7][0-9;]*m")


def test_status_tells_of_a_search_elsewhere_and_does_not_disturb_it(
    searching: tuple[Path, Forked],
) -> None:
    folder, process = searching
    status = json.loads(search("status --json", folder))
    assert (status["name"], status["state"], status["workers"]) == ("long", "searching", 1)
    (running,) = status["running"]
    assert running["alive"]
    assert 1 <= running["epoch"] <= 40
    assert 0 < running["validation"] <= 1
    shown, code = in_a_terminal("status", folder, until_drawn=2)
    assert code == 0
    assert "Ctrl-C ends this view" in shown
    assert COLOUR.search(shown)
    later = Reader(RunFolder(folder / "runs" / "long")).status()
    assert later.running[0].epoch > running["epoch"] or later.trials > status["trials"]
    assert process.poll() is None


def test_a_terminal_that_wants_no_colours_gets_none(searching: tuple[Path, Forked]) -> None:
    folder, _ = searching
    shown, code = in_a_terminal("status --once", folder, NO_COLOR="1")
    assert code == 0
    assert "searching" in shown
    assert not COLOUR.search(shown)
    shown, code = in_a_terminal("status", folder, TERM="dumb")
    assert code == 0
    assert "\x1b" not in shown
    assert shown.count("searching") == 1, "a terminal that cannot go back prints it once"
