"""Writes a run's report: one HTML file with the answer in a sentence, the full runs in a table, and charts.

A chart is a function from `Results` to a `Chart`. To add one, write it and name it in `CHARTS`.
"""

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean
from string import Template
from typing import Any, TypeVar

import optuna
import plotly.graph_objects as go
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState
from plotly.offline import get_plotlyjs

from search.console import duration, percent
from search.promote import Promotion, finished, recipe_of, winner
from search.run_folder import RunFolder, write_text
from search.spec import StudySpec, load_study
from search.study import ended, gave_nothing, open_study

MOST_POINTS = 2000  # drawn in a chart: more makes the page slow and shows no more
MOST_BARS = 15  # parameters in the chart of importances

# Okabe and Ito's colours, which the colour-blind can tell apart, but for the two that vanish on white or on black.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
VERDICTS = {  # of a trial: colour and symbol
    "complete": (BLUE, "circle"),
    "pruned": (ORANGE, "triangle-down"),
    "failed or diverged": (VERMILLION, "x"),
}
ACCURACY = "Validation accuracy (%)"

T = TypeVar("T")
Point = tuple[float | None, float | None, str]  # x, y (none: a gap in the line) and what its hover says


@dataclass(frozen=True, kw_only=True)
class Results:
    """All that a report is made from."""

    name: str
    spec: StudySpec
    study: optuna.Study
    trials: Sequence[FrozenTrial]  # those that have ended, by number
    promotions: Sequence[Promotion]  # the full runs that are finished, the best on validation first

    @property
    def complete(self) -> list[FrozenTrial]:
        """The trials that came to a score, the best first."""
        trials = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        return sorted(trials, key=_score, reverse=True)


@dataclass(frozen=True)
class Chart:
    """A figure and what it shows, in words; without a figure, the words say why there is none."""

    title: str
    words: str
    figure: go.Figure | None = None


def write_report(folder: RunFolder) -> Path:
    """Write the report of a run, at whatever stage the run is; returns its path.

    Raises:
        UserError: the study, its file or a full run's result cannot be read.

    """
    results = read_results(folder)
    page = _PAGE.substitute(
        name=escape(results.name),
        answer=escape(answer(results)),
        progress=escape(progress(results)),
        promotions=_promotion_table(results),
        charts="".join(_section(chart(results)) for chart in CHARTS),
        command=escape(f"search run study.toml --name {shlex.quote(results.name)}"),
        facts="".join(f"<tr><th>{escape(name)}<td>{escape(value)}" for name, value in _facts(folder)),
        study_file=escape(folder.study_file.read_text(encoding="utf-8")),
        plotly=get_plotlyjs(),
    )
    write_text(folder.report, page)
    return folder.report


def read_results(folder: RunFolder) -> Results:
    """What a run came to so far."""
    study, spec = open_study(folder), load_study(str(folder.study_file), {})
    return Results(name=folder.name, spec=spec, study=study, trials=ended(study), promotions=finished(folder))


def answer(results: Results) -> str:
    """What the search found. The winner is chosen on validation, never on test."""
    spec, runs, trials = results.spec, winner(results.promotions), results.complete
    if not runs and not trials:
        stage = "No trial has come to a score yet" if results.trials else "No trial has ended yet"
        return f"{stage}: for {spec.data} within {spec.budget:,} parameters, no network is known so far."
    network = str(runs[0].network) if runs else trials[0].user_attrs["in words"]
    size = runs[0].parameters if runs else _parameters(trials[0])
    text = f"The best network found for {spec.data} within {spec.budget:,} parameters is {network}: "
    text += f"{size:,} parameters, {percent(size / spec.budget)} of the budget. "
    if not runs:
        diverged = "every full run so far diverged, and " if results.promotions else ""
        text += f"Its short run of {_count(spec.epochs, 'epoch')} came to {percent(_score(trials[0]))} on validation; "
        return text + f"{diverged}short runs find the good third but cannot order it: full runs decide."
    mean = f", in the mean of {_count(len(runs), 'seed')}," if len(runs) > 1 else ""
    text += f"Trained for {_count(runs[0].recipe.epochs, 'epoch')}, it comes{mean} to "
    text += f"{percent(fmean(map(_validation, runs)))} on validation, by which it was chosen, and "
    tested = [run.test_accuracy for run in runs if run.test_accuracy is not None]
    if not tested:
        return text + "was never tested: this data has no test split, so that no number here is free of the choice."
    return text + f"to {percent(fmean(tested))} on the {runs[0].test_images:,} test images, which had no part in it."


