"""Writes a run's report: one HTML file with the result in a sentence, the full runs in a table, and charts.

The page itself is `report.html.in`, beside this module; its texts and tables are made here, its charts in
`search.charts`.
"""

import base64
import gzip
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from search.cautions import cautions
from search.charts import CHARTS, CHARTS_AFTER
from search.colours import ORANGE
from search.first_screen import Best, badge, cards, drawing, exports, recipe_table
from search.formatting import count, mean_and_deviation, percent
from search.front_section import front_section
from search.identity import identity
from search.markup import paragraph, prose, section
from search.mistakes_section import mistakes_sections
from search.promotions import Promotion, winner
from search.recipe_words import notation
from search.results import Results, headline, progress, read_results, remarks
from search.run_folder import RunFacts, RunFolder, control_name, read_facts, write_text
from search.scores import named
from search.spec import CONTROLS
from search.trials import TrialRecord, score_of
from search.trials_table import trials_json
from train_core.errors import UserError
from train_core.limits import LIMITS
from train_core.results import Score

REFRESH_S = 60  # an unfinished page reloads after this time
SHOWN_RUNS = 5  # full runs that are shown without unfolding


def write_report(folder: RunFolder, results: Results | None = None, *, going_on: str = "") -> Path:
    """Write the report of a run and return its path; `results` avoids reading them again.

    `going_on` names other work besides the search. An unfinished page reloads every minute.

    Raises:
        UserError: the study, its file or a full run's result cannot be read.

    """
    results = results or read_results(folder)
    facts, best = read_facts(folder), Best.of(results)
    unfinished = badge(results, going_on)
    sections = "".join(_sections(folder, facts, results))
    page = _template().substitute(
        name=escape(results.name),
        badge=f" <span class=badge>{escape(unfinished)}</span>" if unfinished else "",
        refresh=REFRESH_S if unfinished else 0,
        headline=prose(headline(results)),
        remarks="".join(f"<p>{prose(each)}</p>" for each in remarks(results)),
        cautions="".join(f"<p class=warning>{prose(each)}</p>" for each in cautions(results)),
        notation=f"<p class=faint>{prose(notation(best.network))}</p>" if best else "",
        cards="".join(card.html for card in cards(folder, facts, results)),
        winner=_winner(best, facts),
        full_runs=_full_run_table(results),
        progress=prose(progress(results)),
        contents=_contents(sections),
        sections=sections,
        plotly=_packed_plotly(),
        orange=ORANGE,
    )
    write_text(folder.report, page)
    return folder.report


def _sections(folder: RunFolder, facts: RunFacts | None, results: Results) -> Iterator[str]:
    """Everything after the first screen."""
    yield front_section(folder, results)
    switch = "<p><label><input type=checkbox id=errors> Show errors on logarithmic axes instead of accuracies</label>"
    for i, chart in enumerate(make(results) for make in CHARTS):
        yield section(chart.title, (switch if i == 0 else "") + paragraph(chart.words) + chart.html)
    yield mistakes_sections(folder, results.promotions)
    yield _control_table(folder, results)
    yield from (
        section(chart.title, paragraph(chart.words) + chart.html) for chart in (make(results) for make in CHARTS_AFTER)
    )
    if results.trials:
        yield section("All trials", _trials_table(results))
    if links := exports(folder):
        yield section("Exported models", links)
    yield section("How to reproduce", _reproduction(folder, facts, results))


def _contents(sections: str) -> str:
    """Links to the sections."""
    found = re.findall(r'<section id="([^"]+)"><h2>([^<]+)</h2>', sections)
    return "".join(f'<li><a href="#{address}">{title}</a>' for address, title in found)


def _winner(best: Best | None, facts: RunFacts | None) -> str:
    """The best network's recipe, with its drawing beside it; empty if there is none yet."""
    if best is None:
        return ""
    recipe = f"<div><h2>Its recipe</h2>{recipe_table(best)}</div>"
    return f'<div class="beside answer">{recipe}<div><h2>The best network</h2>{drawing(best, facts)}</div></div>'


def _trials_table(results: Results) -> str:
    words = "Click a heading to sort. The field shows the trials that have all of its words."
    return (
        f"{paragraph(words)}<p><input type=search id=filter placeholder='for example: muon complete' "
        "aria-label='Show the trials with these words'> <span id=found></span></p>"
        "<div class=wide><table id=trials></table></div><p><button id=more>Show more</button></p>"
        f"<script type='application/json' id=rows>{trials_json(results)}</script>"
    )


