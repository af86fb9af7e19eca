"""Tables and views for the terminal. Imports no torch, so that read-only commands are fast."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.box import SIMPLE
from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from search.formatting import ago, count, duration, percent, points, rounded
from search.plot import Curve
from search.promotions import Promotion
from search.published import Published, Reproduction, Row
from search.records import Comparison, FinishedFullRun, FullRun, Run, RunningTrial, ShortRun, Status, Trial
from search.trials import TrialRecord, score_of
from train_core.specs import ResNetSpec

STYLES = {
    "searching": "green",
    "promoting": "green",
    "unfinished": "yellow",
    "complete": "green",
    "running": "green",
    "failed": "red",
    "diverged": "red",
}
"""Colours of states and of trials' outcomes; what is not here has none. Nothing is said by colour alone."""


def best_table(trials: Sequence[TrialRecord]) -> Table:
    """The best trials of a search, in the order given; narrow enough for 80 columns, where the networks are folded."""
    table = empty_table(
        "Best trials (score: validation accuracy after the short run)",
        *("score", "trial", "parameters", "multiply-adds", "optimizer", "<network", "seconds"),
    )
    for trial in trials:
        table.add_row(
            percent(score_of(trial)),
            str(trial.number),
            f"{trial.parameters:,}",
            rounded(trial.multiply_adds),
            trial.recipe.optimizer,
            Text(trial.network_words),
            "not known" if trial.seconds is None else f"{trial.seconds:,.0f}",
        )
    return table


def promotion_table(promotions: list[Promotion]) -> Table:
    """Finished full runs, in the order given; narrow enough for 80 columns."""
    table = empty_table(
        "Full runs, the longest first, then the best on validation (short and full run: validation accuracy)",
        *("trial", "parameters", "optimizer", "seed", "epochs", "short", "full", "test", "seconds"),
    )
    table.columns[-2].no_wrap = False  # with the mirrored one, it is folded
    for run in promotions:
        table.add_row(
            str(run.trial),
            f"{run.parameters:,}",
            run.recipe.optimizer,
            str(run.seed),
            str(run.recipe.epochs),
            percent(run.short_score),
            "diverged" if run.diverged else "refit" if run.val_accuracy is None else percent(run.val_accuracy),
            _test_shown(run),
            f"{run.seconds:,.0f}",
        )
    return table


def reproduction_table(published: Published, done: Sequence[Reproduction]) -> Table:
    """Rows of a report beside their outcome here; narrow enough for 80 columns."""
    table = empty_table(
        "Published, and what came out here (test accuracy in %)",
        *("<row", "parameters", "here", "accuracy", "here", "epochs", "here", "seconds"),
    )
    for here in done:
        row = published.rows[here.row]
        table.add_row(
            here.row,
            f"{'~' if published.rounded else ''}{row.parameters:,}",
            f"{here.parameters:,}",
            _printed(row),
            _accuracy_here(here),
            str(row.epochs),
            str(here.recipe.epochs),
            f"{here.seconds:,.0f}",
        )
    return table


def published_table(published: Published, rows: Sequence[str], networks: Mapping[str, ResNetSpec]) -> Table:
    """Rows of a report as they were printed, and what they are."""
    title = f"{published.title}\n{_words(published.recipe)}"
    table = empty_table(title, "<row", "parameters", "accuracy, %", "epochs", "<network", "<other than above")
    table.columns[0].no_wrap = True
    for name in rows:
        row = published.rows[name]
        about = f"{'~' if published.rounded else ''}{row.parameters:,}"
        network = Text(str(networks[row.network]))
        words = ": ".join(filter(None, (row.source, _words(row.recipe))))
        table.add_row(name, about, _printed(row), str(row.epochs), network, Text(words))
    return table


def _printed(row: Row) -> str:
    """A row's accuracy in per cent."""
    return "not printed" if row.accuracy is None else f"{row.accuracy:.2f}"


