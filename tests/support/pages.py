"""The report and the dashboard as a browser shows them."""

from pathlib import Path

from tests.support.browser import Browser, Page
from tests.support.processes import until

PHONE, DESKTOP = 390, 1280
CHARTS = '[...document.querySelectorAll(".chart")]'
# Of each chart the marks in SVG, the pixels with any colour of those lines that WebGL draws, and its size.
DRAWN = f"""{CHARTS}.map((chart) => {{
  const kinds = ".scatterlayer path, .barlayer path, .heatmaplayer image, .parcoords .y-axis";
  const marks = chart.querySelectorAll(kinds).length;
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
# Where the middle cell of the diagonal of a heat map is, once it is scrolled to.
CELL = """((chart) => {
  const { xaxis, yaxis } = chart._fullLayout, names = chart.data[0].x, name = names[names.length >> 1];
  const x = xaxis._offset + xaxis.d2p(name), y = yaxis._offset + yaxis.d2p(name);
  chart.parentElement.scrollLeft = x - 200;
  scrollBy(0, chart.getBoundingClientRect().y + y - innerHeight / 2);
  const box = chart.getBoundingClientRect();
  return [box.x + x, box.y + y];
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
        if (kind := page.evaluate(f"{chart}.data[0].type")) == "parcoords":  # has no hover
            continue
        if kind == "heatmap":
            x, y = page.evaluate(f"{CELL}({chart})")
            page.hover(x, y)
            page.wait_for(
                f"[...{chart}.querySelectorAll('.hovertext')].some((each) => / of its images/.test(each.textContent))"
            )
            continue
        x, y, texts = page.evaluate(f"{POINT}({chart})")
        page.hover(x, y)
        said = page.wait_for(f"[...{chart}.querySelectorAll('.hovertext')].map((each) => each.textContent).join('')")
        assert said in texts
    loaded = page.evaluate('performance.getEntriesByType("resource").map((each) => each.name)')
    assert [name for name in loaded if not name.startswith(("blob:", "data:"))] == []
    assert page.errors == []


PLOTS = ("plot-history", "graph-hyperparameter-importances", "graph-timeline", "graph-intermediate-values")
MIDDLES = """[...document.querySelectorAll("#graph-intermediate-values .scatterlayer .points path")].map((point) => {
  const box = point.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
})"""


def check_plots(page: Page, *, dark: bool) -> None:
    """The study's plots are drawn, and the points of a trial's curve say what they are."""
    for plot in PLOTS:
        page.wait_for(f"document.querySelectorAll('#{plot} .scatterlayer path, #{plot} .barlayer path').length")

    def said() -> str:
        """Again and again: as long as plots come, those that are there move; and what does not fit is not shown."""
        page.evaluate("document.querySelector('#graph-intermediate-values').scrollIntoView()")
        texts = ""
        for x, y in page.evaluate(MIDDLES):
            page.hover(x, y)
            texts += page.evaluate("document.querySelector('#graph-intermediate-values .hovertext')?.textContent") or ""
        return texts

    assert "rial" in until(said, 30)
    paper = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0]"
    page.wait_for(f"({paper} < 128) == {str(dark).lower()}")
    assert page.errors == []
