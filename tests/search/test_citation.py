"""`search cite`, and the file of the same content."""

import re
import tomllib
from pathlib import Path

import pytest

from search import citation
from tests.support.commands import search

ROOT = Path(__file__).parents[2]


def cited() -> dict[str, str]:
    """The keys of CITATION.cff at its top, and the name of its author."""
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    return {key: value.strip('"') for key, value in re.findall(r"^(?:  - )?([\w-]+): (.+)$", text, re.M)}


def test_the_citation_file_has_what_its_format_needs_and_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = cited()
    assert found["cff-version"] == "1.2.0"
    assert set(found) >= {"message", "title", "type"}
    assert (found["version"], found["license"]) == (project["version"], project["license"])
    assert found["title"] == f"{project['name']}: {citation.TITLE}"
    assert found["name"] == citation.AUTHORS
    assert "MIT License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    # As YAML: a key at the beginning of a line, or an item of the list of authors.
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[\w-]+:(?: .+)?|  - name: .+", line) for line in lines)


def test_cite_prints_bibtex_and_where_the_file_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(citation, "version", lambda: "1.2.3")
    code, out, err = search("cite", capsys, monkeypatch)
    assert (code, err) == (0, "")
    *entry, empty, where = out.splitlines()
    assert entry == [
        "@misc{budget_search,",
        "  author = {{The contributors of this project}},",
        f"  title = {{budget-search: {citation.TITLE}}},",
        "  note = {Software, version 1.2.3, MIT License}",
        "}",
    ]
    assert (empty, where) == ("", f"Citation File Format: {ROOT / 'CITATION.cff'}")
    monkeypatch.setattr(citation, "FILE", ROOT / "nowhere")
    _, out, _ = search("cite", capsys, monkeypatch)
    assert out.splitlines()[-1] == "Citation File Format: CITATION.cff in the source of this version"
