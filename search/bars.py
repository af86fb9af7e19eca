"""Progress bars in the terminal. Imports nothing slow."""

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from search.terminal import console, is_drawn_on


class _Done(ProgressColumn):
    """How many items are done, in whole numbers; the bar beside it also shows fractions."""

    def render(self, task: Task) -> Text:
        """For example `3/20`."""
        return Text(f"{int(task.completed)}/{task.total and int(task.total)}")


def bars_below(output: Console | None = None, *, is_shown: bool | None = None) -> Progress:
    """Live bars; by default, none if the output is neither a terminal nor a notebook."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        _Done(),
        # Text that does not fit is cut off here, and nowhere else.
        TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        console=output or console,
        expand=True,
        transient=True,
        disable=not (is_drawn_on() if is_shown is None else is_shown),
    )
