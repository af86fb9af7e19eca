"""Runs studies: samples networks and recipes, scores them by short runs, trains the best in full runs.

In Python: `from search import auto, open_run, promote, run` (see `search.notebook`).
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.notebook import SearchResult, auto, open_run, promote, run

__all__ = ["SearchResult", "auto", "open_run", "promote", "run"]


def _hidden_module() -> str | None:
    """A message that names the file in the current folder that hides a module of this tool; None if there is none."""
    ours = Path(__file__).parents[1]
    for name, expected in (("space", ours / "space.py"), ("train_core", ours / "train_core" / "__init__.py")):
        found = find_spec(name)
        if found is None or found.origin is None or Path(found.origin).resolve() != expected.resolve():
            where = found.origin if found and found.origin else f"a folder {name} without an __init__.py"
            return f"{where} hides the tool's own {name}: rename it, or run `search` in another folder"
    return None


if (_problem := _hidden_module()) is not None:
    if sys.argv[0] == "-m":  # `python -m search`, which looks for modules in the current folder first
        print(f"search: {_problem}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(_problem)

import train_core  # noqa: E402, F401  # before torch: it sets how torch's threads wait


def __getattr__(name: str) -> Any:
    # Imported on first use: `search --help` answers without torch.
    if name in __all__:
        from search import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