def _words(recipe: Mapping[str, Any]) -> str:
    """A recipe's keys and values, tables inside it flattened, and of lists of tables their number."""
    words = []
    for key, value in recipe.items():
        if isinstance(value, dict):
            words.append(_words(value))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            words.append(f"{len(value)} {key}")
        else:
            words.append(f"{key} {value}")
    return ", ".join(words)


def reproduction_notes(published: Published, data: str, done: Sequence[Reproduction]) -> list[str]:
    """The differences from the report, a line for each."""
    notes = [
        f"Trained on {count(images, 'image')} of {data}." for images in sorted({row.training_images for row in done})
    ]
    if any(row.protocol == "held-out" for row in done):
        notes.append("A validation split was held out; the test split was read once, when a network was finished.")
    if any(row.recipe.keep == "best" and row.protocol == "held-out" for row in done):
        notes.append("The weights are those of the epoch that was best on validation, as in the report.")
    if any(row.protocol == "published" for row in done):
        notes.append(
            "* Of the epoch that was best on the test split, as the report chose; nothing held out: too high a number."
        )
    if any(row.val_accuracy is not None and row.accuracy is None for row in done):
        notes.append("v On the validation split: the images have no test split.")
    if any(row.recipe.epochs != published.rows[row.row].epochs for row in done):
        notes.append("Where the epochs differ, the whole schedule is made shorter, down to its end.")
    if any(row.recipe.precision != "fp32" for row in done):
        notes.append(f"Trained in {done[0].recipe.precision}.")
    if published.rounded:
        notes.append("~ The report rounds its parameters.")
    return [*notes, *published.notes]


def _accuracy_here(here: Reproduction) -> str:
    if here.diverged:
        return "diverged"
    if here.accuracy is None:
        return f"{100 * here.val_accuracy:.2f} v" if here.val_accuracy is not None else "not known"
    return f"{100 * here.accuracy:.2f}{' *' if here.protocol == 'published' else ''}"


def run_table(runs: Sequence[Run]) -> RenderableType:
    """The runs of a folder, a row each; a line below for what could not be read."""
    if not runs:
        return Text("no run here: start one with `search run`")
    title = "Accuracies in %; short and full run: on validation"
    table = empty_table(title, "<run", "<data", "budget", "trials", "short", "full", "test", "<state", "idle")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True  # states can be folded better
    for run in runs:
        trials = "" if run.trials_wanted is None else f"{'?' if run.trials is None else run.trials}/{run.trials_wanted}"
        full = run.best_full
        table.add_row(
            Text(run.name),
            Text((run.data or "").rpartition("/")[2]),
            rounded(run.budget) if run.budget else "",
            trials,
            f"{100 * run.best_short.validation:.2f}" if run.best_short else "",
            f"{100 * full.validation:.2f}" if full else "",
            f"{100 * full.test:.2f}" if full and full.test is not None else "",
            _state(run),
            duration(_idle(run)),
        )
    return Group(table, *(Text(f"{run.name}: {run.problem}", style="red") for run in runs if run.problem))


def status_view(status: Status) -> RenderableType:
    """The state of a run."""
    outcomes = ", ".join(f"{number:,} {outcome}" for outcome, number in status.outcomes.items() if number)
    trials = f"{status.trials:,} of {status.trials_wanted:,}{f': {outcomes}' if outcomes else ''}"
    trials += f"; {count(status.networks, 'network')}" if status.trials else ""
    trials += "; the space is used up" if status.used_up else ""
    if status.seconds_left is not None:
        by = "" if status.state == "searching" else " of training"
        trials += f"; about {duration(status.seconds_left)}{by} left"
    limit = f", {status.max_madds:,} multiply-adds" if status.max_madds is not None else ""
    within = f"budget {status.budget:,} parameters{limit}"
    rows: list[tuple[str, str | Text]] = [
        ("state", Text.assemble(_state(status), f", last touched {ago(_idle(status))}")),
        ("data", f"{status.data}, {within}, short runs of {count(status.epochs, 'epoch')}"),
        ("trials", trials),
    ]
    if status.images_per_second is not None:
        rows.append(("speed", f"{status.images_per_second:,.0f} images/s by a worker, in the last trials"))
    rows.append(("best", _short(status.best_short)))
    if status.best_full:
        rows.append(("full run", _full(status.best_full)))
    if status.full_runs:
        rows.append(("full runs", f"{status.full_runs:,} finished"))
    for ahead in status.full_runs_pending:
        since = ahead.seconds_since_epoch
        at = "in its first epoch" if since is None else f"last epoch ended {duration(since)} ago"
        which = f"trial {ahead.trial}, seed {ahead.seed}{', refit' if ahead.refit else ''}"
        going = at if status.state == "promoting" else "stopped"
        rows.append(("", f"{which}: {count(ahead.epochs, 'epoch')}, {going}"))
    return Group(_labelled(status.name, rows), *([_running_table(status)] if status.running else []))


