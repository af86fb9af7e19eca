"""Devices by name, with what a network may cost there: `targets.toml`, or the user's own file."""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.errors import SpecError
from train_core.limits import LIMITS

FILE = Path(__file__).with_name("targets.toml")
LIMIT_KEYS = (*(limit.key for limit in LIMITS.values()), "format")
"""The keys of a study file that a device may set."""


def targets() -> list[str]:
    """The names of the shipped devices."""
    return list(_records(FILE))


def limits_at(target: str) -> Mapping[str, Any]:
    """Keys of a study file with what a network may cost on a device: by its name, or in a file with one record.

    Raises:
        SpecError: there is no such device or file, or its record has other keys.

    """
    path = Path(target) if target.endswith(".toml") else FILE
    records = _records(path)
    if path == FILE and target not in records:
        near = difflib.get_close_matches(target, records, n=1)
        words = f"did you mean {near[0]!r}?" if near else f"give one of {', '.join(records)}, or a .toml file"
        raise SpecError(f"unknown target {target!r}: {words}")
    if path != FILE and len(records) != 1:
        raise SpecError(f"target {target}: the file must have one device, as in [my-board], not {len(records)}")
    record = records[target] if path == FILE else next(iter(records.values()))
    unknown = [key for key in record if key not in (*LIMIT_KEYS, "title", "source")]
    if unknown:
        raise SpecError(f"target {target}: unknown key {unknown[0]!r}: it may have {', '.join(LIMIT_KEYS)}")
    found = {key: value for key, value in record.items() if key in LIMIT_KEYS}
    if not found:
        raise SpecError(f"target {target} limits nothing: give it at least one of {', '.join(LIMIT_KEYS)}")
    return found


def _records(path: Path) -> dict[str, dict[str, Any]]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SpecError(f"target {path} cannot be read, because there is no such file: check the path") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"target {path} cannot be read: {error}") from error
    return {name: record for name, record in values.items() if isinstance(record, dict)}
