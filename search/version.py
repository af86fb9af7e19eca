"""The version of this package."""

import tomllib
from importlib import metadata
from pathlib import Path

PACKAGE = "budget-search"


def version() -> str:
    """The installed version; in a checkout that is not installed, that of pyproject.toml; otherwise `unknown`."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return _version_in(Path(__file__).parents[1] / "pyproject.toml")


def _version_in(project_file: Path) -> str:
    try:
        project = tomllib.loads(project_file.read_text(encoding="utf-8"))["project"]
        return str(project["version"]) if project["name"] == PACKAGE else "unknown"  # it may belong to another package
    except (OSError, ValueError, KeyError):
        return "unknown"
