"""The charts of a report, as Plotly figures with texts.

A chart is a function from `Results` to a `Chart`. To add one, write it and name it in `CHARTS`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from itertools import chain
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from search.colours import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from search.fidelity import advice
from search.figures import (
    STYLES,
    Chart,
    Point,
    ScoreAxis,
    about_full,
    about_trial,
    drawn_values,
    figure_of,
    left_out,
    points_of,
    records_of,
    score_in_words,
    score_title,
    series,
    with_score_axis,
)
from search.formatting import count, duration, interval, mean_and_deviation, percent, short_run, time_unit
from search.parameter_charts import importance_chart, slices_chart
from search.promotions import Promotion
from search.results import Results, seconds_of, thinned, verdict_of
from search.scores import marked
from search.spec import known_results
from search.trials import TrialRecord, score_of

MAX_POINTS = 2000  # drawn in a chart: more would make the page slow and show nothing more
NAMED = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY)  # of the learning curves that have their own entry in the legend
SYMBOLS = ("star", "square", "cross", "hexagon")  # of full runs, one per length, the longest first


def history_chart(results: Results) -> Chart:
    """The score of each trial against its number, and the best so far."""
    title, trials = "Trials in order", thinned(results.trials, MAX_POINTS)
    if not trials:
        return Chart(title, "No trial has ended yet.")
    reached = [trial.last_score for trial in trials if trial.last_score is not None]
    axis = ScoreAxis.of(reached, fit=[score_of(trial) for trial in trials if trial.is_complete])
    traces = []
    for verdict, (colour, symbol) in STYLES.items():
        of_kind = [trial for trial in trials if verdict_of(trial) == verdict]
        if verdict == "failed or diverged":
            points: list[Point] = [(trial.number, axis.low, about_trial(results, trial)) for trial in of_kind]
        else:
            points = points_of(results, of_kind)
        traces.append(series(verdict, points, mode="markers", marker={"color": colour, "symbol": symbol, "size": 9}))
    steps = points_of(results, records_of(sorted(results.complete, key=lambda trial: trial.number)))
    to_the_end = [(results.trials[-1].number, *steps[-1][1:])] if steps else []
    traces.append(series("best so far", [*steps, *to_the_end], mode="lines", line={"shape": "hv", "color": GREEN}))
    words = (
        f"{score_in_words(results).capitalize()} of each short run after {short_run(results.spec)}; of a pruned one, "
        "when it was stopped. A trial that failed or diverged has none and stands at the lower edge."
    )
    words += axis.words + left_out(len(trials), len(results.trials), "trials, evenly spread")
    figure = figure_of(traces, "Trial", score_title(results))
    return Chart(title, words, with_score_axis(figure, axis, results))


def size_chart(results: Results) -> Chart:
    """Accuracy against parameters: what size buys."""
    title, trials, budget = "Size and accuracy", thinned(results.complete, MAX_POINTS), results.spec.budget
    if not trials:
        return Chart(title, "No trial is complete yet.")
    front = records_of(sorted(results.complete, key=lambda trial: (trial.parameters, -score_of(trial))))
    drawn = [trial for trial in trials if trial.baseline is None]
    baselines = [trial for trial in results.complete if trial.baseline is not None]
    scores = [*map(score_of, trials), *(run.val_score for run in results.compared if run.val_score is not None)]
    wide, high = budget - min(trial.parameters for trial in trials), max(scores) - min(scores)
    names = [escape(trial.baseline) for trial in baselines if trial.baseline is not None]
    sides = _sides([(trial.parameters, score_of(trial)) for trial in baselines], budget - wide, wide, high)
    traces = [
        series("short run", points_of(results, drawn, _parameters), mode="markers", marker={"color": BLUE, "size": 9}),
        series(
            "short run of a baseline",
            points_of(results, baselines, _parameters),
            mode="markers+text",
            marker={"color": ORANGE, "symbol": "diamond", "size": 9},
            text=[name if side else "" for name, side in zip(names, sides, strict=True)],
            textposition=[f"middle {side or 'left'}" for side in sides],
            textfont={"size": 10},
        ),
        *_full_runs(results),
        *_published(results),
        series(
            "best short run of its size or less (Pareto front)",
            points_of(results, front, _parameters),
            mode="lines",
            line={"shape": "hv", "color": GREEN},
        ),
    ]
    figure = figure_of(traces, "Trainable parameters", score_title(results), xaxis={"tickformat": "~s"})
    label = {"text": f"budget {budget:,}", "xanchor": "right", "xshift": -4}
    figure.add_vline(budget, line={"color": VERMILLION, "dash": "dash"}, annotation=label)
    words = f"Short runs of {short_run(results.spec)} and full runs, all by {score_in_words(results)}."
    words += " Bars: from the lowest to the highest of several seeds." if _has_seeds(results) else ""
    words += "" if all(sides) else " Baselines have their names where there is room; hover over the others."
    words += _not_drawn(results)
    axis = ScoreAxis.of(drawn_values(traces))
    words += axis.words
    words += left_out(len(trials), len(results.complete), "trials, evenly from the best to the worst")
    return Chart(title, words, with_score_axis(figure, axis, results))


def _published(results: Results) -> Iterator[go.Scatter]:
    """Published results of networks within the budget, labelled as test accuracies."""
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
        yield series("published, on the test split, chosen by it", points, mode="markers", marker=style)


def _full_runs(results: Results) -> Iterator[go.Scatter]:
    """A point for each network, for each length of the full runs: the mean of its seeds, and their range."""
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
            points.append((seeds[0].parameters, mean, about_full(seeds[0]) + (more if len(seeds) > 1 else "")))
            above.append(max(scores) - mean)
            below.append(mean - min(scores))
        error = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": PURPLE}
        style: dict[str, Any] = {"marker": {"color": PURPLE, "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 13}}
        style |= {"mode": "markers", "error_y": error if _has_seeds(results) else {}}
        yield series(f"full run of {count(epochs, 'epoch')}", points, **style)


def _sides(points: Sequence[tuple[float, float]], left: float, wide: float, high: float) -> list[str]:
    """The side of each point where its label fits, even on a phone; empty where it would cover another label.

    The x axis begins at `left`; `wide` and `high` are the lengths of the axes.
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
    """How many baselines are not in the chart, and why."""
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
    groups: dict[str, tuple[list[TrialRecord], dict[str, Any]]] = {  # drawn over each other, the best on top
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
        # One trace for all curves of a group, with gaps between them: hundreds of traces are slow.
        points: list[Point] = []
        for trial in trials:
            about = about_trial(results, trial)
            points += [(epoch, value, about) for epoch, value in trial.curve.items()]
            points.append((None, None, ""))
        traces.append(series(name, points, mode="lines+markers", marker={"size": 4}, **style))
    words = "Faint: pruned, diverged or failed before the last epoch."
    late = (value for trial in curves for epoch, value in trial.curve.items() if 2 * epoch > results.spec.epochs)
    axis = ScoreAxis.of(drawn_values(traces), fit=late)
    words += axis.words + left_out(len(shown), len(curves), "curves, evenly spread, the best among them")
    return Chart(title, words, with_score_axis(figure_of(traces, "Epoch", score_title(results)), axis, results))


def full_curves_chart(results: Results) -> Chart:
    """Accuracy over the epochs of the full runs, on validation and in training."""
    title, runs = "Learning curves of the full runs", results.compared
    if not runs:
        return Chart(title, "No full run is done yet: `search promote` trains the best trials at full length.")
    validation = [list(run.curve) for run in runs]
    training = [[epoch.train_accuracy for epoch in run.history] for run in runs]
    traces = list(_learning_curves(results, validation, training, as_percent=True))
    words = (
        "Trials that were promoted, or measured by `search fidelity`: trained from the start, each run annealed over "
        "its length. Solid: on the validation images. Dashed: on the training images as they were augmented and mixed, "
        "while the weights changed, so it can lie below."
    )
    figure = figure_of(traces, "Epoch", score_title(results), height=_with_legend(traces))
    axis = ScoreAxis.of(chain.from_iterable(validation), fit=chain(*(each[len(each) // 2 :] for each in validation)))
    words += axis.words + _epochs_left_out(results, traces)
    return Chart(title, words, with_score_axis(figure, axis, results))


def full_losses_chart(results: Results) -> Chart:
    """The loss over the epochs of the full runs, on validation and in training."""
    title, runs = "Losses of the full runs", results.compared
    if not runs:
        return Chart(title, "No full run is done yet.")
    validation = [[epoch.val_loss for epoch in run.history] for run in runs]
    training = [[epoch.train_loss for epoch in run.history] for run in runs]
    traces = list(_learning_curves(results, validation, training, as_percent=False))
    words = (
        "Mean cross-entropy. Solid: on the validation images. Dashed: in training, on augmented and mixed images and "
        "with label smoothing and class weights where the recipe has them. If the solid curve rises while the dashed "
        "one falls, the network learns its training images by heart."
    )
    yaxis = {"tickformat": "", "rangemode": "tozero"}
    figure = figure_of(traces, "Epoch", "Loss (nats)", yaxis=yaxis, height=_with_legend(traces))
    return Chart(title, words + _epochs_left_out(results, traces), figure)


def _learning_curves(
    results: Results, validation: Sequence[Sequence[float]], training: Sequence[Sequence[float]], *, as_percent: bool
) -> Iterator[go.Scatter]:
    """A solid and a dashed curve for each of the first full runs, in one colour; all others in one faint series."""
    runs = results.compared
    most = max(MAX_POINTS // (2 * len(runs)), 2)
    others: list[Point] = []
    named = []
    for i, run in enumerate(runs):
        kinds = (("validation", validation[i], "solid"), ("training", training[i], "dash"))
        name = f"trial {run.trial}, {f'seed {run.seed}, ' if _has_seeds(results) else ''}"
        name += count(run.recipe.epochs, "epoch")
        for kind, values, dash in kinds:
            points: list[Point] = [
                (
                    epoch,
                    value,
                    f"{about_full(run)}<br>{marked(percent(value), run.score) if as_percent else f'loss {value:.4f}'}"
                    f" on {kind} at epoch {epoch}",
                )
                for epoch, value in thinned(list(enumerate(values, start=1)), most)
            ]
            if i >= len(NAMED):
                others += [*points, (None, None, "")] if kind == "validation" else []
                continue
            style: dict[str, Any] = {"line": {"color": NAMED[i], "dash": dash, "width": 2 if dash == "solid" else 1}}
            style |= {"legendgroup": name, "showlegend": kind == "validation"}
            named.append(series(name, points, mode="lines" if len(points) > 1 else "markers", **style))
    faint = {"opacity": 0.5, "line": {"color": GREY, "width": 1}}
    yield series("shorter or worse", others, mode="lines", **faint)  # behind the others
    yield from named


def _with_legend(traces: Sequence[go.Scatter]) -> int:
    """The height of a figure in pixels: the curves have room even if each name needs its own line."""
    return 360 + 26 * sum(bool(trace.showlegend) for trace in traces)


def _epochs_left_out(results: Results, traces: Sequence[go.Scatter]) -> str:
    """How many epochs on validation are not drawn."""
    solid = [trace for trace in traces if trace.line.dash != "dash"]
    drawn = sum(x is not None for trace in solid for x in trace.x)
    return left_out(drawn, sum(len(run.history) for run in results.compared), "epochs, evenly spread")


def fidelity_chart(results: Results) -> Chart:
    """Scores of short runs against scores of full runs."""
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
        traces.append(series(family, points, mode="markers", marker={"color": colour, "symbol": symbol, "size": 10}))
    figure = figure_of(
        traces,
        f"{score_in_words(results).capitalize()} after {count(short.epochs, 'epoch')} (%)",
        f"After {count(fidelity.epochs, 'epoch')} (%)",
    )
    axis = ScoreAxis.of(drawn_values(traces))
    words = (
        f"{len(short.pairs)} trials, each short and long: Spearman's rank correlation is {interval(short.spearman)} "
        f"(95 % interval), Kendall's {short.kendall:.2f}. {advice(fidelity)}"
    )
    words += axis.words + left_out(len(shown), len(short.pairs), "trials, evenly spread")
    return Chart(title, words, with_score_axis(figure, axis, results, "xy"))


def time_chart(results: Results) -> Chart:
    """Where the time was spent: short runs by verdict, full runs by length."""
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
    unit, name_of_unit = time_unit(max(seconds for seconds, _ in spent.values()))
    bars = go.Bar(
        x=[seconds / unit for seconds, _ in spent.values()],
        y=list(spent),
        orientation="h",
        marker={"color": [colour for _, colour in spent.values()]},
        hovertext=[f"{name}: {duration(seconds)}, {percent(seconds / total)}" for name, (seconds, _) in spent.items()],
        hoverinfo="text",
    )
    figure = figure_of(
        [bars],
        name_of_unit.capitalize(),
        None,
        xaxis={"tickformat": ""},
        yaxis={"autorange": "reversed", "tickformat": ""},
        height=100 + 42 * len(spent),
    )
    words = f"{duration(total)} in all, summed over workers: training and validation of the runs that have ended."
    return Chart(title, words, figure)


CHARTS = (
    size_chart,
    history_chart,
    short_curves_chart,
    full_curves_chart,
    full_losses_chart,
    importance_chart,
    slices_chart,
    fidelity_chart,
)
CHARTS_AFTER = (time_chart,)  # shown below the tables
ALL_CHARTS = (*CHARTS, *CHARTS_AFTER)


def _parameters(trial: TrialRecord) -> int:
    return trial.parameters
