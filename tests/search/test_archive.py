"""Archives: what is packed and what is not, and that an opened one has the numbers of the run."""

import json
import re
import shutil
import sqlite3
import zipfile
from pathlib import Path

import pytest

from search import identity, storage
from search.archive import MEMBER, TABLES, _Hidden, open_archive, write_archive
from search.comparison import compare
from search.errors import RunError
from search.identity import open_study
from search.inspection import Reader, rows_of, trials_of
from search.mistakes import mistakes_of
from search.report import write_report
from search.results import headline, progress, read_results
from search.run_folder import RunFolder, read_facts, write_text
from search.storage import parse_address
from search.trials import WORKER
from tests.support.commands import search
from tests.support.postgres import PASSWORD, QUOTED, Server
from tests.support.predicted import drawn, promoted_with, store_batch
from tests.support.runs import make_run, study_spec
from train_core.predictions import Predictions

pytestmark = pytest.mark.usefixtures("in_lines")


@pytest.fixture
def folder(made_once: Path, tmp_path: Path) -> RunFolder:
    """A run with trials of all kinds, full runs, predictions, a batch, a checkpoint, a card and paths of here."""
    made = RunFolder(Path(shutil.copytree(made_once, tmp_path / "runs" / "one")))
    photos = tmp_path / "my photos" / "cats"
    spec = study_spec(trials=6, epochs=3).model_copy(update={"data": str(photos)})
    write_text(made.study_file, spec.as_toml())
    data = {"source": str(photos), "validation_images": 200, "size": [32, 32]}
    command = f"search promote one --data '{photos}' --top 2"
    facts = {"versions": {"budget-search": "0.1.0"}, "device": "a device", "data": data, "promoted": [command]}
    write_text(made.facts, json.dumps(facts))
    study = open_study(made)
    study.set_user_attr("made", f"in {tmp_path} by /opt/tools/python")
    study.ask().set_user_attr(WORKER, "my-laptop-12-abc")
    for number, seed in ((0, 0), (5, 0), (5, 1)):
        what = drawn(200, 3, seed=number + seed, files=[f"val/{i}.png" for i in range(200)])
        run = promoted_with(made, number, what, drawn(90, 3, digest="test"), seed=seed)
    store_batch(made, run, ["a", "b", "c"])
    (made.promotion(5, 5, 0).root / "checkpoint.pt").write_bytes(b"weights")
    write_text(made.root / "exported" / "model.onnx.md", f"# A card\n\nTrained on {photos}, on /dev/sda/disk.")
    (made.root / "exported" / "model.onnx").write_bytes(b"weights")
    write_report(made)
    return made