def _reproduction(folder: RunFolder, facts: RunFacts | None, results: Results) -> str:
    """The commands, versions and study file that repeat the run."""
    rows = "".join(f"<tr><th>{escape(name)}<td>{escape(value)}" for name, value in _facts(folder, facts, results))
    commands = escape("\n".join(_commands(facts, results)))
    return (
        f"<p>The study as run is <code>study.toml</code> in the run's folder, and below. "
        f"{escape(_reproducibility_note(facts, results))}</p><pre>{commands}</pre>"
        f"<div class=wide><table class=facts>{rows}</table></div><details><summary>study.toml</summary>"
        f"<pre>{escape(folder.study_file.read_text(encoding='utf-8'))}</pre></details>"
    )


@cache
def _template() -> Template:
    """The page, with a placeholder for each part."""
    return Template(Path(__file__).with_name("report.html.in").read_text(encoding="utf-8"))


def _full_run_table(results: Results) -> str:
    """The full runs; validation (used to choose) and test (not used) are under separate headings."""
    if not results.promotions:
        return paragraph("No full run is done yet: `search promote` trains the best trials at full length.")
    limited = results.spec.max_madds is not None
    best = winner(results.promotions)
    rows = [
        f"<tr{' class=winner' if run in best else ''}>"
        f"<td>{run.trial}<td class=words>{escape(str(run.network))}<td>{run.parameters:,}"
        f"{f'<br>{run.multiply_adds:,}' if limited else ''}<td>{run.recipe.optimizer}"
        f"<td>{run.seed}<td>{run.recipe.epochs}"
        f"<td class=split>{percent(run.short_score)}<td>{_validation_cell(run)}<td class=split>{_test_cell(run)}"
        f"<td class=split>{run.seconds:,.0f}"
        f"<td>{f'{1000 * run.latency_s:.3g}' if run.latency_s is not None else 'not measured'}"
        for run in results.promotions
    ]
    costs = "Parameters<br>Multiply-adds" if limited else "Parameters"
    words = (
        f"Chosen by the full run's {named(results.spec.scored_by, 'validation accuracy')}. The test split is read once "
        "a run, at its end, and only for the runs of the last rung. All were trained on the training images without "
        "the validation images"
    )
    words += ", except those marked as trained on them." if results.promotions[-1].refit else "."
    words += _test_reads(results.promotions)
    asam = results.promotions[0].recipe.asam  # the same for all of them
    words += f" They took sharpness-aware steps (asam {asam:g})." if asam else ""
    words += " Seconds: of training and validation."
    words += " Milliseconds (ms) an image: one image at a time, in fp32, on the device that the run names below."
    head = _full_runs_head(costs, results.spec.scored_by)
    table = f"<div class=wide><table>{head}{''.join(rows[:SHOWN_RUNS])}</table></div>"
    if rest := rows[SHOWN_RUNS:]:
        table += f"<details><summary>{count(len(rest), 'more full run')}</summary><div class=wide><table>{head}"
        table += f"{''.join(rest)}</table></div></details>"
    return f"{table}<p>{words}</p>"


def _test_reads(promotions: Sequence[Promotion]) -> str:
    """A sentence that counts the models that read the test split; empty if none did.

    A refit and each seed are separate models. Mirror images are a second look by the same model.
    """
    tested = sum(run.test_score is not None for run in promotions)
    if not tested:
        return ""
    models = count(tested, "model")
    return f" The test split was read for {models}; the more are read, the less the best of them means."


def _full_runs_head(costs: str, score: Score) -> str:
    balanced = "<br>balanced accuracy" if score == "balanced" else ""
    return (
        f"<tr><th rowspan=2>Trial<th rowspan=2 class=words>Network<th rowspan=2>{costs}<th rowspan=2>Optimizer"
        f"<th rowspan=2>Seed<th rowspan=2>Epochs<th colspan=2 class=split>Validation{balanced}"
        f"<th class=split>Test{balanced}"
        "<th rowspan=2 class=split>Seconds<th rowspan=2>ms an<br>image"
        "<tr><th class=split>short run<th>full run<th class=split>full run"
    )


