"""The sections of a report about the best network's mistakes, and about the images that it sees, as HTML."""

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from search.errors import RunError
from search.figures import html_of
from search.formatting import Interval, bounds, count, percent, share_interval
from search.markup import paragraph, section
from search.mistake_charts import MATRIX_NUMBERS, confusion_chart, reliability_chart
from search.mistakes import ClassScore, Confusion, Mistakes, examine, stored
from search.promotions import Promotion, best_run
from search.run_folder import RunFolder
from train_core.predictions import Predictions, SeenBatch

CLASSES, CONFUSIONS = 20, 15  # rows of a table that are shown without unfolding
SMALL = 64  # pixels: smaller pictures are enlarged without smoothing
SHOWN = 128  # largest width of a picture on the page, in pixels

NOT_YET = "No full run is finished yet: `search promote` trains the best trials and stores what they get wrong."


def mistakes_sections(folder: RunFolder, promotions: Sequence[Promotion]) -> str:
    """What the best full run gets wrong, and a training batch as the network sees it; a sentence if not stored."""
    run = best_run(promotions)
    return section("What the best network gets wrong", _mistakes(folder, run)) + section(
        "A batch as the network sees it", _batch(folder, run)
    )


def _mistakes(folder: RunFolder, run: Promotion | None) -> str:
    if run is None:
        return paragraph(NOT_YET)
    try:
        validation, predictions = examine(folder, run, "val"), stored(folder, run, "val")
    except RunError as error:
        return paragraph(f"Not known: {error}.")
    test = tested = None
    note = ""
    if run.test_accuracy is not None:
        try:
            test, tested = examine(folder, run, "test"), stored(folder, run, "test")
        except RunError as error:
            note = paragraph(f"On test not known: {error}.")
    words = (
        f"Of trial {run.trial}, seed {run.seed}, on the {validation.images:,} validation images by which it was chosen"
    )
    words += f", and on the {test.images:,} test images, which are the better guide. " if test else ". "
    words += "In brackets: Wilson's 95 % intervals, for the choice of the images, not for another seed of the training."
    parts = [
        paragraph(words) + note,
        _summary(validation, test),
        "<h3>Classes</h3>",
        _class_tables(validation, test),
        *_confusions(validation, test),
        "<h3>The most certain mistakes</h3>",
        _pictured(validation, predictions, "validation images"),
    ]
    if test is not None and tested is not None:
        pictures = _pictured(test, tested, "test images")
        parts.append(f"<details><summary>The most certain mistakes on test images</summary>{pictures}</details>")
    chart = reliability_chart(validation, test)
    parts += [f"<h3>{chart.title}</h3>", paragraph(f"{chart.words} {_calibrated(validation)}"), html_of(chart.figure)]
    return "".join([*parts, "<h3>A threshold for “none of these”</h3>", _thresholds(validation, test)])


def _summary(validation: Mistakes, test: Mistakes | None) -> str:
    """The numbers over all classes, a column for each split."""
    splits = [each for each in (validation, test) if each is not None]
    rows = {
        "Accuracy": [share_interval(each.accuracy) for each in splits],
        "Balanced accuracy (mean recall)": [percent(each.balanced_accuracy) for each in splits],
        "Macro F1": [percent(each.macro_f1) for each in splits],
        "Always the largest class": [f"{percent(each.baseline)} ({each.largest_class})" for each in splits],
        "Calibration error (ECE), points": [f"{100 * each.calibration.error:.2f}" for each in splits],
        **_with_temperature(splits),
        "Mean negative log-likelihood, nats": [f"{each.calibration.loss:.4f}" for each in splits],
    }
    head = "<tr><th class=name><th>Validation" + ("<th class=split>Test" if test else "")
    body = "".join(
        f"<tr><th class=name>{escape(name)}<td>" + "<td class=split>".join(map(escape, values))
        for name, values in rows.items()
    )
    return f"<div class=wide><table>{head}{body}</table></div>"


def _with_temperature(splits: Sequence[Mistakes]) -> dict[str, list[str]]:
    """The row of the calibration error with the temperature; empty if there is none."""
    errors = [f"{100 * each.calibrated.error:.2f}" for each in splits if each.calibrated]
    return {f"The same with the temperature {splits[0].temperature:.2f}": errors} if errors else {}


