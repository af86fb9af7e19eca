"""Fixtures for all tests: a quiet, single-threaded, private environment."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # small tensors; and tests run side by side


@pytest.fixture(autouse=True)
def _private_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache or runs."""
    monkeypatch.setenv("SEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
