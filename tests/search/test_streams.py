"""What a command does when its output cannot be written, or when nobody reads it."""

import os
import sys
from pathlib import Path

import pytest

from search import cli
from search.streams import BROKEN_PIPE, output_is_logged, outputs

FULL = Path("/dev/full")
needs_a_full_disk = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def unread() -> int:
    """A pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def listing(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of `search list`, with this file as its standard output."""
    with os.fdopen(descriptor, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "argv", ["search", "list"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert sys.stdout is stream
    os.close(descriptor)
    return int(ended.value.code or 0)


def test_a_command_that_prints_ends_without_a_word_when_nobody_reads_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert listing(unread(), monkeypatch) == BROKEN_PIPE
    assert capsys.readouterr().err == ""


@needs_a_full_disk
def test_an_output_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert listing(os.open(FULL, os.O_WRONLY), monkeypatch) == 1
    assert (
        capsys.readouterr().err == "search: cannot write the output (No space left on device): give it another place\n"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unread", ""),
        pytest.param(
            "full",
            "search: cannot write the output (No space left on device): the command goes on\n",
            marks=needs_a_full_disk,
        ),
    ],
)
def test_a_command_whose_lines_are_logged_goes_on(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    descriptor = unread() if name == "unread" else os.open(FULL, os.O_WRONLY)
    with os.fdopen(descriptor, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with outputs(), output_is_logged():
            for _ in range(3):
                print("a line", flush=True)
    os.close(descriptor)
    assert capsys.readouterr().err == said


def test_an_error_without_a_reader_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []
    descriptor = unread()
    with os.fdopen(descriptor, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with outputs():
            print("search: an error", file=sys.stderr, flush=True)
            reached.append("the next line")
        reached.append("the end")
    os.close(descriptor)
    assert reached == ["the next line", "the end"]
