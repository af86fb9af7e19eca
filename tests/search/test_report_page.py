"""The report as a browser shows it: drawn, hovered over, on a phone and a projector, in light and dark."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search import fidelity, identity
from search.charts import ALL_CHARTS
from search.formatting import bounds, duration, percent
from search.report import write_report
from search.results import read_results
from search.run_folder import RunFolder, write_text
from search.uncertainty import accuracy_interval
from tests.support.browser import Browser, Page
from tests.support.lines import connect_to_lines
from tests.support.pages import CHARTS, DESKTOP, OVERLAPS, PHONE, POINT, PROJECTOR, check, shown
from tests.support.predicted import drawn, promoted_with, store_batch
from tests.support.runs import make_run, promoted


@pytest.fixture(scope="module")
def kept(made_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    """What `measured` is, with what its images are and an exported model: for tests that change nothing in it."""
    folder = RunFolder(shutil.copytree(made_once, tmp_path_factory.mktemp("kept") / "mixed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "connect", connect_to_lines)
        patch.setattr(fidelity, "MIN_PAIRS", 3)
        for number, accuracy in ((0, 0.8), (1, 0.85), (5, 0.9)):
            promoted(folder, number, val_accuracy=accuracy)
        with_facts(folder)
        model = folder.exported(folder.promotion(5, 5, 0), "onnx")
        write_text(model, "x" * 84_567)
        write_text(model.with_name(f"{model.name}.md"), "its card")
        write_report(folder)
        yield folder


@pytest.fixture
def its_page(browser: Browser, kept: RunFolder) -> Page:
    """The report of that in a wide window; what the test before has shown already is not loaded again."""
    return browser.shown(kept.report) or shown(browser, kept.report, DESKTOP)


def figures(folder: RunFolder) -> int:
    """How many figures the charts of its report have."""
    results = read_results(folder)
    return sum(len(make(results).figures) for make in ALL_CHARTS)


@pytest.mark.parametrize(("width", "dark"), [(PHONE, True), (PROJECTOR, False)], ids=["phone", "projector"])
def test_every_chart_is_drawn_and_says_what_is_under_the_mouse(
    browser: Browser,
    measured: RunFolder,  # the fixture of that name
    tmp_path: Path,
    width: int,
    dark: bool,
) -> None:
    """All of them, from a page that has nothing beside it; `test_e2e` has those of a study that was really run."""
    with_facts(measured)
    moved = tmp_path / "alone.html"
    moved.write_bytes(write_report(measured).read_bytes())
    page = shown(browser, moved, width, dark=dark)
    check(page, figures(measured), width, dark=dark)
    if width == PROJECTOR:  # its reader wants the other colours now
        page.turn(dark=not dark)
        check(page, figures(measured), width, dark=not dark)


def with_facts(folder: RunFolder, images: int = 144) -> None:
    """Write down what the run's images are."""
    write_text(folder.facts, json.dumps({"data": {"validation_images": images, "size": [32, 32]}}))