def _class_tables(validation: Mistakes, test: Mistakes | None) -> str:
    """The classes, the lowest recall first; all after the first few are folded away."""
    ranked = validation.worst_classes
    of_test = {each.name: each for each in test.classes} if test else {}
    words = "The lowest recall on validation first. Recall: the share of a class's images that are recognised. "
    words += "Precision: the share of the answers with this class that are right. In %."
    text = paragraph(words) + _class_table(ranked[:CLASSES], of_test)
    if rest := ranked[CLASSES:]:
        text += f"<details><summary>{len(rest):,} more {'class' if len(rest) == 1 else 'classes'}</summary>"
        text += f"{_class_table(rest, of_test)}</details>"
    return text


def _class_table(classes: Sequence[ClassScore], of_test: dict[str, ClassScore]) -> str:
    split = "<th>Images<th>Recall<th>Precision<th>F1"
    head = "<tr><th class=name rowspan=2>Class<th colspan=4 class=split>Validation"
    head += "<th colspan=4 class=split>Test" if of_test else ""
    head += f"<tr>{split.replace('<th>', '<th class=split>', 1)}"
    head += split.replace("<th>", "<th class=split>", 1) if of_test else ""
    rows = "".join(
        f"<tr><td class=name>{escape(each.name)}{_cells(each)}{_cells(of_test[each.name]) if of_test else ''}"
        for each in classes
    )
    return f"<div class=wide><table>{head}{rows}</table></div>"


def _cells(score: ClassScore) -> str:
    f1 = "" if score.f1 is None else f"{100 * score.f1:.1f}"
    return f"<td class=split>{score.images:,}<td>{_in_percent(score.recall)}<td>{_in_percent(score.precision)}<td>{f1}"


def _in_percent(estimate: Interval | None) -> str:
    return "none" if estimate is None else f"{100 * estimate.value:.1f} <small>({bounds(estimate)})</small>"


def _confusions(validation: Mistakes, test: Mistakes | None) -> Iterator[str]:
    """The confusion matrix, and its largest entries off the diagonal as a list."""
    chart = confusion_chart(validation)
    drawn = html_of(chart.figure) if chart.figure is not None else ""
    if test is not None and len(test.classes) <= MATRIX_NUMBERS:
        drawn += html_of(confusion_chart(test).figure)
    yield f"<h3>{chart.title}</h3>{paragraph(chart.words)}<div class=beside>{drawn}</div>"
    for mistakes, split in ((validation, "validation"), (test, "test")):
        if mistakes is not None and mistakes.confusions and len(mistakes.classes) > 2:
            yield _confusion_list(mistakes.confusions, split)


def _confusion_list(confusions: Sequence[Confusion], split: str) -> str:
    rows = "".join(
        f"<tr><td class=words>{escape(each.true)}<td class=words>{escape(each.said)}<td>{each.images:,}"
        f"<td>{percent(each.share)}"
        for each in confusions[:CONFUSIONS]
    )
    left = len(confusions) - CONFUSIONS
    words = f"The most frequent confusions, {split}:"
    more = paragraph(f"And {count(left, 'rarer one')}.") if left > 0 else ""
    head = "<tr><th class=words>True<th class=words>Said<th>Images<th>Of its class"
    return f"{paragraph(words)}<div class=wide><table>{head}{rows}</table></div>{more}"


def _pictured(mistakes: Mistakes, predictions: Predictions, images: str) -> str:
    """The pictures of the most certain mistakes, each with its predicted and its true class."""
    if not mistakes.mistakes:
        return paragraph(f"There are none: all {mistakes.images:,} {images} are right.")
    by_number = {each.image: each for each in mistakes.mistakes}
    figures = []
    for number, pixels in zip(predictions.pictured.tolist(), predictions.pictures, strict=True):
        mistake = by_number[number]
        where = mistake.file or f"image {number}"
        caption = f"said <b>{escape(mistake.said)}</b>, {100 * mistake.probability:.1f}&nbsp;%<br>is "
        caption += f"<b>{escape(mistake.true)}</b>, {100 * mistake.probability_of_true:.1f}&nbsp;%"
        figures.append(_figure(pixels, where, caption))
    number = len(mistakes.mistakes)
    words = f"{f'{len(figures)} of the' if number > len(figures) else 'The'} {count(number, 'mistake')} on the "
    words += f"{mistakes.images:,} {images}, the highest probability of a wrong class first. Some may be wrong labels."
    if mistakes.mistakes[0].file is not None:
        words += " `search errors --files` lists all of the files."
    return paragraph(words) + _grid(figures, predictions.pictures)


