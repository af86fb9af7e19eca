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
