"""A plugin of pytest, `-p benchmarks.cuda_tests`: runs only the tests that need CUDA, and records the outcome of each.

A line of JSON for each test is appended to the file named by the environment variable `CUDA_TESTS`, as the test ends.
"""

import json
import os
from pathlib import Path

import pytest

FILE = "CUDA_TESTS"
TESTS = Path(__file__).parents[1] / "tests"
SIGNS = ("pytest.mark.cuda", "not torch.cuda.is_available()")  # in the text of a file that may contain such tests


def files() -> list[Path]:
    """The files that may contain them: the others need not be imported."""
    texts = ((path, path.read_text(encoding="utf-8")) for path in sorted(TESTS.rglob("test_*.py")))
    return [path for path, text in texts if any(sign in text for sign in SIGNS)]


def needs_cuda(item: pytest.Item) -> bool:
    """Whether the test is marked `cuda`, or skipped without CUDA."""
    reasons = [str(mark.kwargs.get("reason", "")) for mark in item.iter_markers("skipif")]
    skipped = any(word in reason for reason in reasons for word in ("CUDA", "GPU"))
    return skipped or item.get_closest_marker("cuda") is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out all other tests."""
    config.hook.pytest_deselected(items=[item for item in items if not needs_cuda(item)])
    items[:] = filter(needs_cuda, items)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record how a test ended, or that it failed in its setup or teardown."""
    if report.when == "call" or report.outcome != "passed":
        crash = getattr(report.longrepr, "reprcrash", None)
        why = str(crash.message if crash else report.longrepr or "").strip().partition("\n")[0]
        line = {"test": report.nodeid, "outcome": report.outcome, "why": why if report.failed else ""}
        with Path(os.environ[FILE]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