def _validation_cell(run: Promotion) -> str:
    if run.diverged:
        return "diverged"
    if run.refit:
        return "trained on"
    return "no accuracy" if run.val_score is None else percent(run.val_score)


def _test_cell(run: Promotion) -> str:
    if run.test_score is None:
        return "diverged" if run.diverged else "no test split" if run.tested else "not read"
    mirrored = run.mirrored_test_score
    return percent(run.test_score) + (f"<br>with mirror<br>images {percent(mirrored)}" if mirrored is not None else "")


def _control_table(folder: RunFolder, results: Results) -> str:
    """A comparison with the search's control runs in the same folder; empty if there are none."""
    rows = []
    for control, changes in CONTROLS.items():
        beside = folder.named(control_name(folder.name, control))
        if not beside.study_file.exists():
            continue
        try:
            other = read_results(beside)
        except UserError:
            continue  # its own report names its problem
        if _comparable(results, other):
            rows.append(
                (f"{control} ({', '.join(f'{key} {str(value).lower()}' for key, value in changes.items())})", other)
            )
    if not rows:
        return ""
    html = [
        "<p>They have the same budget, data and space. "
        f"Epochs are all that were trained, in short and in full runs; {named(results.spec.scored_by, 'accuracies')} "
        "of several seeds are their "
        "mean and standard deviation.</p><div class=wide><table><tr><th class=words>Run<th>Trials<th>Epochs"
        "<th>Best short run<th>Best full run, validation<th>Its test"
    ]
    for name, compared in [("this search", results), *rows]:
        best, runs = compared.complete[:1], winner(compared.promotions)
        validation = [run.val_score for run in runs if run.val_score is not None]
        tested = [run.test_score for run in runs if run.test_score is not None]
        epochs = sum(len(trial.curve) for trial in compared.trials)
        epochs += sum(len(run.history) for run in compared.promotions)
        html.append(
            f"<tr><td class=words>{escape(name)}<td>{len(compared.trials):,}<td>{epochs:,}"
            f"<td>{percent(score_of(best[0])) if best else 'none'}"
            f"<td>{mean_and_deviation(validation) if validation else 'not promoted yet'}"
            f"<td>{mean_and_deviation(tested) if tested else 'none'}"
        )
    return section("Compared with simpler searches", "".join(html) + "</table></div>")


def _comparable(one: Results, other: Results) -> bool:
    """Whether two runs search the same space for the same data within the same budget."""
    identities = [
        {key: value for key, value in identity(results.study).items() if key.startswith(_SAME)}
        for results in (one, other)
    ]
    return identities[0] == identities[1]


_SAME = (*(limit.key for limit in LIMITS.values()), "data fingerprint", "score", "space.")


@cache
def _packed_plotly() -> str:
    """The Plotly library, compressed: it is by far the largest part of the page."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _commands(facts: RunFacts | None, results: Results) -> Iterator[str]:
    """The commands that repeat this run."""
    yield f"search run study.toml --name {shlex.quote(results.name)}"
    yield from facts.promoted if facts is not None else ()


def _reproducibility_note(facts: RunFacts | None, results: Results) -> str:
    """How closely these commands repeat the run's numbers: this depends on where and how the run was made."""
    devices = {facts.device if facts is not None else None, *(run.device for run in results.promotions)}
    names = " and ".join(sorted(device for device in devices if device)) or "a device that is not known"
    if not all(device is not None and device.startswith("CPU") for device in devices):
        why = f"on {names}, sums are not the same to the last bit each time"
    elif len(devices) > 1:
        why = f"parts of it were made on {names}"
    elif _overlapping(results.trials):
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


def _overlapping(trials: Sequence[TrialRecord]) -> bool:
    """Whether some trials were trained at the same time, which requires several workers."""
    spans = sorted((trial.started, trial.ended) for trial in trials if trial.started)
    return any(start < end for (_, end), (start, _) in pairwise(spans) if end)


def _facts(folder: RunFolder, facts: RunFacts | None, results: Results) -> Iterator[tuple[str, str]]:
    """Versions, device and data, if known: names and values."""
    if facts is None:
        yield folder.facts.name, "missing, or cannot be read"
    else:
        yield from _flat("", facts.model_dump(mode="json", exclude={"promoted"}))
    yield "seed of split, sampler and training", str(results.spec.seed)


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name} {key}".strip().replace("_", " "), inner)
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value))
    elif value is not None:
        yield name, {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
