"""The commands that train: run, auto, promote, fidelity, reproduce."""

import json
from typing import Annotated

import typer

from search.commands.options import (
    AsJson,
    Budget,
    Data,
    DeployedAs,
    Device,
    FileSize,
    Fitted,
    GpusPerWorker,
    Grouped,
    Latency,
    LearnFrom,
    Log,
    Madds,
    Memory,
    MovedData,
    NewName,
    NoTest,
    PrecisionName,
    Run,
    Runs,
    Seed,
    Sized,
    SkipBroken,
    Storage,
    Study,
    Target,
    data_flags,
    given,
    limit_flags,
)
from search.completion import RUNS, complete_cost, complete_report


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
        typer.Option(
            help="Search networks of every size along this cost: params, madds, memory, file or latency.",
            autocompletion=complete_cost,
        ),
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

    flags = given(
        **limit_flags(budget, max_madds, max_memory, max_file, max_latency, format, target),
        front=tuple(front) if front else None,
        trials=trials,
        epochs=epochs,
        short_run_images=images,
        data=data,
        **data_flags(size, fit, group, skip_broken, no_test),
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
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes, placed by Ray if more than 1; default: one for each GPU.")
    ] = None,
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

    flags = given(
        **limit_flags(budget, max_madds, max_memory, max_file, max_latency, format, target),
        data=data,
        **data_flags(size, fit, group, skip_broken, no_test),
        seed=seed,
        learn_from=tuple(learn_from) if learn_from else None,
        precision=precision,
    )
    placement = Placement(device=device, workers=workers or 0, gpus_per_worker=gpus_per_worker, log=tuple(log or ()))
    spend(study, flags, RunRef(name, runs, storage), placement, Time(hours=hours, minutes=minutes, until=until))


def promote(
    run: Run = None,
    top: Annotated[int | None, typer.Option(min=1, help="Trials to promote.")] = None,
    front: Annotated[
        int | None, typer.Option(help="Number of networks along the front, instead of --top, for a run with --front.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of a full run.")] = None,
    ladder: Annotated[
        str | None,
        typer.Option(help="Instead of --top and --epochs: 8x60,3x200 trains 8 for 60 epochs, then 3 for 200."),
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
    flags = given(data=data, seed=seed, precision=precision)
    done = full_runs.reproduce(
        report, rows or (), flags=flags, runs=runs, epochs=epochs, protocol=protocol, device=device
    )
    if as_json:
        typer.echo(json.dumps([row.model_dump(mode="json") for row in done], indent=2))
