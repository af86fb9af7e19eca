"""The `search` command: parses, calls `search.api`, `search.full_runs` or `search.inspection`, prints. No logic.

What is slow is imported when it is needed: `list`, `status`, `show`, `errors` and `compare` do without torch.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from search.completion import RUNS, complete_report, complete_run, complete_study
from search.interrupt import end_on_sigterm
from search.streams import outputs
from train_core.datasets import DATASETS
from train_core.examples import FormatName
from train_core.printable import printable

FORMAT_NAMES = get_args(FormatName)
COMPARED = 100  # columns of a comparison in a file or a pipe, where other tables have a line for each row

app = typer.Typer(
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Finds the best small image classifier under a hard parameter budget.",
    epilog="Exit codes: 0 done; 2 the command has to be changed; 1 the work failed; 130 interrupted.",
)

Study = Annotated[
    str,
    typer.Argument(
        help="A shipped study (cifar10, cifar100, cifar10-small, cifar10-wide, digits) or a .toml file.",
        autocompletion=complete_study,
    ),
]
Run = Annotated[
    str | None, typer.Argument(help="A run's name; default: the run used last.", autocompletion=complete_run)
]
TheseRuns = Annotated[
    str,
    typer.Argument(
        help="A run's name; or for a group of runs a quoted pattern as 'tpe-*', or names with commas between them.",
        autocompletion=complete_run,
    ),
]
OtherRuns = Annotated[
    str | None, typer.Argument(help="The run or the group to compare with.", autocompletion=complete_run)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, for scripts.")]
Budget = Annotated[str | None, typer.Option(help="Most trainable parameters: 5e6, 5M, 5_000_000.")]
Madds = Annotated[str | None, typer.Option(help="Most multiply-adds of one forward pass: 300M.")]
Memory = Annotated[
    str | None, typer.Option("--max-memory", help="Most memory of a network's activations, in the format: 100kB.")
]
FileSize = Annotated[str | None, typer.Option("--max-file", help="Largest model file, in the format: 250kB.")]
Latency = Annotated[
    str | None, typer.Option("--max-latency", help="Longest time for one image on this device, in fp32: 20ms.")
]
DeployedAs = Annotated[
    str | None,
    typer.Option(help=f"Format that memory and file are counted for: {', '.join(FORMAT_NAMES)}."),
]
Target = Annotated[
    str | None, typer.Option(help="Device that sets limits: arduino-nano-33-ble, esp32-s3, ..., or a .toml file.")
]
Data = Annotated[
    str | None, typer.Option(help=f"{', '.join(DATASETS)}, or a folder, table, archive or .npz file of images.")
]
MovedData = Annotated[
    str | None, typer.Option(help="Where the run's images are now, if they were moved; for this call.")
]
Sized = Annotated[
    str | None, typer.Option("--size", help="Size that images are brought to: 64, or 96x64 (width x height).")
]
Fitted = Annotated[str | None, typer.Option("--fit", help="How: crop, letterbox or stretch.")]
Grouped = Annotated[
    str | None, typer.Option("--group", help="Column of the table of images that says which belong together.")
]
SkipBroken = Annotated[bool, typer.Option("--skip-broken", help="Leave out image files that cannot be read.")]
NoTest = Annotated[bool, typer.Option("--no-test", help="Hold out no test split where the data bring none.")]
Runs = Annotated[Path, typer.Option(envvar="SEARCH_RUNS", help="Folder of all runs.")]
NewName = Annotated[str | None, typer.Option(help="Name of the run; default: study and budget.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Random seed of the split, the sampler and the training.")]
LearnFrom = Annotated[
    list[str] | None,
    typer.Option(help="A run whose best trials are tried first; auto: all runs here that have the same space."),
]
PrecisionName = Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Share of a GPU for each worker; default: an equal share, at most one GPU."),
]
Log = Annotated[
    list[str] | None,
    typer.Option(help="Log trials and full runs to tensorboard, mlflow or wandb, in the run's folder; repeatable."),
]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="SEARCH_STORAGE",
        show_envvar=True,
        help="Where machines share studies: postgresql+psycopg://user:password@host/database, mysql+pymysql://..., "
        "grpc://host:port. None: in the run's folder.",
    ),
]


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from search.version import version

        print(f"search {version()}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Finds the best small image classifier under a hard parameter budget."""


