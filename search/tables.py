"""Tables and views for the terminal. Imports no torch, so that read-only commands are fast."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.box import SIMPLE
from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from search.formatting import ago, count, duration, percent, points, rounded
from search.night import clock
from search.plot import Curve
from search.promotions import Promotion
from search.records import (
    PROMOTING,
    SEARCHING,
    Compared,
    Comparison,
    FinishedFullRun,
    FrontNetwork,
    FullRun,
    GroupComparison,
    Run,
    RunningTrial,
    ShortRun,
    Status,
    Trial,
)
from search.scores import marked, named
from search.trials import TrialRecord, score_of
from train_core.limits import LIMITS
from train_core.printable import printable
from train_core.results import Score

STYLES = {
    "searching": "green",
    "promoting": "green",
    "unfinished": "yellow",
    "complete": "green",
    "running": "green",
    "failed": "red",
    "diverged": "red",
}
"""Colours of states and of trials' outcomes; others have none. Colour is never the only sign."""


def best_table(trials: Sequence[TrialRecord], score: Score = "accuracy") -> Table:
    """The best trials of a search, in the order given; it fits 80 columns by folding the networks."""
    table = empty_table(
        f"Best trials (score: {named(score, 'validation accuracy')} after the short run)",
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


def best_so_far(trials: Sequence[TrialRecord], score: Score = "accuracy") -> Table:
    """The best trials during a search, in the order given: one line each, however narrow the terminal is."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    for heading in ("best", "trial", "size", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("network", no_wrap=True, overflow="ellipsis", ratio=1)
    for trial in trials:
        table.add_row(
            marked(percent(score_of(trial)), score),
            str(trial.number),
            rounded(trial.parameters).replace(" ", ""),
            "" if trial.seconds is None else duration(trial.seconds),
            Text(trial.network_words),
        )
    return table


def trials_table(trials: Sequence[TrialRecord], score: Score = "accuracy") -> RenderableType:
    """All ended trials, in the order given; it fits 80 columns by folding the networks."""
    if not trials:
        return Text("no trial has ended yet: see `search status`")
    table = empty_table(
        f"Trials (score: {named(score, 'validation accuracy')} after the last epoch, of all that have ended)",
        *("trial", "<outcome", "score", "parameters", "<optimizer", "<network", "seconds"),
    )
    table.columns[1].no_wrap = table.columns[4].no_wrap = True
    for trial in trials:
        reached = trial.last_score if trial.outcome != "failed" else None
        table.add_row(
            str(trial.number),
            Text(trial.outcome, style=STYLES.get(trial.outcome, "")),
            "" if reached is None else percent(reached),
            f"{trial.parameters:,}" if trial.is_decided else "",
            trial.recipe.optimizer if trial.is_decided else "",
            Text(trial.network_words if trial.is_decided else ""),
            "" if trial.seconds is None else f"{trial.seconds:,.0f}",
        )
    return table


def full_runs_table(promotions: list[Promotion]) -> RenderableType:
    """Finished full runs, in the order given, or a line if there are none."""
    if not promotions:
        return Text("no full run is finished yet: train the best trials with `search promote`")
    return promotion_table(promotions)


def promotion_table(promotions: list[Promotion]) -> Table:
    """Finished full runs, in the order given; narrow enough for 80 columns."""
    measured = "short and full run: validation accuracy"
    if any(run.score == "balanced" for run in promotions):
        measured = "short run, full run and test: balanced accuracy"
    table = empty_table(
        f"Full runs, the longest first, then the best on validation ({measured})",
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
            "diverged" if run.diverged else "refit" if run.val_score is None else percent(run.val_score),
            _test_shown(run),
            f"{run.seconds:,.0f}",
        )
    return table


def run_table(runs: Sequence[Run]) -> RenderableType:
    """The runs of a folder, a row each, and a line below for runs that could not be read."""
    if not runs:
        return Text("no run here: start one with `search run`")
    title = "Accuracies in %; short and full run: on validation"
    title += "; b: balanced accuracy" if any(run.score == "balanced" for run in runs) else ""
    table = empty_table(title, "<run", "<data", "budget", "trials", "short", "full", "test", "<state", "idle")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True  # states can be folded more easily
    for run in runs:
        trials = "" if run.trials is None else str(run.trials)
        if run.trials_wanted is not None:
            trials = f"{trials or '?'}/{run.trials_wanted}"
        full, mark = run.best_full, " b" if run.score == "balanced" else ""
        table.add_row(
            Text(run.name),
            Text((run.data or "").rpartition("/")[2]),
            rounded(run.budget) if run.budget else "",
            trials,
            f"{100 * run.best_short.validation:.2f}{mark}" if run.best_short else "",
            f"{100 * full.validation:.2f}{mark}" if full else "",
            f"{100 * full.test:.2f}{mark}" if full and full.test is not None else "",
            _state(run),
            duration(_idle(run)),
        )
    return Group(table, *(Text(f"{run.name}: {run.problem}", style="red") for run in runs if run.problem))


def status_view(status: Status) -> RenderableType:
    """The state of a run."""
    rows = labelled(status.name, status_rows(status))
    return Group(rows, *([_running_table(status)] if status.running else []))


def status_rows(status: Status) -> list[tuple[str, str | Text]]:
    """The state of a run, as labels and words; a line that belongs to the one above has no label."""
    outcomes = ", ".join(f"{number:,} {outcome}" for outcome, number in status.outcomes.items() if number)
    of = f" of {status.trials_wanted:,}" if status.trials_wanted is not None else ""
    trials = f"{status.trials:,}{of}{f': {outcomes}' if outcomes else ''}"
    trials += f"; {count(status.networks, 'network')}" if status.trials else ""
    trials += "; the space is used up" if status.used_up else ""
    if status.seconds_left is not None:
        by = "" if status.state == "searching" else " of training"
        trials += f"; about {duration(status.seconds_left)}{by} left"
    most = ((limit, getattr(status, limit.key)) for limit in LIMITS.values())
    costs = [limit.words(each) for limit, each in most if each is not None]
    within = f"budget {', '.join(costs)}" if costs else "budget not known"
    source = f"{status.data}, " if status.data else ""
    rows: list[tuple[str, str | Text]] = [
        ("state", Text.assemble(_state(status), f", last touched {ago(_idle(status))}")),
        ("data", f"{source}{within}, short runs of {count(status.epochs, 'epoch')}"),
        ("trials", trials),
    ]
    if status.score is not None and status.always_largest is not None:
        rows.append(("score", f"{named(status.score)} (always the largest class: {percent(status.always_largest)})"))
    if status.ready_by is not None:
        end = datetime.fromisoformat(status.ready_by).timestamp()
        by = clock(end, datetime.now().timestamp())
        is_at_work = status.state in (SEARCHING, PROMOTING)
        words = f"search auto is ready by {by}" if is_at_work else f"the same `search auto` goes on until {by}"
        rows.append(("night", words))
    if status.images_per_second is not None:
        rows.append(("speed", f"{status.images_per_second:,.0f} images/s by a worker, in the last trials"))
    rows.append(("best", _short(status.best_short, status.score)))
    if status.front:
        ends = status.front[:: max(len(status.front) - 1, 1)]
        words = " to ".join(f"{_costs(each)} ({percent(each.validation)})" for each in ends)
        rows.append(("front", f"{count(len(status.front), 'network')}: {words}"))
    if status.best_full:
        rows.append(("full run", _full(status.best_full, status.score)))
    if status.full_runs:
        rows.append(("full runs", f"{status.full_runs:,} finished"))
    for ahead in status.full_runs_pending:
        since = ahead.seconds_since_epoch
        at = "in its first epoch" if since is None else f"last epoch ended {duration(since)} ago"
        which = f"trial {ahead.trial}, seed {ahead.seed}{', refit' if ahead.refit else ''}"
        going = at if status.state == "promoting" else "stopped"
        rows.append(("", f"{which}: {count(ahead.epochs, 'epoch')}, {going}"))
    if not status.folder:
        missing = "not on this machine: its data, its number of trials and its full runs are not known here"
        rows.append(("folder", missing))
    for number, trial in enumerate(status.waiting):
        score = f", {marked(percent(trial.validation), status.score)}" if trial.validation is not None else ""
        line = f"trial {trial.trial}: epoch {trial.epoch} of {status.epochs}{score}; `search run` continues it"
        rows.append(("waiting" if number == 0 else "", line))
    return rows


def _costs(network: FrontNetwork) -> str:
    """The costs of a network of the front, in words."""
    return ", ".join(limit.words(network.costs[name]) for name, limit in LIMITS.items() if name in network.costs)


def trial_view(trial: Trial) -> RenderableType:
    """All that is known of a trial."""
    place = ""
    if trial.validation is not None:
        place = f", {marked(percent(trial.validation), trial.score)}, number {trial.rank} of {trial.complete}"
    rows: list[tuple[str, str | Text]] = [
        ("outcome", Text.assemble((trial.outcome, STYLES.get(trial.outcome, "")), place)),
    ]
    if trial.reason:
        rows.append(("reason", trial.reason))
    if trial.on_front:
        rows.append(("front", "on the front of the short runs: no other beats it at no more cost"))
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
    if trial.score == "balanced" and trial.validation_accuracy is not None:
        rows.append(("accuracy", f"{percent(trial.validation_accuracy)} on validation, of all images together"))
    parts: list[RenderableType] = [labelled(f"{trial.run}, trial {trial.trial}", rows)]
    measure = named(trial.score, "validation accuracy")
    if len(trial.curve) > 1:
        parts += [Text(), Curve(f"{measure} of the short run", trial.curve)]
    if trial.full_runs:
        longest = max(trial.full_runs, key=lambda run: len(run.curve))
        if len(longest.curve) > 1:
            alike = sum(len(run.curve) == len(longest.curve) for run in trial.full_runs)
            which = "the longest full run" if alike == 1 else f"a full run of {count(len(longest.curve), 'epoch')}"
            parts += [Text(), Curve(f"{measure} of {which}, seed {longest.seed}", longest.curve)]
        parts += [Text(), _full_run_table(trial.full_runs, trial.score)]
    return Group(*parts)


def comparison_view(comparison: Comparison) -> RenderableType:
    """Two runs side by side, their different settings, and a verdict."""
    runs = comparison.runs
    table = empty_table(None, "<", *(f"<{run.name}" for run in runs))
    table.add_row("state", *map(_state, runs))
    table.add_row("trials", *(f"{run.trials:,} of {run.trials_wanted:,}" for run in runs))
    table.add_row("epochs trained", *(_epochs(run) for run in runs))
    table.add_row("best short run", *(Text(_short(run.best_short, run.score)) for run in runs))
    table.add_row("best full run", *(Text(_full(run.best_full, run.score)) for run in runs))
    parts: list[RenderableType] = [table]
    if comparison.differences:
        settings = empty_table("Different settings", "<", *(f"<{run.name}" for run in runs))
        for name, values in comparison.differences.items():
            settings.add_row(Text(name), *(Text(_value(value)) for value in values))
        parts.append(settings)
    else:
        parts.append(Text("the same settings"))
    return Group(*parts, Text(comparison.verdict))


def groups_view(comparison: GroupComparison, rows: Sequence[Sequence[str]]) -> RenderableType:
    """Two groups of runs: the `rows` of their table, their different settings, and a verdict."""
    heading, *lines = rows
    names = [group.name for group in comparison.groups]
    table = empty_table(None, *(f"<{each}" for each in heading))
    for line in lines:
        table.add_row(*map(Text, line))
    parts: list[RenderableType] = [table]
    if comparison.differences:
        settings = empty_table("Different settings", "<", *(f"<{name}" for name in names))
        for name, values in comparison.differences.items():
            settings.add_row(Text(name), *(Text(" or ".join(map(_value, each))) for each in values))
        parts.append(settings)
    return Group(*parts, Text(comparison.verdict))


def _epochs(run: Compared) -> str:
    """How much was trained in total, for example `11 epochs in short runs, 5 in full runs`."""
    return f"{count(run.epochs_short, 'epoch')} in short runs, {run.epochs_full:,} in full runs"


def _running_table(status: Status) -> Table:
    table = empty_table(
        f"Running ({named(status.score or 'accuracy')}: on validation)",
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


def _full_run_table(runs: Sequence[FinishedFullRun], score: Score) -> Table:
    title = "Full runs" if score == "accuracy" else "Full runs (balanced accuracy)"
    table = empty_table(title, "epochs", "seed", "full run", "test", "seconds", "<")
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
    """An empty table: columns of numbers; a heading that begins with `<` is a column of text, which may be folded."""
    table = Table(title=title, title_justify="left", box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    for heading in headings:
        is_text = heading.startswith("<")
        justify: JustifyMethod = "left" if is_text else "right"
        table.add_column(heading.removeprefix("<"), justify=justify, no_wrap=not is_text, overflow="fold")
    return table


def labelled(title: str, rows: Sequence[tuple[str, str | Text]]) -> Group:
    """A title, and below it a row for each label and value."""
    grid = Table.grid(padding=(0, 2), pad_edge=False)
    for label, value in rows:
        grid.add_row(label, Text(printable(value)) if isinstance(value, str) else value)
    return Group(Text(printable(title), style="bold"), grid)


def _state(run: Run) -> Text:
    if run.problem:
        return Text("broken", style="red")
    if run.state is None:
        return Text(f"in {run.storage}")
    workers = f", {count(run.workers, 'worker')}" if run.workers else ""
    return Text(run.state + workers, style=STYLES.get(run.state, ""))


def _idle(run: Run) -> float:
    """Seconds since the run last changed."""
    return max(0.0, (datetime.now().astimezone() - datetime.fromisoformat(run.touched)).total_seconds())


def _short(best: ShortRun | None, score: Score | None) -> str:
    if best is None:
        return "none yet"
    return (
        f"{marked(percent(best.validation), score)}, trial {best.trial}: {best.network}, {best.parameters:,} parameters"
    )


def _full(best: FullRun | None, score: Score | None) -> str:
    if best is None:
        return "none yet"
    test = f", {marked(points(best.test, best.test_deviation), score)} on test" if best.test is not None else ""
    reached = f"{marked(points(best.validation, best.validation_deviation), score)} on validation{test}"
    return f"{reached}, trial {best.trial}: {best.network}; {count(best.seeds, 'seed')}, {count(best.epochs, 'epoch')}"


def _value(value: Any) -> str:
    """A value of a study file, short."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict) and {"low", "high"} <= value.keys():
        step = ", log" if value.get("log") else f", step {value['step']}" if value.get("step") else ""
        return f"{_value(value['low'])} to {_value(value['high'])}{step}"
    if isinstance(value, list):
        return ", ".join(map(_value, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else json.dumps(value)


def _test_shown(run: Promotion) -> str:
    if run.test_score is None:
        return "none" if run.tested else "not read"
    mirrored = run.mirrored_test_score
    return percent(run.test_score) + (f" (mirrored {percent(mirrored)})" if mirrored is not None else "")
