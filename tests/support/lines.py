"""Studies kept as lines of a file: as lasting as in SQLite, and as private to each who opens them, in less time."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from sqlalchemy import make_url

from search.storage import Address, RetryingStorage, connect


class Lines(BaseJournalBackend):
    """Optuna's journal in a file that is locked by nobody: all who write are threads of one process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            path.touch()  # of one that is there, it would be news
        self._lines: list[bytes] = []
        self._bytes = 0

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """What was written after the first `log_number_from` lines."""
        with self._path.open("rb") as file:
            file.seek(self._bytes)
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]
        self._bytes += len(new)
        self._lines += new.splitlines()
        return map(json.loads, self._lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write them, each into a line, at once."""
        with self._path.open("ab", buffering=0) as file:
            file.write(b"".join(json.dumps(log).encode() + b"\n" for log in logs))


def connect_to_lines(address: Address) -> RetryingStorage:
    """The study in the file at the address; what is no such file, such as a database, is connected to as ever."""
    path = Path(str(make_url(address.url).database))
    if address.is_shared or (path.exists() and not path.read_bytes().startswith(b"{")):
        return connect(address)
    return RetryingStorage(JournalStorage(Lines(path)), lambda: None)  # type: ignore[abstract]  # see there