@app.command()
def run(
    study: Study = "cifar10",
    budget: Budget = None,
    max_madds: Madds = None,
    max_memory: Memory = None,
    max_file: FileSize = None,
    max_latency: Latency = None,
    format: DeployedAs = None,  # noqa: A002  # the flag
    target: Target = None,
    front: Annotated[
        list[str] | None,
        typer.Option(help="Search networks of every size along this cost: params, madds, memory, file or latency."),
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in all.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of a short run.")] = None,
    images: Annotated[
        str | None,
        typer.Option(help="What short runs train on: all, subset (seen as often as in a full run), or auto."),
    ] = None,
    data: Data = None,
    size: Sized = None,
    fit: Fitted = None,
    group: Grouped = None,
    skip_broken: SkipBroken = False,
    no_test: NoTest = False,
    name: NewName = None,
    seed: Seed = None,
    score: Annotated[
        str | None,
        typer.Option(help="What networks are compared by: accuracy, balanced (the mean over the classes), or auto."),
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="tpe, or random as a control.")] = None,
    portfolio: Annotated[
        bool | None,
        typer.Option("--portfolio/--no-portfolio", help="Begin with configurations that did best on other images."),
    ] = None,
    learn_from: LearnFrom = None,
    control: Annotated[
        str | None,
        typer.Option(help="random, one-epoch or no-portfolio: a simpler search, which the report then compares."),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(min=0, help="Stop after this many hours; the same command continues."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, placed by Ray if more than 1.")] = 1,
    gpus_per_worker: GpusPerWorker = None,
    ray_address: Annotated[
        str | None, typer.Option(help="A Ray cluster for the workers: auto, or host:port; default: this machine.")
    ] = None,
    log: Log = None,
    storage: Storage = None,
    device: Device = "auto",
    precision: PrecisionName = None,
    runs: Runs = RUNS,
) -> None:
    """Search: short, pruned runs of networks within the budget. Run again to continue."""
    from search import api
    from search.run_folder import RunRef
    from search.session import Placement

    flags = _given(
        **_limit_flags(budget, max_madds, max_memory, max_file, max_latency, format, target),
        front=tuple(front) if front else None,
        trials=trials,
        epochs=epochs,
        short_run_images=images,
        data=data,
        **_data_flags(size, fit, group, skip_broken, no_test),
        seed=seed,
        score=score,
        sampler=sampler,
        portfolio=portfolio,
        learn_from=tuple(learn_from) if learn_from else None,
        precision=precision,
    )
    placement = Placement(
        device=device, workers=workers, gpus_per_worker=gpus_per_worker, ray_address=ray_address, log=tuple(log or ())
    )
    api.run(study, flags, RunRef(name, runs, storage), placement, hours=hours, control=control)


@app.command()
def auto(
    study: Study = "cifar10",
    hours: Annotated[float | None, typer.Option(help="How long it may take: 8.")] = None,
    minutes: Annotated[float | None, typer.Option(help="The same, in minutes: 30.")] = None,
    until: Annotated[str | None, typer.Option(help="When it must be ready: 08:00, or '2026-12-24 08:00'.")] = None,
    budget: Budget = None,
    max_madds: Madds = None,
    max_memory: Memory = None,
    max_file: FileSize = None,
    max_latency: Latency = None,
    format: DeployedAs = None,  # noqa: A002  # the flag
    target: Target = None,
    data: Data = None,
    size: Sized = None,
    fit: Fitted = None,
    group: Grouped = None,
    skip_broken: SkipBroken = False,
    no_test: NoTest = False,
    name: NewName = None,
    seed: Seed = None,
    learn_from: LearnFrom = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes of the search, placed by Ray if more than 1.")] = 1,
    gpus_per_worker: GpusPerWorker = None,
    log: Log = None,
    storage: Storage = None,
    device: Device = "auto",
    precision: PrecisionName = None,
    runs: Runs = RUNS,
) -> None:
    """Do all of it before the time is over: search, full runs, report, model. Run again to continue."""
    from search.overnight import Time
    from search.overnight import auto as spend
    from search.run_folder import RunRef
    from search.session import Placement

    flags = _given(
        **_limit_flags(budget, max_madds, max_memory, max_file, max_latency, format, target),
        data=data,
        **_data_flags(size, fit, group, skip_broken, no_test),
        seed=seed,
        learn_from=tuple(learn_from) if learn_from else None,
        precision=precision,
    )
    placement = Placement(device=device, workers=workers, gpus_per_worker=gpus_per_worker, log=tuple(log or ()))
    spend(study, flags, RunRef(name, runs, storage), placement, Time(hours=hours, minutes=minutes, until=until))


@app.command()
def promote(
    run: Run = None,
    top: Annotated[int | None, typer.Option(min=1, help="Trials to promote.")] = None,
    front: Annotated[
        int | None, typer.Option(help="So many networks along the front instead, for a run with --front.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of a full run.")] = None,
    ladder: Annotated[
        str | None, typer.Option(help="In place of both: 8x60,3x200 trains 8 for 60 epochs, then the best 3 for 200.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Full runs of each, with different seeds.")] = None,
    refit: Annotated[
        bool | None,
        typer.Option("--refit/--no-refit", help="Train the winner once more, also on the validation images."),
    ] = None,
    mirrored: Annotated[
        bool | None, typer.Option("--mirrored/--plain", help="Also test on averages over mirror images.")
    ] = None,
    asam: Annotated[
        float | None, typer.Option(min=0, help="Radius of sharpness-aware steps, at twice the time: 0.5; 0: none.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Candidates at a time (needs Ray if more than 1).")] = 1,
    gpus_per_worker: GpusPerWorker = None,
    data: MovedData = None,
    log: Log = None,
    storage: Storage = None,
    device: Device = "auto",
    runs: Runs = RUNS,
) -> None:
    """Train the best trials in full runs, then read the test split once for each finalist. Run again to continue."""
    from search import full_runs
    from search.run_folder import RunRef
    from search.session import Placement

    flags = full_runs.PromoteFlags(
        top=top, front=front, epochs=epochs, ladder=ladder, seeds=seeds, refit=refit, mirrored=mirrored, asam=asam
    )
    placement = Placement(device=device, workers=workers, gpus_per_worker=gpus_per_worker, log=tuple(log or ()))
    full_runs.promote(RunRef(run, runs, storage), placement, flags, data=data)


@app.command()
def fidelity(
    run: Run = None,
    trials: Annotated[int, typer.Option(min=0, help="Trials to train in full; 0: use the full runs that exist.")] = 12,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of each; default: those of a full run.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trials at a time (needs Ray if more than 1).")] = 1,
    gpus_per_worker: GpusPerWorker = None,
    data: MovedData = None,
    storage: Storage = None,
    device: Device = "auto",
    runs: Runs = RUNS,
) -> None:
    """Measure how far the short runs can be trusted: train trials of every score in full, and compare the ranks."""
    from search import full_runs
    from search.run_folder import RunRef
    from search.session import Placement

    placement = Placement(device=device, workers=workers, gpus_per_worker=gpus_per_worker)
    full_runs.fidelity(RunRef(run, runs, storage), placement, trials=trials, epochs=epochs, data=data)


@app.command()
def reproduce(
    report: Annotated[
        str, typer.Argument(help="A shipped study with a report, or a .toml file.", autocompletion=complete_report)
    ],
    rows: Annotated[list[str] | None, typer.Argument(help="Rows, or patterns as A5*; default: all.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of each; default: as published.")] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="held-out; all-images: also the validation images, last epoch; published: chosen by the test split."
        ),
    ] = "held-out",
    list_: Annotated[bool, typer.Option("--list", help="Show the rows, and train nothing.")] = False,
    data: Data = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Random seed of the split and the training.")] = None,
    device: Device = "auto",
    precision: PrecisionName = None,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Train the networks of a published report as they stand, and compare. Run again to continue."""
    from search import full_runs
    from search.terminal import console, draw

    if list_:
        draw(full_runs.rows_of(report, rows or ()))
        return
    console.quiet = as_json
    flags = _given(data=data, seed=seed, precision=precision)
    done = full_runs.reproduce(
        report, rows or (), flags=flags, runs=runs, epochs=epochs, protocol=protocol, device=device
    )
    if as_json:
        typer.echo(json.dumps([row.model_dump(mode="json") for row in done], indent=2))


@app.command()
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


@app.command()
def export(
    run: Run = None,
    trial: Annotated[
        int | None, typer.Option(min=0, help="A trial's longest full run; default: the best model.")
    ] = None,
    front: Annotated[
        bool, typer.Option("--front", help="One model for each network on the front of the full runs.")
    ] = False,
    format: Annotated[  # noqa: A002  # the flag
        str | None, typer.Option(help=f"{', '.join(FORMAT_NAMES)}; default: the study's, which is onnx by itself.")
    ] = None,
    calibration: Annotated[
        int | None, typer.Option(min=1, help="Training images that an int8 file is calibrated on; default: 300.")
    ] = None,
    data: MovedData = None,
    storage: Storage = None,
    runs: Runs = RUNS,
) -> None:
    """Write a run's best model as one file that needs nothing of this tool, and its card beside it."""
    from search import api
    from search.errors import SpecError
    from search.run_folder import RunRef
    from search.terminal import tell

    if front and trial is not None:
        raise SpecError("--front exports several networks, and --trial one: give one of them")
    ref = RunRef(run, runs, storage)
    if front:
        written = api.export_front(ref, fmt=format, data=data, calibration=calibration)
    else:
        written = [api.export(ref, trial=trial, fmt=format, data=data, calibration=calibration)]
    for exported in written:
        tell(str(exported))
        tell(str(exported.card))


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help=f"A file that `search export` wrote: {', '.join(FORMAT_NAMES)}.")],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders, quoted patterns ('photos/*.png'), or - for paths on standard input."
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Classes for each image.")] = 3,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a CSV table, a row for each image.")] = False,
) -> None:
    """Print the classes that an exported model gives images, the most probable first."""
    from search.answers import answering
    from search.errors import SpecError
    from search.predict import classify, written

    if as_json and as_csv:
        raise SpecError("--json and --csv are two forms of one output: give one of them")
    predictions = classify(model, images, top)
    with answering(predictions) as answers:
        for text in written(answers, "json" if as_json else "csv" if as_csv else "text", predictions.guesses):
            typer.echo(text, nl=False)
    if answers.failed:
        raise typer.Exit(1)


