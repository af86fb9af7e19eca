"""The flags that several commands share, and how those that were given become values of a study.

A flag that was not given is left out, so that the study file's value holds.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from search.completion import complete_run, complete_study, complete_target, one_of
from train_core.datasets import DATASETS
from train_core.examples import FormatName

FORMAT_NAMES = get_args(FormatName)

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
    typer.Option(
        help=f"Format that memory and file are counted for: {', '.join(FORMAT_NAMES)}.",
        autocompletion=one_of(FORMAT_NAMES),
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        help="Device that sets limits: arduino-nano-33-ble, esp32-s3, ..., or a .toml file.",
        autocompletion=complete_target,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(DATASETS)}, or a folder, table, archive or .npz file of images.",
        autocompletion=one_of(DATASETS),
    ),
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
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all of this machine's.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")]


def limit_flags(
    budget: str | None,
    madds: str | None,
    memory: str | None,
    file: str | None,
    latency: str | None,
    fmt: str | None,
    target: str | None,
) -> dict[str, Any]:
    """The given flags that limit what a network may cost, and name the device."""
    from search.spec import parse_budget, parse_bytes, parse_seconds

    def parsed(text: str | None, parse: Callable[[str, str], float], flag: str) -> float | None:
        return None if text is None else parse(text, flag)

    return given(
        budget=parsed(budget, parse_budget, "--budget"),
        max_madds=parsed(madds, parse_budget, "--max-madds"),
        max_memory=parsed(memory, parse_bytes, "--max-memory"),
        max_file=parsed(file, parse_bytes, "--max-file"),
        max_latency=parsed(latency, parse_seconds, "--max-latency"),
        format=fmt,
        target=target,
    )


def data_flags(
    size: str | None, fit: str | None, group: str | None, skip_broken: bool, no_test: bool
) -> dict[str, Any]:
    """The given flags about how images are read and split."""
    reading = given(size=size, fit=fit, group=group, skip_broken=skip_broken or None)
    return given(reading=reading or None, test_fraction=0.0 if no_test else None)


def given(**flags: Any) -> dict[str, Any]:
    """The flags that were given; the others leave the study file's value."""
    return {name: value for name, value in flags.items() if value is not None}
