"""Runs that several files read, and what is learnt from them once."""

import shutil
from pathlib import Path

import pytest

from search import fidelity, identity, searching
from search.plan import Estimate
from search.run_folder import RunFolder
from tests.support.commands import Search
from tests.support.commands import search as searched
from tests.support.lines import connect_to_lines
from tests.support.runs import SOON, make_run, promoted
from train_core.errors import DivergedError


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `mixed` copies."""
    scores: list[float | Exception] = [0.6, 0.5, 0.1, DivergedError("nan"), ValueError("no <room> left"), 0.7]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "connect", connect_to_lines)
        return make_run(tmp_path_factory.mktemp("runs") / "mixed", scores, pruner=SOON).root


@pytest.fixture
def mixed(made_once: Path, tmp_path: Path, in_lines: None) -> RunFolder:
    """A run with two complete trials, a pruned, a diverged and a failed one, then a better complete one."""
    return RunFolder(shutil.copytree(made_once, tmp_path / "mixed"))


@pytest.fixture
def measured(mixed: RunFolder, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """The same with a full run of each complete trial, and three counted as enough for `fidelity`."""
    monkeypatch.setattr(fidelity, "MIN_PAIRS", 3)
    for number, accuracy in ((0, 0.8), (1, 0.85), (5, 0.9)):
        promoted(mixed, number, val_accuracy=accuracy)
    return mixed


@pytest.fixture
def in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies that the test makes are kept in a file of lines: most of a study's time goes into SQLAlchemy.

    For tests of what is decided, in this process. That the decisions are kept in databases too is shown where real
    commands run: in `test_e2e`, `test_interruptions` and `test_shared_storage`.
    """
    monkeypatch.setattr(identity, "connect", connect_to_lines)


@pytest.fixture
def known_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan of a search does not train networks for its forecast, which takes longer than a search of few images.

    That it does is shown where real commands run: in `test_e2e`.
    """
    monkeypatch.setattr(searching, "estimate", lambda *_: Estimate(images_per_second=1234.5, trial_s=22.5))


@pytest.fixture
def search(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Search:
    """Runs a command that succeeds, and returns what it prints."""

    def answer(command: str) -> str:
        code, out, err = searched(command, capsys, monkeypatch)
        assert (code, err) == (0, "")
        return out

    return answer
