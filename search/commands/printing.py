"""The answer of a command: a view for people, or one JSON document for scripts."""

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import typer


def show(what: Any, draw: Callable[[Any], Any], as_json: bool, columns: int | None = None) -> None:
    """Print the answer: drawn for people, or as JSON; into a pipe, in at most `columns` columns."""
    from search import terminal

    if as_json:
        typer.echo(json.dumps(what, indent=2, default=_jsonable))
    else:
        terminal.draw(draw(what), columns)


def _jsonable(what: Any) -> Any:
    """The JSON form of a value. Pydantic does the same, but refuses a file name that is not UTF-8."""
    from pydantic_core import to_jsonable_python

    if is_dataclass(what):
        return {each.name: getattr(what, each.name) for each in fields(what)}
    return to_jsonable_python(what)
