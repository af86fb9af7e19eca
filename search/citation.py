"""How to cite this tool."""

from pathlib import Path

from search.version import PACKAGE, version

TITLE = "the best small image classifier under a hard parameter budget"
AUTHORS = "The contributors of this project"
FILE = Path(__file__).parents[1] / "CITATION.cff"  # in a checkout

BIBTEX = """\
@misc{{budget_search,
  author = {{{{{authors}}}}},
  title = {{{package}: {title}}},
  note = {{Software, version {version}, MIT License}}
}}"""


def bibtex() -> str:
    """The BibTeX entry for the version in use."""
    return BIBTEX.format(authors=AUTHORS, package=PACKAGE, title=TITLE, version=version())


def where() -> str:
    """Where the citation is in the Citation File Format."""
    place = str(FILE) if FILE.exists() else "CITATION.cff in the source of this version"
    return f"Citation File Format: {place}"
