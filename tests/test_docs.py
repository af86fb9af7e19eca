"""What the documents tell people to type is what the commands take."""

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from search.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    """The `search` commands in a page: lines of its code blocks, and between backticks."""
    text = page.read_text(encoding="utf-8")
    lines = [line.split("#")[0].strip() for line in text.splitlines() if line.startswith("    search ")]
    return lines + [command for command in re.findall(r"`(search [^`\n]+)`", text) if not set("[-") & {command[7]}]


def accept(arguments: list[str]) -> None:
    """Raises if the command line does not take this."""
    found: Any = typer.main.get_command(app)
    name, *arguments = arguments
    while hasattr(found, "commands"):  # a group, as `search` and `search storage` are
        name, *arguments = arguments
        found = found.commands[name]
    assert found.make_context(name, arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_is_one_the_command_line_takes(page: Path) -> None:
    for command in commands(page):
        accept(shlex.split(command.replace("...", "")))


def test_the_readme_shows_the_owners_command_and_the_whole_loop() -> None:
    shown = commands(ROOT / "README.md")
    assert "search run --budget 5e6 --trials 200" in shown
    assert "search promote --top 3" in shown


@pytest.mark.parametrize("script", ["scripts/demo", "scripts/check", ".ci/run"])
def test_the_scripts_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)


def test_nothing_shown_has_gone() -> None:
    """Every file that a page names is there."""
    for page in PAGES:
        for name in re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|toml|md))`", page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists() or (ROOT / "search" / name).exists() or name.startswith("runs/"), (page, name)
