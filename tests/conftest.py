"""Fixtures for all tests: a quiet, single-threaded, private environment."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from benchmarks.postgres import Server, programs, server
from tests.browser import Browser, program
from tests.browser import browser as started

# Ignored in what a script starts with `&`, and in all that this starts in turn.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # small tensors; and tests run side by side


LONGEST = ("test_e2e", "test_shared_storage", "test_workers", "test_interruptions", "test_commands", "test_study")
"""The files that take longest. Begun first, none of them is the last, which the other processors would wait for."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with `LONGEST`."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


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
        _is_missing("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with server() as running:
        yield running


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser; where there is none, tests that need it are skipped, but fail in CI."""
    if program() is None:
        _is_missing("Chromium is not installed (Debian: apt-get install chromium)")
    with started(tmp_path_factory.mktemp("browser")) as running:
        yield running


def _is_missing(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