def progress(results: Results) -> str:
    """How far the study came."""
    trials = results.trials
    counts = (f"{sum(_verdict(trial) == verdict for trial in trials):,} {verdict}" for verdict in VERDICTS)
    seconds = sum(trial.user_attrs.get("seconds", 0) for trial in trials)
    text = f"{len(trials):,} of {results.spec.trials:,} trials have ended ({', '.join(counts)}), "
    text += f"after {duration(seconds)} of training. "
    if trials and all(gave_nothing(trial) for trial in trials):
        text += f"All of them failed or diverged, the last with: {trials[-1].user_attrs.get('reason', 'no reason')}. "
    return (
        text + f"{_count(len(results.promotions), 'full run')} {'is' if len(results.promotions) == 1 else 'are'} done."
    )


def history_chart(results: Results) -> Chart:
    """Each trial's score against its number, and the best so far."""
    title, trials = "Trials in order", _thinned(results.trials, MOST_POINTS)
    if not trials:
        return Chart(title, "No trial has ended yet.")
    edge = max(min((_score(trial) for trial in trials if trial.intermediate_values), default=0) - 0.05, 0)
    traces = []
    for verdict, (colour, symbol) in VERDICTS.items():
        points = _points(trial for trial in trials if _verdict(trial) == verdict)
        if verdict == "failed or diverged":
            points = [(number, edge, about) for number, _, about in points]
        traces.append(_series(verdict, points, mode="markers", marker={"color": colour, "symbol": symbol, "size": 9}))
    steps = _points(_records(sorted(results.complete, key=lambda trial: trial.number)))
    to_the_end = [(results.trials[-1].number, *steps[-1][1:])] if steps else []
    traces.append(_series("best so far", [*steps, *to_the_end], mode="lines", line={"shape": "hv", "color": GREEN}))
    words = (
        f"Validation accuracy of each short run after {_count(results.spec.epochs, 'epoch')}; of a pruned one, when it "
        "was stopped. A trial that failed or diverged has none and stands at the lower edge."
    )
    words += _left_out(len(trials), len(results.trials), "trials, evenly spread")
    return Chart(title, words, _figure(traces, "Trial", ACCURACY))


def size_chart(results: Results) -> Chart:
    """Parameters against accuracy: what size buys."""
    title, trials, budget = "Size and accuracy", _thinned(results.complete, MOST_POINTS), results.spec.budget
    if not trials:
        return Chart(title, "No trial is complete yet.")
    front = _records(sorted(results.complete, key=lambda trial: (_parameters(trial), -_score(trial))))
    full = [(run.parameters, run.val_accuracy, _about_full(run)) for run in results.promotions if run.diverged is None]
    traces = [
        _series("short run", _points(trials, _parameters), mode="markers", marker={"color": BLUE, "size": 9}),
        _series("full run", full, mode="markers", marker={"color": PURPLE, "symbol": "star", "size": 13}),
        _series(
            "best short run of its size or less (Pareto front)",
            _points(front, _parameters),
            mode="lines",
            line={"shape": "hv", "color": GREEN},
        ),
    ]
    figure = _figure(traces, "Trainable parameters", ACCURACY)
    label = {"text": f"budget {budget:,}", "xanchor": "right", "xshift": -4}
    figure.add_vline(budget, line={"color": VERMILLION, "dash": "dash"}, annotation=label)
    figure.update_xaxes(tickformat="~s")
    words = f"Short runs of {_count(results.spec.epochs, 'epoch')} and full runs, all by validation accuracy."
    words += _left_out(len(trials), len(results.complete), "trials, evenly from the best to the worst")
    return Chart(title, words, figure)


