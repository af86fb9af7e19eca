"""What a network gets wrong, in the terminal. Imports no torch, so that it is fast."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from search.formatting import bounds, count, percent, share_interval
from search.mistakes import BINS, ClassScore, Mistakes
from search.tables import empty_table, labelled
from train_core.printable import printable

CLASSES, CONFUSIONS, MISTAKES = 20, 10, 10
"""How many classes, confusions and mistakes the terminal shows, unless all are requested."""


def mistakes_view(mistakes: Mistakes, *, whole: bool = False) -> RenderableType:
    """What a network gets wrong; `whole`: all classes, confusions and mistakes."""
    split = "validation" if mistakes.split == "val" else "test"
    title = f"{mistakes.run}, trial {mistakes.trial}, seed {mistakes.seed}, {count(mistakes.epochs, 'epoch')}: "
    rows: list[tuple[str, str | Text]] = [
        ("accuracy", f"{share_interval(mistakes.accuracy)}: {len(mistakes.mistakes):,} of {mistakes.images:,} wrong"),
        ("balanced", f"{percent(mistakes.balanced_accuracy)} (mean recall); macro F1 {percent(mistakes.macro_f1)}"),
        ("baseline", f"{percent(mistakes.baseline)}, by always saying {printable(mistakes.largest_class)}"),
        ("calibration", calibration_words(mistakes)),
    ]
    parts: list[RenderableType] = [
        labelled(f"{title}{count(mistakes.images, f'{split} image')}", rows),
        _class_table(mistakes.worst_classes, None if whole else CLASSES),
    ]
    if mistakes.mistakes:
        parts += [
            _confusion_table(mistakes, None if whole else CONFUSIONS),
            _mistake_table(mistakes, None if whole else MISTAKES),
        ]
    if mistakes.thresholds:
        parts.append(_threshold_table(mistakes))
    return Group(*parts)


def calibration_words(mistakes: Mistakes) -> str:
    """The calibration error, and the effect of the temperature on it."""
    words = f"error {100 * mistakes.calibration.error:.2f} points (ECE, {BINS} bins)"
    if mistakes.calibrated is None or mistakes.temperature is None:
        return words
    fitted = "" if mistakes.split == "val" else ", fitted on validation"
    return f"{words}; {100 * mistakes.calibrated.error:.2f} with temperature {mistakes.temperature:.2f}{fitted}"


def _class_table(classes: Sequence[ClassScore], most: int | None) -> RenderableType:
    title = "Classes, the lowest recall first (with 95 % intervals; in %)"
    table = empty_table(title, "<class", "images", "recall", "interval", "precision", "interval", "F1")
    for each in classes[:most]:
        table.add_row(
            Text(printable(each.name)),
            f"{each.images:,}",
            *(("none", "") if each.recall is None else (_percents(each.recall.value), bounds(each.recall))),
            *(("none", "") if each.precision is None else (_percents(each.precision.value), bounds(each.precision))),
            "" if each.f1 is None else _percents(each.f1),
        )
    return _with_rest(table, len(classes), most, "class with a higher recall", "classes with a higher recall")


def _confusion_table(mistakes: Mistakes, most: int | None) -> RenderableType:
    table = empty_table("The most frequent confusions", "<true", "<said", "images", "of its class")
    for each in mistakes.confusions[:most]:
        table.add_row(Text(printable(each.true)), Text(printable(each.said)), f"{each.images:,}", percent(each.share))
    return _with_rest(table, len(mistakes.confusions), most, "rarer confusion", "rarer confusions")


def _mistake_table(mistakes: Mistakes, most: int | None) -> RenderableType:
    has_files = mistakes.mistakes[0].file is not None
    where = "<file" if has_files else "image"
    table = empty_table("The most certain mistakes", "<true", "<said", "probability", "of the true one", where)
    for each in mistakes.mistakes[:most]:
        table.add_row(
            Text(printable(each.true)),
            Text(printable(each.said)),
            percent(each.probability),
            percent(each.probability_of_true),
            Text(printable(each.file)) if each.file is not None else str(each.image),
        )
    return _with_rest(table, len(mistakes.mistakes), most, "less certain mistake", "less certain mistakes")


def _threshold_table(mistakes: Mistakes) -> Table:
    chosen = "" if mistakes.split == "val" else "; thresholds chosen on validation"
    title = f'"None of these": no answer if the highest probability is below a threshold{chosen}'
    table = empty_table(title, "threshold", "answered", "accuracy of these", "interval", "wrong", "right ones lost")
    for each in mistakes.thresholds:
        accuracy = each.accuracy
        table.add_row(
            f"{each.threshold:.4f}",
            percent(each.answered),
            percent(accuracy.value) if accuracy else "none",
            bounds(accuracy) if accuracy else "",
            f"{each.wrong:,}",
            percent(each.lost),
        )
    return table


def _with_rest(table: Table, number: int, most: int | None, one: str, several: str) -> RenderableType:
    """The table, and a line below it with the number of omitted rows."""
    left = 0 if most is None else max(0, number - most)
    return Group(table, Text(f"and {left:,} {one if left == 1 else several}: --all", style="dim")) if left else table


def _percents(share: float) -> str:
    return f"{100 * share:.1f}"
