"""The charts of a report about the parameters of the space: how much each one matters, and the score against each."""

from collections.abc import Sequence
from contextlib import suppress
from html import escape
from math import ceil, floor, log10
from typing import Any

import plotly.graph_objects as go

from search.colours import BLUE, GREY, VERMILLION
from search.figures import Chart, Point, ScoreAxis, figure_of, left_out, score_in_words, series, with_score_axis
from search.formatting import count, percent, short_run
from search.results import MAX_LEARNT, RESAMPLES, Results, thinned
from search.trials import TrialRecord, score_of
from space import all_dimensions

MAX_BARS = 15  # parameters in the chart of importances
MAX_PANELS = 12  # parameters whose score is drawn
MAX_IN_PANEL = 400  # trials
MAX_LOOKED_AT = 1000  # trials considered; those that use a parameter are drawn
FEWEST = 3  # a parameter that fewer trials use has no panel
STRIPS = 8  # a numeric parameter with at most this many values is drawn in strips
ROOM = 30  # letters that fit side by side below a panel
JITTER = 0.6  # width of a strip; strips are 1 apart

GOLDEN = 0.6180339887  # its multiples are evenly spread


def importance_chart(results: Results) -> Chart:
    """How much of the variation of the scores each parameter of the space explains."""
    title, trials = "What mattered", results.complete
    try:
        shares = results.importances
    except ValueError as error:
        return Chart(title, f"Not known: {error}")
    top = dict(list(shares.items())[:MAX_BARS])
    bars = go.Bar(x=[share.value for share in top.values()], y=list(top), orientation="h", marker={"color": BLUE})
    bars.error_x = {
        "type": "data",
        "symmetric": False,
        "array": [share.high - share.value for share in top.values()],
        "arrayminus": [share.value - share.low for share in top.values()],
        "thickness": 1,
        "color": GREY,
    }
    bars.update(
        hovertext=[
            f"{name}: {percent(share.value)} ({percent(share.low)} to {percent(share.high)})"
            for name, share in top.items()
        ],
        hoverinfo="text",
    )
    figure = figure_of(
        [bars],
        "Importance (% of all parameters')",
        None,
        xaxis={"tickformat": ".2~%"},
        yaxis={"autorange": "reversed", "tickformat": "", "dtick": 1},
        height=110 + 26 * len(top),
    )
    words = "How much of the spread of the short scores each parameter explains by itself (fANOVA): the mean over "
    words += f"{RESAMPLES} resamples of {count(min(len(trials), MAX_LEARNT), 'trial')} each, of {len(trials):,} "
    words += "complete ones. Lines: from the lowest to the highest of these. Left out: parameters that most trials do "
    words += "not use."
    return Chart(title, words + left_out(len(top), len(shares), "parameters, the most important"), figure)


def slices_chart(results: Results) -> Chart:
    """The score against each parameter that varied, for the trials that use it, in small charts."""
    title = "What was drawn"
    usage, order = results.usage if results.complete else {}, "those that most trials use"
    names = sorted(usage, key=lambda name: -usage[name])
    with suppress(ValueError):
        rank = {name: i for i, name in enumerate(results.importances)}
        names.sort(key=lambda name: rank.get(name, len(rank)))
        order = "the most important"
    some = [(trial, results.used_by(trial)) for trial in thinned(results.complete, MAX_LOOKED_AT)]
    using = {name: [trial for trial, used in some if name in used and name in trial.draw] for name in names}
    sliced = {name: thinned(trials, MAX_IN_PANEL) for name, trials in using.items()}
    enough = [name for name in names if len(sliced[name]) >= FEWEST and _differ(name, sliced[name])]
    if not enough:
        return Chart(title, f"It takes {FEWEST} complete trials with different values of a parameter.")
    drawn = enough[:MAX_PANELS]
    axis = ScoreAxis.of(score_of(trial) for trial in thinned(results.complete, MAX_IN_PANEL))
    panels = tuple(with_score_axis(_panel(results, name, sliced[name]), axis, results) for name in drawn)
    words = (
        f"{score_in_words(results).capitalize()} of complete trials, after {short_run(results.spec)}, against the "
        "value of each parameter. Each panel has only the trials that use its parameter. Star: the best trial. Trials "
        "with the same value are spread sideways, where they can be told apart."
    )
    if any(len(trials) == MAX_IN_PANEL for trials in sliced.values()):
        words += f" A panel has at most {MAX_IN_PANEL} trials, evenly from the best to the worst."
    return Chart(title, words + axis.words + left_out(len(drawn), len(enough), f"parameters, {order}"), panels=panels)


