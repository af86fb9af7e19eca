"""The parts of a report's charts: figures, series, axes, and hover texts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from search.colours import BLUE, ORANGE, VERMILLION
from search.formatting import count, percent
from search.promotions import Promotion
from search.results import Results, Verdict, verdict_of
from search.scores import marked, named
from search.trials import TrialRecord, score_of

FITTED = 20  # at least so many values are needed to hide the lowest tenth below an axis
LEAST_ERROR = 1e-4  # a share of 1: where an error of 0 is drawn on a logarithmic axis

STYLES: dict[Verdict, tuple[str, str]] = {  # colour and symbol
    "complete": (BLUE, "circle"),
    "pruned": (ORANGE, "triangle-down"),
    "failed or diverged": (VERMILLION, "x"),
}

Point = tuple[float | None, float | None, str]  # x, y (None: a gap in the line) and the hover text


@dataclass(frozen=True)
class Chart:
    """A figure and its description; without a figure, the description says why there is none.

    `panels` are small figures side by side, instead of one large one.
    """

    title: str
    words: str
    figure: go.Figure | None = None
    panels: tuple[go.Figure, ...] = ()

    @property
    def figures(self) -> tuple[go.Figure, ...]:
        """All figures of the chart."""
        return (self.figure, *self.panels) if self.figure is not None else self.panels

    @property
    def html(self) -> str:
        """The figures as HTML; empty if there are none."""
        panels = "".join(f"<div>{_drawn(panel)}</div>" for panel in self.panels)
        return (html_of(self.figure) if self.figure is not None else "") + (
            f"<div class=panels>{panels}</div>" if panels else ""
        )


def html_of(figure: go.Figure) -> str:
    """A figure as JSON, which the page's script draws."""
    return f"<div class=wide>{_drawn(figure)}</div>"


def _drawn(figure: go.Figure) -> str:
    # No "<" in the JSON, so no text in it can end the script element.
    drawn = figure.to_json().replace("<", "\\u003c")
    height = f' style="height: {figure.layout.height}px"' if figure.layout.height else ""
    return f'<div class=chart{height}></div><script type="application/json">{drawn}</script>'


def figure_of(traces: list[Any], x: str | None, y: str | None, **layout: Any) -> go.Figure:
    """A figure without its own colours for paper, text and grid: the page's script sets them, light or dark.

    `layout` adds to its layout; what it says of an axis adds to that axis. Later changes take Plotly much longer.
    """
    clear = "rgba(0,0,0,0)"
    # Invisible ticks keep the labels of both axes apart at the corner.
    axis = {"automargin": True, "zeroline": False, "ticks": "outside", "ticklen": 6, "tickcolor": clear}
    whole: dict[str, Any] = {
        "template": "none",
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "hovermode": "closest",
        "xaxis": {"title": {"text": x}, **axis},
        "yaxis": {"title": {"text": y}, **axis, "tickformat": ".2~%"},
        "margin": {"l": 8, "r": 8, "t": 32, "b": 8},
        "font": {"family": "system-ui, sans-serif"},
        "modebar": {"bgcolor": clear},
        "legend": {"orientation": "h", "x": 0, "yref": "container", "y": 0, "yanchor": "bottom"},
    }
    for axis_name in ("xaxis", "yaxis"):
        whole[axis_name] |= layout.pop(axis_name, {})
    return go.Figure(traces, whole | layout)


@dataclass(frozen=True)
class ScoreAxis:
    """The part of a score's axis that is shown at first: the upper part, with the good networks."""

    low: float
    high: float
    best: float  # the largest value
    below: int  # number of values below the axis
    values: int

    @classmethod
    def of(cls, values: Iterable[float], fit: Iterable[float] | None = None) -> "ScoreAxis":
        """The axis for these shares of 1: from the tenth percentile (the minimum if they are few) to the largest.

        `fit` are the values that set the lower end; None or empty: all values.
        """
        known = np.array([*values] or [0.0])
        fitted = np.array([*fit] if fit is not None else [])
        fitted = fitted if len(fitted) else known
        least = float(np.percentile(fitted, 10) if len(fitted) >= FITTED else fitted.min())
        best = float(known.max())
        margin = max(0.06 * (best - least), 0.002)
        low = max(least - margin, -0.01)
        return cls(low, best + margin, best, int((known < low).sum()), len(known))

    @property
    def words(self) -> str:
        """How many values are below the axis; empty if none is."""
        if not self.below:
            return ""
        lie = "lies" if self.below == 1 else "lie"
        return f" Of {self.values:,} values, {self.below:,} {lie} below the axis: a double-click shows all."


def with_score_axis(figure: go.Figure, axis: ScoreAxis, results: Results, axes: Literal["y", "xy"] = "y") -> go.Figure:
    """The figure with a score on its y axis (or on both); the page's switch can turn it into a logarithmic error."""
    least = 0.5 / results.measured_on if results.measured_on else LEAST_ERROR
    figure.layout.yaxis.range = [axis.low, axis.high]
    if axes == "xy":
        figure.layout.xaxis.tickformat = ".2~%"
    figure.layout.meta = {"scores": axes, "low": axis.low, "best": axis.best, "least": least}
    return figure


def series(name: str, points: Sequence[Point], **style: Any) -> go.Scatter:
    """A series of points, or of lines between them; a series without points is not in the legend."""
    x, y, about = ([point[i] for point in points] for i in range(3))
    style = {"showlegend": bool(points)} | style
    return go.Scatter(name=name, x=x, y=y, hovertext=about, hoverinfo="text", **style)


def drawn_values(traces: Iterable[Any]) -> Iterator[float]:
    """All values of y."""
    return (value for trace in traces for value in trace.y if value is not None)


def score_in_words(results: Results) -> str:
    """The score in the charts: `validation accuracy`, or `balanced validation accuracy`."""
    return named(results.spec.scored_by, "validation accuracy")


def score_title(results: Results) -> str:
    """The title of an axis with this score."""
    return f"{score_in_words(results).capitalize()} (%)"


def number_of(trial: TrialRecord) -> int:
    """The position of a trial in a chart that shows trials in order."""
    return trial.number


def points_of(
    results: Results, trials: Iterable[TrialRecord], x: Callable[[TrialRecord], int] = number_of
) -> list[Point]:
    """The last score of each trial that has one."""
    return [
        (x(trial), trial.last_score, about_trial(results, trial)) for trial in trials if trial.last_score is not None
    ]


def records_of(trials: Iterable[TrialRecord]) -> Iterator[TrialRecord]:
    """The trials that beat all trials before them."""
    best = -1.0
    for trial in trials:
        if score_of(trial) > best:
            best = score_of(trial)
            yield trial


def left_out(drawn: int, total: int, what: str) -> str:
    """A sentence about how many are drawn; empty if all are."""
    return f" Drawn: {drawn:,} of {total:,} {what}." if drawn < total else ""


def about_trial(results: Results, trial: TrialRecord) -> str:
    """The hover text of a trial: what it was and how it ended (as HTML)."""
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


def about_full(run: Promotion) -> str:
    """The hover text of a full run."""
    reached = "no accuracy" if run.val_score is None else marked(percent(run.val_score), run.score)
    outcome = f"diverged: {run.diverged}" if run.diverged else f"{reached} on validation in the end"
    lines = (f"Trial {run.trial}, seed {run.seed}, {count(run.recipe.epochs, 'epoch')}", str(run.network), outcome)
    return "<br>".join(map(escape, lines))
