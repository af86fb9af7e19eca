"""Rows of a published report in the terminal: as printed, and what came out here."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from search.formatting import count
from search.published import Published, Reproduction, Row
from search.tables import empty_table
from train_core.specs import ResNetSpec


def reproduction_table(published: Published, done: Sequence[Reproduction]) -> Table:
    """Rows of a report beside their outcome here; narrow enough for 80 columns."""
    table = empty_table(
        "Published, and what came out here (test accuracy in %)",
        *("<row", "parameters", "here", "accuracy", "here", "epochs", "here", "seconds"),
    )
    for here in done:
        row = published.rows[here.row]
        table.add_row(
            here.row,
            f"{'~' if published.rounded else ''}{row.parameters:,}",
            f"{here.parameters:,}",
            _printed(row),
            _accuracy_here(here),
            str(row.epochs),
            str(here.recipe.epochs),
            f"{here.seconds:,.0f}",
        )
    return table


def published_table(published: Published, rows: Sequence[str], networks: Mapping[str, ResNetSpec]) -> Table:
    """Rows of a report as printed, and their networks and recipes."""
    title = f"{published.title}\n{_words(published.recipe)}"
    table = empty_table(title, "<row", "parameters", "accuracy, %", "epochs", "<network", "<other than above")
    table.columns[0].no_wrap = True
    for name in rows:
        row = published.rows[name]
        about = f"{'~' if published.rounded else ''}{row.parameters:,}"
        network = Text(str(networks[row.network]))
        words = ": ".join(filter(None, (row.source, _words(row.recipe))))
        table.add_row(name, about, _printed(row), str(row.epochs), network, Text(words))
    return table


def _printed(row: Row) -> str:
    """A row's accuracy in percent."""
    return "not printed" if row.accuracy is None else f"{row.accuracy:.2f}"


def _words(recipe: Mapping[str, Any]) -> str:
    """A recipe's keys and values; nested tables are flattened, and lists of tables become their length."""
    words = []
    for key, value in recipe.items():
        if isinstance(value, dict):
            words.append(_words(value))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            words.append(f"{len(value)} {key}")
        else:
            words.append(f"{key} {value}")
    return ", ".join(words)


def reproduction_notes(published: Published, data: str, done: Sequence[Reproduction]) -> list[str]:
    """The differences from the report, one line each."""
    notes = [
        f"Trained on {count(images, 'image')} of {data}." for images in sorted({row.training_images for row in done})
    ]
    if any(row.protocol == "held-out" for row in done):
        notes.append("A validation split was held out; the test split was read once, when a network was finished.")
    if any(row.recipe.keep == "best" and row.protocol == "held-out" for row in done):
        notes.append("The weights are those of the epoch that was best on validation, as in the report.")
    if any(row.protocol == "all-images" for row in done):
        notes.append("Nothing was held out; the test split was read once, after the last epoch.")
    if any(row.protocol == "published" for row in done):
        notes.append(
            "* Of the epoch that was best on the test split, as the report chose; nothing held out: too high a number."
        )
    if any(row.val_accuracy is not None and row.accuracy is None for row in done):
        notes.append("v On the validation split: the images have no test split.")
    if any(row.recipe.epochs != published.rows[row.row].epochs for row in done):
        notes.append("Where the epochs differ, the whole schedule is made shorter, down to its end.")
    if any(row.recipe.precision != "fp32" for row in done):
        notes.append(f"Trained in {done[0].recipe.precision}.")
    if published.rounded:
        notes.append("~ The report rounds its parameters.")
    return [*notes, *published.notes]


def _accuracy_here(here: Reproduction) -> str:
    if here.diverged:
        return "diverged"
    if here.accuracy is None:
        return f"{100 * here.val_accuracy:.2f} v" if here.val_accuracy is not None else "not known"
    return f"{100 * here.accuracy:.2f}{' *' if here.protocol == 'published' else ''}"
