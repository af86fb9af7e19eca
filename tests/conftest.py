"""A quiet, private environment for every test, and the order in which the files begin."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

pytest_plugins = ("pytester", "tests.support.caches", "tests.support.gpus", "tests.support.servers")
pytest.register_assert_rewrite("tests.support")  # a failed `assert` there shows its values, as in a test

# Ignored in what a script starts with `&`, and in all that this starts in turn.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # small tensors; and tests run side by side


LONGEST = (
    "test_e2e",
    "test_export",
    "test_interruptions",
    "test_report_page",
    "test_shared_storage",
    "test_study",
    "test_ray_workers",
    "test_report",
    "test_data_command",
    "test_inspection",
    "test_deploy",
    "test_dashboard",
)
"""The files that take longest. Begun first, none of them is the last, which the other processors would wait for."""


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Before pytest-xdist starts a process: one fork server is for all of them."""
    from tests.support.forked import start_server  # not above: its `assert`s would not be rewritten

    node.workerinput["fork_server"] = start_server()


def pytest_configure(config: pytest.Config) -> None:
    """In such a process, use that."""
    if given := getattr(config, "workerinput", None):
        from tests.support.forked import use_server

        use_server(given["fork_server"])


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
