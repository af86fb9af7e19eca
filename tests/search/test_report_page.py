"""The report as a browser shows it: drawn, hovered over, on a phone and a projector, in light and dark."""

import json
from pathlib import Path
from typing import Any

import pytest

from search.charts import ALL_CHARTS
from search.formatting import percent
from search.report import write_report
from search.results import read_results
from search.run_folder import RunFolder
from tests.support.browser import Browser
from tests.support.pages import CHARTS, DESKTOP, PHONE, check, shown
from tests.support.predicted import drawn, promoted_with, store_batch
from tests.support.runs import promoted


def test_every_chart_is_drawn_on_a_phone_and_says_what_is_under_the_mouse(
    browser: Browser,
    measured: RunFolder,  # the fixture of that name
    tmp_path: Path,
) -> None:
    """All of them, from a page that has nothing beside it; `test_e2e` has those of a study that was really run."""
    moved = tmp_path / "alone.html"
    moved.write_bytes(write_report(measured).read_bytes())
    check(shown(browser, moved, PHONE, dark=True), len(ALL_CHARTS), PHONE, dark=True)


def test_on_a_projector_too_and_the_numbers_on_the_page_are_those_in_the_storage(
    browser: Browser, measured: RunFolder, tmp_path: Path
) -> None:
    moved = tmp_path / "alone.html"
    moved.write_bytes(write_report(measured).read_bytes())
    page = shown(browser, moved, DESKTOP)
    check(page, len(ALL_CHARTS), DESKTOP, dark=False)
    results = read_results(measured)
    drawn = page.evaluate(
        f"""JSON.stringify({CHARTS}.map((chart) => chart.data.map((trace) => trace.type == "parcoords"
             ? ["", trace.dimensions.map((each) => each.label), trace.dimensions.map((each) => [...each.values])]
             : [trace.name, [...trace.x], [...trace.y]])))"""
    )
    sizes, history, _, curves, importances, space, fidelity, time = (
        {name: (x, y) for name, x, y in chart} for chart in json.loads(drawn)
    )

    def points(series: tuple[list[Any], list[Any]]) -> set[tuple[Any, Any]]:
        return {*zip(*series, strict=True)}

    complete, runs = results.complete, results.promotions
    assert points(history["complete"]) == {(trial.number, trial.score) for trial in complete}
    assert points(sizes["short run"]) == {(trial.parameters, trial.score) for trial in complete}
    assert points(sizes["full run of 5 epochs"]) == {(run.parameters, run.val_accuracy) for run in runs}
    for run in runs:
        epochs = {(epoch.epoch, epoch.val_accuracy) for epoch in run.history}
        assert points(curves[f"trial {run.trial}, 5 epochs"]) == epochs
    (shares,) = importances.values()
    assert dict(zip(*shares[::-1], strict=True)) == dict([*results.importances.items()][:15])
    (axes,) = space.values()
    assert dict(zip(*axes, strict=True))["accuracy (%)"] == [100 * (trial.score or 0) for trial in complete[::-1]]
    pairs = {(trial.score, run.val_accuracy) for run in runs for trial in complete if trial.number == run.trial}
    assert {point for series in fidelity.values() for point in points(series)} == pairs
    (bars,) = time.values()
    seconds = sum(trial.seconds or 0 for trial in results.trials) + sum(run.seconds for run in runs)
    assert 3600 * sum(bars[0]) == pytest.approx(seconds)
    rows = page.evaluate(
        "[...document.querySelectorAll('tr:has(> td.split)')].map((row) => row.innerText.split('\\t'))"
    )
    assert [(row[2], row[7], row[8]) for row in rows] == [
        (f"{run.parameters:,}", percent(run.val_accuracy or 0), percent(run.test_accuracy or 0)) for run in runs
    ]
    best = max(run.val_accuracy or 0 for run in runs)
    assert f"{percent(best)} on validation, by which it was chosen" in page.text
    assert "3 complete" in page.text


