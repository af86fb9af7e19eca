"""The report and the dashboard as a browser shows them."""

from pathlib import Path

from tests.support.browser import Browser, Page
from tests.support.processes import until

PHONE, DESKTOP, PROJECTOR = 390, 1280, 1920
CHARTS = '[...document.querySelectorAll(".chart")]'
# Of each chart the number of marks, and its size.
DRAWN = f"""{CHARTS}.map((chart) => {{
  const marks = chart.querySelectorAll(".scatterlayer path, .barlayer path, .heatmaplayer image").length;
  const box = chart.getBoundingClientRect();
  return [marks, box.width, box.height];
}})"""
# Where a point (or the middle of a bar) of a chart is, and all that hovers in this chart can say.
POINT = """((chart) => {
  chart.scrollIntoView({ block: "center" });
  const { xaxis, yaxis } = chart._fullLayout, box = chart.getBoundingClientRect(), plain = document.createElement("p");
  const traces = chart.data.filter((trace) => trace.hovertext && trace.x.length);
  const said = traces.flatMap((each) => each.hovertext).map((text) => {
    plain.innerHTML = text.replaceAll("<br>", "");
    return plain.textContent;
  });
  const within = (axis, value) => value != null && 0 <= axis.d2p(value) && axis.d2p(value) <= axis._length;
  for (const trace of traces.toReversed())
    for (let i = 0; i < trace.x.length; i++) {
      const x = trace.type == "bar" ? trace.x[i] / 2 : trace.x[i];
      if (within(xaxis, x) && within(yaxis, trace.y[i]))
        return [box.x + xaxis._offset + xaxis.d2p(x), box.y + yaxis._offset + yaxis.d2p(trace.y[i]), said];
    }
})"""
# The pairs of tick labels of a chart that lie over each other, and the words of a chart that it cuts off.
OVERLAPS = f"""{CHARTS}.flatMap((chart) => {{
  const labels = [...chart.querySelectorAll(".xtick text, .ytick text")];
  const boxes = labels.map((each) => each.getBoundingClientRect());
  const inside = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
  return labels.flatMap((one, i) => labels.slice(i + 1).filter((_, j) => inside(boxes[i], boxes[i + 1 + j]))
    .map((other) => one.textContent + " / " + other.textContent));
}})"""
CUT_OFF = f"""{CHARTS}.flatMap((chart) => {{
  const frame = chart.querySelector(".main-svg").getBoundingClientRect();
  return [...chart.querySelectorAll("text")].filter((each) => {{
    const box = each.getBoundingClientRect();
    return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1
      || box.bottom > frame.bottom + 1);
  }}).map((each) => each.textContent);
}}).concat([...document.querySelectorAll(".card, .badge, h1, .headline, .diagram")].filter(
  (each) => each.scrollWidth > each.clientWidth + 1 && getComputedStyle(each).display != "inline"
).map((each) => each.textContent))"""
# The words whose contrast with what is behind them is less than 4.5 (WCAG 2), with their contrast.
FAINT = """(() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const rgb = (colour) => [...numbers(colour).slice(0, 3), numbers(colour)[3] ?? 1];
  const over = (top, share, under) => top.slice(0, 3).map((each, i) => each * share + under[i] * (1 - share));
  const light = (colour) => colour.slice(0, 3).map((each) => each / 255)
    .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, i) => sum + each * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = rgb(getComputedStyle(element).backgroundColor);
      if (colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const own = (element) => [...element.childNodes].some((each) => each.nodeType == 3 && each.textContent.trim());
  return [...document.querySelectorAll("body *")].filter((each) => own(each) && each.getClientRects().length
    && !each.closest("script, style, .heatmap-label, .hoverlayer, input, button, title")).flatMap((each) => {
    const style = getComputedStyle(each), isDrawn = each instanceof SVGElement, under = behind(each);
    const colour = rgb(isDrawn ? style.fill : style.color);
    const seen = over(colour, colour[3] * (isDrawn ? +style.fillOpacity : 1), under);
    const [low, high] = [light(seen), light(under)].sort((a, b) => a - b), contrast = (high + 0.05) / (low + 0.05);
    return contrast < 4.5 ? [each.textContent.slice(0, 40) + ": " + contrast.toFixed(2)] : [];
  });
})()"""
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
    drawn = page.evaluate(DRAWN)
    assert len(drawn) == charts
    assert all(marks > 0 and wide > 200 and high > 120 for marks, wide, high in drawn), drawn
    assert page.evaluate(OVERLAPS) == []
    assert page.evaluate(CUT_OFF) == []
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
    assert page.evaluate("painting.then(() => true)")  # of all charts, one after another
    assert page.evaluate(FAINT) == []
    for i in range(charts):
        chart = f"{CHARTS}[{i}]"
        if page.evaluate(f"{chart}.data[0].type") == "heatmap":
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
