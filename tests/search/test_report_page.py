"""The report as a browser shows it: drawn, hovered over, on a phone and a projector, in light and dark."""

import json
from pathlib import Path

import pytest

from search.charts import ALL_CHARTS
from search.report import read_results, write_report
from search.run_folder import RunFolder
from tests.browser import Browser, Page
from tests.search.test_report import made_once, measured, mixed  # noqa: F401  # fixtures

DRAWN = """[...document.querySelectorAll(".chart")].map((chart) => {
  const box = chart.getBoundingClientRect();
  const marks = chart.querySelectorAll(".scatterlayer path, .barlayer path, .parcoords .y-axis").length;
  return [marks, box.width, box.height];
})"""


def shown(browser: Browser, folder: RunFolder, width: int, *, dark: bool = False) -> Page:
    page = browser.load(write_report(folder), width=width, dark=dark)
    page.wait_for('document.querySelectorAll(".chart .main-svg").length > 0')
    page.wait_for('[...document.querySelectorAll(".chart")].every((chart) => chart.querySelector(".main-svg"))')
    return page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desktop"])
def test_every_chart_is_drawn_without_an_error(
    width: int,
    dark: bool,
    browser: Browser,
    measured: RunFolder,  # noqa: F811  # the fixture of that name
) -> None:
    page = shown(browser, measured, width, dark=dark)
    assert page.errors == []
    drawn = page.evaluate(DRAWN)
    assert len(drawn) == len(ALL_CHARTS)
    assert all(marks > 0 and wide > 200 and high > 200 for marks, wide, high in drawn), drawn
    # The page itself does not scroll sideways; what is wider does so by itself.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate(
        """[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor].map(
             (colour) => colour.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b))"""
    )
    assert (ink > paper) == dark
    axis = page.evaluate('getComputedStyle(document.querySelector(".chart .xtick text")).fill')
    assert axis == page.evaluate("getComputedStyle(document.body).color")


def test_a_point_says_what_it_is_when_the_mouse_is_over_it(browser: Browser, measured: RunFolder) -> None:  # noqa: F811
    page = shown(browser, measured, 1280)
    x, y = page.evaluate(
        """(() => { const point = document.querySelectorAll(".chart")[1].querySelector(".scatterlayer .points path");
             point.scrollIntoView({ block: "center" });
             const box = point.getBoundingClientRect();
             return [box.x + box.width / 2, box.y + box.height / 2]; })()"""
    )
    page.hover(x, y)
    said = page.wait_for('[...document.querySelectorAll(".hoverlayer text")].map((each) => each.textContent).join(" ")')
    assert "Trial " in said
    assert "on validation" in said


def test_the_numbers_on_the_page_are_those_in_the_storage(browser: Browser, measured: RunFolder) -> None:  # noqa: F811
    page = shown(browser, measured, 1280)
    results = read_results(measured)
    drawn = page.evaluate(
        """JSON.stringify([...document.querySelectorAll(".chart")][1].data.map(
             (trace) => [trace.name, [...trace.x], [...trace.y]]))"""
    )
    history = {name: dict(zip(x, y, strict=True)) for name, x, y in json.loads(drawn)}
    assert history["complete"] == {trial.number: trial.value for trial in results.complete}
    best = max(run.val_accuracy or 0 for run in results.promotions)
    assert f"{100 * best:.2f} % on validation, by which it was chosen" in page.text
    assert "3 complete" in page.text


def test_a_page_without_a_network_is_the_whole_page(browser: Browser, measured: RunFolder, tmp_path: Path) -> None:  # noqa: F811
    moved = tmp_path / "alone.html"
    moved.write_bytes(write_report(measured).read_bytes())
    page = browser.load(moved, width=1280)
    page.wait_for('[...document.querySelectorAll(".chart")].every((chart) => chart.querySelector(".main-svg"))')
    loaded = page.evaluate('performance.getEntriesByType("resource").map((each) => each.name)')
    assert [name for name in loaded if not name.startswith(("blob:", "data:"))] == []
