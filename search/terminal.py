"""The terminal and the log, where every printed line goes. Imports no torch, so that read-only commands are fast."""

import contextlib
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from train_core.printable import printable

LOOK_S = 2.0  # between looks at what is watched

console = Console(highlight=False, soft_wrap=True)
log = logging.getLogger("search")

T = TypeVar("T")


def is_drawn_on() -> bool:
    """Whether there are bars and tables as wide as there is room for: in a terminal or a notebook, not in a pipe."""
    return console.is_terminal or console.is_jupyter  # a notebook is no terminal to rich


if not is_drawn_on():
    console.width = 1000  # in a file or a pipe, a row of a table is a line


def tell(line: str) -> None:
    """Print one line; in a terminal it is wrapped, but no word is broken, so that paths stay whole."""
    line = printable(line)
    if is_drawn_on():
        console.print(Text(line, overflow="ignore"), soft_wrap=False, crop=False)
    else:
        console.print(Text(line))


def say(line: str) -> None:
    """Print one line, and log it."""
    tell(line)
    log.info("%s", printable(line))


def draw(what: RenderableType) -> None:
    """Print a table or the like; in a file or a pipe, as lines without the spaces that fill its width."""
    if is_drawn_on():
        console.print(what, soft_wrap=False)
        return
    with console.capture() as captured:
        console.print(what, soft_wrap=False)
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