@app.command()
def dashboard(
    run: Run = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the study's page.")] = True,
    storage: Storage = None,
    runs: Runs = RUNS,
) -> None:
    """Show a run in Optuna's dashboard, while it goes on or later. Ctrl-C ends it."""
    from search import api
    from search.run_folder import RunRef

    api.dashboard(RunRef(run, runs, storage), host=host, port=port, browser=browser)


@app.command()
def watch(
    run: Run = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8080,
    storage: Storage = None,
    runs: Runs = RUNS,
) -> None:
    """Serve a small page that shows how a run goes, for a phone; it can change nothing. Ctrl-C ends it."""
    from search.watch import serve_page

    serve_page(runs, run, storage, host=host, port=port)


@app.command("list")
def list_(storage: Storage = None, as_json: AsJson = False, runs: Runs = RUNS) -> None:
    """List the runs here, the one worked on last first; then those of the storage that have no folder here."""
    from search import elsewhere, inspection, tables

    found = [*inspection.list_runs(runs, storage), *elsewhere.runs_elsewhere(runs, storage)]
    _show({"runs": found} if as_json else found, tables.run_table, as_json)


@app.command()
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
        _show(reader.status(), tables.status_view, as_json)
    else:
        watch(reader.status, tables.status_view, lambda status: status.is_going_on)


