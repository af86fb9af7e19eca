"""What `search data` prints of a census. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group as Parts
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from search.formatting import count, images_in_words, test_in_words
from search.tables import empty_table
from train_core.printable import printable

if TYPE_CHECKING:
    from train_core.census import Census, Group, Picture
    from train_core.sources.contents import SplitName

FEW = 5  # names shown, copies of one picture, examples of one kind
ENDS = 10  # how many of the smallest and of the largest classes are printed

WORDS: Mapping[SplitName, str] = {"train": "training", "val": "validation", "test": "test"}


def census_view(census: Census, is_whole: bool) -> RenderableType:
    """The whole census, or only some of its classes, files and copies."""
    most = None if is_whole else FEW
    return Parts(
        *map(_line, _about(census, most)),
        _counts_table(census, None if is_whole else ENDS),
        *map(_line, _copies("equal", census.equal, most)),
        *map(_line, _copies("almost equal", census.almost_equal, most)),
        *(Text(printable(f"warning  {warning}"), style="yellow") for warning in census.warnings),
    )


def _line(words: str) -> Text:
    """A line of text; names in it are not read as markup."""
    return Text(printable(words))


def _about(census: Census, most: int | None) -> Iterator[str]:
    """The lines above the table."""
    colours = "RGB" if census.channels == 3 else "grey"
    shape = f"{census.size[0]}x{census.size[1]} {colours}, {len(census.classes)} classes"
    images = images_in_words(census.total("train"), census.total("val"), shape)
    tests = census.total("test")
    yield f"data     {census.source}: {images}, {test_in_words(tests > 0, tests if 'test' in census.held_out else 0)}"
    for note in census.notes:
        yield f"  {note}"
    for why, names in census.left_out.items():
        if names:
            yield f"  left out: {count(len(names), 'file')} {why}: {_listed(names, most)}"
    if census.file_sizes:
        yield f"files    {census.file_sizes}"
    means, deviations = (" ".join(f"{value:.3f}" for value in values) for values in (census.mean, census.std))
    yield f"pixels   mean {means}, standard deviation {deviations} (training images; from 0 to 1)"
    if census.constant:
        names = [_named(picture) for picture in census.constant]
        yield f"  {count(len(names), 'image')} of a single colour: {_listed(names, most)}"


def _counts_table(census: Census, ends: int | None) -> Table:
    """Images by class and split; if there are many classes, only the `ends` smallest and largest."""
    splits = [split for split in WORDS if any(split in each for each in census.counts.values())]
    table = empty_table(None, "<class", *(WORDS[split] for split in splits), "all")

    def add(label: str, counts: Sequence[Mapping[SplitName, int]]) -> None:
        columns = [sum(each[split] for each in counts) for split in splits]
        table.add_row(_line(label), *(f"{number:,}" for number in (*columns, sum(columns))))

    first, between, last = list(census.classes), list[str](), list[str]()
    if ends is not None and len(first) > 2 * ends:
        by_size = sorted(first, key=lambda label: sum(census.counts[label].values()))
        first, between, last = by_size[:ends], by_size[ends:-ends], by_size[-ends:]
    for label in first:
        add(label, [census.counts[label]])
    if between:
        add(f"... {len(between):,} classes between (--all)", [census.counts[label] for label in between])
    for label in last:
        add(label, [census.counts[label]])
    add(f"{len(census.classes)} classes", list(census.counts.values()))
    return table


def _copies(kind: str, groups: Sequence[Group], most: int | None) -> Iterator[str]:
    """Pictures that exist more than once, the worst first."""
    if not groups:
        yield f"{kind} images: none"
        return
    sign = " = " if kind == "equal" else " ~ "
    images = sum(len(group.pictures) for group in groups)
    yield f"{kind} images: {images:,} in {count(len(groups), 'group')}"
    for where, is_there in _PLACES.items():
        found = [group for group in groups if is_there(group)]
        if found:
            yield f"  {where}: {count(len(found), 'group')}"
        for group in found[:most]:
            yield f"    {_listed([_named(picture) for picture in group.pictures], most, sign)}"
        if most is not None and len(found) > most:
            yield f"    and {len(found) - most:,} more (--all)"


_PLACES: Mapping[str, Callable[[Group], bool]] = {
    "across splits": lambda group: len(group.splits) > 1,
    "across classes, in one split": lambda group: len(group.splits) == 1 and len(group.labels) > 1,
    "within one class and split": lambda group: len(group.splits) == len(group.labels) == 1,
}


def _named(picture: Picture) -> str:
    """For example `photos/cat/7.jpg (test, cat)`."""
    return f"{picture.name} ({WORDS[picture.split]}, {picture.label})"


def _listed(names: Sequence[str], most: int | None, between: str = ", ") -> str:
    """All names, or the first few and the number of the others."""
    if most is None or len(names) <= most:
        return between.join(names)
    return f"{between.join(names[:most])} and {len(names) - most:,} more"
