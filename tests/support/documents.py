"""The project's pages: what they show, and whether the command line takes it."""

import re
from pathlib import Path
from typing import Any

import typer

from search.cli import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page that are in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path, program: str = "search(?= [a-z])") -> list[str]:
    """The commands of a program in a page: lines of its code blocks, fenced or not, and between backticks."""
    text = text_of(page)
    fences = r"^```\w*\n(.*?)^```$"
    words = re.sub(fences, "", text, flags=re.M | re.S)
    lines = re.findall(r"^ {4}(.*)$", words, re.M)
    lines += [line for block in re.findall(fences, text, re.M | re.S) for line in block.splitlines()]
    found = [re.match(rf"(?:\$ |[A-Z_]+=\S+ )*((?:{program})\b[^#|]*)", line) for line in lines]
    # A line may break between backticks.
    spoken = [" ".join(command.split()) for command in re.findall(rf"`((?:{program})\b[^`|]*)`", words)]
    return [match[1].strip() for match in found if match] + spoken


def assert_accepted(arguments: list[str]) -> None:
    """Raises if the command line does not take this."""
    found: Any = typer.main.get_command(app)
    name, *arguments = arguments
    while hasattr(found, "commands"):  # a group, as `search` and `search storage` are
        name, *arguments = arguments
        found = found.commands[name]
    # Named alone, as `search predict` may be, it is a command that is spoken of: what it needs is not asked for.
    assert found.make_context(name, arguments, resilient_parsing=not arguments)
