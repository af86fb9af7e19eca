"""The charts of what a network gets wrong: its confusion matrix, and how far its probabilities can be trusted."""

from collections import Counter
from collections.abc import Sequence
from html import escape
from math import sqrt
from typing import Any

import plotly.graph_objects as go

from search.colours import BLUE, GREEN, GREY, ORANGE, VERMILLION
from search.figures import Chart, Point, figure_of, series
from search.formatting import count, percent
from search.mistakes import BINS, Mistakes, neighbours

MATRIX_NUMBERS = 20  # a confusion matrix with at most so many classes has counts in its cells
MATRIX_MOST = 300  # a confusion matrix with more classes is not drawn
NAME = 24  # characters of a class's name on an axis, at most
MAX_NAMES = 110  # classes whose names fit on the axes of a confusion matrix; with more, only some have names
FAINT = 0.1  # share of a class's images: if no confusion is more frequent, none gets the full colour


def confusion_chart(mistakes: Mistakes) -> Chart:
    """The confusion matrix: a row for each true class, a column for each answer; cells without images are empty."""
    title = "Which classes are confused"
    if len(mistakes.classes) > MATRIX_MOST:
        return Chart(title, f"A matrix of {len(mistakes.classes):,} classes is too large to be drawn.")
    is_small = len(mistakes.classes) <= MATRIX_NUMBERS
    order = list(range(len(mistakes.classes))) if is_small else neighbours(mistakes.matrix)
    names = _axis_names([mistakes.classes[i].name for i in order])
    rows = [[mistakes.matrix[true][said] for said in order] for true in order]
    shares = [[number / max(sum(row), 1) for number in row] for row in rows]
    worst = max((share for i, row in enumerate(shares) for j, share in enumerate(row) if i != j), default=0.0)
    traces = []
    for right, top, colours in ((False, max(worst, FAINT), ("#f8d9c4", VERMILLION)), (True, 1.0, ("#d6e9f5", BLUE))):
        shown = [[number > 0 and (i == j) is right for j, number in enumerate(row)] for i, row in enumerate(rows)]
        what = "%{y}, recognised" if right else "%{y}, taken for %{x}"
        trace = go.Heatmap(
            x=names,
            y=names,
            z=[[shares[i][j] if each else None for j, each in enumerate(row)] for i, row in enumerate(shown)],
            text=[[f"{rows[i][j]:,}" if each else "" for j, each in enumerate(row)] for i, row in enumerate(shown)],
            zmin=0,
            zmax=top,
            colorscale=[[0, colours[0]], [1, colours[1]]],
            showscale=False,
            hoverongaps=False,
            hovertemplate=f"{what}:<br>%{{text}} of its images, %{{z:.1%}}<extra></extra>",
            xgap=1,
            ygap=1,
        )
        if is_small:
            trace.texttemplate = "%{text}"
        traces.append(trace)
    across = len(names) * 40 + 110 if is_small else 1010
    split = "Validation" if mistakes.split == "val" else "Test"
    is_short = max(map(len, names)) <= 3
    axis: dict[str, Any] = {"type": "category", "showgrid": False}
    if len(names) <= MAX_NAMES:
        axis |= {"dtick": 1, "tickfont": {"size": 13 if is_small else 8}}
    figure = figure_of(
        traces,
        "What it said",
        "What is true",
        title={"text": split, "font": {"size": 14}, "x": 0.5, "y": 0.99, "yanchor": "top"},
        width=max(across, 300),
        height=max(across, 260) if is_small else 1010,
        dragmode=False,
        xaxis={**axis, "tickangle": 0 if is_short else -90},
        yaxis={**axis, "autorange": "reversed", "tickformat": ""},
    )
    words = "Each row is a true class, each column an answer: blue is right, red is wrong; the darker, the larger the "
    words += "share of the class. " + ("The numbers are images." if is_small else "Hover over a cell for its images.")
    if not is_small:
        words += " Classes that are confused with each other are put next to each other."
    return Chart(title, words, figure)


def _axis_names(names: Sequence[str]) -> list[str]:
    """Names that are short enough for an axis and all different, as Plotly reads them (HTML)."""
    short = [name if len(name) <= NAME else f"{name[: NAME - 1]}…" for name in names]
    repeated = {name for name, number in Counter(short).items() if number > 1}
    return [escape(f"{name} ({i})" if name in repeated else name) for i, name in enumerate(short)]


def reliability_chart(validation: Mistakes, test: Mistakes | None) -> Chart:
    """How often the network is right, against its confidence."""
    curves = [("validation", validation.calibration, BLUE, "circle")]
    if validation.calibrated is not None:
        name = "validation, with the temperature" if validation.split == "val" else "with the temperature"
        curves.append((name, validation.calibrated, GREEN, "diamond"))
    if test is not None:
        curves.append(("test", test.calibration, ORANGE, "square"))
    diagonal = go.Scatter(
        x=[0, 1], y=[0, 1], name="as often right as said", mode="lines", line={"color": GREY, "dash": "dash"}
    )
    diagonal.hoverinfo = "skip"
    traces = [diagonal]
    for name, measured, colour, symbol in curves:
        bins = measured.bins
        points: list[Point] = [
            (
                each.probability,
                each.accuracy.value,
                f"{name}, probabilities from {each.low:.2f} to {each.high:.2f}:<br>{count(each.images, 'image')}, "
                f"said {percent(each.probability)}, right {percent(each.accuracy.value)}",
            )
            for each in bins
        ]
        error = {
            "type": "data",
            "symmetric": False,
            "array": [each.accuracy.high - each.accuracy.value for each in bins],
            "arrayminus": [each.accuracy.value - each.accuracy.low for each in bins],
            "color": colour,
            "thickness": 1,
        }
        largest = max(each.images for each in bins)
        sizes = [6 + 10 * sqrt(each.images / largest) for each in bins]  # of the points, by their number of images
        marker = {"color": colour, "symbol": symbol, "size": sizes}
        style: dict[str, Any] = {"marker": marker, "line": {"color": colour, "width": 1}}
        style["error_y"] = error if name == "validation" else {}
        traces.append(series(name, points, mode="lines+markers", **style))
    figure = figure_of(traces, "Highest probability", "Right (%)", xaxis={"tickformat": ".2~%"})
    words = (
        f"Images in {BINS} bins by their highest probability. On the dashed line, a network is right as often as it "
        "says; below the line, it is too certain. Large points stand for many images. Bars: 95 % intervals."
    )
    return Chart("How far its probabilities can be trusted", words, figure)