def test_the_numbers_on_the_page_are_those_in_the_storage(its_page: Page, kept: RunFolder) -> None:
    page, model = its_page, kept.exported(kept.promotion(5, 5, 0), "onnx")
    check(page, figures(kept), DESKTOP, dark=False)
    results = read_results(kept)
    drawn = page.evaluate(
        f"JSON.stringify({CHARTS}.map((chart) => chart.data.map((trace) => [trace.name, [...trace.x], [...trace.y]])))"
    )
    charts = [{name: (x, y) for name, x, y in chart} for chart in json.loads(drawn)]
    sizes, history, _, curves, losses, *panels, fidelity, time = charts

    def points(series: tuple[list[Any], list[Any]]) -> set[tuple[Any, Any]]:
        return {*zip(*series, strict=True)}

    complete, runs = results.complete, results.promotions
    assert points(history["complete"]) == {(trial.number, trial.score) for trial in complete}
    assert points(sizes["short run"]) == {(trial.parameters, trial.score) for trial in complete}
    assert points(sizes["full run of 5 epochs"]) == {(run.parameters, run.val_accuracy) for run in runs}
    assert list(curves) == list(losses)
    for panel in panels:
        scores = [*panel["the best trial"][1], *panel["trial"][1]]
        assert scores == [trial.score for trial in complete]
    pairs = {(trial.score, run.val_accuracy) for run in runs for trial in complete if trial.number == run.trial}
    assert {point for series in fidelity.values() for point in points(series)} == pairs
    (bars,) = time.values()
    seconds = sum(trial.seconds or 0 for trial in results.trials) + sum(run.seconds for run in runs)
    assert sum(bars[0]) == pytest.approx(seconds)
    rows = page.evaluate(
        "[...document.querySelectorAll('tr:has(> td.split)')].map((row) => row.innerText.split('\\t'))"
    )
    assert [(row[2], row[7], row[8]) for row in rows] == [
        (f"{run.parameters:,}", percent(run.val_accuracy or 0), percent(run.test_accuracy or 0)) for run in runs
    ]
    best = max(runs, key=lambda run: run.val_accuracy or 0)
    assert f"{percent(best.val_accuracy or 0)} on validation, by which it was chosen" in page.text
    shown_cards = page.evaluate(
        "[...document.querySelectorAll('.card')].map((each) => [...each.children].map((part) => part.innerText))"
    )
    cards = {name: (value, *note) for name, value, *note in shown_cards}
    for name, accuracy, images in (("Test", best.test_accuracy, 360), ("Validation", best.val_accuracy, 144)):
        assert accuracy is not None
        known = accuracy_interval([accuracy], images)
        value, note = cards[f"{name} accuracy"]
        assert value == percent(accuracy)
        assert note.startswith(f"95 %: {bounds(known)} ({images} images alone, one seed)")
    assert cards["Parameters"][0] == f"{best.parameters:,}"
    assert cards["Multiply-adds"][0] == f"{best.multiply_adds:,}"
    assert cards["Model file"] == ("84.6 kB", model.name)
    assert cards["Training time"][0] == duration(seconds)
    links = page.evaluate(
        "[...document.querySelectorAll('#exported-models a')].map((each) => each.getAttribute('href'))"
    )
    assert links == [f"exported/{model.name}", f"exported/{model.name}.md"]
    assert all((kept.root / link).exists() for link in links)


def test_one_switch_shows_errors_on_logarithmic_axes_and_back(its_page: Page) -> None:
    page = its_page
    state = f"JSON.stringify({CHARTS}.map((chart) => [chart.layout.meta?.scores ?? '', chart.layout.yaxis.type ?? '', "
    state += "chart.data.map((trace) => [[...trace.x], [...trace.y], trace.hovertext])]))"
    before = json.loads(page.evaluate(state))
    page.evaluate("document.getElementById('errors').click()")
    assert page.evaluate("painting.then(() => true)")
    after = json.loads(page.evaluate(state))
    assert {scores for scores, _, _ in before} == {"", "y", "xy"}
    for (scores, _, old), (_, kind, new) in zip(before, after, strict=True):
        for (x, y, said), (new_x, new_y, new_said) in zip(old, new, strict=True):
            assert new_said == said
            assert new_y == ([None if v is None else pytest.approx(1 - v) for v in y] if scores else y)
            assert new_x == ([pytest.approx(1 - v) for v in x] if scores == "xy" else x)
        assert kind == "log" if scores else True
    titles = page.evaluate(f"{CHARTS}.map((chart) => chart.layout.yaxis.title?.text ?? '')")
    assert "Validation error (%)" in titles
    assert "Validation accuracy (%)" not in titles
    assert page.evaluate(OVERLAPS) == []
    x, y, texts = page.evaluate(f"{POINT}({CHARTS}[0])")
    page.hover(x, y)
    said = f"[...{CHARTS}[0].querySelectorAll('.hovertext')].map((each) => each.textContent).join('')"
    assert page.wait_for(said) in texts
    page.evaluate("document.getElementById('errors').click()")
    assert page.evaluate("painting.then(() => true)")
    assert json.loads(page.evaluate(state)) == before
    assert page.errors == []


# How often other work had its turn while all charts were drawn again.
TURNS = """(async () => {
  let turns = 0, isDone = false;
  const turn = () => { turns++; if (!isDone) setTimeout(turn) };
  setTimeout(turn);
  await paint();
  isDone = true;
  return turns;
})()"""


def test_the_page_can_be_read_and_scrolled_while_its_charts_are_drawn(its_page: Page, kept: RunFolder) -> None:
    assert its_page.evaluate("ready.then(() => true)")
    assert its_page.evaluate(TURNS) >= figures(kept) / 2
    assert its_page.errors == []


TABLE = "[...document.querySelectorAll('#trials tbody tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"