MATRICES = f"{CHARTS}.filter((chart) => chart.data[0].type == 'heatmap')"


@pytest.mark.parametrize(
    ("classes", "width"),
    [
        (2, PHONE),
        (100, DESKTOP),
        *(pytest.param(*each, marks=pytest.mark.long) for each in ((2, DESKTOP), (100, PHONE))),
    ],
)
def test_what_the_network_gets_wrong_can_be_read_for_few_and_for_many_classes(
    browser: Browser, measured: RunFolder, classes: int, width: int
) -> None:
    names = [f"<b>class</b> {i}" for i in range(classes)]
    made = drawn(20 * classes, classes, margin=2.5, classes=names, files=[f"val/{i}.jpg" for i in range(20 * classes)])
    test = drawn(30 * classes, classes, seed=3, margin=2.5, classes=names)
    run = promoted_with(measured, 5, made, test, val_accuracy=0.95)
    store_batch(measured, run, names)
    page = shown(browser, write_report(measured), width)
    check(page, len(ALL_CHARTS) + (3 if classes == 2 else 2), width, dark=False)
    counts = page.evaluate(
        f"{MATRICES}[0].data.flatMap((trace) => trace.text.flat().filter((text) => text).map(Number))"
    )
    assert sum(counts) == len(made)
    words = page.evaluate(
        f"[...{MATRICES}[0].querySelectorAll('.heatmap-label')].map((each) => each.textContent).join(' ')"
    )
    assert words.split() == ([str(number) for number in counts] if classes == 2 else [])
    axis = page.evaluate(f"[...{MATRICES}[0].querySelectorAll('.ytick text')].map((each) => each.textContent)")
    assert sorted(axis) == sorted(names)
    pictures = page.evaluate(
        "[...document.querySelectorAll('section > .pictures img')].map((each) => each.naturalWidth)"
    )
    assert pictures == [8] * (min(len(made) - made.is_right.sum(), 24) + 16)
    assert "said <b>class</b> " in page.text
    assert "`search errors --files` lists all of the files" in page.text
    rows = page.evaluate("[...document.querySelectorAll('section > .wide td.name')].map((each) => each.innerText)")
    assert len(rows) == min(classes, 20)
    assert ("80 more classes" in page.text) == (classes == 100)


def test_the_matrix_of_very_many_classes_is_not_drawn(measured: RunFolder) -> None:
    promoted_with(measured, 5, drawn(400, 400, margin=1.0), val_accuracy=0.95, test_accuracy=0.9)
    page = write_report(measured).read_text()
    assert "A matrix of 400 classes is too large to be drawn." in page
    assert "The most frequent confusions, validation:" in page
    assert '"xgap":1' not in page  # of a heat map's cells


def test_without_stored_predictions_the_page_says_how_to_get_them(measured: RunFolder) -> None:
    def said() -> str:
        return write_report(measured).read_text()

    assert "Not known: no stored validation predictions of trial 5 of run &#x27;mixed&#x27;" in said()
    assert "Not stored, or damaged: `search promote mixed`, given again, stores it." in said()
    promoted_with(measured, 5, drawn(30, 3, margin=9.0), test_accuracy=0.9)
    page = said()
    assert "There are none: all 30 validation images are right." in page
    assert "No temperature: it cannot be fitted where all validation images are right." in page
    assert "On test not known: no stored test predictions" in page
    measured.promotion(5, 5, 0).batch.write_bytes(b"damaged")
    measured.promotion(5, 5, 0).predictions("val").write_bytes(b"damaged")
    assert "predictions-val.npz cannot be read, delete it, and `search promote mixed` writes it again" in said()
    promoted(measured, 5, diverged="the loss is nan", val_accuracy=None, test_accuracy=None)
    for number in (0, 1):
        promoted(measured, number, diverged="the loss is nan", val_accuracy=None, test_accuracy=None)
    assert "No full run is finished yet: `search promote` trains the best trials and stores what they get" in said()
