"""Results as JSON, a line each: a benchmark that is stopped goes on behind the last line."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read(path: Path | None) -> list[dict[str, Any]]:
    """The lines of a file; none where there is no file yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path is not None and path.exists() else []


def add(path: Path | None, line: Mapping[str, Any]) -> None:
    """Write a line behind the others, and print it."""
    text = json.dumps(line)
    if path is not None:
        with path.open("a") as file:
            file.write(f"{text}\n")
    print(text, flush=True)
