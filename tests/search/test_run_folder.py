import errno
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from search import run_folder
from search.errors import BusyError, RunError
from search.identity import join, open_study, spec_of, with_total
from search.run_folder import (
    DataFacts,
    RunFacts,
    RunFolder,
    find_run,
    new_run,
    note_promoted,
    read_facts,
    write_facts,
    write_text,
)
from search.spec import load_study
from tests.support.runs import TASK, make_run, promoted


def made(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.create()
    folder.study_file.touch()
    return folder


def test_the_last_run_is_the_one_worked_on_last(tmp_path: Path) -> None:
    for age, name in ((30, "old"), (10, "new"), (20, "middle")):
        os.utime(made(tmp_path / name).study_file, (1_000_000 - age, 1_000_000 - age))
    assert find_run(tmp_path, None).name == "new"
    assert find_run(tmp_path, "old").name == "old"
    assert find_run(Path("elsewhere"), str(tmp_path / "old")).root == tmp_path / "old"
    # A promotion writes checkpoints, and little else.
    checkpoint = RunFolder(tmp_path / "old").promotion(0, 5, 0).checkpoint
    write_text(checkpoint, "")
    assert find_run(tmp_path, None).name == "old"


def test_a_missing_run_is_answered_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run in .*: start one with `search run`"):
        find_run(tmp_path, None)
    made(tmp_path / "here")
    with pytest.raises(RunError, match=r"no run 'there' in .*: there are here"):
        find_run(tmp_path, "there")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"run folder .* cannot be written \(.*\): choose another with --runs") as caught:
        RunFolder(tmp_path / "file" / "run").create()
    assert "\n" not in str(caught.value)


def test_a_read_only_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(RunError, match=r"^run folder .* cannot be written \(Read-only file system\): choose another"):
        RunFolder(tmp_path / "run").create()


@contextmanager
def another_process(folder: RunFolder, held: str) -> Iterator[subprocess.Popen[str]]:
    """A process inside `folder.<held>()`, killed at the end."""
    code = f"""
import time
from pathlib import Path
from search.run_folder import RunFolder
with RunFolder(Path({str(folder.root)!r})).{held}():
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_who_works_in_a_run_is_known_until_they_die(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    with FileLock(folder.worker_lock("here", "kernel")), another_process(folder, "alone") as other:
        assert folder.workers() == {"here": "kernel"}
        other.kill()
    assert folder.workers() == {}


@pytest.mark.parametrize("name", ["x%41y", "100%", "what?", "a#b", "a b", "grün", "a@b:c"])
def test_a_study_can_be_kept_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = new_run(tmp_path / name, "here")
    folder.create()
    open_study(folder, create=True).set_user_attr("kept", name)
    assert folder.database.exists()
    assert open_study(folder).user_attrs == {"kept": name}
    assert str(folder.address) == str(folder.database)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_that_an_address_cannot_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with older versions of SQLAlchemy, which escape nothing."""
    monkeypatch.setattr(run_folder, "_sqlite", lambda database: f"sqlite:///{database}")
    with pytest.raises(RunError, match=r"has a \? in its path: choose another with --runs$"):
        new_run(tmp_path / "what?", "here")


def test_what_concerns_all_is_done_one_after_the_other(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    inside: list[int] = []

    def work(number: int) -> None:
        with folder.alone():
            inside.append(number)
            assert len(inside) == 1
            time.sleep(0.02)
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))


def test_a_worker_that_hangs_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "run")
    monkeypatch.setattr(run_folder, "LOCK_TIMEOUT_S", 0.1)
    with another_process(folder, "alone") as other:
        with pytest.raises(BusyError, match=r"another search in .* hangs: end it"), folder.alone():
            pass
        other.kill()
        other.wait()
        with folder.alone():  # freed by the system
            pass


def test_trials_are_promoted_by_one_process_once_the_search_has_ended(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    too_early = pytest.raises(BusyError, match=r"a search is at work in .*: promote when it has ended")
    with FileLock(folder.worker_lock("here", "kernel")), too_early, folder.promoting():
        pass
    with another_process(folder, "promoting") as other:
        with pytest.raises(BusyError, match=r"another `search promote` is at work in .*: wait"), folder.promoting():
            pass
        other.kill()
        other.wait()
        with folder.promoting():
            assert folder.root.is_dir()
    with FileLock(folder.worker_lock("here", "kernel")), folder.promoting(beside_search=True):
        assert folder.is_promoting


def test_a_night_is_divided_by_one_process(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    with another_process(folder, "spending_night") as other:
        with (
            pytest.raises(BusyError, match=r"another `search auto` is at work in .*: `search watch run` shows it"),
            folder.spending_night(),
        ):
            pass
        assert folder.is_promoting
        other.kill()
        other.wait()
        with folder.spending_night():
            assert folder.root.is_dir()


def test_text_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file.json"
    write_text(path, "old")
    assert path.read_text() == "old"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_drive_without_file_locks_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As drives are that Colab mounts. None can be mounted here, so the system call answers as theirs do."""

    def refuse(file: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunError, match=r"has no file locks, .*: choose a folder on another drive"):
        RunFolder(tmp_path / "run").create()


def test_a_total_never_falls_below_what_there_is_or_others_search_for(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.5, 0.6, 0.7])
    study, spec = open_study(folder), load_study(str(folder.study_file), {})
    fewer, more = (spec.model_copy(update={"trials": number}) for number in (2, 30))
    assert with_total(fewer, study, folder).trials == 3
    write_text(folder.study_file, more.as_toml())
    assert with_total(fewer, study, folder).trials == 3
    with FileLock(folder.worker_lock("here", "kernel")):
        assert with_total(fewer, study, folder).trials == 30
        write_text(folder.study_file, "damaged")
        assert with_total(fewer, study, folder).trials == 3


def test_full_runs_of_a_study_that_is_lost_are_not_taken_for_those_of_another(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.5, 0.6])
    promoted(folder, 1)
    spec = spec_of(folder)
    assert len(join(folder, spec, TASK).study.trials) == 2
    folder.database.unlink()
    with pytest.raises(RunError, match="holds no study: give the command that made the run again, or put back a copy"):
        open_study(folder)
    for _ in range(2):  # the second time, there is a study without trials
        with pytest.raises(RunError, match=r"the study of run 'run' is lost, but its full runs are there: put back a"):
            join(folder, spec, TASK)


@pytest.mark.parametrize("text", ["", "budget = = 10", "trials = 3"])
def test_a_damaged_study_file_of_a_run_is_said_to_be_one(text: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.5])
    write_text(folder.study_file, text)
    with pytest.raises(RunError, match=r"the study file of run 'run' is damaged \(.*\): give the command that made"):
        spec_of(folder)


@pytest.mark.parametrize("text", ["", '{"data": {', None])
def test_damaged_facts_are_told_of_and_written_again(
    text: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, facts = made(tmp_path / "run"), RunFacts(data=DataFacts(source="photos"), promoted=("search promote",))
    write_facts(folder, facts)
    note_promoted(folder, "search promote again")
    known = read_facts(folder)
    assert known is not None
    assert known.promoted == ("search promote", "search promote again")
    folder.facts.unlink()
    if text is not None:
        write_text(folder.facts, text)
    note_promoted(folder, "search promote")  # which knows nothing of the images
    assert "run.json is missing or damaged: `search run` with the same study writes it again" in caplog.text
    assert read_facts(folder) is None
    write_facts(folder, RunFacts(data=DataFacts(source="photos")))
    assert ("run.json was damaged and is written again" in caplog.text) == (text is not None)
    assert read_facts(folder) == RunFacts(data=DataFacts(source="photos"))
