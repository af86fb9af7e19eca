"""Names of shipped studies, runs and targets. Nothing slow is imported, so that a shell can complete them."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import typer

RUNS = Path("runs")
"""Where runs are unless `--runs` or SEARCH_RUNS names another folder."""


def shipped_studies() -> dict[str, Path]:
    """The shipped study files by name: inside the package once installed, beside it in a checkout."""
    inside = Path(__file__).parent / "studies"
    folder = inside if inside.is_dir() else Path(__file__).parents[1] / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.toml"), key=lambda path: path.stem)}


def run_folders(runs: Path) -> dict[str, Path]:
    """The runs in a folder, by name."""
    return {path.parent.name: path.parent for path in sorted(runs.glob("*/study.toml"))}


def complete_study(incomplete: str) -> list[str]:
    """The completions of a word that names a study; if there are none, shells offer files."""
    return [name for name in shipped_studies() if name.startswith(incomplete)]


def complete_report(incomplete: str) -> list[str]:
    """The completions of a word that names a study with a report."""
    return [name for name in complete_study(incomplete) if "[published]" in shipped_studies()[name].read_text("utf-8")]


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """The completions of a word that names a run."""
    runs = Path(ctx.params.get("runs") or os.environ.get("SEARCH_RUNS") or RUNS)
    return [name for name in run_folders(runs) if name.startswith(incomplete)]


def complete_target(incomplete: str) -> list[str]:
    """The completions of a word that names a device; if there are none, shells offer files."""
    from search.targets import targets  # slow, and only this needs it

    return [name for name in targets() if name.startswith(incomplete)]


def complete_cost(incomplete: str) -> list[str]:
    """The completions of a word that names a cost for a front."""
    from train_core.limits import COSTS  # slow, and only this needs it

    return [name for name in COSTS if name.startswith(incomplete)]


def one_of(words: Iterable[str]) -> Callable[[str], list[str]]:
    """The completions of a word that is one of `words`."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete
