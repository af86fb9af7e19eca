"""Writes a run's report: one HTML file with the answer in a sentence, the full runs in a table, and charts.

The words, the table and the page are made here; the charts in `search.charts`.
"""

import base64
import gzip
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from plotly.offline import get_plotlyjs

from search.charts import (
    CHARTS,
    CHARTS_AFTER,
    VERDICTS,
    Chart,
    Results,
    parameters_of,
    score_of,
    validation_of,
    verdict_of,
)
from search.console import regulariser_warning
from search.diagram import diagram
from search.fidelity import Fidelity, measure
from search.formatting import count, duration, limits, mean_and_deviation, percent, short_run
from search.ladder import network_of
from search.promotions import Promotion, diverged_of, finished, refit_of, winner
from search.run_folder import RunFolder, control_name, promoted, read_facts, write_text
from search.spec import CONTROLS, StudySpec, load_study
from search.study import open_study
from search.trials import ended, failed_or_diverged, seconds_of
from train_core.errors import UserError


def write_report(folder: RunFolder, results: Results | None = None) -> Path:
    """Write the report of a run, from `results` where they are read already; returns its path.

    Raises:
        UserError: the study, its file or a full run's result cannot be read.

    """
    results = results or read_results(folder)
    page = _PAGE.substitute(
        name=escape(results.name),
        answer=escape(answer(results)),
        progress=escape(progress(results)),
        promotions=_promotion_table(results),
        controls=_control_table(folder, results),
        warning=_warning(results.spec),
        winner=_drawn(folder, results),
        charts="".join(_section(chart(results)) for chart in CHARTS),
        after="".join(_section(chart(results)) for chart in CHARTS_AFTER),
        sameness=escape(_sameness(folder, results)),
        commands=escape("\n".join(_commands(folder, results))),
        facts="".join(f"<tr><th>{escape(name)}<td>{escape(value)}" for name, value in _facts(folder, results)),
        study_file=escape(folder.study_file.read_text(encoding="utf-8")),
        plotly=_packed_plotly(),
    )
    write_text(folder.report, page)
    return folder.report


def read_results(folder: RunFolder) -> Results:
    """What a run came to so far."""
    study, spec = open_study(folder), load_study(str(folder.study_file), {})
    return Results(
        name=folder.name,
        spec=spec,
        study=study,
        trials=ended(study),
        promotions=finished(folder),
        fidelity=fidelity_of(folder, spec, study),
    )


def fidelity_of(folder: RunFolder, spec: StudySpec, study: optuna.Study) -> Fidelity | None:
    """What the run's longer runs say of its short scores."""
    return measure(
        study.get_trials(deepcopy=False),
        finished(folder),
        epochs=spec.epochs,
        family=spec.promote.families,
        validation_images=read_facts(folder).get("data", {}).get("validation images") or 1000,
    )


def answer(results: Results) -> str:
    """What the search found. The winner is chosen on validation, never on test."""
    spec, runs, trials = results.spec, winner(results.promotions), results.complete
    if not runs and not trials:
        stage = "No trial has come to a score yet" if results.trials else "No trial has ended yet"
        return f"{stage}: for {spec.data_name} within {limits(spec)}, no network is known so far."
    network = str(runs[0].network) if runs else trials[0].user_attrs["in words"]
    size = runs[0].parameters if runs else parameters_of(trials[0])
    text = f"The best network found for {spec.data_name} within {limits(spec)} is {network}: "
    text += f"{size:,} parameters, {percent(size / spec.budget)} of the budget"
    madds = runs[0].multiply_adds if runs else trials[0].user_attrs["multiply-adds"]
    text += f", and {madds:,} multiply-adds. " if spec.max_madds is not None else ". "
    if not runs:
        diverged = "every full run so far diverged, and " if results.promotions else ""
        text += f"Its short run of {short_run(spec)} came to {percent(score_of(trials[0]))} on validation; "
        return text + f"{diverged}short runs find the good third but cannot order it: full runs decide."
    return text + _of_full_runs(results, runs)


