"""How wide things are drawn: as wide as a terminal or a notebook is, and in a pipe a row to a line."""

import runpy
import sys
from pathlib import Path

import pytest
import rich.console

from search import terminal


@pytest.mark.parametrize(("is_notebook", "columns"), [(False, 1000), (True, 115)])
def test_a_pipe_has_a_row_in_a_line_and_a_notebook_its_own_width(
    is_notebook: bool, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: is_notebook)
    made = runpy.run_path(str(terminal.__file__))
    assert made["console"].width == columns
    assert made["is_drawn_on"]() == is_notebook


def test_the_next_command_is_called_as_this_one_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `scripts/demo`, whose environment is not the shell's."""
    script = tmp_path / ".venv" / "bin" / "search"
    script.parent.mkdir(parents=True)
    script.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), "run", "digits"])
    monkeypatch.setenv("PATH", "/usr/bin")
    assert terminal.program() == ".venv/bin/search"
    monkeypatch.setenv("PATH", str(script.parent))
    assert terminal.program() == "search"
    monkeypatch.setattr(sys, "argv", ["/somewhere/pytest", "tests"])
    assert terminal.program() == "search"
