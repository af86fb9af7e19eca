"""Tables with one record for each name of a closed set, checked when they are made."""

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

Key = TypeVar("Key", bound=str)
Record = TypeVar("Record")


def table(what: str, names: Any, records: Mapping[Key, Record]) -> dict[Key, Record]:
    """The records by name, in the order of `names`, a `Literal`; `what` is the kind of thing that they describe.

    Raises:
        TypeError: a name has no record, or a record no name. This is a mistake in the code, found on import.

    """
    expected = get_args(names)
    if missing := [name for name in expected if name not in records]:
        raise TypeError(f"{what} {missing[0]!r} has no record in its table: add one, or remove the name")
    if unknown := [name for name in records if name not in expected]:
        raise TypeError(f"{what} {unknown[0]!r} has a record but is not among the names {', '.join(expected)}")
    return {name: records[name] for name in expected}
