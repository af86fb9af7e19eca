"""The version of this package, installed or not."""

import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from search import version as versions
from search.version import version

ROOT = Path(__file__).parents[2]


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", find)


def test_an_installed_package_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", {"budget-search": "7.8.9"}.get)
    assert version() == "7.8.9"


@pytest.mark.usefixtures("not_installed")
def test_a_checkout_that_is_not_installed_reads_its_own_project_file() -> None:
    expected = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert version() == expected != "unknown"


@pytest.mark.usefixtures("not_installed")
@pytest.mark.parametrize(
    "text",
    [None, "[project", '[project]\nname = "other"\nversion = "1.0"', '[project]\nname = "budget-search"', "\xff"],
)
def test_where_nothing_tells_it_is_unknown(text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "__file__", str(tmp_path / "search" / "version.py"))
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text, encoding="latin-1")
    assert version() == "unknown"
