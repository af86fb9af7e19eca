"""The commands that read runs without torch: list, status, trials, show, errors, compare; and three pages."""

import json
from typing import Annotated

import typer

from search.commands import printing
from search.commands.options import AsJson, Host, OtherRuns, Port, Run, Runs, Storage, TheseRuns
from search.completion import RUNS, complete_run

COMPARED = 100  # columns of a comparison in a file or a pipe; other tables have a line for each row there


def list_(storage: Storage = None, as_json: AsJson = False, runs: Runs = RUNS) -> None:
    """List the runs here, the one worked on last first; then those of the storage that have no folder here."""
    from search import elsewhere, inspection, tables

    found = [*inspection.list_runs(runs, storage), *elsewhere.runs_elsewhere(runs, storage)]
    printing.show({"runs": found} if as_json else found, tables.run_table, as_json)


def status(
    run: Run = None,
    once: Annotated[bool, typer.Option("--once", help="Print once, also in a terminal.")] = False,
    storage: Storage = None,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Show how a run goes; in a terminal, again every two seconds until it ends, or Ctrl-C."""
    from search import elsewhere, tables
    from search.terminal import console, watch

    reader = elsewhere.to_watch(runs, run, storage)
    if once or as_json or not console.is_interactive:
        printing.show(reader.status(), tables.status_view, as_json)
    else:
        watch(reader.status, tables.status_view, lambda status: status.is_going_on)


def trials(
    run: Run = None,
    sort: Annotated[
        str | None, typer.Option(help="score, number or parameters; default: score, in CSV number.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a CSV table with all that is known of each.")] = False,
    as_json: AsJson = False,
    full_runs: Annotated[bool, typer.Option("--full-runs", help="A row for each finished full run instead.")] = False,
    curves: Annotated[bool, typer.Option("--curves", help="A row for each epoch of each run instead.")] = False,
    storage: Storage = None,
    runs: Runs = RUNS,
) -> None:
    """List the trials of a run, without draws that repeated one; as a table, or as CSV or JSON with all facts."""
    from search import inspection, tables
    from search.errors import SpecError
    from search.promotions import finished
    from search.terminal import draw

    if as_json and as_csv:
        raise SpecError("--json and --csv are two forms of one output: give one of them")
    if full_runs and curves:
        raise SpecError("--full-runs and --curves are two tables: give one of them")
    if sort is not None and (full_runs or curves):
        raise SpecError("--sort orders trials: leave it out with --full-runs and --curves")
    is_data = as_csv or as_json
    if curves and not is_data:
        raise SpecError("--curves has a row for each epoch, too many for a terminal: add --csv or --json")
    reader = inspection.read_run(runs, run, storage)
    trials = inspection.trials_of(reader, sort or ("number" if is_data else "score"))
    if is_data:
        table = inspection.rows_of(reader, trials, "full runs" if full_runs else "curves" if curves else "trials")
        typer.echo(table.csv() if as_csv else json.dumps(table.rows, indent=2), nl=as_json)
    elif full_runs:
        draw(tables.full_runs_table(finished(reader.folder)))
    else:
        draw(tables.trials_table(trials, reader.spec.scored_by))


def show(
    trial: Annotated[int, typer.Argument(min=0, help="A trial's number.")],
    run: Run = None,
    storage: Storage = None,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Show one trial: network, recipe, learning curve, why it ended, its attempts and full runs."""
    from search import inspection, tables

    printing.show(inspection.show_trial(inspection.read_run(runs, run, storage), trial), tables.trial_view, as_json)


def errors(
    run: Run = None,
    trial: Annotated[
        int | None, typer.Option(min=0, help="A trial's longest full run; default: the best full run.")
    ] = None,
    test: Annotated[bool, typer.Option("--test", help="The stored test predictions of the best full run.")] = False,
    whole: Annotated[bool, typer.Option("--all", help="Every class, confusion and mistake.")] = False,
    files: Annotated[
        bool, typer.Option("--files", help="Only the misclassified files: file, true and predicted class, by tabs.")
    ] = False,
    storage: Storage = None,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Show what the best network gets wrong: by class, the confusions, the most certain mistakes, the calibration."""
    from search.errors import SpecError
    from search.mistakes import mistakes_of, wrong_files
    from search.mistakes_view import mistakes_view
    from search.run_folder import RunRef

    if files and as_json:
        raise SpecError("--files prints lines, and --json a document that has the files, too: leave out one of them")
    found = mistakes_of(RunRef(run, runs, storage).find_to_read(), trial, test=test)
    if files:
        for line in wrong_files(found):
            typer.echo(line)
    else:
        printing.show(found, lambda mistakes: mistakes_view(mistakes, whole=whole), as_json)


def compare(
    one: TheseRuns,
    other: OtherRuns = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in Markdown, for a paper.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print the table in LaTeX, for a paper.")] = False,
    storage: Storage = None,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Compare two runs, or two groups: what differs in how they were made, what they cost, and what they found."""
    from search import comparison, groups, inspection, tables
    from search.errors import SpecError
    from search.run_folder import named_runs

    if markdown + latex + as_json > 1:
        raise SpecError("--markdown, --latex and --json are forms of one output: give one of them")
    if other is None:
        raise comparison.other_needed(runs, one)
    names = [named_runs(runs, [word]) for word in (one, other)]
    first, second = ([inspection.read_run(runs, name, storage) for name in side] for side in names)
    if len(first) == len(second) == 1 and not (markdown or latex):
        printing.show(comparison.compare(first[0], second[0]), tables.comparison_view, as_json, columns=COMPARED)
        return
    compared = groups.compare_groups((one, other), (first, second))
    if markdown or latex:
        typer.echo((groups.as_latex if latex else groups.as_markdown)(groups.table_of(compared)))
    else:
        printing.show(compared, lambda each: tables.groups_view(each, groups.table_of(each)), as_json, columns=COMPARED)


def report(
    run: Annotated[
        str | None,
        typer.Argument(
            help="A run's name, or a .zip file of `search archive`; default: the run used last.",
            autocompletion=complete_run,
        ),
    ] = None,
    storage: Storage = None,
    runs: Runs = RUNS,
) -> None:
    """Write the report of a run, or of an archive, as one HTML file."""
    from search import api
    from search.run_folder import RunRef

    typer.echo(api.report(RunRef(run, runs, storage)))


def dashboard(
    run: Run = None,
    host: Host = "127.0.0.1",
    port: Port = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the study's page.")] = True,
    storage: Storage = None,
    runs: Runs = RUNS,
) -> None:
    """Show a run in Optuna's dashboard, while it goes on or later. Ctrl-C ends it."""
    from search import api
    from search.run_folder import RunRef

    api.dashboard(RunRef(run, runs, storage), host=host, port=port, browser=browser)


def watch(
    run: Run = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    storage: Storage = None,
    runs: Runs = RUNS,
) -> None:
    """Serve a small page that shows how a run goes, for a phone; it can change nothing. Ctrl-C ends it."""
    from search.watch import serve_page

    serve_page(runs, run, storage, host=host, port=port)
