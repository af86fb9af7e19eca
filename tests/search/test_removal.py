"""`search rm`: what it deletes, what it says before, and when it refuses."""

import io
import json
import shutil
import threading
import time
from pathlib import Path

import optuna
import pytest
from filelock import FileLock

from search import heartbeat
from search.identity import open_study
from search.optuna_access import storage_of, trial_id
from search.removal import removals, size_in_words
from search.run_folder import RunFolder, write_text
from search.storage import parse_address
from search.trials import WORKER
from tests.support.commands import search
from tests.support.postgres import PASSWORD, Server
from tests.support.runs import make_run, promoted

pytestmark = pytest.mark.usefixtures("in_lines")

RUNS = Path("runs")


class Terminal(io.StringIO):
    """A standard input that somebody types into."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def one(made_once: Path, tmp_path: Path) -> RunFolder:
    """A run with six trials and a full run, in the folder of runs."""
    folder = RunFolder(Path(shutil.copytree(made_once, tmp_path / "runs" / "one")))
    promoted(folder, 0)
    return folder


def names() -> list[str]:
    return sorted(path.name for path in RUNS.iterdir())


def test_a_run_is_deleted_when_asked_twice(
    one: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("n\ny\n"))
    code, out, err = search("rm one", capsys, monkeypatch)
    assert (code, err, names()) == (0, "", ["one"])
    size = size_in_words(sum(path.stat().st_size for path in one.root.rglob("*") if path.is_file()))
    assert out.startswith(f"one: 6 trials, 1 full run, {size} in runs/one\nDelete this? [y/N]: ")
    assert out.endswith("nothing is deleted\n")
    code, out, err = search("rm one", capsys, monkeypatch)
    assert (code, err, names()) == (0, "", [])
    assert out.endswith("deleted runs/one\n")


def test_runs_that_have_to_do_with_it_are_named(
    one: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(RUNS / "one-random", sampler="random", control="random")
    make_run(RUNS / "two", learn_from=("one",))
    make_run(RUNS / "other")
    _, out, _ = search("rm one --yes", capsys, monkeypatch)
    assert out.splitlines()[1:] == [
        "  two learned from it, and can then be continued only without --learn-from",
        "  its control one-random stays",
        "deleted runs/one",
    ]
    assert names() == ["one-random", "other", "two"]
    make_run(RUNS / "one")
    _, out, _ = search("rm one-random --yes", capsys, monkeypatch)
    assert out.splitlines()[1] == "  it is a control of one: a new report of one will not show it"


def test_several_are_deleted_by_a_pattern_and_their_own_kin_is_not_named(
    one: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(RUNS / "one-random")
    make_run(RUNS / "other")
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    code, out, err = search("rm 'one*'", capsys, monkeypatch)
    assert (code, err, names()) == (0, "", ["other"])
    assert [line.split(":")[0] for line in out.splitlines()[:2]] == ["one", "one-random"]
    assert out.splitlines()[2].startswith("Delete these 2 runs? [y/N]: ")


def test_nothing_outside_is_deleted(one: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"x" * 5_000_000)
    (one.root / "trials").symlink_to(outside)
    (one.root / "promoted" / "trial-0009").symlink_to(outside)
    (one.root / "a-file").symlink_to(outside / "kept")
    (found,) = removals(RUNS, ["one"], None)
    assert found.bytes < 1_000_000
    found.do()
    assert names() == []
    assert (outside / "kept").exists()


def test_a_deletion_that_was_cut_off_can_be_done_again(one: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(13, "Permission denied", str(path))

    with monkeypatch.context() as broken:
        broken.setattr(shutil, "rmtree", fail)
        with pytest.raises(OSError, match="Permission denied"):
            removals(RUNS, ["one"], None)[0].do()
    one.database.unlink(missing_ok=True)
    (again,) = removals(RUNS, ["one"], None)
    assert again.trials is None
    assert "its study cannot be read" in str(again)
    again.do()
    assert names() == []


def test_a_run_whose_study_is_broken_can_be_deleted(tmp_path: Path) -> None:
    write_text(RUNS / "broken" / "study.toml", "data = ")
    (RUNS / "broken" / "study.db").write_text("no database")
    removals(RUNS, ["broken"], None)[0].do()
    assert names() == []


def test_what_is_refused_is_refused_in_one_line(
    one: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (RUNS / "link").symlink_to(one.root.absolute())
    write_text(RUNS / "shared" / "study.toml", "")
    write_text(RUNS / "shared" / "run.json", json.dumps({"storage": "postgresql"}))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    refused = {
        "rm": (2, "Missing argument 'RUN...'"),
        "rm two": (2, "no run 'two' in runs: there are link, one, shared"),
        "rm one 'x*'": (2, "no run 'x*' in runs: there are link, one, shared"),
        "rm ../runs/one": (2, "no run '../runs/one' in runs"),
        "rm one": (2, "nothing is deleted without an answer, and there is no terminal to ask in: add --yes"),
        "rm link --yes": (2, f"runs/link is a link to {one.root.absolute()}: delete the link, or the run where it is"),
        "rm shared --yes": (2, "run 'shared' keeps its study in a postgresql storage: give --storage, or set"),
    }
    for command, (code, said) in refused.items():
        answered, _, err = search(command, capsys, monkeypatch)
        assert (answered, err.count("\n")) == (code, 1), command
        assert said in err
    for lock, said in (
        (one.worker_lock("host-12-abc", "kernel"), "run 'one' is in use: host-12-abc searches in it: end it, and"),
        (one.root / ".promote.lock", "run 'one' is in use: a process trains full runs in it: end it, and"),
    ):
        with FileLock(lock):
            code, out, err = search("rm one --yes", capsys, monkeypatch)
        lock.unlink()
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert said in err
    assert names() == ["link", "one", "shared"]


def test_a_study_in_a_shared_storage_is_deleted_with_its_run_and_the_others_stay(
    postgres: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.new_database()
    monkeypatch.setattr(heartbeat, "LEASE_S", 1.0)
    for name in ("one", "two"):
        folder = make_run(RUNS / name, storage=parse_address(url))
        write_text(folder.facts, json.dumps({"storage": "postgresql"}))
    study = open_study(RunFolder(RUNS / "one", parse_address(url)))
    trial = study.ask()
    trial.set_user_attr(WORKER, "far-away-12-abc")
    ended = threading.Event()

    def beat() -> None:
        beats = 0
        while not ended.wait(0.1):
            beats += 1
            storage_of(study).set_trial_system_attr(trial_id(trial), heartbeat.BEAT, beats)

    thread = threading.Thread(target=beat)
    thread.start()
    code, out, err = search(f"rm one --yes --storage {url}", capsys, monkeypatch)
    ended.set()
    thread.join()
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "run 'one' is in use: far-away-12-abc searches in it" in err
    # Now it is silent.
    began = time.monotonic()
    code, out, err = search(f"rm one --yes --storage {url}", capsys, monkeypatch)
    assert time.monotonic() - began >= 1
    assert (code, err, names()) == (0, "", ["two"])
    assert "in runs/one, and its study in postgresql on 127.0.0.1" in out
    assert PASSWORD not in out
    assert optuna.get_all_study_names(storage_of(study)) == ["two"]
    # Where a deletion was cut off behind the study, or another machine has deleted it.
    optuna.delete_study(study_name="two", storage=storage_of(study))
    code, out, err = search(f"rm two --yes --storage {url}", capsys, monkeypatch)
    assert (code, err, names()) == (0, "", [])


@pytest.mark.parametrize(
    ("number", "said"), [(12, "12 bytes"), (3_400, "3.4 kB"), (12_340_000, "12.3 MB"), (2_500_000_000, "2.5 GB")]
)
def test_sizes_have_three_digits(number: int, said: str) -> None:
    assert size_in_words(number) == said
