"""The commands that keep runs: archive and delete them, and serve a storage that machines share."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from search.commands.options import Host, Run, Runs, Storage
from search.completion import RUNS, complete_run


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


def serve(
    storage: Storage = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 13000,
) -> None:
    """Serve a storage to machines that cannot reach it, or that would be too many for it: Optuna's gRPC proxy."""
    from search import api

    api.serve_storage(storage, host=host, port=port)


def cite() -> None:
    """Print how to cite this tool: BibTeX, and where CITATION.cff is."""
    from search import citation

    typer.echo(f"{citation.bibtex()}\n\n{citation.where()}")
