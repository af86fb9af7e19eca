"""The best of every size, for a run with a front: the section of the report, and the table in the terminal."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from rich.table import Table
from rich.text import Text

from search.colours import GREEN, GREY, PURPLE, VERMILLION
from search.figures import (
    Chart,
    Point,
    ScoreAxis,
    about_full,
    about_trial,
    drawn_values,
    figure_of,
    left_out,
    score_in_words,
    score_title,
    series,
    with_score_axis,
)
from search.first_screen import exported_files
from search.formatting import bounds, count, percent, share_interval, short_run
from search.front import costs_of_front, front_of, points_of_trials
from search.full_front import Row, image_size, rows_of_front
from search.markup import paragraph, section
from search.results import Results, thinned
from search.run_folder import RunFolder
from search.scores import named
from search.tables import empty_table
from train_core.limits import LimitName
from train_core.tables import table

TITLE = "The best of every size"
MOST = 2000  # short runs drawn, at most
AXES: dict[LimitName, str] = table(
    "axis",
    LimitName,
    {
        "parameters": "Trainable parameters",
        "madds": "Multiply-adds of one forward pass",
        "memory": "Memory of activations (bytes)",
        "file": "Model file (bytes)",
        "latency": "Time for one image (seconds)",
    },
)
KNEE = (
    "The knee is the network of the front that is highest above the straight line from the smallest to the largest, in "
    'the logarithm of size (Satopää et al. 2011, "Finding a Kneedle in a haystack"): behind it, more size buys little.'
)


def front_section(folder: RunFolder, results: Results) -> str:
    """The front of the full runs as a chart and a table, with the short runs behind; empty if the study has none."""
    if not results.spec.front:
        return ""
    image = image_size(folder)
    if image is None:
        return section(TITLE, paragraph(f"Not known: {folder.facts.name} is missing or damaged."))
    rows = rows_of_front(results.spec, image, results.promotions, results.measured_on)
    charts = list(front_charts(results, image, rows))
    words = charts[0].words if charts else "No trial is complete yet."
    return section(TITLE, paragraph(words) + "".join(each.html for each in charts) + _table(folder, results, rows))


def front_charts(results: Results, image: tuple[int, int], rows: Sequence[Row]) -> Iterator[Chart]:
    """A chart of the score against each cost of the front; none if no trial is complete."""
    points = points_of_trials(results.spec, image, results.complete)
    if not points:
        return
    shown, best = thinned(points, MOST), front_of(points)
    on_front = [row for row in rows if row.beaten_by is None]
    has_line = len(results.spec.front) == 1  # with two costs, a front is not a line in either of them
    line: dict[str, Any] = {"mode": "lines+markers" if has_line else "markers"}
    words = _words(results, rows)
    for i, name in enumerate(name for name in AXES if name in results.spec.front):
        behind: list[Point] = [(each.costs[i], each.score, about_trial(results, each.of)) for each in shown]
        short: list[Point] = [(each.costs[i], each.score, about_trial(results, each.of)) for each in best]
        beaten, full, at_knee = (
            [_drawn(row, i) for row in chosen]
            for chosen in (
                [row for row in rows if row.beaten_by is not None],
                on_front,
                [row for row in on_front if row.is_knee],
            )
        )
        traces = [
            series("short run", behind, mode="markers", marker={"color": GREY, "size": 6}, opacity=0.6),
            series("front of the short runs", short, **line, marker={"size": 6}, line={"color": GREY, "shape": "hv"}),
            series(
                "full run, beaten",
                beaten,
                mode="markers",
                marker={"color": PURPLE, "symbol": "x", "size": 10},
                error_y=_bars([row for row in rows if row.beaten_by is not None], PURPLE),
            ),
            series(
                "front of the full runs",
                full,
                **line,
                marker={"color": GREEN, "size": 11},
                line={"color": GREEN, "shape": "hv"},
                error_y=_bars(on_front, GREEN),
            ),
            series(
                "knee",
                at_knee,
                mode="markers",
                marker={"color": VERMILLION, "symbol": "star", "size": 18},
            ),
        ]
        figure = figure_of(
            traces, AXES[name], score_title(results), xaxis={"type": "log", "tickformat": "~s", "dtick": "D2"}
        )
        axis = ScoreAxis.of(drawn_values(traces))
        text = words + axis.words + left_out(len(shown), len(points), "short runs, evenly from the best to the worst")
        yield Chart(TITLE, text, with_score_axis(figure, axis, results))


def _drawn(row: Row, cost: int) -> Point:
    about = about_full(row.runs[0]) + (f"<br>{escape(row.remark)}" if row.remark else "")
    return row.point.costs[cost], row.point.score, about


def _bars(rows: Sequence[Row], colour: str) -> dict[str, Any]:
    above = [row.validation.high - row.point.score if row.validation else 0.0 for row in rows]
    below = [row.point.score - row.validation.low if row.validation else 0.0 for row in rows]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": colour}


def _words(results: Results, rows: Sequence[Row]) -> str:
    measured = score_in_words(results)
    if not rows:
        return (
            f"Grey: short runs of {short_run(results.spec)}, by {measured}. No full run is done yet: "
            f"`search promote {results.name} --front 5` trains five networks along the front at full length."
        )
    text = f"Full runs of {count(rows[0].runs[0].recipe.epochs, 'epoch')}, by {measured}, with 95 % intervals. On the "
    text += "front are the networks that no other beats at no more cost. "
    text += f"{KNEE} " if any(row.is_knee for row in rows) else ""
    if any(row.same_as is not None for row in rows):
        text += "Where a row says so, the validation images do not tell a network from the one before it on the front. "
    return text + f"Grey, behind: short runs of {short_run(results.spec)}."


def _table(folder: RunFolder, results: Results, rows: Sequence[Row]) -> str:
    """A row for each network that was trained along the front."""
    if not rows:
        return ""
    limits = costs_of_front(results.spec)
    html = [
        "<div class=wide><table><tr><th>Trial<th class=words>Network<th>Cost<th>Epochs"
        "<th class=split>Validation<br>(95 %)<th class=split>Test<br>(95 %)"
        "<th class='split name'>Model file<th class=name>Remark"
    ]
    for row in rows:
        costs = "<br>".join(limit.words(cost) for limit, cost in zip(limits, row.point.costs, strict=True))
        run = max(row.runs, key=lambda run: run.ranking_score)
        promotion = folder.promotion(run.trial, run.recipe.epochs, run.seed)
        files = (f'<a href="{each.address}">{escape(each.name)}</a>' for each in exported_files(folder, promotion))
        html.append(
            f"<tr{' class=winner' if row.is_knee else ''}><td>{row.trial}<td class=words>{escape(str(run.network))}"
            f"<td>{costs}<td>{run.recipe.epochs}<td class=split>{_validation(row)}<td class=split>{_test(row)}"
            f"<td class='split name'>{'<br>'.join(files) or 'not exported'}<td class=name>{row.remark}"
        )
    return "".join(html) + "</table></div>" + paragraph("`search export --front` writes one model file for each.")


def _validation(row: Row) -> str:
    if row.validation is None:
        return percent(row.point.score)
    return f"{percent(row.validation.value)}<br>({bounds(row.validation)})"


def _test(row: Row) -> str:
    if row.test is not None:
        return f"{percent(row.test.value)}<br>({bounds(row.test)})"
    scores = [run.test_score for run in row.runs if run.test_score is not None]
    return percent(sum(scores) / len(scores)) if scores else "not read"


def front_table(results: Results, image: tuple[int, int]) -> Table:
    """The table for the terminal: a row for each network, the smallest first; narrow enough for 80 columns."""
    limits = costs_of_front(results.spec)
    headings = ("trial", "<cost", "validation (95 %)", "test (95 %)", "<")
    drawn = empty_table(f"The front of the full runs ({named(results.spec.scored_by)})", *headings)
    for row in rows_of_front(results.spec, image, results.promotions, results.measured_on):
        costs = ", ".join(limit.words(cost) for limit, cost in zip(limits, row.point.costs, strict=True))
        test = share_interval(row.test) or _test(row)
        drawn.add_row(
            str(row.trial),
            Text(costs),
            share_interval(row.validation) or percent(row.point.score),
            test,
            Text(row.remark),
        )
    return drawn
