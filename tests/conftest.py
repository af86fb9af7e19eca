"""Fixtures for all tests: a quiet, single-threaded, private environment."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.postgres import Server, programs, server

# Ignored in what a script starts with `&`, and in all that this starts in turn.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # small tensors; and tests run side by side


@pytest.fixture(autouse=True)
def _private_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache or runs."""
    monkeypatch.setenv("SEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SEARCH_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server; where there is none, tests that need it are skipped, but fail in CI."""
    if programs() is None:
        reason = "PostgreSQL is not installed (Debian: apt-get install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with server() as running:
        yield running
