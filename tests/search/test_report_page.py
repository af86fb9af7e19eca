"""The report as a browser shows it: drawn, hovered over, on a phone and a projector, in light and dark."""

import json
from pathlib import Path
from typing import Any

import pytest

from search.charts import ALL_CHARTS, parameters_of
from search.report import read_results, write_report
from search.run_folder import RunFolder
from search.trials import seconds_of
from search.words import percent
from tests.browser import Browser, Page
from tests.search.test_report import made_once, measured, mixed  # noqa: F401  # fixtures

PHONE, DESKTOP = 390, 1280
CHARTS = '[...document.querySelectorAll(".chart")]'
# Of each chart the marks in SVG, the pixels with any colour of those lines that WebGL draws, and its size.
DRAWN = f"""{CHARTS}.map((chart) => {{
  const marks = chart.querySelectorAll(".scatterlayer path, .barlayer path, .parcoords .y-axis").length;
  const canvas = chart.querySelector("canvas.gl-canvas-focus");
  let pixels = null;
  if (canvas) {{
    const copy = document.createElement("canvas");
    [copy.width, copy.height] = [canvas.width, canvas.height];
    const context = copy.getContext("2d");
    context.drawImage(canvas, 0, 0);
    const bytes = context.getImageData(0, 0, copy.width, copy.height).data;
    pixels = bytes.filter((byte, i) => i % 4 == 3 && byte).length;
  }}
  const box = chart.getBoundingClientRect();
  return [marks, pixels, box.width, box.height];
}})"""
# Where a point (or the middle of a bar) of a chart is, and all that hovers in this chart can say.
POINT = """((chart) => {
  chart.scrollIntoView({ block: "center" });
  const { xaxis, yaxis } = chart._fullLayout, box = chart.getBoundingClientRect(), plain = document.createElement("p");
  const traces = chart.data.filter((trace) => trace.hovertext && trace.x.length), trace = traces.at(-1);
  const x = trace.type == "bar" ? trace.x[0] / 2 : trace.x[0];
  const said = traces.flatMap((each) => each.hovertext).map((text) => {
    plain.innerHTML = text.replaceAll("<br>", "");
    return plain.textContent;
  });
  return [box.x + xaxis._offset + xaxis.d2p(x), box.y + yaxis._offset + yaxis.d2p(trace.y[0]), said];
})"""


def shown(browser: Browser, report: Path, width: int, *, dark: bool = False) -> Page:
    page = browser.load(report, width=width, dark=dark)
    page.wait_for(f"{CHARTS}.length > 0 && {CHARTS}.every((chart) => chart.querySelector('.main-svg'))")
    return page


def check(page: Page, charts: int, width: int, *, dark: bool) -> None:
    """The page has so many charts, each drawn and with words for the mouse, and nothing went wrong."""
    page.wait_for(f"{DRAWN}.every((drawn) => drawn[1] !== 0)")  # WebGL's lines come in the next frame
    drawn = page.evaluate(DRAWN)
    assert len(drawn) == charts
    assert all(marks > 0 and wide > 200 and high > 200 for marks, _, wide, high in drawn), drawn
    assert [pixels > 100 for _, pixels, _, _ in drawn if pixels is not None] == [True]  # the parallel coordinates
    # The page itself does not scroll sideways; what is wider does so by itself.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == DESKTOP:
        tables = "[...document.querySelectorAll('.wide:has(table)')]"
        assert page.evaluate(f"{tables}.every((each) => each.scrollWidth <= each.clientWidth)")
    ink, paper = page.evaluate(
        """[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor].map(
             (colour) => colour.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b))"""
    )
    assert (ink > paper) == dark
    page.wait_for(
        'getComputedStyle(document.querySelector(".chart .xtick text")).fill == getComputedStyle(document.body).color'
    )
    for i in range(charts):
        chart = f"{CHARTS}[{i}]"
        if page.evaluate(f"{chart}.data[0].type") == "parcoords":  # has no hover
            continue
        x, y, texts = page.evaluate(f"{POINT}({chart})")
        page.hover(x, y)
        said = page.wait_for(f"[...{chart}.querySelectorAll('.hovertext')].map((each) => each.textContent).join('')")
        assert said in texts
    loaded = page.evaluate('performance.getEntriesByType("resource").map((each) => each.name)')
    assert [name for name in loaded if not name.startswith(("blob:", "data:"))] == []
    assert page.errors == []


@pytest.mark.parametrize(("width", "dark"), [(PHONE, True), (DESKTOP, False)], ids=["phone", "desktop"])
def test_every_chart_is_drawn_and_says_what_is_under_the_mouse(
    width: int,
    dark: bool,
    browser: Browser,
    measured: RunFolder,  # noqa: F811  # the fixture of that name
    tmp_path: Path,
) -> None:
    """All of them, from a page that has nothing beside it; `test_e2e` has those of a study that was really run."""
    moved = tmp_path / "alone.html"
    moved.write_bytes(write_report(measured).read_bytes())
    check(shown(browser, moved, width, dark=dark), len(ALL_CHARTS), width, dark=dark)


def test_the_numbers_on_the_page_are_those_in_the_storage(browser: Browser, measured: RunFolder) -> None:  # noqa: F811
    page = shown(browser, write_report(measured), DESKTOP)
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
    assert points(history["complete"]) == {(trial.number, trial.value) for trial in complete}
    assert points(sizes["short run"]) == {(parameters_of(trial), trial.value) for trial in complete}
    assert points(sizes["longer run of 5 epochs"]) == {(run.parameters, run.val_accuracy) for run in runs}
    for run in runs:
        epochs = {(epoch.epoch, epoch.val_accuracy) for epoch in run.history}
        assert points(curves[f"trial {run.trial}, 5 epochs"]) == epochs
    (shares,) = importances.values()
    assert dict(zip(*shares[::-1], strict=True)) == dict([*results.importances.items()][:15])
    (axes,) = space.values()
    assert dict(zip(*axes, strict=True))["accuracy (%)"] == [100 * (trial.value or 0) for trial in complete[::-1]]
    pairs = {(trial.value, run.val_accuracy) for run in runs for trial in complete if trial.number == run.trial}
    assert {point for series in fidelity.values() for point in points(series)} == pairs
    (bars,) = time.values()
    seconds = sum(seconds_of(trial) or 0 for trial in results.trials) + sum(run.seconds for run in runs)
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