def trial_view(trial: Trial) -> RenderableType:
    """All that is known of a trial."""
    score = trial.validation
    place = f", {percent(score)}, number {trial.rank} of {trial.complete}" if score is not None else ""
    rows: list[tuple[str, str | Text]] = [
        ("outcome", Text.assemble((trial.outcome, STYLES.get(trial.outcome, "")), place)),
    ]
    if trial.reason:
        rows.append(("reason", trial.reason))
    if trial.baseline:
        rows.append(("baseline", trial.baseline))
    if trial.start:
        rows.append(("from", trial.start))
    if trial.network_words and trial.recipe_words:
        size = f"{trial.parameters:,} parameters, {trial.multiply_adds:,} multiply-adds"
        rows += [("network", trial.network_words), ("size", size), ("recipe", trial.recipe_words)]
    if trial.drawn:
        rows.append(("drawn", ", ".join(f"{name} {_value(value)}" for name, value in trial.drawn.items())))
    epochs = f"{len(trial.curve)} of {count(trial.epochs, 'epoch')}" if trial.epochs else "not begun"
    took = f" in {duration(trial.seconds)}" if trial.seconds is not None else ""
    by = f", by {trial.worker}" if trial.worker else ""
    rows.append(("trained", f"{epochs}{took}{by}"))
    for number, attempt in enumerate(trial.attempts if len(trial.attempts) > 1 else (), start=1):
        why = f" ({attempt.reason})" if attempt.reason else ""
        line = f"trial {attempt.trial}: {count(attempt.epochs, 'epoch')}, {attempt.outcome}{why}"
        rows.append(("attempts" if number == 1 else "", line))
    parts: list[RenderableType] = [_labelled(f"{trial.run}, trial {trial.trial}", rows)]
    if len(trial.curve) > 1:
        parts += [Text(), Curve("validation accuracy of the short run", trial.curve)]
    if trial.full_runs:
        longest = max(trial.full_runs, key=lambda run: len(run.curve))
        if len(longest.curve) > 1:
            parts += [Text(), Curve(f"validation accuracy of the longest full run, seed {longest.seed}", longest.curve)]
        parts += [Text(), _full_run_table(trial.full_runs)]
    return Group(*parts)


def comparison_view(comparison: Comparison) -> RenderableType:
    """Two runs side by side, their different settings, and a verdict."""
    runs = comparison.runs
    table = empty_table(None, "<", *(f"<{run.name}" for run in runs))
    table.add_row("state", *map(_state, runs))
    table.add_row("trials", *(f"{run.trials:,} of {run.trials_wanted:,}" for run in runs))
    table.add_row("epochs", *(f"{run.epochs_short:,} short, {run.epochs_full:,} full" for run in runs))
    table.add_row("best short run", *(Text(_short(run.best_short)) for run in runs))
    table.add_row("best full run", *(Text(_full(run.best_full)) for run in runs))
    parts: list[RenderableType] = [table]
    if comparison.differences:
        settings = empty_table("Different settings", "<", *(f"<{run.name}" for run in runs))
        for name, values in comparison.differences.items():
            settings.add_row(Text(name), *(Text(_value(value)) for value in values))
        parts.append(settings)
    else:
        parts.append(Text("the same settings"))
    return Group(*parts, Text(comparison.verdict))