def members(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_an_archive_has_the_results_and_no_images_checkpoints_models_or_paths(
    folder: RunFolder, tmp_path: Path
) -> None:
    packed = members(write_archive(folder, tmp_path / "one.zip"))
    full_runs = ["trial-0000-epochs-5-seed-0", "trial-0005-epochs-5-seed-0", "trial-0005-epochs-5-seed-1"]
    promoted = ("predictions-test.npz", "predictions-val.npz", "result.json")
    assert list(packed) == [
        "one/README.txt",
        "one/exported/model.onnx.md",
        *(f"one/promoted/{run}/{name}" for run in full_runs for name in promoted),
        "one/report.html",
        "one/run.json",
        "one/study.db",
        "one/study.toml",
        *(f"one/tables/{name}.{kind}" for name in ("curves", "full_runs", "trials") for kind in ("csv", "json")),
    ]
    for name, content in packed.items():
        for hidden in (str(tmp_path), str(Path.home()), "my photos", "/opt/tools", "/dev/sda", "my-laptop"):
            assert hidden.encode() not in content, (name, hidden)
    assert packed["one/exported/model.onnx.md"] == b"# A card\n\nTrained on cats, on disk."
    assert b'data = "cats"\n' in packed["one/study.toml"]
    assert json.loads(packed["one/run.json"])["promoted"] == ["search promote one --data 'cats' --top 2"]
    assert b"worker-" in packed["one/study.db"]
    predictions = Predictions.read(_file(tmp_path, packed[f"one/promoted/{full_runs[0]}/predictions-val.npz"]))
    assert (len(predictions), len(predictions.pictures), predictions.files[0]) == (200, 0, "val/0.png")
    assert b"data:image" not in packed["one/report.html"]


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "a-file.npz"
    path.write_bytes(content)
    return path


def numbers_of(report: Path, end: str = "How to reproduce") -> list[str]:
    """All numbers of a report, in their order, but those of its charts and pictures."""
    page = re.sub(r"<script.*?</script>", "", report.read_text(encoding="utf-8"), flags=re.DOTALL)
    words = re.sub(r"<[^>]*>", " ", page.partition(f"{end}</h2>")[0])
    return re.findall(r"\d[\d.,]*", words)


def test_an_opened_archive_is_the_run_and_its_report_has_the_same_numbers(
    folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = search("archive one", capsys, monkeypatch)
    assert (code, out, err) == (0, "one.zip\n", "")
    code, out, err = search("archive --open one.zip --name again", capsys, monkeypatch)
    assert (code, out, err) == (0, "runs/again\n", "")
    again = RunFolder(Path("runs/again"))
    before, after = read_results(folder), read_results(again)
    assert headline(after) == headline(before).replace(str(tmp_path), "")
    assert progress(after) == progress(before)
    assert [run.model_dump() for run in after.promotions] == [run.model_dump() for run in before.promotions]
    for table in TABLES.values():
        one, two = (rows_of(run, trials_of(run), table) for run in (Reader(folder), Reader(again)))
        assert one == two, table
    written = numbers_of(again.report)
    assert len(written) > 20
    assert numbers_of(write_report(again)) == written
    mistakes = "What the best network gets wrong"  # from here on, the page of the run has pictures
    assert numbers_of(again.report, mistakes) == numbers_of(folder.report, mistakes)
    assert mistakes_of(again, None).accuracy == mistakes_of(folder, None).accuracy
    assert compare(Reader(folder), Reader(again)).paired is not None
    for command in ("report again", "show 5 again", "trials again", "errors again", "compare one again", "list"):
        code, out, err = search(command, capsys, monkeypatch)
        assert (code, err) == (0, ""), command
    assert "archived" in out
    assert Reader(again).status().state == "archived"
    # What was running is not.
    assert Reader(again).status().running == ()


def test_the_report_of_an_archive_is_written_beside_it(
    folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "published"
    packed.mkdir()
    write_archive(folder, packed / "one.zip")
    with zipfile.ZipFile(packed / "one.zip") as archive:
        archive.extract("one/report.html", tmp_path)
    before = sorted(Path.cwd().rglob("*"))
    code, out, err = search(f"report {packed / 'one.zip'}", capsys, monkeypatch)
    assert (code, out, err) == (0, f"{packed / 'one.html'}\n", "")
    assert numbers_of(packed / "one.html") == numbers_of(tmp_path / "one" / "report.html")
    assert {*Path.cwd().rglob("*")} - {*before} == {packed / "one.html"}
    code, out, err = search("report nothing.zip", capsys, monkeypatch)
    assert (code, out, err) == (2, "", "search: there is no file nothing.zip: check the path\n")
    Path("damaged.zip").write_bytes(b"damaged")
    code, out, err = search("report damaged.zip", capsys, monkeypatch)
    assert code == 2
    assert err.startswith("search: damaged.zip is no archive that `search archive` has written")


def test_an_archive_is_not_trained_on(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_archive(write_archive(folder), Path("elsewhere"))
    said = (
        "run 'one' is archived: it can be read, but it has no checkpoints and no models; start a new search with "
        "`search run"
    )
    for command in ("promote one", "fidelity one", "run digits --name one", "export one --format safetensors"):
        code, out, err = search(f"{command} --runs elsewhere", capsys, monkeypatch)
        assert (code, out, err.count("\n")) == (2, "", 1), command
        assert said in err


def test_what_is_no_archive_is_refused_in_one_line_and_leaves_nothing(
    folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = members(write_archive(folder, tmp_path / "good.zip"))
    damaged = {
        "outside": good | {"one/../../evil": b""},
        "absolute": good | {"/tmp/evil": b""},
        "two": good | {"two/study.toml": b""},
        "more": good | {"one/promoted/trial-0/checkpoint.pt": b""},
        "less": {name: content for name, content in good.items() if name != "one/study.db"},
        "facts": good | {"one/run.json": b"{}"},
        "empty": {},
    }
    for name, content in damaged.items():
        with zipfile.ZipFile(f"{name}.zip", "w") as archive:
            for member, text in content.items():
                archive.writestr(member, text)
    Path("text.zip").write_text("no archive")
    Path("cut.zip").write_bytes((tmp_path / "good.zip").read_bytes()[:-100])
    before = sorted(tmp_path.rglob("*"))
    refused = {
        **{
            f"archive --open {name}.zip --name new": f"{name}.zip is no archive that `search archive` has"
            for name in damaged
        },
        "archive --open text.zip": "text.zip is no archive that `search archive` has written, or it is damaged",
        "archive --open cut.zip": "cut.zip is no archive that `search archive` has written, or it is damaged",
        "archive --open missing.zip": "there is no file missing.zip: check the path",
        "archive --open good.zip": "there is a run 'one' in runs already: give another --name",
        "archive --open good.zip --name a/b": "a run cannot be called 'a/b': give --name with letters",
        "archive --open good.zip one": "--open reads an archive, and does not write one: leave out the run and --out",
        "archive one --name two": "--name is for a run that is opened with --open: leave it out",
        "archive one --out one.tar": "--out one.tar: an archive is a .zip file: give such a name, in a folder that is",
        "archive one --out there/one.zip": "--out there/one.zip: an archive is a .zip file",
        "archive nowhere": "no run 'nowhere' in runs: there are one",
    }
    for command, said in refused.items():
        code, out, err = search(command, capsys, monkeypatch)
        assert (code, out, err.count("\n")) == (2, "", 1), command
        assert said in err, command
    assert sorted(tmp_path.rglob("*")) == before


def test_a_study_in_a_shared_storage_is_packed_as_a_database_without_its_password(
    postgres: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(identity, "connect", storage.connect)  # SQLite and PostgreSQL, as outside of tests
    url = postgres.new_database()
    shared = make_run(tmp_path / "runs" / "one", [0.5, 0.7], storage=parse_address(url))
    write_text(shared.facts, json.dumps({"storage": "postgresql"}))
    packed = members(write_archive(shared))
    for content in packed.values():
        assert PASSWORD.encode() not in content
        assert QUOTED.encode() not in content
    with sqlite3.connect(_file(tmp_path, packed["one/study.db"])) as database:
        assert database.execute("SELECT COUNT(*) FROM trials").fetchone() == (2,)
    opened = open_archive(Path("one.zip"), Path("elsewhere"))
    facts = read_facts(opened)
    assert facts is not None
    assert facts.storage == "sqlite"
    assert [trial.score for trial in trials_of(Reader(opened))] == [trial.score for trial in trials_of(Reader(shared))]
    with pytest.raises(RunError, match="already"):
        open_archive(Path("one.zip"), Path("elsewhere"))


def test_only_absolute_paths_are_taken_out(folder: RunFolder) -> None:
    hidden = _Hidden(folder, "digits")
    same = (
        "[8,16] x [1,1] basic, 3x3/2 stem; 2/3 of 1,391; </p><br/> a/b/c runs/one/study.db ~/photos/cats",
        "https://example.org/a/b N/A and/or 10/12 /tmp",
    )
    for text in same:
        assert hidden.text(text) == text
    assert hidden.text("no file '/srv/data/x.png', see (/var/log/syslog)") == "no file 'x.png', see (syslog)"
    assert hidden.text(r"at C:\Users\me\photos and D:/data/cats") == "at photos and cats"
    assert hidden.cleaned({"a": ["/srv/data/x.png", 3, None]}) == {"a": ["x.png", 3, None]}


def test_names_of_members_are_plain() -> None:
    assert MEMBER.fullmatch("one/promoted/trial-0005-epochs-5-seed-1-refit/result.json")
    assert not MEMBER.fullmatch("one/promoted/../result.json")
    assert not MEMBER.fullmatch("../study.toml")
