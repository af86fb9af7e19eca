"""The command line in this process."""

import shlex
import sys
from collections.abc import Callable

import pytest

from search import cli
from search.terminal import console

Search = Callable[[str], str]
"""The fixture `search`: what a command prints."""


def search(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `search <command>`, run in this process."""
    monkeypatch.setattr(console, "quiet", False)  # as in a process of its own, whatever ran here before
    monkeypatch.setattr(sys, "argv", ["search", *shlex.split(command)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err
