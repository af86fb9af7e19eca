"""The terminal and the log, which get every printed line. Imports no torch, so that read-only commands are fast."""

import contextlib
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from train_core.printable import printable

LOOK_S = 2.0  # between updates of a view

console = Console(highlight=False, soft_wrap=True)
log = logging.getLogger("search")

T = TypeVar("T")


def program() -> str:
    """The name of this command in this shell: `search`, or the path that it was called by if that is not found."""
    called = sys.argv[0]
    is_ours = Path(called).name == "search" and Path(called).parent != Path()
    found = shutil.which("search")
    if not is_ours or (found is not None and Path(found).resolve() == Path(called).resolve()):
        return "search"
    return shlex.quote(os.path.relpath(called))


def is_drawn_on() -> bool:
    """Whether bars and full-width tables are drawn: in a terminal or a notebook, not in a pipe."""
    return console.is_terminal or console.is_jupyter  # rich does not treat a notebook as a terminal


_views: list[Live] = []  # the views that are drawn now


def is_live() -> bool:
    """Whether a live view is drawn now, which paints over what others write into the terminal."""
    return bool(_views)


@contextlib.contextmanager
def drawn_live(what: RenderableType) -> Iterator[Callable[[], None]]:
    """Draw `what` below all printed lines, repeatedly; nothing if the output is not a terminal or notebook.

    Yields a function that draws it at once. It is removed at the end.
    """
    if not is_drawn_on():
        yield lambda: None
        return
    with Live(what, console=console, transient=True, refresh_per_second=4) as view:
        _views.append(view)
        try:
            yield view.refresh
        finally:
            _views.remove(view)


class StopHint:
    """The last line of a live view: how to stop it, or that it is stopping.

    It is short: the terminal appends its own ^C, and after a line as wide as the terminal this would start a new line
    and shift the whole view.
    """

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop

    def __rich__(self) -> Text:
        """The line for the current state of the request to stop."""
        if self._stop():
            return Text("stopping; press Ctrl-C again to stop immediately", style="yellow")
        return Text("Ctrl-C stops; the same command continues", style="dim")


if not is_drawn_on():
    console.width = 1000  # in a file or a pipe, each row of a table is one line


def tell(line: str) -> None:
    """Print one line; a terminal wraps it, but no word is broken, so that paths stay whole."""
    line = printable(line)
    if is_drawn_on():
        console.print(Text(line, overflow="ignore"), soft_wrap=False, crop=False)
    else:
        console.print(Text(line))


def show(line: Text) -> None:
    """Print one styled line without wrapping it."""
    console.print(line, soft_wrap=True)


def width() -> int:
    """Columns of the terminal."""
    return console.width


def has_signs() -> bool:
    """Whether the output can show characters outside of ASCII."""
    return console.encoding.startswith("utf")


def say(line: str) -> None:
    """Print and log one line."""
    tell(line)
    log.info("%s", printable(line))


def draw(what: RenderableType, columns: int | None = None) -> None:
    """Print a table or the like; in a file or a pipe, without the spaces that fill the width.

    There, it has at most `columns` columns; None: each row is one line, however long.
    """
    if is_drawn_on():
        console.print(what, soft_wrap=False)
        return
    with console.capture() as captured:
        console.print(what, soft_wrap=False, width=columns)
    console.print(Text("\n".join(line.rstrip() for line in captured.get().splitlines())))


def watch(look: Callable[[], T], draw: Callable[[T], RenderableType], may_change: Callable[[T], bool]) -> None:
    """Draw the result of `look` repeatedly in place, until it cannot change any more, or until Ctrl-C."""
    # After a line as wide as the terminal, the terminal's own ^C would shift the whole view.
    hint = Text("Ctrl-C ends this view, and nothing else", style="dim")
    state = look()
    with Live(draw(state), console=console, auto_refresh=False) as live, contextlib.suppress(KeyboardInterrupt):
        while may_change(state):
            live.update(Group(draw(state), hint), refresh=True)
            time.sleep(LOOK_S)
            state = look()
        live.update(draw(state))