def _of_full_runs(results: Results, runs: Sequence[Promotion]) -> str:
    """What the best network came to at full length: `runs` are its seeds."""
    mean = f" (mean and standard deviation of {len(runs)} seeds)" if len(runs) > 1 else ""
    text = f"Trained for {count(runs[0].recipe.epochs, 'epoch')}, it comes to "
    text += f"{mean_and_deviation([*map(validation_of, runs)])}{mean} on validation, by which it was chosen, and "
    tested = [run.test_accuracy for run in runs if run.test_accuracy is not None]
    if not all(run.tested for run in runs):
        text += "is not tested yet: `search promote` reads the test split for the runs of its last rung."
    elif not tested:
        text += "was never tested: this data has no test split, so that no number here is free of the choice."
    else:
        text += f"to {mean_and_deviation(tested)} on the {runs[0].test_images:,} test images, which had no part in it."
    if diverged := len(diverged_of(results.promotions, runs)):
        text += f" {diverged} of {count(diverged + len(runs), 'seed')} diverged, and is not in these numbers."
    if (refit := refit_of(results.promotions, runs)) and refit.test_accuracy is not None:
        text += (
            f" Trained once more, on the validation images, too, it comes to {percent(refit.test_accuracy)} on test."
        )
    return text


def progress(results: Results) -> str:
    """How far the study came."""
    trials = results.trials
    counts = (f"{sum(verdict_of(trial) == verdict for trial in trials):,} {verdict}" for verdict in VERDICTS)
    seconds = sum(seconds_of(trial) or 0 for trial in trials)
    text = f"{len(trials):,} of {results.spec.trials:,} trials have ended ({', '.join(counts)}), "
    text += f"after {duration(seconds)} of training. "
    if trials and all(failed_or_diverged(trial) for trial in trials):
        text += f"All of them failed or diverged, the last with: {trials[-1].user_attrs.get('reason', 'no reason')}. "
    longer = results.promotions
    text += f"{count(len(longer), 'longer run')} {'is' if len(longer) == 1 else 'are'} done"
    if longer:
        spent = sum(run.seconds for run in longer)
        text += f", after {duration(spent)} of training: {duration(seconds + spent)} in all"
    return text + "."


def _promotion_table(results: Results) -> str:
    """The full runs; validation, which chose, and test, which did not, under headings of their own."""
    if not results.promotions:
        return "<p>No trial is promoted to full training yet.</p>"
    limited = results.spec.max_madds is not None
    rows = [_FULL_RUNS_HEAD.substitute(costs="Parameters<br>Multiply-adds" if limited else "Parameters")]
    for run in results.promotions:
        full = "diverged" if run.diverged else "trained on" if run.refit else percent(validation_of(run))
        untested = "diverged" if run.diverged else "no test split" if run.tested else "not read"
        test = untested if run.test_accuracy is None else percent(run.test_accuracy)
        if run.mirrored_test_accuracy is not None:
            test += f"<br>with mirror<br>images {percent(run.mirrored_test_accuracy)}"
        rows.append(
            f"<tr{' class=winner' if run in winner(results.promotions) else ''}>"
            f"<td>{run.trial}<td class=words>{escape(str(run.network))}<td>{run.parameters:,}"
            f"{f'<br>{run.multiply_adds:,}' if limited else ''}<td>{run.recipe.optimizer}"
            f"<td>{run.seed}<td>{run.recipe.epochs}"
            f"<td class=split>{percent(run.short_score)}<td>{full}<td class=split>{test}"
            f"<td class=split>{run.seconds:,.0f}"
            f"<td>{f'{1000 * run.latency_s:.3g}' if run.latency_s is not None else 'not measured'}"
        )
    words = (
        "Chosen by the full run's validation accuracy. A test split is read once a run, at its end, and only for the "
    )
    words += "runs of the last rung. All were trained on the training images without the validation images"
    words += ", but for those marked so." if results.promotions[-1].refit else "."
    words += " Seconds: of training and validation."
    words += " Milliseconds (ms) an image: one image at a time, in fp32, on the device that the run names below."
    return f"<p>{words}</p><div class=wide><table>{''.join(rows)}</table></div>"


