"""A plugin: tests see no GPU, so that they do the same on every machine, unless they are marked `cuda`.

A test that is marked `cuda` is skipped where there is no CUDA device.
"""

from collections.abc import Iterator

import pytest
import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "cuda: sees the CUDA devices of this machine; skipped where there are none")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def _hidden_gpus() -> Iterator[pytest.MonkeyPatch]:
    """Hide CUDA from this process and from those that it starts, before any other fixture is made.

    Torch itself has looked for devices by now, and keeps what it found: a change of the environment reaches only the
    processes that are started later, and `is_available` has to be replaced as well.
    """
    torch.cuda.is_available()
    with pytest.MonkeyPatch.context() as patch:
        _hide(patch)
        yield patch


def _hide(patch: pytest.MonkeyPatch) -> None:
    patch.setenv(VISIBLE, "")
    patch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(autouse=True)
def _seen_gpus(request: pytest.FixtureRequest, _hidden_gpus: pytest.MonkeyPatch) -> Iterator[None]:
    """Show CUDA to a test that is marked `cuda`."""
    if not request.node.get_closest_marker("cuda"):
        yield
        return
    _hidden_gpus.undo()
    yield
    _hide(_hidden_gpus)