def _running_table(status: Status) -> Table:
    table = empty_table(
        "Running (accuracy: on validation)",
        *("trial", "epoch", "accuracy", "time", "parameters", "<worker"),
    )
    for trial in status.running:
        table.add_row(
            str(trial.trial),
            f"{trial.epoch}/{status.epochs}",
            percent(trial.validation) if trial.validation is not None else "",
            duration(trial.seconds) if trial.seconds is not None else "",
            f"{trial.parameters:,}" if trial.parameters is not None else "",
            _worker(trial),
        )
    return table


def _worker(trial: RunningTrial) -> Text:
    if trial.alive is False:
        return Text("died; `search run` runs it again", style="yellow")
    return Text(trial.worker or "")


def _full_run_table(runs: Sequence[FinishedFullRun]) -> Table:
    table = empty_table("Full runs", "epochs", "seed", "full run", "test", "seconds", "<")
    for run in runs:
        table.add_row(
            str(run.epochs),
            str(run.seed),
            percent(run.validation) if run.validation is not None else "",
            percent(run.test) if run.test is not None else "",
            f"{run.seconds:,.0f}",
            Text("refit" if run.refit else f"diverged: {run.diverged}" if run.diverged else ""),
        )
    return table


def empty_table(title: str | None, *headings: str) -> Table:
    """An empty table: columns of numbers, and after a `<` of text, which alone may be folded."""
    table = Table(title=title, title_justify="left", box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    for heading in headings:
        is_text = heading.startswith("<")
        justify: JustifyMethod = "left" if is_text else "right"
        table.add_column(heading.removeprefix("<"), justify=justify, no_wrap=not is_text, overflow="fold")
    return table


def _labelled(title: str, rows: Sequence[tuple[str, str | Text]]) -> Group:
    grid = Table.grid(padding=(0, 2), pad_edge=False)
    for label, value in rows:
        grid.add_row(label, Text(value) if isinstance(value, str) else value)
    return Group(Text(title, style="bold"), grid)


def _state(run: Run) -> Text:
    if run.problem:
        return Text("broken", style="red")
    if run.state is None:
        return Text(f"in {run.storage}")
    workers = f", {count(run.workers, 'worker')}" if run.workers else ""
    return Text(run.state + workers, style=STYLES.get(run.state, ""))


def _idle(run: Run) -> float:
    """Seconds since something was last done in it."""
    return max(0.0, (datetime.now().astimezone() - datetime.fromisoformat(run.touched)).total_seconds())


def _short(best: ShortRun | None) -> str:
    if best is None:
        return "none yet"
    return f"{percent(best.validation)}, trial {best.trial}: {best.network}, {best.parameters:,} parameters"


def _full(best: FullRun | None) -> str:
    if best is None:
        return "none yet"
    test = f", {points(best.test, best.test_deviation)} on test" if best.test is not None else ""
    accuracy = f"{points(best.validation, best.validation_deviation)} on validation{test}"
    return f"{accuracy}, trial {best.trial}: {best.network}; {count(best.seeds, 'seed')}, {count(best.epochs, 'epoch')}"


def _value(value: Any) -> str:
    """A value of a study file, short."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and {"low", "high"} <= value.keys():
        step = ", log" if value.get("log") else f", step {value['step']}" if value.get("step") else ""
        return f"{_value(value['low'])} to {_value(value['high'])}{step}"
    if isinstance(value, list):
        return ", ".join(map(_value, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else json.dumps(value)


def _test_shown(run: Promotion) -> str:
    if run.test_accuracy is None:
        return "none" if run.tested else "not read"
    mirrored = run.mirrored_test_accuracy
    return percent(run.test_accuracy) + (f" (mirrored {percent(mirrored)})" if mirrored is not None else "")