def _warning(spec: StudySpec) -> str:
    """What the short scores of this study cannot tell, where it lets them choose regularisers."""
    warning = regulariser_warning(spec)
    return f"<p class=warning>{escape(warning[0].upper() + warning[1:])}</p>" if warning else ""


def _drawn(folder: RunFolder, results: Results) -> str:
    """The best network as a picture of its stages; nothing before there is one."""
    runs = winner(results.promotions)
    if not runs and not results.complete:
        return ""
    network = runs[0].network if runs else network_of(results.complete[0])
    size = read_facts(folder).get("data", {}).get("size") or (32, 32)
    return f"<section><h2>The best network</h2><div class=diagram>{diagram(network, tuple(size))}</div></section>"


def _control_table(folder: RunFolder, results: Results) -> str:
    """What this search gained over luck: the controls that lie beside it, for the same data and budget."""
    rows = []
    for control, changes in CONTROLS.items():
        beside = folder.named(control_name(folder.name, control))
        if not beside.study_file.exists():
            continue
        try:
            other = read_results(beside)
        except UserError:
            continue  # its own report says what is wrong with it
        if _alike(results, other):
            rows.append((f"{control} ({', '.join(f'{key} {value}' for key, value in changes.items())})", other))
    if not rows:
        return ""
    html = [
        "<section><h2>Against luck</h2><p>The same budget, data and space, searched by luck: what the search gained. "
        "Epochs are all that were trained, short and long; accuracies of several seeds are their mean and standard "
        "deviation.</p><div class=wide><table><tr><th class=words>Run<th>Trials<th>Epochs"
        "<th>Best short run<th>Best full run, validation<th>Its test"
    ]
    for name, each in [("this search", results), *rows]:
        best, runs = each.complete[:1], winner(each.promotions)
        tested = [run.test_accuracy for run in runs if run.test_accuracy is not None]
        epochs = sum(len(trial.intermediate_values) for trial in each.trials)
        epochs += sum(len(run.history) for run in each.promotions)
        html.append(
            f"<tr><td class=words>{escape(name)}<td>{len(each.trials):,}<td>{epochs:,}"
            f"<td>{percent(score_of(best[0])) if best else 'none'}"
            f"<td>{mean_and_deviation([*map(validation_of, runs)]) if runs else 'not promoted yet'}"
            f"<td>{mean_and_deviation(tested) if tested else 'none'}"
        )
    return "".join(html) + "</table></div></section>"


def _alike(one: Results, other: Results) -> bool:
    """Whether two runs search the same space for the same data within the same budget."""
    kept = [
        {key: value for key, value in each.study.user_attrs.get("identity", {}).items() if key.startswith(_SAME)}
        for each in (one, other)
    ]
    return kept[0] == kept[1]


_SAME = ("budget", "max_madds", "data fingerprint", "space.")


def _section(chart: Chart) -> str:
    """A chart as HTML: its title, its words, and its figure as JSON, which the page's script draws."""
    text = f"<section><h2>{escape(chart.title)}</h2><p>{escape(chart.words)}</p>"
    if chart.figure is not None:
        # No "<" in the JSON, so that no text in it can end the script element.
        drawn = chart.figure.to_json().replace("<", "\\u003c")
        text += f'<div class=wide><div class=chart></div><script type="application/json">{drawn}</script></div>'
    return text + "</section>\n"


