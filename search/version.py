"""Which version of this package it is."""

import tomllib
from importlib import metadata
from pathlib import Path

PACKAGE = "budget-search"


def version() -> str:
    """As installed; in a checkout that is not installed, as its pyproject.toml says; else `unknown`."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return _version_in(Path(__file__).parents[1] / "pyproject.toml")


def _version_in(project_file: Path) -> str:
    try:
        project = tomllib.loads(project_file.read_text(encoding="utf-8"))["project"]
        return str(project["version"]) if project["name"] == PACKAGE else "unknown"  # it may be another package's
    except (OSError, ValueError, KeyError):
        return "unknown"
