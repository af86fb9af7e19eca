"""What a terminal shows of a table or a view."""

import io

from rich.console import Console, RenderableType


def in_80_columns(what: RenderableType) -> str:
    """What is seen of it in a terminal of 80 columns, without its colours."""
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80, highlight=False)
    with console.capture() as captured:
        console.print(what)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