@cache
def _packed_plotly() -> str:
    """The library that draws, packed: as it is, it takes all that a page may weigh."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _commands(folder: RunFolder, results: Results) -> Iterator[str]:
    """What to type to get the same again."""
    yield f"search run study.toml --name {shlex.quote(results.name)}"
    yield from promoted(folder)


def _sameness(folder: RunFolder, results: Results) -> str:
    """How far these commands give the same again: it depends on where and how this run was made."""
    found = {read_facts(folder).get("device"), *(run.device for run in results.promotions)}
    devices = " and ".join(sorted(str(device) for device in found if device)) or "a device that is not known"
    if not all(str(device).startswith("CPU") for device in found):
        why = f"on {devices}, sums are not the same to the last bit each time"
    elif len(found) > 1:
        why = f"parts of it were made on {devices}"
    elif _at_once(results.trials):
        why = "several workers searched at once, and what one draws depends on what the others have finished"
    else:
        return (
            "With it, the versions and the data named here, and one worker on a CPU with as many threads, these "
            "commands give the same numbers again, to the last bit:"
        )
    return (
        "With it, the versions and the data named here, these commands give a search like this one, but not the same "
        f"numbers: {why}."
    )


def _at_once(trials: Sequence[FrozenTrial]) -> bool:
    """Whether some trials were trained side by side, which takes several workers."""
    spans = sorted((each.datetime_start, each.datetime_complete) for each in trials if each.datetime_start)
    return any(after < ended for (_, ended), (after, _) in pairwise(spans) if ended)


def _facts(folder: RunFolder, results: Results) -> Iterator[tuple[str, str]]:
    """What is known of versions, device and data, one row for each."""
    facts = read_facts(folder) or {folder.facts.name: "missing, or cannot be read"}
    yield from _flat("", {name: value for name, value in facts.items() if name != "promoted"})
    yield "seed of split, sampler and training", str(results.spec.seed)


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name} {key}".strip(), inner)
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value))
    elif value is not None:
        yield name, {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


_FULL_RUNS_HEAD = Template("""
<tr><th rowspan=2>Trial<th rowspan=2 class=words>Network<th rowspan=2>$costs<th rowspan=2>Optimizer
<th rowspan=2>Seed<th rowspan=2>Epochs<th colspan=2 class=split>Validation<th class=split>Test
<th rowspan=2 class=split>Seconds<th rowspan=2>ms an<br>image
<tr><th class=split>short run<th>full run<th class=split>full run
""")

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
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .4rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { vertical-align: bottom } td { vertical-align: top } .facts th, .facts td { text-align: left; vertical-align: top }
td.words, .facts * { white-space: normal } .facts td { overflow-wrap: anywhere }
.words { text-align: left; min-width: 11rem }
.warning { border-left: 4px solid #E69F00; padding-left: .75rem }
.split { border-left: 1px solid var(--line) } .winner { background: var(--mark); font-weight: 600 }
.diagram svg { max-width: 100%; height: auto }
.chart { height: 26rem } pre { overflow-x: auto; font-size: .85rem } code { font-size: .9em }
</style>
<h1>$name</h1>
<p class=answer>$answer</p>
<p class=progress>$progress</p>
$warning$winner<noscript><p>The charts need JavaScript.</noscript>
$charts<section><h2>Full runs</h2>$promotions</section>
$controls$after
<h2>How to reproduce</h2>
<p>The study as run is <code>study.toml</code>, beside this page, and below. $sameness</p>
<pre>$commands</pre>
<div class=wide><table class=facts>$facts</table></div>
<details><summary>study.toml</summary><pre>$study_file</pre></details>
<script type="application/gzip" id=plotly>$plotly</script>
<script>
const charts = document.querySelectorAll(".chart"), touch = matchMedia("(pointer: coarse)").matches;
async function unpack() {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (each) => each.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}
function paint() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink"), line = style.getPropertyValue("--line");
  for (const chart of charts)
    Plotly.relayout(chart, { "font.color": ink, "xaxis.gridcolor": line, "yaxis.gridcolor": line });
}
unpack().then(() => Promise.all([...charts].map((chart) => {
  const { data, layout } = JSON.parse(chart.nextElementSibling.textContent);
  layout.dragmode = touch ? false : "zoom"; // a finger scrolls the page
  const config = { responsive: true, displaylogo: false, displayModeBar: !touch && "hover" };
  return Plotly.newPlot(chart, data, layout, config);
}))).then(paint);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
</script>
</html>
""")