def test_the_table_of_all_trials_is_sorted_and_filtered(its_page: Page, kept: RunFolder) -> None:
    page, trials = its_page, read_results(kept).trials
    rows = page.evaluate(TABLE)
    assert [(row[0], row[1]) for row in rows] == [(str(trial.number), trial.outcome) for trial in trials]
    for row, trial in zip(rows, trials, strict=True):
        assert row[2] == ("" if trial.last_score is None else f"{100 * trial.last_score:.2f}")
        assert row[3:5] == [f"{trial.parameters:,}", f"{trial.multiply_adds:,}"]
        assert row[5:7] == [trial.network_words, trial.recipe.optimizer]
        assert row[8] == str(trial.recipe.batch_size)
        assert row[10] == (trial.given or "drawn")
    heading = "[...document.querySelectorAll('#trials th')].find((each) => each.innerText == '{}').click()"
    page.evaluate(heading.format("Parameters"))
    sizes = [int(row[3].replace(",", "")) for row in page.evaluate(TABLE)]
    assert sizes == sorted(sizes)
    page.evaluate(heading.format("Parameters"))
    assert [int(row[3].replace(",", "")) for row in page.evaluate(TABLE)] == sizes[::-1]
    page.evaluate(heading.format("Score (%)"))
    scores = [float(row[2]) for row in page.evaluate(TABLE) if row[2]]
    assert scores == sorted(scores, reverse=True)
    page.evaluate(
        "(() => { const field = document.getElementById('filter'); field.value = 'Complete sgd';"
        "field.dispatchEvent(new Event('input')) })()"
    )
    found = [trial for trial in trials if trial.is_complete and trial.recipe.optimizer == "sgd"]
    assert {row[0] for row in page.evaluate(TABLE)} == {str(trial.number) for trial in found}
    assert f"{len(found)} of {len(found)} trials" in page.text


def test_a_page_that_is_not_finished_loads_itself_again_where_its_reader_was(
    browser: Browser, mixed: RunFolder
) -> None:
    results = read_results(mixed)
    unfinished = replace(results, spec=results.spec.model_copy(update={"trials": 40}))
    timer = "setTimeout(() => location.reload(), 1000 * REFRESH_S)"
    text = write_report(mixed, unfinished).read_text()
    assert "not finished: 6 of 40 trials" in text
    assert timer in text
    mixed.report.write_text(text.replace(timer, "window.later = [() => location.reload(), 1000 * REFRESH_S]"))
    page = shown(browser, mixed.report, DESKTOP)
    assert page.evaluate("later[1]") == 60_000
    page.evaluate("(document.getElementById('errors').click(), scrollTo(0, 900), window.isOld = true)")
    write_report(mixed, results)
    mixed.report.write_text(mixed.report.read_text().replace("REFRESH_S = 0", "REFRESH_S = 9"))
    page.evaluate("setTimeout(later[0], 10)")
    page.wait_for("!window.isOld && document.readyState == 'complete' && !document.querySelector('.badge')")
    page.wait_for("scrollY == 900 && document.getElementById('errors').checked")
    assert "REFRESH_S = 0" in write_report(mixed, results).read_text()


def test_a_page_before_anything_is_complete_is_whole(browser: Browser, tmp_path: Path, in_lines: None) -> None:
    page = browser.load(write_report(make_run(tmp_path / "run")), width=PHONE)
    page.wait_for("window.Plotly")
    assert "not finished: 0 of 1 trial" in page.text
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
    assert page.errors == []


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
    check(page, figures(measured) + (3 if classes == 2 else 2), width, dark=False)
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
    assert "search errors --files lists all of the files" in page.text
    assert "`" not in page.text
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
    assert "Not stored, or damaged: <code>search promote mixed</code>, given again, stores it." in said()
    promoted_with(measured, 5, drawn(30, 3, margin=9.0), test_accuracy=0.9)
    page = said()
    assert "There are none: all 30 validation images are right." in page
    assert "No temperature: it cannot be fitted where all validation images are right." in page
    assert "On test not known: no stored test predictions" in page
    measured.promotion(5, 5, 0).batch.write_bytes(b"damaged")
    measured.promotion(5, 5, 0).predictions("val").write_bytes(b"damaged")
    assert (
        "predictions-val.npz cannot be read, delete it, and <code>search promote mixed</code> writes it again" in said()
    )
    promoted(measured, 5, diverged="the loss is nan", val_accuracy=None, test_accuracy=None)
    for number in (0, 1):
        promoted(measured, number, diverged="the loss is nan", val_accuracy=None, test_accuracy=None)
    assert (
        "No full run is finished yet: <code>search promote</code> trains the best trials and stores what they get"
        in said()
    )
