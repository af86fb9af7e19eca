"""Runs studies: samples networks and recipes, scores them by short runs, promotes the best to full length.

In Python: `from search import run, promote` (see `search.notebook`).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.notebook import SearchResult, promote, run

__all__ = ["SearchResult", "promote", "run"]


def __getattr__(name: str) -> Any:
    # Not before they are asked for: `search --help` answers without torch.
    if name in __all__:
        from search import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