def _grid(figures: Sequence[str], pictures: NDArray[np.uint8]) -> str:
    small = " small" if max(pictures.shape[1:3]) < SMALL else ""
    return f'<div class="pictures{small}">{"".join(figures)}</div>'


def _figure(pixels: NDArray[np.uint8], title: str, caption: str) -> str:
    """A picture uint8 [H, W, C] embedded in the page; the caption is already HTML."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(file, "png", optimize=True)
    height, width = pixels.shape[:2]
    largest = max(height, width)
    scale = max(SHOWN // largest, 1) if largest < SMALL else SHOWN / largest
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    size = f"width={round(width * scale)} height={round(height * scale)}"
    name = escape(title)
    return f'<figure><img src="{source}" alt="{name}" title="{name}" {size}><figcaption>{caption}</figcaption></figure>'


def _calibrated(validation: Mistakes) -> str:
    """The effect of the temperature."""
    if validation.temperature is None:
        return "No temperature: it cannot be fitted where all validation images are right."
    direction = "too certain" if validation.temperature > 1 else "not certain enough"
    return (
        f"The temperature {validation.temperature:.2f}, fitted on validation, says that the network is {direction}: "
        "logits divided by it have the smallest loss there. It changes no answer."
    )


def _thresholds(validation: Mistakes, test: Mistakes | None) -> str:
    words = (
        "You can refuse to answer where the highest probability (without the temperature) is below a threshold. The "
        "table says what that costs on images of these classes; how many images of other classes it stops was not "
        "measured. The thresholds were chosen on validation."
    )
    columns = "<th class=split>Answered<th>Right of these<th>Wrong<th>Right<br>ones lost"
    head = "<tr><th rowspan=2>Threshold<th colspan=4 class=split>Validation"
    head += f"{'<th colspan=4 class=split>Test' if test else ''}<tr>{columns}{columns if test else ''}"
    rows = []
    for i, each in enumerate(validation.thresholds):
        row = f"<tr><td>{each.threshold:.4f}"
        for split in (validation, test):
            if split is not None:
                at = split.thresholds[i]
                row += (
                    f"<td class=split>{percent(at.answered)}<td>{share_interval(at.accuracy) or 'none'}<td>{at.wrong:,}"
                )
                row += f"<td>{percent(at.lost)}"
        rows.append(row)
    return f"{paragraph(words)}<div class=wide><table>{head}{''.join(rows)}</table></div>"


def _batch(folder: RunFolder, run: Promotion | None) -> str:
    """A few training images after augmentation."""
    if run is None:
        return paragraph("No full run is finished yet: `search promote` stores a batch of the best network.")
    path = folder.promotion(run.trial, run.recipe.epochs, run.seed, refit=run.refit).batch
    try:
        batch = SeenBatch.read(path)
    except (OSError, ValueError):
        return paragraph(f"Not stored, or damaged: `search promote {folder.name}`, given again, stores it.")
    words = (
        f"{count(len(batch.pictures), 'training image')}, drawn by the seed of trial {run.trial}, after the "
        "augmentation of its recipe. If you cannot recognise the classes here, the augmentation may be too strong."
    )
    if run.recipe.mix != "none":
        words += f" The recipe mixes images ({run.recipe.mix}) in {run.recipe.mix_share:.0%} of the batches."
    figures = [
        _figure(pixels, f"training image {i + 1}", _made_of(batch, i)) for i, pixels in enumerate(batch.pictures)
    ]
    return paragraph(words) + _grid(figures, batch.pictures)


def _made_of(batch: SeenBatch, number: int) -> str:
    """The classes of a picture, with their shares if it is mixed."""
    shares: dict[str, float] = {}
    for label, share in zip(batch.labels[:, number].tolist(), batch.shares.tolist(), strict=True):
        shares[batch.classes[label]] = shares.get(batch.classes[label], 0.0) + share
    present = {name: share for name, share in shares.items() if share > 0}
    if len(present) == 1:
        return escape(next(iter(present)))
    return "<br>".join(f"{escape(name)} {100 * share:.0f}&nbsp;%" for name, share in present.items())
