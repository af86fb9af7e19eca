"""The charts of a report, as Plotly figures and words.

A chart is a function from `Results` to a `Chart`. To add one, write it and name it in `CHARTS`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10, sqrt
from statistics import fmean
from typing import Any, TypeVar

import plotly.graph_objects as go

from search.colours import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from search.fidelity import advice
from search.formatting import count, duration, interval, mean_and_deviation, percent, short_run
from search.mistakes import BINS, Mistakes, neighbours
from search.promotions import Promotion
from search.results import MAX_LEARNT, Results, Verdict, seconds_of, thinned, varied_parameters, verdict_of
from search.scores import marked, named
from search.spec import known_results
from search.trials import TrialRecord, score_of
from space import parameters

MAX_POINTS = 2000  # drawn in a chart: more makes the page slow and shows no more
MAX_BARS = 15  # parameters in the chart of importances
MAX_NAMED = 12  # learning curves with a colour and dash, and a place in the legend, of their own
MAX_LINES, MAX_AXES, MAX_TICKS = 500, 16, 8  # in the parallel coordinates; ticks, where each value has one

STYLES: dict[Verdict, tuple[str, str]] = {  # colour and symbol
    "complete": (BLUE, "circle"),
    "pruned": (ORANGE, "triangle-down"),
    "failed or diverged": (VERMILLION, "x"),
}
SYMBOLS = ("star", "square", "cross", "hexagon")  # of full runs, by their length, the longest first

T = TypeVar("T")
Point = tuple[float | None, float | None, str]  # x, y (none: a gap in the line) and what its hover says


@dataclass(frozen=True)
class Chart:
    """A figure and what it shows, in words; without a figure, the words say why there is none."""

    title: str
    words: str
    figure: go.Figure | None = None


def history_chart(results: Results) -> Chart:
    """Each trial's score against its number, and the best so far."""
    title, trials = "Trials in order", thinned(results.trials, MAX_POINTS)
    if not trials:
        return Chart(title, "No trial has ended yet.")
    reached = [trial.last_score for trial in trials if trial.last_score is not None]
    edge = max(min(reached, default=0) - 0.05, 0)
    traces = []
    for verdict, (colour, symbol) in STYLES.items():
        of_kind = [trial for trial in trials if verdict_of(trial) == verdict]
        if verdict == "failed or diverged":
            points: list[Point] = [(trial.number, edge, _about(results, trial)) for trial in of_kind]
        else:
            points = _points(results, of_kind)
        traces.append(_series(verdict, points, mode="markers", marker={"color": colour, "symbol": symbol, "size": 9}))
    steps = _points(results, _records(sorted(results.complete, key=lambda trial: trial.number)))
    to_the_end = [(results.trials[-1].number, *steps[-1][1:])] if steps else []
    traces.append(_series("best so far", [*steps, *to_the_end], mode="lines", line={"shape": "hv", "color": GREEN}))
    words = (
        f"{_score_of(results).capitalize()} of each short run after {short_run(results.spec)}; of a pruned one, "
        "when it was stopped. A trial that failed or diverged has none and stands at the lower edge."
    )
    words += _left_out(len(trials), len(results.trials), "trials, evenly spread")
    return Chart(title, words, _figure(traces, "Trial", _axis_of(results)))


