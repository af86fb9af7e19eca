"""Fixtures for all tests: a quiet, single-threaded, private environment."""

import signal
from pathlib import Path

import pytest
import torch

# Ignored in what a script starts with `&`, and in all that this starts in turn.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # small tensors; and tests run side by side


@pytest.fixture(autouse=True)
def _private_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache or runs."""
    monkeypatch.setenv("SEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
