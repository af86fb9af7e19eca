"""Learning curves in a terminal."""

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from search.formatting import percent


class Curve:
    """A learning curve of the available width: in braille, or in asterisks if the terminal does not know UTF-8."""

    ROWS, MAX_COLUMNS = 8, 60

    def __init__(self, title: str, values: Sequence[float]) -> None:
        self.title = title
        self.values = values

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The title, the curve with its minimum and maximum beside it, and the epochs below."""
        low, high = min(self.values), max(self.values)
        columns = min(self.MAX_COLUMNS, max(options.max_width - 10, 10))
        rows = list(plotted(self.values, columns, self.ROWS, braille=not options.ascii_only))
        labels = {0: percent(high), len(rows) - 1: percent(low)} if high > low else {len(rows) // 2: percent(low)}
        last = f"{len(self.values)}"
        yield Text(self.title)
        for number, row in enumerate(rows):
            yield Text.assemble(f"{labels.get(number, ''):>8}  ", (row.rstrip(), "cyan"))
        yield Text(f"{'epoch':>8}  1{last:>{columns - 1}}")


def plotted(values: Sequence[float], columns: int, rows: int, *, braille: bool) -> Iterator[str]:
    """The values as a line from left to right, in `columns` x `rows` characters; a braille one has two by four dots."""
    across, down = (2, 4) if braille else (1, 1)
    width, height = columns * across, rows * down
    low, high = min(values), max(values)
    heights = []
    for x in range(width):
        at = x / (width - 1) * (len(values) - 1)
        left = values[int(at)]
        value = left + (values[min(int(at) + 1, len(values) - 1)] - left) * (at % 1)
        heights.append(round((high - value) / (high - low) * (height - 1)) if high > low else height // 2)
    dots = set()
    for x, y in enumerate(heights):
        before = heights[max(x - 1, 0)]  # connected to it, however steep the line
        dots |= {(x, between) for between in range(min(y, before + (before < y)), max(y, before - (before > y)) + 1)}
    for row in range(rows):
        cells = ("".join(_cell(dots, column, row, braille=braille)) for column in range(columns))
        yield "".join(cells)


BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits of a braille character's dots, from the top, left and right (Unicode 2800)."""


def _cell(dots: set[tuple[int, int]], column: int, row: int, *, braille: bool) -> str:
    if not braille:
        return "*" if (column, row) in dots else " "
    bits = sum(BITS[y][x] for y in range(4) for x in range(2) if (2 * column + x, 4 * row + y) in dots)
    return chr(0x2800 + bits) if bits else " "