def size_chart(results: Results) -> Chart:
    """Parameters against accuracy: what size buys."""
    title, trials, budget = "Size and accuracy", thinned(results.complete, MAX_POINTS), results.spec.budget
    if not trials:
        return Chart(title, "No trial is complete yet.")
    front = _records(sorted(results.complete, key=lambda trial: (trial.parameters, -score_of(trial))))
    drawn = [trial for trial in trials if trial.baseline is None]
    baselines = [trial for trial in results.complete if trial.baseline is not None]
    scores = [*map(score_of, trials), *(run.val_score for run in results.compared if run.val_score is not None)]
    wide, high = budget - min(trial.parameters for trial in trials), max(scores) - min(scores)
    names = [escape(trial.baseline) for trial in baselines if trial.baseline is not None]
    sides = _sides([(trial.parameters, score_of(trial)) for trial in baselines], budget - wide, wide, high)
    traces = [
        _series("short run", _points(results, drawn, _parameters), mode="markers", marker={"color": BLUE, "size": 9}),
        _series(
            "short run of a baseline",
            _points(results, baselines, _parameters),
            mode="markers+text",
            marker={"color": ORANGE, "symbol": "diamond", "size": 9},
            text=[name if side else "" for name, side in zip(names, sides, strict=True)],
            textposition=[f"middle {side or 'left'}" for side in sides],
            textfont={"size": 10},
        ),
        *_full_runs(results),
        *_published(results),
        _series(
            "best short run of its size or less (Pareto front)",
            _points(results, front, _parameters),
            mode="lines",
            line={"shape": "hv", "color": GREEN},
        ),
    ]
    figure = _figure(traces, "Trainable parameters", _axis_of(results))
    label = {"text": f"budget {budget:,}", "xanchor": "right", "xshift": -4}
    figure.add_vline(budget, line={"color": VERMILLION, "dash": "dash"}, annotation=label)
    figure.update_xaxes(tickformat="~s")
    words = f"Short runs of {short_run(results.spec)} and full runs, all by {_score_of(results)}."
    words += " Bars: from the lowest to the highest of several seeds." if _has_seeds(results) else ""
    words += "" if all(sides) else " Baselines have their names where there is room; hover over the others."
    words += _not_drawn(results)
    words += _left_out(len(trials), len(results.complete), "trials, evenly from the best to the worst")
    return Chart(title, words, figure)


def _published(results: Results) -> Iterator[go.Scatter]:
    """Published results of networks within the budget, labelled as what they are: test accuracies."""
    points: list[Point] = [
        (
            result.parameters,
            result.accuracy,
            f"{result.title}: {result.row}<br>{result.parameters:,} parameters<br>"
            f"{percent(result.accuracy)} on the test split, as printed, after {count(result.epochs, 'epoch')}",
        )
        for result in known_results(results.spec.data, results.spec.budget)
    ]
    if points:
        style = {"color": GREY, "symbol": "triangle-up-open", "size": 10}
        yield _series("published, on the test split, chosen by it", points, mode="markers", marker=style)