def short_curves_chart(results: Results) -> Chart:
    """Accuracy over the epochs of the short runs."""
    title = "Learning curves of the short runs"
    early = [trial for trial in results.trials if trial.state != TrialState.COMPLETE and trial.intermediate_values]
    curves = [*results.complete, *early]
    if not curves:
        return Chart(title, "No trial has finished an epoch yet.")
    shown = _thinned(curves, MOST_POINTS // results.spec.epochs)
    groups: dict[str, tuple[list[FrozenTrial], dict[str, Any]]] = {  # one over the other, the best on top
        "ended early": (
            [trial for trial in shown if trial.state != TrialState.COMPLETE],
            {"opacity": 0.35, "line": {"color": ORANGE}},
        ),
        "complete": (
            [trial for trial in shown[1:] if trial.state == TrialState.COMPLETE],
            {"line": {"color": BLUE, "width": 1}},
        ),
        "best": (results.complete[:1], {"line": {"color": GREEN, "width": 4}}),
    }
    traces = []
    for name, (trials, style) in groups.items():
        # One trace for all the curves of a group, with gaps between them: hundreds of traces are slow.
        points: list[Point] = []
        for trial in trials:
            about = _about(trial)
            points += [(epoch, value, about) for epoch, value in sorted(trial.intermediate_values.items())]
            points.append((None, None, ""))
        traces.append(_series(name, points, mode="lines+markers", marker={"size": 4}, **style))
    words = "Faint: pruned, diverged or failed before the last epoch."
    words += _left_out(len(shown), len(curves), "curves, evenly spread, the best among them")
    return Chart(title, words, _figure(traces, "Epoch", ACCURACY))


def full_curves_chart(results: Results) -> Chart:
    """Accuracy over the epochs of the full runs."""
    title, runs, traces = "Learning curves of the full runs", results.promotions, []
    if not runs:
        return Chart(title, "No full run is done yet: `search promote` trains the best trials at full length.")
    for i, run in enumerate(runs):
        points: list[Point] = [
            (
                epoch.epoch,
                epoch.val_accuracy,
                f"{_about_full(run)}<br>{percent(epoch.val_accuracy)} at epoch {epoch.epoch}",
            )
            for epoch in _thinned(run.history, MOST_POINTS // len(runs))
        ]
        line = {
            "color": (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY)[i % 6],
            "dash": ("solid", "dash", "dot")[i // 6 % 3],
        }
        name = f"trial {run.trial}, seed {run.seed}"
        traces.append(_series(name, points, mode="lines" if len(points) > 1 else "markers", line=line))
    words = "The promoted trials, trained anew at full length."
    drawn, there = sum(len(trace.x) for trace in traces), sum(len(run.history) for run in runs)
    return Chart(title, words + _left_out(drawn, there, "epochs, evenly spread"), _figure(traces, "Epoch", ACCURACY))


def importance_chart(results: Results) -> Chart:
    """How much of the scores' spread each parameter of the space explains."""
    title, trials = "What mattered", results.complete
    rests_on = _count(len(trials), "complete trial")
    names = sorted({name for trial in trials for name in trial.params})
    varied = [name for name in names if len({trial.params.get(name) for trial in trials}) > 1]
    if len({_score(trial) for trial in trials}) < 2 or not varied:
        return Chart(title, f"Not known: it takes two complete trials of different scores, and there is {rests_on}.")
    try:
        # fANOVA learns from every score; Optuna's default asks what sets the best tenth apart: too few to tell here.
        shares = get_param_importances(results.study, evaluator=FanovaImportanceEvaluator(seed=0), params=varied)
    except (RuntimeError, ValueError) as error:
        return Chart(title, f"Not known: {error}")
    top = dict(list(shares.items())[:MOST_BARS])
    bars = go.Bar(x=[float(share) for share in top.values()], y=list(top), orientation="h", marker={"color": BLUE})
    bars.update(hovertext=[f"{name}: {percent(share)}" for name, share in top.items()], hoverinfo="text")
    figure = _figure([bars], "Importance (% of all parameters')", None)
    figure.update_layout(xaxis={"tickformat": ".2~%"}, yaxis={"autorange": "reversed", "tickformat": ""})
    words = f"How much of the spread of the short scores each parameter explains by itself (fANOVA), from {rests_on}."
    if len(trials) < 5 * len(varied):
        words += f" That is few for {_count(len(varied), 'parameter')}: a hint, no more."
    return Chart(title, words + _left_out(len(top), len(shares), "parameters, the most important"), figure)


CHARTS = (history_chart, size_chart, short_curves_chart, full_curves_chart, importance_chart)


def _figure(traces: list[Any], x: str, y: str | None) -> go.Figure:
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


def _points(trials: Iterable[FrozenTrial], x: Callable[[FrozenTrial], int] = lambda trial: trial.number) -> list[Point]:
    return [(x(trial), _score(trial), _about(trial)) for trial in trials]


def _records(trials: Iterable[FrozenTrial]) -> Iterator[FrozenTrial]:
    """Those that beat all before them."""
    best = -1.0
    for trial in trials:
        if _score(trial) > best:
            best = _score(trial)
            yield trial


def _thinned(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items (two at least), evenly spread, the first and the last among them."""
    last, steps = len(items) - 1, max(most, 2) - 1
    return list(items) if last <= steps else [items[round(i * last / steps)] for i in range(steps + 1)]


def _left_out(drawn: int, there: int, what: str) -> str:
    return f" Drawn: {drawn:,} of {there:,} {what}." if drawn < there else ""


def _score(trial: FrozenTrial) -> float:
    """Validation accuracy, share of 1: the trial's, or the last before it was stopped."""
    if trial.state == TrialState.COMPLETE:
        return trial.value or 0
    return trial.intermediate_values.get(trial.last_step or 0, 0)


def _validation(run: Promotion) -> float:
    return run.val_accuracy or 0


def _parameters(trial: FrozenTrial) -> int:
    return int(trial.user_attrs["parameters"])


def _verdict(trial: FrozenTrial) -> str:
    if gave_nothing(trial):
        return "failed or diverged"
    return "pruned" if trial.state == TrialState.PRUNED else "complete"


def _about(trial: FrozenTrial) -> str:
    """What a trial was and came to, for its hover (which reads HTML)."""
    known, what = trial.user_attrs, _verdict(trial)
    lines = [f"Trial {trial.number}" + (f", the baseline {known['baseline']}" if "baseline" in known else "")]
    if "network" in known:
        lines += [known["in words"], f"{_parameters(trial):,} parameters", str(recipe_of(trial))]
    score = f": {percent(_score(trial))} on validation" if what != "failed or diverged" else ""
    lines += [what + score, known.get("reason", "")]
    return "<br>".join(escape(line) for line in lines if line)


def _about_full(run: Promotion) -> str:
    outcome = f"diverged: {run.diverged}" if run.diverged else f"{percent(_validation(run))} on validation in the end"
    lines = (f"Trial {run.trial}, seed {run.seed}, {_count(run.recipe.epochs, 'epoch')}", str(run.network), outcome)
    return "<br>".join(map(escape, lines))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _promotion_table(results: Results) -> str:
    """The full runs; validation, which chose, and test, which did not, under headings of their own."""
    if not results.promotions:
        return "<p>No trial is promoted to full training yet.</p>"
    rows = [_FULL_RUNS_HEAD]
    for run in results.promotions:
        full = "diverged" if run.diverged else percent(_validation(run))
        untested = "diverged" if run.diverged else "no test split"
        test = untested if run.test_accuracy is None else percent(run.test_accuracy)
        rows.append(
            f"<tr{' class=winner' if run in winner(results.promotions) else ''}>"
            f"<td>{run.trial}<td class=words>{escape(str(run.network))}<td>{run.parameters:,}"
            f"<td>{run.recipe.optimizer}<td>{run.seed}<td>{run.recipe.epochs}"
            f"<td class=split>{percent(run.short_score)}<td>{full}<td class=split>{test}"
            f"<td class=split>{run.seconds:,.0f}"
        )
    words = "Chosen by the full run's validation accuracy. A test split is read once a run, at its end."
    return f"<p>{words}</p><div class=wide><table>{''.join(rows)}</table></div>"


def _section(chart: Chart) -> str:
    """A chart as HTML: its title, its words, and its figure as JSON, which the page's script draws."""
    text = f"<section><h2>{escape(chart.title)}</h2><p>{escape(chart.words)}</p>"
    if chart.figure is not None:
        # No "<" in the JSON, so that no text in it can end the script element.
        drawn = chart.figure.to_json().replace("<", "\\u003c")
        text += f'<div class=chart></div><script type="application/json">{drawn}</script>'
    return text + "</section>\n"


def _facts(folder: RunFolder) -> Iterator[tuple[str, str]]:
    """What is known of versions, device and data, one row for each."""
    try:
        facts = json.loads(folder.facts.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {folder.facts.name: "missing, or cannot be read"}
    yield from _flat("", facts)


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name} {key}".strip(), inner)
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value))
    elif value is not None:
        yield name, {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


_FULL_RUNS_HEAD = """
<tr><th rowspan=2>Trial<th rowspan=2 class=words>Network<th rowspan=2>Parameters<th rowspan=2>Optimizer
<th rowspan=2>Seed<th rowspan=2>Epochs<th colspan=2 class=split>Validation<th class=split>Test
<th rowspan=2 class=split>Seconds<tr><th class=split>short run<th>full run<th class=split>full run
"""

_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$name: search report</title>
<style>
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --faint: #5c636b; --line: #dfe2e6; --mark: #eef5fb }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e9; --paper: #15171a; --faint: #a0a7af; --line: #33383e; --mark: #1d2a36 }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 66rem;
  margin: 0 auto; padding: 1rem; overflow-wrap: break-word }
h1 { font-size: 1.5rem; margin: 1rem 0 } h2 { font-size: 1.15rem; margin: 2.5rem 0 .25rem }
.answer { font-size: 1.2rem } p, .progress { margin: .25rem 0 .75rem } section p, .progress { color: var(--faint) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { vertical-align: bottom } td { vertical-align: top } .facts th, .facts td { text-align: left; vertical-align: top }
td.words, .facts td { white-space: normal } .words { text-align: left; min-width: 14rem }
.split { border-left: 1px solid var(--line) } .winner { background: var(--mark); font-weight: 600 }
.chart { height: 26rem } pre { overflow-x: auto; font-size: .85rem } code { font-size: .9em }
</style>
<h1>$name</h1>
<p class=answer>$answer</p>
<p class=progress>$progress</p>
<section><h2>Full runs</h2>$promotions</section>
<noscript><p>The charts need JavaScript.</noscript>
$charts
<h2>How to reproduce</h2>
<p>The study as run is <code>study.toml</code>, beside this page: <code>$command</code></p>
<div class=wide><table class=facts>$facts</table></div>
<details><summary>study.toml</summary><pre>$study_file</pre></details>
<script>$plotly</script>
<script>
const charts = document.querySelectorAll(".chart"), touch = matchMedia("(pointer: coarse)").matches;
function paint() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink"), line = style.getPropertyValue("--line");
  for (const chart of charts)
    Plotly.relayout(chart, { "font.color": ink, "xaxis.gridcolor": line, "yaxis.gridcolor": line });
}
Promise.all([...charts].map((chart) => {
  const { data, layout } = JSON.parse(chart.nextElementSibling.textContent);
  layout.dragmode = touch ? false : "zoom"; // a finger scrolls the page
  const config = { responsive: true, displaylogo: false, displayModeBar: !touch && "hover" };
  return Plotly.newPlot(chart, data, layout, config);
})).then(paint);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
</script>
</html>
""")