def _differ(name: str, trials: Sequence[TrialRecord]) -> bool:
    return len({trial.draw[name] for trial in trials}) > 1


def _panel(results: Results, name: str, trials: Sequence[TrialRecord]) -> go.Figure:
    """The scores of the trials, the best first, against their values of a parameter."""
    dimension = all_dimensions(results.spec.space)[name]
    values = [trial.draw[name] for trial in trials]
    distinct = set(values)
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct)
    ticks: dict[str, Any]
    is_log = bool(getattr(dimension, "log", False))
    if is_number and (is_log or len(distinct) > STRIPS):
        x, ticks = values, _log_ticks(min(values), max(values)) if is_log else {"nticks": 5, "tickangle": 0}
    else:
        kinds = sorted(distinct) if is_number else sorted(distinct, key=str)
        shift = {trial.number: (trial.number * GOLDEN % 1 - 0.5) * JITTER for trial in trials}
        x = [kinds.index(value) + shift[trial.number] for trial, value in zip(trials, values, strict=True)]
        ticks = _strips([_in_words(kind) for kind in kinds])
    more = 7 * max(map(len, ticks["ticktext"])) if ticks["tickangle"] else 0  # rotated labels need space
    points: list[Point] = [
        (place, score_of(trial), f"trial {trial.number}: {percent(score_of(trial))}<br>{escape(_in_words(value))}")
        for place, trial, value in zip(x, trials, values, strict=True)
    ]
    marker = {"color": BLUE, "size": 6 if len(points) < 100 else 4, "opacity": 0.8 if len(points) < 100 else 0.5}
    best = {"color": VERMILLION, "symbol": "star", "size": 11}
    return figure_of(
        [
            series("trial", points[1:], mode="markers", marker=marker, showlegend=False),
            series("the best trial", points[:1], mode="markers", marker=best, showlegend=False),
        ],
        None,
        None,
        title={"text": name, "font": {"size": 13}, "x": 0.5, "y": 0.98, "yanchor": "top"},
        height=230 + more,
        xaxis=ticks,
        yaxis={"nticks": 5},
    )


def _strips(labels: Sequence[str]) -> dict[str, Any]:
    """An axis with a strip for each label; the labels are rotated if they do not fit side by side."""
    longest = max(map(len, labels))
    return {
        "tickvals": list(range(len(labels))),
        "ticktext": [escape(label) for label in labels],
        "range": [-0.5, len(labels) - 0.5],
        "tickangle": 0 if (longest + 1) * len(labels) <= ROOM else -90,
        "showgrid": False,
    }


def _log_ticks(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis from `low` to `high`, with two to five ticks."""
    powers = range(floor(log10(low)) - 1, ceil(log10(high)) + 1)
    within = [factor * 10.0**power for power in powers for factor in (1, 2, 5) if low <= factor * 10.0**power <= high]
    decades = [tick for tick in within if round(log10(tick), 9) % 1 == 0]
    ticks = decades[:: ceil(len(decades) / 5)] if len(decades) > 1 else within
    ticks = ticks or [low, high]
    room = max(0.05 * log10(high / low), 0.02)
    return {
        "type": "log",
        "range": [log10(low) - room, log10(high) + room],
        "tickvals": ticks,
        "ticktext": [f"{tick:.2g}" for tick in ticks],
        "tickangle": 0,
    }


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