def _full_runs(results: Results) -> Iterator[go.Scatter]:
    """For each length of the full runs a point for each network: the mean of its seeds, and their range."""
    runs = [run for run in results.compared if run.diverged is None]
    lengths = sorted({run.recipe.epochs for run in runs}, reverse=True)
    for i, epochs in enumerate(lengths):
        groups: dict[int, list[Promotion]] = {}
        for run in runs:
            if run.recipe.epochs == epochs and run.val_score is not None:
                groups.setdefault(run.trial, []).append(run)
        points: list[Point] = []
        above, below = [], []
        for seeds in groups.values():
            scores = [run.val_score for run in seeds if run.val_score is not None]
            mean = fmean(scores)
            more = f"<br>{len(seeds)} seeds, mean and standard deviation: {mean_and_deviation(scores)}"
            points.append((seeds[0].parameters, mean, _about_full(seeds[0]) + (more if len(seeds) > 1 else "")))
            above.append(max(scores) - mean)
            below.append(mean - min(scores))
        error = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": PURPLE}
        style: dict[str, Any] = {"marker": {"color": PURPLE, "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 13}}
        style |= {"mode": "markers", "error_y": error if _has_seeds(results) else {}}
        yield _series(f"full run of {count(epochs, 'epoch')}", points, **style)


def _sides(points: Sequence[tuple[float, float]], left: float, wide: float, high: float) -> list[str]:
    """The side of each point where its label has room, even on a phone; empty where it would cover another label.

    The axis of x begins at `left`; the axes are so `wide` and `high`.
    """
    length = 0.3 * wide
    sides: list[str] = []
    taken: list[tuple[float, float]] = []  # where labels begin, and their height
    for x, y in points:
        side = "left" if x - left > length else "right"
        begins = x - length if side == "left" else x
        has_room = all(abs(begins - start) > length or abs(y - up) > 0.06 * high for start, up in taken)
        sides.append(side if has_room else "")
        taken += [(begins, y)] if has_room else []
    return sides


def _not_drawn(results: Results) -> str:
    """How many baselines have no place in the chart, and why."""
    verdicts = Counter(verdict_of(trial) for trial in results.trials if trial.baseline is not None)
    lost = [f"{verdicts[verdict]} {verdict}" for verdict in STYLES if verdict != "complete" and verdicts[verdict]]
    return f" Of {count(verdicts.total(), 'baseline')}, not drawn: {', '.join(lost)}." if lost else ""


def _has_seeds(results: Results) -> bool:
    return len({run.seed for run in results.compared}) > 1


def short_curves_chart(results: Results) -> Chart:
    """Accuracy over the epochs of the short runs."""
    title = "Learning curves of the short runs"
    early = [trial for trial in results.trials if not trial.is_complete and trial.curve]
    curves = [*results.complete, *early]
    if not curves:
        return Chart(title, "No trial has finished an epoch yet.")
    shown = thinned(curves, MAX_POINTS // results.spec.epochs)
    groups: dict[str, tuple[list[TrialRecord], dict[str, Any]]] = {  # one over the other, the best on top
        "ended early": (
            [trial for trial in shown if not trial.is_complete],
            {"opacity": 0.35, "line": {"color": ORANGE}},
        ),
        "complete": (
            [trial for trial in shown[1:] if trial.is_complete],
            {"line": {"color": BLUE, "width": 1}},
        ),
        "best": (results.complete[:1], {"line": {"color": GREEN, "width": 4}}),
    }
    traces = []
    for name, (trials, style) in groups.items():
        # One trace for all the curves of a group, with gaps between them: hundreds of traces are slow.
        points: list[Point] = []
        for trial in trials:
            about = _about(results, trial)
            points += [(epoch, value, about) for epoch, value in trial.curve.items()]
            points.append((None, None, ""))
        traces.append(_series(name, points, mode="lines+markers", marker={"size": 4}, **style))
    words = "Faint: pruned, diverged or failed before the last epoch."
    words += _left_out(len(shown), len(curves), "curves, evenly spread, the best among them")
    return Chart(title, words, _figure(traces, "Epoch", _axis_of(results)))


def full_curves_chart(results: Results) -> Chart:
    """Accuracy over the epochs of the full runs."""
    title, runs, traces = "Learning curves of the full runs", results.compared, []
    if not runs:
        return Chart(title, "No full run is done yet: `search promote` trains the best trials at full length.")
    others: list[Point] = []
    for i, run in enumerate(runs):
        points: list[Point] = [
            (epoch, reached, f"{_about_full(run)}<br>{marked(percent(reached), run.score)} at epoch {epoch}")
            for epoch, reached in thinned(list(enumerate(run.curve, start=1)), MAX_POINTS // len(runs))
        ]
        if i >= MAX_NAMED:
            others += [*points, (None, None, "")]
            continue
        line = {"color": (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY)[i % 6], "dash": ("solid", "dot")[i // 6]}
        name = f"trial {run.trial}, {f'seed {run.seed}, ' if _has_seeds(results) else ''}"
        name += count(run.recipe.epochs, "epoch")
        traces.append(_series(name, points, mode="lines" if len(points) > 1 else "markers", line=line))
    style = {"opacity": 0.5, "line": {"color": GREY, "width": 1}}
    traces.insert(0, _series("shorter or worse", others, mode="lines", **style))  # beneath the others
    words = (
        "Trials that were promoted, or measured by `search fidelity`: trained from the start, each run annealed over "
        "its length."
    )
    drawn = sum(x is not None for trace in traces for x in trace.x)
    total = sum(len(run.history) for run in runs)
    return Chart(
        title, words + _left_out(drawn, total, "epochs, evenly spread"), _figure(traces, "Epoch", _axis_of(results))
    )


def fidelity_chart(results: Results) -> Chart:
    """Short scores against long ones."""
    title, fidelity = "Can the short runs be trusted?", results.fidelity
    if fidelity is None:
        return Chart(
            title,
            "Not measured yet: `search fidelity` trains trials of every score in full and compares. In published "
            "measurements, short runs find the good third but cannot order it.",
        )
    short, shown = fidelity.short, thinned(fidelity.short.pairs, MAX_POINTS)
    length = count(short.epochs, "epoch")
    traces = []
    for i, family in enumerate(sorted({pair.family for pair in shown})):
        points: list[Point] = [
            (
                pair.short,
                pair.long,
                f"Trial {pair.trial}, {escape(pair.family)}<br>{percent(pair.short)} after {length}"
                f"<br>{percent(pair.long)} after {fidelity.epochs}",
            )
            for pair in shown
            if pair.family == family
        ]
        colour, symbol = ((BLUE, "circle"), (ORANGE, "square"), (GREEN, "diamond"), (PURPLE, "cross"))[i % 4]
        traces.append(_series(family, points, mode="markers", marker={"color": colour, "symbol": symbol, "size": 10}))
    figure = _figure(
        traces,
        f"{_score_of(results).capitalize()} after {count(short.epochs, 'epoch')} (%)",
        f"After {count(fidelity.epochs, 'epoch')} (%)",
    )
    figure.update_xaxes(tickformat=".2~%")
    words = (
        f"{len(short.pairs)} trials, each short and long: Spearman's rank correlation is {interval(short.spearman)}, "
        f"Kendall's {interval(short.kendall)} (95 % bootstrap intervals). {advice(fidelity)}"
    )
    return Chart(title, words + _left_out(len(shown), len(short.pairs), "trials, evenly spread"), figure)


def importance_chart(results: Results) -> Chart:
    """How much of the variation of the scores each parameter of the space explains."""
    title, trials = "What mattered", results.complete
    try:
        shares = results.importances
    except ValueError as error:
        return Chart(title, f"Not known: {error}")
    top = dict(list(shares.items())[:MAX_BARS])
    bars = go.Bar(x=[float(share) for share in top.values()], y=list(top), orientation="h", marker={"color": BLUE})
    bars.update(hovertext=[f"{name}: {percent(share)}" for name, share in top.items()], hoverinfo="text")
    figure = _figure([bars], "Importance (% of all parameters')", None)
    figure.update_layout(xaxis={"tickformat": ".2~%"}, yaxis={"autorange": "reversed", "tickformat": ""})
    words = "How much of the spread of the short scores each parameter explains by itself (fANOVA), from "
    words += count(min(len(trials), MAX_LEARNT), "complete trial")
    words += f" of {len(trials):,}, evenly from the best to the worst." if len(trials) > MAX_LEARNT else "."
    if len(trials) < 5 * len(shares):
        words += f" That is few for {count(len(shares), 'parameter')}: a hint, no more."
    return Chart(title, words + _left_out(len(top), len(shares), "parameters, the most important"), figure)


def space_chart(results: Results) -> Chart:
    """A line for each complete trial through all that it drew."""
    title, trials = "What was drawn", thinned(results.complete, MAX_LINES)
    candidates, order = varied_parameters(parameters(results.spec.space), trials), "the first"
    with suppress(ValueError):
        rank = {name: i for i, name in enumerate(results.importances)}
        candidates.sort(key=lambda name: rank.get(name, len(rank)))
        order = "those that mattered most"
    varied = candidates[:MAX_AXES]
    if len(trials) < 2 or not varied:
        return Chart(title, "It takes two complete trials that differ.")
    trials = trials[::-1]  # the best are drawn last, on top
    scores = [100 * score_of(trial) for trial in trials]
    dimensions: list[dict[str, Any]] = [{"label": f"{named(results.spec.scored_by)} (%)", "values": scores}]
    dimensions += [_axis(name, [trial.draw.get(name) for trial in trials]) for name in varied]
    colours = {"color": scores, "colorscale": [[0, GREY], [0.5, GREY], [1, VERMILLION]], "showscale": False}
    lines = go.Parcoords(dimensions=dimensions, line=colours, labelangle=-30, labelside="bottom")
    figure = _figure([lines], None, None)
    figure.update_layout(margin={"l": 72, "r": 48, "t": 24, "b": 96}, width=max(720, 88 * len(dimensions)))
    words = (
        f"Each line is a complete trial, from its {_score_of(results)} after {short_run(results.spec)} through the "
        "value of each parameter that varied: the better half from grey to red. Drag along an axis to choose lines."
    )
    left = _left_out(len(trials), len(results.complete), "trials, evenly from the best to the worst")
    return Chart(title, words + left + _left_out(len(varied), len(candidates), f"parameters, {order}"), figure)


def _axis(name: str, values: list[Any]) -> dict[str, Any]:
    """One axis of parallel coordinates: numbers as they are, anything else by its place in the alphabet."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        distinct = sorted(set(values))
        if len(distinct) <= MAX_TICKS:
            return {
                "label": name,
                "values": values,
                "tickvals": distinct,
                "ticktext": [f"{value:g}" for value in distinct],
            }
        if distinct[0] <= 0 or distinct[-1] / distinct[0] < 100:
            return {"label": name, "values": values}
        ticks = [10**power for power in range(floor(log10(distinct[0])), ceil(log10(distinct[-1])) + 1)]
        shown = {"tickvals": [log10(tick) for tick in ticks], "ticktext": [f"{tick:g}" for tick in ticks]}
        return {"label": name, "values": [log10(value) for value in values], **shown}
    kinds = sorted({str(value) for value in values})
    places = [kinds.index(str(value)) for value in values]
    return {"label": name, "values": places, "tickvals": list(range(len(kinds))), "ticktext": kinds}


def time_chart(results: Results) -> Chart:
    """Where the time went: short runs by their verdict, full runs by their length."""
    title = "Where the time went"
    spent: dict[str, tuple[float, str]] = {}
    for verdict, (colour, _) in STYLES.items():
        of_kind = [trial for trial in results.trials if verdict_of(trial) == verdict]
        if of_kind:
            spent[f"{count(len(of_kind), 'short run')}, {verdict}"] = (seconds_of(of_kind), colour)
    for epochs in sorted({run.recipe.epochs for run in results.promotions}):
        runs = [run for run in results.promotions if run.recipe.epochs == epochs]
        name = f"{count(len(runs), 'full run')} of {count(epochs, 'epoch')}"
        spent[name] = (sum(run.seconds for run in runs), PURPLE)
    total = sum(seconds for seconds, _ in spent.values())
    if not total:
        return Chart(title, "No time is spent yet.")
    bars = go.Bar(
        x=[seconds / 3600 for seconds, _ in spent.values()],
        y=list(spent),
        orientation="h",
        marker={"color": [colour for _, colour in spent.values()]},
        hovertext=[f"{name}: {duration(seconds)}, {percent(seconds / total)}" for name, (seconds, _) in spent.items()],
        hoverinfo="text",
    )
    figure = _figure([bars], "Hours", None)
    figure.update_layout(xaxis={"tickformat": ""}, yaxis={"autorange": "reversed", "tickformat": ""})
    words = f"{duration(total)} in all, summed over workers: training and validation of the runs that have ended."
    return Chart(title, words, figure)


MATRIX_NUMBERS = 20  # classes, at most, of a confusion matrix with counts in its cells
MATRIX_MOST = 300  # classes, at most, of a confusion matrix that is drawn
NAME = 24  # characters of a class's name on an axis, at most
MAX_NAMES = 110  # classes whose names have room on the axes of a confusion matrix; of more, some have names
FAINT = 0.1  # share of a class's images: where no confusion is more frequent, none has the full colour


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
    figure = _figure(traces, "What it said", "What is true")
    across = len(names) * 40 + 110 if is_small else 1010
    split = "Validation" if mistakes.split == "val" else "Test"
    figure.update_layout(
        title={"text": split, "font": {"size": 14}, "x": 0.5, "y": 0.99, "yanchor": "top"},
        width=max(across, 300),
        height=max(across, 260) if is_small else 1010,
        dragmode=False,
    )
    is_short = max(map(len, names)) <= 3
    figure.update_xaxes(type="category", tickangle=0 if is_short else -90, showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", tickformat="", showgrid=False)
    if len(names) <= MAX_NAMES:
        figure.update_xaxes(dtick=1, tickfont={"size": 13 if is_small else 8})
        figure.update_yaxes(dtick=1, tickfont={"size": 13 if is_small else 8})
    words = "Each row is a true class, each column an answer: blue is right, red is wrong; the darker, the larger the "
    words += "share of the class. " + ("The numbers are images." if is_small else "Hover over a cell for its images.")
    if not is_small:
        words += " Classes that are confused with each other are put next to each other."
    return Chart(title, words, figure)


def _axis_names(names: Sequence[str]) -> list[str]:
    """Names short enough for an axis, all different, as Plotly reads them (as HTML)."""
    short = [name if len(name) <= NAME else f"{name[: NAME - 1]}…" for name in names]
    repeated = {name for name, number in Counter(short).items() if number > 1}
    return [escape(f"{name} ({i})" if name in repeated else name) for i, name in enumerate(short)]


def reliability_chart(validation: Mistakes, test: Mistakes | None) -> Chart:
    """How often the network is right where it is so certain."""
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
        sizes = [6 + 10 * sqrt(each.images / largest) for each in bins]  # of the points, by their images
        marker = {"color": colour, "symbol": symbol, "size": sizes}
        style: dict[str, Any] = {"marker": marker, "line": {"color": colour, "width": 1}}
        style["error_y"] = error if name == "validation" else {}
        traces.append(_series(name, points, mode="lines+markers", **style))
    figure = _figure(traces, "Highest probability", "Right (%)")
    figure.update_xaxes(tickformat=".2~%")
    words = (
        f"Images in {BINS} bins by their highest probability. On the dashed line, a network is right as often as it "
        "says; below the line, it is too certain. Large points stand for many images. Bars: 95 % intervals."
    )
    return Chart("How far its probabilities can be trusted", words, figure)


CHARTS = (
    size_chart,
    history_chart,
    short_curves_chart,
    full_curves_chart,
    importance_chart,
    space_chart,
    fidelity_chart,
)
CHARTS_AFTER = (time_chart,)  # the tables
ALL_CHARTS = (*CHARTS, *CHARTS_AFTER)


def _score_of(results: Results) -> str:
    """What the charts show of a network: `validation accuracy`, or `balanced validation accuracy`."""
    return named(results.spec.scored_by, "validation accuracy")


def _axis_of(results: Results) -> str:
    return f"{_score_of(results).capitalize()} (%)"


def html_of(figure: go.Figure) -> str:
    """A figure as JSON, which the page's script draws."""
    # No "<" in the JSON, so that no text in it can end the script element.
    drawn = figure.to_json().replace("<", "\\u003c")
    height = f' style="height: {figure.layout.height}px"' if figure.layout.height else ""
    return f'<div class=wide><div class=chart{height}></div><script type="application/json">{drawn}</script></div>'


def _figure(traces: list[Any], x: str | None, y: str | None) -> go.Figure:
    """A figure without colours of its own for paper, text and grid: the page's script sets them, light or dark."""
    clear = "rgba(0,0,0,0)"
    layout = go.Layout(template="none", paper_bgcolor=clear, plot_bgcolor=clear, hovermode="closest")
    layout.update(xaxis={"title": x, "automargin": True, "zeroline": False}, margin={"l": 8, "r": 8, "t": 32, "b": 8})
    layout.update(yaxis={"title": y, "automargin": True, "zeroline": False, "tickformat": ".2~%"})
    layout.update(
        font={"family": "system-ui, sans-serif"},
        modebar={"bgcolor": clear},
        legend={"orientation": "h", "x": 0, "yref": "container", "y": 0, "yanchor": "bottom"},
    )
    return go.Figure(traces, layout)


def _series(name: str, points: Sequence[Point], **style: Any) -> go.Scatter:
    x, y, about = ([point[i] for point in points] for i in range(3))
    return go.Scatter(name=name, x=x, y=y, hovertext=about, hoverinfo="text", showlegend=bool(points), **style)


def _points(
    results: Results, trials: Iterable[TrialRecord], x: Callable[[TrialRecord], int] = lambda trial: trial.number
) -> list[Point]:
    return [(x(trial), trial.last_score, _about(results, trial)) for trial in trials if trial.last_score is not None]


def _parameters(trial: TrialRecord) -> int:
    return trial.parameters


def _records(trials: Iterable[TrialRecord]) -> Iterator[TrialRecord]:
    """Those that beat all before them."""
    best = -1.0
    for trial in trials:
        if score_of(trial) > best:
            best = score_of(trial)
            yield trial


def _left_out(drawn: int, total: int, what: str) -> str:
    return f" Drawn: {drawn:,} of {total:,} {what}." if drawn < total else ""


def _about(results: Results, trial: TrialRecord) -> str:
    """What a trial was and how it ended, for its hover (which reads HTML)."""
    verdict = verdict_of(trial)
    what = f", the baseline {trial.baseline}" if trial.baseline else f", {trial.start}" if trial.start else ""
    lines = [f"Trial {trial.number}{what}"]
    if trial.is_decided:
        lines += [trial.network_words, f"{trial.parameters:,} parameters", str(trial.recipe)]
    reached = trial.last_score if verdict != "failed or diverged" else None
    figure = marked(percent(reached), results.spec.scored_by) if reached is not None else ""
    lines += [f"{verdict}: {figure} on validation" if figure else verdict]
    lines += [trial.reason] if trial.reason else []
    return "<br>".join(map(escape, lines))


def _about_full(run: Promotion) -> str:
    reached = "no accuracy" if run.val_score is None else marked(percent(run.val_score), run.score)
    outcome = f"diverged: {run.diverged}" if run.diverged else f"{reached} on validation in the end"
    lines = (f"Trial {run.trial}, seed {run.seed}, {count(run.recipe.epochs, 'epoch')}", str(run.network), outcome)
    return "<br>".join(map(escape, lines))
