"""Searches whose process is ended by a signal in a trial: the next start says so, and what becomes of the trial."""

import re
import signal
from pathlib import Path

import pytest

from search.identity import open_study
from tests.support.processes import SHORT, run_folder, search, start, with_few
from tests.support.runs import ended

DEADLY = """
import ctypes, os, signal
from search import searching
from tests.support.trainers import FakeTrainer

class Deadly(FakeTrainer):
    def __call__(self, network, recipe, root):
        if root == 1:
            DIE
        yield from super().__call__(network, recipe, root)

searching.Trainer = lambda *_: Deadly()
searching.estimate = lambda *_: None
"""


def deadly(folder: Path, die: str) -> tuple[int, str]:
    """Exit code and output of a search whose trial 1 does this to its process."""
    process = start(SHORT, with_few(folder), DEADLY.replace("DIE", die), OMP_NUM_THREADS="1")
    out, _ = process.communicate(timeout=240)
    assert process.returncode is not None
    return process.returncode, out


def traces(folder: Path) -> list[str]:
    return [path.read_text() for path in (run_folder(folder).root / ".workers").glob("*.trace")]


@pytest.mark.parametrize(
    ("die", "number", "fault"),
    [
        ("ctypes.string_at(0)", signal.SIGSEGV, "segmentation fault"),
        ("os.abort()", signal.SIGABRT, "abort"),
    ],
)
def test_a_trial_that_ends_its_process_in_a_fault_twice_is_failed_and_the_search_goes_on(
    die: str, number: signal.Signals, fault: str, tmp_path: Path
) -> None:
    again = f"trial 1 ended its process ({fault}): it is run again\n"
    failed = f"ended its process ({fault}) twice"
    # 2 to 5 are other trials of the portfolio.
    verdict = f"trial 1 (run again as trial 6) {failed}: it counts as failed, and the search goes on\n"

    code, out = deadly(tmp_path, die)
    assert code == -number
    assert "is run again" not in out
    code, out = deadly(tmp_path, die)
    assert code == -number
    assert out.count(again) == 1
    code, out = deadly(tmp_path, die)
    assert code == 0
    assert out.count(verdict) == 1
    assert again not in out
    assert "3 of 3 trials: 2 complete, 0 pruned, 1 failed\n" in out

    log = run_folder(tmp_path).log.read_text()
    assert (log.count(again), log.count(verdict)) == (1, 1)
    assert re.search(rf"2/3  trial 6 \(portfolio: .*\)  failed: given up: {re.escape(failed)}  ", log)
    study = open_study(run_folder(tmp_path))
    reasons = {trial.number: reason for trial in study.trials if (reason := trial.user_attrs.get("reason"))}
    assert reasons == {1: f"ended its process ({fault})", 6: f"given up: {failed}"}
    assert len(ended(study)) == 3
    assert all("in __call__" in trace for trace in traces(tmp_path))  # where it was
    assert len(traces(tmp_path)) == 2  # of those that died

    shown = " ".join(search("show 1", tmp_path).split())
    assert f"outcome interrupted reason ended its process ({fault}) " in shown
    assert f"trial 6: 0 epochs, failed (given up: {failed})" in shown
    assert f"outcome failed reason given up: {failed} " in " ".join(search("show 6", tmp_path).split())
    assert f"given up: {failed}" in run_folder(tmp_path).report.read_text()


def test_a_trial_whose_process_is_killed_is_tried_again_and_the_next_start_says_why(tmp_path: Path) -> None:
    for start_number in range(3):
        code, out = deadly(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
        assert code == -signal.SIGKILL
        again = "trial 1 lost its process (killed, or out of memory): it is run again\n"
        assert out.count(again) == (start_number > 0)
    code, out = deadly(tmp_path, "pass")
    assert code == 0
    assert out.count(again) == 1
    assert "3 of 3 trials: 3 complete, 0 pruned, 0 failed\n" in out
    study = open_study(run_folder(tmp_path))
    reasons = [reason for trial in study.trials if (reason := trial.user_attrs.get("reason"))]
    assert reasons == ["lost its process (killed, or out of memory)"] * 3
    assert traces(tmp_path) == [""] * 3
