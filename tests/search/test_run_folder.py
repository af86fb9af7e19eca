import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.errors import RunError
from search.run_folder import RunFolder, find_run, write_json, write_text


def made(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.create()
    folder.database.touch()
    return folder


def test_the_last_run_is_the_one_worked_on_last(tmp_path: Path) -> None:
    for age, name in ((30, "old"), (10, "new"), (20, "middle")):
        os.utime(made(tmp_path / name).database, (1_000_000 - age, 1_000_000 - age))
    assert find_run(tmp_path, None).name == "new"
    assert find_run(tmp_path, "old").name == "old"


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


def test_two_processes_cannot_hold_a_run_and_a_dead_one_holds_none(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    code = f"""
import sys, time
from pathlib import Path
from search.run_folder import RunFolder
with RunFolder(Path({str(folder.root)!r})).locked():
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=r"another search is at work in .*: wait for it, or"), folder.locked():
            pass
        other.kill()
        other.wait()
    with folder.locked():
        assert folder.root.is_dir()


def test_text_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file.json"
    write_json(path, {"a": 1})
    assert path.read_text() == '{\n  "a": 1\n}\n'

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert list(path.parent.iterdir()) == [path]
