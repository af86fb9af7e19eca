"""The terminal and the log, where every printed line goes. Imports no torch, so that read-only commands are fast."""

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

LOOK_S = 2.0  # between looks at what is watched

console = Console(highlight=False, soft_wrap=True)
log = logging.getLogger("search")

T = TypeVar("T")


def program() -> str:
    """How this command is called in this shell: `search`, or the path that it was called by if that is not found."""
    called = sys.argv[0]
    is_ours = Path(called).name == "search" and Path(called).parent != Path()
    found = shutil.which("search")
    if not is_ours or (found is not None and Path(found).resolve() == Path(called).resolve()):
        return "search"
    return shlex.quote(os.path.relpath(called))


def is_drawn_on() -> bool:
    """Whether there are bars and tables as wide as there is room for: in a terminal or a notebook, not in a pipe."""
    return console.is_terminal or console.is_jupyter  # a notebook is no terminal to rich


_views: list[Live] = []  # that are drawn now


def is_live() -> bool:
    """Whether a view is drawn now that paints over what others write into the terminal."""
    return bool(_views)


@contextlib.contextmanager
def drawn_live(what: RenderableType) -> Iterator[Callable[[], None]]:
    """Draw `what` below all that is printed, again and again; nothing where the output is no terminal or notebook.

    Yields a function that draws it at once. In the end it is gone.
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
    """The last line of a live view: how to stop it, and whether it is about to.

    It is short: the terminal writes its own ^C behind it, and behind a line as wide as the terminal that would begin a
    new one, and shift all that is drawn over it.
    """

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop

    def __rich__(self) -> Text:
        """As the request to stop stands when it is drawn."""
        if self._stop():
            return Text("stopping; press Ctrl-C again to stop immediately", style="yellow")
        return Text("Ctrl-C stops; the same command continues", style="dim")


if not is_drawn_on():
    console.width = 1000  # in a file or a pipe, a row of a table is a line


def tell(line: str) -> None:
    """Print one line; in a terminal it is wrapped, but no word is broken, so that paths stay whole."""
    line = printable(line)
    if is_drawn_on():
        console.print(Text(line, overflow="ignore"), soft_wrap=False, crop=False)
    else:
        console.print(Text(line))


def show(line: Text) -> None:
    """Print one line in its style, as it is: it is not wrapped."""
    console.print(line, soft_wrap=True)


def width() -> int:
    """Columns of the terminal."""
    return console.width


def has_signs() -> bool:
    """Whether the output can show signs that ASCII lacks."""
    return console.encoding.startswith("utf")


def say(line: str) -> None:
    """Print one line, and log it."""
    tell(line)
    log.info("%s", printable(line))


def draw(what: RenderableType, columns: int | None = None) -> None:
    """Print a table or the like; in a file or a pipe, as lines without the spaces that fill its width.

    In a file or a pipe, it has at most so many columns; none: each row is a line, however long.
    """
    if is_drawn_on():
        console.print(what, soft_wrap=False)
        return
    with console.capture() as captured:
        console.print(what, soft_wrap=False, width=columns)
    console.print(Text("\n".join(line.rstrip() for line in captured.get().splitlines())))


def watch(look: Callable[[], T], draw: Callable[[T], RenderableType], may_change: Callable[[T], bool]) -> None:
    """Draw the result of `look` again and again in place, until it cannot change any more, or until Ctrl-C."""
    # The terminal's own ^C, behind a line as wide as the terminal, would shift all that is drawn over it.
    hint = Text("Ctrl-C ends this view, and nothing else", style="dim")
    state = look()
    with Live(draw(state), console=console, auto_refresh=False) as live, contextlib.suppress(KeyboardInterrupt):
        while may_change(state):
            live.update(Group(draw(state), hint), refresh=True)
            time.sleep(LOOK_S)
            state = look()
        live.update(draw(state))
