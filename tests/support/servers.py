"""Fixtures: a database server and a browser, each started once for all tests of a process."""

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest

from tests.support import browser as browsers
from tests.support import postgres as servers


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Server]:
    """A PostgreSQL server; where there is none, tests that need it are skipped, but fail in CI."""
    if servers.programs() is None:
        _is_missing("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with servers.server() as running:
        yield running


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browsers.Browser]:
    """A browser; where there is none, tests that need it are skipped, but fail in CI."""
    if browsers.program() is None:
        _is_missing("Chromium is not installed (Debian: apt-get install chromium)")
    with browsers.browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


def _is_missing(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