@app.command()
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
    """List all trials of a run; as a table, or as CSV or JSON with all that is known of each."""
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


@app.command()
def show(
    trial: Annotated[int, typer.Argument(min=0, help="A trial's number.")],
    run: Run = None,
    storage: Storage = None,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Show one trial: network, recipe, learning curve, why it ended, its attempts and full runs."""
    from search import inspection, tables

    _show(inspection.show_trial(inspection.read_run(runs, run, storage), trial), tables.trial_view, as_json)


@app.command()
def errors(
    run: Run = None,
    trial: Annotated[
        int | None, typer.Option(min=0, help="A trial's longest full run; default: the best full run.")
    ] = None,
    test: Annotated[bool, typer.Option("--test", help="The stored test predictions of the best full run.")] = False,
    whole: Annotated[bool, typer.Option("--all", help="Every class, confusion and mistake.")] = False,
    files: Annotated[
        bool, typer.Option("--files", help="Only the misclassified files: file, true class and what was said, by tabs.")
    ] = False,
    storage: Storage = None,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Show what the best network gets wrong: by class, the confusions, the most certain mistakes, the calibration."""
    from search import tables
    from search.errors import SpecError
    from search.mistakes import mistakes_of, wrong_files
    from search.run_folder import RunRef

    if files and as_json:
        raise SpecError("--files prints lines, and --json a document that has the files, too: leave out one of them")
    found = mistakes_of(RunRef(run, runs, storage).find_to_read(), trial, test=test)
    if files:
        for line in wrong_files(found):
            typer.echo(line)
    else:
        _show(found, lambda mistakes: tables.mistakes_view(mistakes, whole=whole), as_json)


@app.command()
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
        _show(comparison.compare(first[0], second[0]), tables.comparison_view, as_json, columns=COMPARED)
        return
    compared = groups.compare_groups((one, other), (first, second))
    if markdown or latex:
        typer.echo((groups.as_latex if latex else groups.as_markdown)(groups.table_of(compared)))
    else:
        _show(compared, lambda each: tables.groups_view(each, groups.table_of(each)), as_json, columns=COMPARED)


@app.command()
def archive(
    run: Run = None,
    out: Annotated[Path | None, typer.Option(help="The .zip file; default: the run's name, here.")] = None,
    open_: Annotated[
        Path | None, typer.Option("--open", help="Open this archive as a run that can be read, in the folder of runs.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="With --open: a name for the run; default: as it was.")] = None,
    storage: Storage = None,
    runs: Runs = RUNS,
) -> None:
    """Pack a run into one .zip to publish: study, results, tables and report; no images, no checkpoints."""
    from search import archive
    from search.errors import SpecError
    from search.run_folder import RunRef
    from search.terminal import tell

    if open_ is None:
        if name is not None:
            raise SpecError("--name is for a run that is opened with --open: leave it out")
        tell(str(archive.write_archive(RunRef(run, runs, storage).find_to_read(), out)))
        return
    if run is not None or out is not None:
        raise SpecError("--open reads an archive, and does not write one: leave out the run and --out")
    tell(str(archive.open_archive(open_, runs, name).root))


@app.command()
def rm(
    which: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Names of runs, or quoted patterns as 'night-*'.", autocompletion=complete_run
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    storage: Storage = None,
    runs: Runs = RUNS,
) -> None:
    """Delete runs: their folders, and their studies in a shared storage. Asks before it does."""
    from search.errors import SpecError
    from search.removal import removals
    from search.run_folder import named_runs
    from search.storage import address_of
    from search.terminal import tell

    found = removals(runs, named_runs(runs, which), address_of(storage))
    for each in found:
        each.check_idle()
    for each in found:
        for line in str(each).splitlines():
            tell(line)
    if not yes:
        if not sys.stdin.isatty():
            raise SpecError("nothing is deleted without an answer, and there is no terminal to ask in: add --yes")
        if not typer.confirm("Delete this?" if len(found) == 1 else f"Delete these {len(found)} runs?"):
            tell("nothing is deleted")
            return
        for each in found:
            each.check_idle()  # again: the answer may have taken a while
    for each in found:
        each.do()
        tell(f"deleted {each.folder.root}")


storages = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Storages that several machines share.")
app.add_typer(storages, name="storage")


@storages.command()
def serve(
    storage: Storage = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 13000,
) -> None:
    """Serve a storage to machines that cannot reach it, or that would be too many for it: Optuna's gRPC proxy."""
    from search import api

    api.serve_storage(storage, host=host, port=port)


@app.command()
def count(
    study: Study = "cifar10",
    budget: Budget = None,
    max_madds: Madds = None,
    max_memory: Memory = None,
    max_file: FileSize = None,
    max_latency: Latency = None,
    format: DeployedAs = None,  # noqa: A002  # the flag
    target: Target = None,
    data: Data = None,
    size: Sized = None,
) -> None:
    """Count parameters and multiply-adds: of a study's baselines, and of what its space holds in the budget."""
    from search import api
    from search.terminal import tell

    limits = _limit_flags(budget, max_madds, max_memory, max_file, max_latency, format, target) | _given(data=data)
    for line in api.count(study, limits | _given(reading=_given(size=size) or None)):
        tell(line)


@app.command()
def cite() -> None:
    """Print how to cite this tool: BibTeX, and where CITATION.cff is."""
    from search import citation

    typer.echo(f"{citation.bibtex()}\n\n{citation.where()}")


@app.command("data")
def data_(
    source: Annotated[
        str,
        typer.Argument(
            help="cifar10, cifar100, digits, a folder of images, a table that names them, an archive, a .npz file; or "
            "a study: then its data.",
            autocompletion=complete_study,
        ),
    ] = "cifar10",
    size: Sized = None,
    fit: Fitted = None,
    group: Grouped = None,
    skip_broken: SkipBroken = False,
    no_test: NoTest = False,
    sheet: Annotated[
        Path | None, typer.Option(help="Draw some training images of each class in this file: sheet.png.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Print all classes, files and copies, not only some.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at images before you train: counts, sizes, what is left out, copies within and across splits."""
    from search import api, data_view
    from search.terminal import console, tell

    console.quiet = as_json
    census = api.look(source, _data_flags(size, fit, group, skip_broken, no_test), sheet=sheet)
    _show(census, lambda census: data_view.census_view(census, all_), as_json)
    if not as_json:
        tell(str(sheet) if sheet else "contact sheet: --sheet sheet.png draws some training images of each class")


def main() -> None:
    """Run the command line. What the user can fix ends in one line on standard error, not in a traceback."""
    end_on_sigterm()
    with outputs():
        _main()


def _main() -> None:
    from train_core.errors import UserError

    try:
        code = app(standalone_mode=False) or 0
    except UserError as error:
        _end(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        _end(f"{what}: make room or fix the cause and run the same command to continue", 1)
    except Exception as error:
        if reason := _outside_trouble(error):
            _end(reason, 1)
        # Typer's errors about the command line; their class depends on its version.
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # whose message is the help
            typer.echo(error.format_message())
            sys.exit(2)
        _end(f"{error.format_message()} (see search --help)", 2)
    if code == 130:  # typer turns Ctrl-C into this, into Abort, or leaves it, as its version goes
        _end("interrupted; run the same command to continue", code)
    sys.exit(code)


def _show(what: Any, draw: Callable[[Any], Any], as_json: bool, columns: int | None = None) -> None:
    """Print what was asked for: as it is drawn for people, or as JSON; in a pipe in at most so many columns."""
    from search import terminal

    if as_json:
        typer.echo(json.dumps(what, indent=2, default=_jsonable))
    else:
        terminal.draw(draw(what), columns)


def _jsonable(what: Any) -> Any:
    """What stands for it in JSON. Pydantic does the same, but refuses a file name that is not UTF-8."""
    from pydantic_core import to_jsonable_python

    if is_dataclass(what):
        return {each.name: getattr(what, each.name) for each in fields(what)}
    return to_jsonable_python(what)


def _end(message: str, code: int) -> None:
    typer.echo(f"search: {printable(message)}", err=True)
    sys.exit(code)


def _outside_trouble(error: Exception) -> str | None:
    """One line for an error of the storage or a lack of memory; None for anything else."""
    first_line = (str(error).strip().splitlines() or [""])[0]
    # By name: importing their packages to answer `--help` would take a second.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"SQLAlchemyError", "StorageInternalError", "RpcError"}:
        from search.storage import reason_of

        return f"the study's storage failed ({reason_of(error)}): fix the cause and run the same command to continue"
    if "MemoryError" in kinds or "out of memory" in first_line or "can't allocate memory" in first_line:
        return "not enough memory for these networks or images on this device: give a smaller --budget, or use another"
    return None


def _limit_flags(
    budget: str | None,
    madds: str | None,
    memory: str | None,
    file: str | None,
    latency: str | None,
    fmt: str | None,
    target: str | None,
) -> dict[str, Any]:
    """The flags that were given of what a network may cost, and where."""
    from search.spec import parse_budget, parse_bytes, parse_seconds

    def parsed(text: str | None, parse: Callable[[str, str], float], flag: str) -> float | None:
        return None if text is None else parse(text, flag)

    return _given(
        budget=parsed(budget, parse_budget, "--budget"),
        max_madds=parsed(madds, parse_budget, "--max-madds"),
        max_memory=parsed(memory, parse_bytes, "--max-memory"),
        max_file=parsed(file, parse_bytes, "--max-file"),
        max_latency=parsed(latency, parse_seconds, "--max-latency"),
        format=fmt,
        target=target,
    )


def _data_flags(
    size: str | None, fit: str | None, group: str | None, skip_broken: bool, no_test: bool
) -> dict[str, Any]:
    """The flags that were given of how images are read and cut."""
    reading = _given(size=size, fit=fit, group=group, skip_broken=skip_broken or None)
    return _given(reading=reading or None, test_fraction=0.0 if no_test else None)


def _given(**flags: Any) -> dict[str, Any]:
    """The flags that were given: the others leave the study file's value."""
    return {name: value for name, value in flags.items() if value is not None}
