"""The commands before a search: look at the images, count what a space contains."""

from pathlib import Path
from typing import Annotated

import typer

from search.commands import printing
from search.commands.options import (
    AsJson,
    Budget,
    Data,
    DeployedAs,
    FileSize,
    Fitted,
    Grouped,
    Latency,
    Madds,
    Memory,
    NoTest,
    Sized,
    SkipBroken,
    Study,
    Target,
    data_flags,
    given,
    limit_flags,
)
from search.completion import complete_study


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
    census = api.look(source, data_flags(size, fit, group, skip_broken, no_test), sheet=sheet)
    printing.show(census, lambda census: data_view.census_view(census, all_), as_json)
    if not as_json:
        tell(str(sheet) if sheet else "contact sheet: --sheet sheet.png draws some training images of each class")


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

    limits = limit_flags(budget, max_madds, max_memory, max_file, max_latency, format, target) | given(data=data)
    for line in api.count(study, limits | given(reading=given(size=size) or None)):
        tell(line)
