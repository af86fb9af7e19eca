"""What the commands answer to mistakes: one line on standard error, exit code 2, and nothing half-written."""

import errno
import logging
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from search import api, opening, storage
from search.checkpoints import save_checkpoint
from search.promotions import finished
from search.run_folder import RunRef, read_facts
from search.session import Placement
from search.spec import CONTROLS
from search.trials import TrialRecord
from search.version import version
from tests.support.commands import search
from tests.support.processes import with_few
from tests.support.runs import finished_run, promoted
from train_core import checkpoint


def write_images(folder: Path, names: list[str], side: int = 8) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, side, 3), 100, np.uint8)).save(path)


def make_odd_sources() -> None:
    """Folders and files that are no data sets, in the current folder."""
    write_images(Path("one-class"), ["train/cat/1.png", "train/cat/2.png"])
    (Path("empty") / "train" / "cat").mkdir(parents=True)
    (Path("empty") / "train" / "dog").mkdir()
    write_images(Path("mixed"), ["train/cat/1.png", "train/cat/2.png", "train/dog/1.png"])
    write_images(Path("mixed"), ["train/dog/2.png"])
    Path("mixed/train/dog/2.png").write_bytes(Path("mixed/train/dog/2.png").read_bytes()[:40])
    write_images(Path("corrupt"), ["train/cat/1.png", "train/cat/2.png", "train/dog/1.png"])
    (Path("corrupt") / "train" / "dog" / "2.png").write_bytes(b"\x89PNG no image")
    np.savez("arrays.npz", images=np.zeros((4, 8, 8, 3), np.uint8))
    Path("typo.toml").write_text('data = "digits"\nbudget = 20000\n[space]\noptimzer = "sgd"\n')
    lines = {"x_train": np.zeros((8, 1, 9, 3), np.uint8), "y_train": np.arange(8) % 2}
    np.savez("lines.npz", **lines)  # type: ignore[arg-type]  # numpy takes arrays by any name
    Path("latin.toml").write_bytes(b'data = "digits"  # \xe9')
    np.savez("none.npz")
    Path("cut.toml").write_text('data = "lines.npz"\nbudget = 20000\n[space]\nmix = ["none", "cutmix"]\n')
    Path("mixes.toml").write_text('data = "digits"\nbudget = 20000\n[space]\nmix = "cutmx"\n')
    Path("a-file").touch()


MISTAKES = [
    ("run digits --budget many", "search: --budget 'many' is not a positive whole number: write it as 5e6"),
    ("run digits --budget -5", "search: --budget '-5' is not a positive whole number"),
    ("run digits --budget 0", "budget '0' is not a positive whole number"),
    ("run digits --max-madds 1k", "less than the smallest network of this space, [8,8] x [1,1] basic, kernels 1 and 1"),
    ("run digits --max-madds few", "--max-madds 'few' is not a positive whole number: write it as 5e6"),
    ("run digits --max-madds 1k", "takes: 47,184 multiply-adds; give at least --max-madds 47184"),
    ("run digits --storage elsewhere", "--storage cannot be read as an address: give postgresql+psycopg://"),
    ("run digits --storage sqlite:///x.db", "a run keeps its SQLite database in its folder: leave out --storage"),
    ("run digits --ray-address auto", "--ray-address places workers on several machines: give a --storage"),
    ("run digits --ray-address auto --device cuda:1", "--device cuda:1 is a device of one machine, and --ray-address"),
    ("run digits --ray-address auto --device cuda:1", "places workers on several: give --device cuda"),
    ("storage serve", "no storage to serve: give --storage, or set SEARCH_STORAGE"),
    ("storage serve --storage grpc://here", "--storage is a gRPC proxy without host or port"),
    ("promote --workers 0", "Invalid value for '--workers'"),
    ("run digits --max-memory 100", "takes: 58,983 bytes of memory; give at least --max-memory 58983"),
    ("run digits --max-memory lots", "--max-memory 'lots' is no size: write it as 100kB (100,000 bytes)"),
    (
        "run digits --max-file 250kB --format pt2",
        "the size of pt2 files is not known before they are written: set",
    ),
    (
        "run digits --max-memory 9MB --format pt2",
        "max_memory: what memory pt2 files take is not known: set format to",
    ),
    ("run digits --max-latency 20", "--max-latency '20' is no time: write it as 20ms, 0.5s or 800us"),
    ("run digits --target arduino-nano", "unknown target 'arduino-nano': did you mean 'arduino-nano-33-ble'?"),
    ("run digits --target none.toml", "target none.toml cannot be read, because there is no such file: check the path"),
    ("run digits --budget 500", "the smallest network of this space, [8,8] x [1,1] basic"),
    ("run digits --budget 500", "takes: 514 parameters; give at least --budget 514"),
    ("run digits --trials 0", "Invalid value for '--trials'"),
    ("run digits --epochs 0", "Invalid value for '--epochs'"),
    ("run digits --hours -1", "Invalid value for '--hours'"),
    ("run digits --precision no-such-precision", "search: --precision: should be 'auto', 'fp32', "),
    ("run digits --sampler no-such-sampler", "search: --sampler: should be 'tpe'"),
    ("run digits --device no-such-device", "search: --device 'no-such-device' cannot be used here"),
    ("run digits --device meta", "device 'meta' cannot be used here (neither cpu, cuda nor mps)"),
    ("run digits --seed 99999999999999999999", "search: --seed: should be less than 2147483648"),
    ("run digits --budget 1e15", "search: --budget: should be less than or equal to 10000000000"),
    ("run digits --name ../elsewhere", "a run cannot be called"),
    ("run digits --name=-x", "a run cannot be called '-x'"),
    ("run digits --name=", "a run cannot be called ''"),
    ("run digits --name .hidden", "give --name"),
    ("run digit", "unknown study 'digit' (did you mean 'digits'?)"),
    ("run typo.toml", "unknown key 'space.optimzer' (did you mean 'optimizer'?)"),
    (
        "run cut.toml",
        "space.mix: mix = 'cutmix' cuts images, and these have only 1x9 pixels: use mix = 'mixup' or 'none'",
    ),
    (
        "run mixes.toml",
        "space.mix: should be 'none', 'mixup', 'cutmix' or 'ricap', not 'cutmx' (did you mean 'cutmix'?)",
    ),
    ("run digits --data no-such-data", "unknown data set 'no-such-data'"),
    ("run digits --data one-class", "one-class"),
    ("run digits --data empty", "empty"),
    ("run digits --data mixed", "dog/2.png"),
    ("run digits --size large", "search: --size: 'large' is no size: give one as in 64 or 96x64 (width x height)"),
    ("run digits --size 0", "search: --size: should be greater than or equal to 1, not 0"),
    ("run digits --size=-3", "search: --size: '-3' is no size: give one as in 64"),
    ("run digits --size 64x", "'64x' is no size: give one as in 64 or 96x64 (width x height), or auto\n"),
    ("run latin.toml", "study file latin.toml is not text in UTF-8: save it as such\n"),
    ("run digits --trials few", "Invalid value for '--trials': give a whole number (see search run --help)\n"),
    ("run digits --trials 0", "Invalid value for '--trials': give 1 or more (see search run --help)\n"),
    ("run digits --data none.npz", "none.npz holds no arrays: which is which cannot be told: name them x_train"),
    ("count digits --size 5000x64", "search: --size: should be less than or equal to 4096, not 5000"),
    ("run digits --fit squash", "search: --fit: should be 'crop', "),
    ("run digits --images few", "search: --images: should be 'auto', "),
    ("run digits --score best", "search: --score: should be 'auto', "),
    ("run digits --data mixed --group session", "has no table with a column 'session'"),
    ("run digits --data corrupt", "dog/2.png"),
    ("run digits --data arrays.npz", "x_train"),
    ("run digits --data missing.npz", "missing.npz"),
    ("run digits --runs a-file", "run folder a-file/digits-20k cannot be written"),
    ("run digits --trails 5", "--trails"),
    ("rum digits", "No such command 'rum'"),
    ("promote", "no run in runs: start one with `search run`"),
    ("promote nowhere", "no run 'nowhere' in runs"),
    ("promote --top 0", "Invalid value for '--top'"),
    ("promote --seeds 0", "Invalid value for '--seeds'"),
    ("run digits --control luck", "search: --control 'luck' is unknown: give one of random, one-epoch"),
    ("fidelity nowhere", "no run 'nowhere' in runs"),
    ("fidelity --trials -1", "Invalid value for '--trials'"),
    ("report", "no run in runs"),
    ("export", "no run in runs: start one with `search run`"),
    ("export nowhere", "no run 'nowhere' in runs"),
    ("export --format no-such-format", "search: --format 'no-such-format' is unknown: give one of onnx, "),
    ("export --trial -1", "Invalid value for '--trial'"),
    (
        "predict model.pth 1.png",
        "model.pth is not a model file: give one that ends in one of .onnx, .int8.onnx, .pt2, .safetensors",
    ),
    ("predict missing.onnx 1.png", "cannot read the model missing.onnx (No such file or directory): check the path"),
    ("predict a-file 1.png", "a-file is not a model file"),
    ("dashboard", "no run in runs: start one with `search run`"),
    ("dashboard --port 65536", "Invalid value for '--port'"),
    ("count digits --max-latency 20ms", "needs networks that are timed, which `search run` does: leave it out here"),
    ("count digits --budget 12", "is less than the smallest network"),
]


@pytest.mark.parametrize(("command", "said"), MISTAKES)
def test_a_mistake_is_answered_in_one_line_and_leaves_nothing(
    command: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_odd_sources()
    before = sorted(Path().rglob("*"))
    code, out, err = search(command, capsys, monkeypatch)
    assert code == 2
    assert out == ""
    assert said in err
    assert err.startswith("search: ")
    assert err.count("\n") == 1
    assert sorted(path for path in Path().rglob("*") if "cache" not in path.parts) == before


def test_no_network_says_where_to_put_the_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    code, _, err = search("run cifar10", capsys, monkeypatch)
    assert code == 1  # the network may come back: nothing has to be changed
    assert err.count("\n") == 1
    assert "cifar-10-python.tar.gz" in err
    assert "cache" in err


def test_promoting_before_anything_is_finished(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run("empty", 0)
    code, _, err = search("promote empty", capsys, monkeypatch)
    assert (code, err.count("\n")) == (2, 1)
    assert "run 'empty' has no complete trial yet: continue it with `search run`" in err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("promote --ladder 3x4 --top 2", "--ladder says how many trials and epochs: leave out --top and --epochs"),
        ("promote --ladder 3x4,5x8", "ladder '3x4,5x8': 5x8 after 3x4 must have more epochs, and no more trials"),
        ("promote --ladder three", "ladder 'three': 'three' is no rung: write trials x epochs, as in 8x60,3x200"),
        ("fidelity --epochs 2", "a full run of 2 epochs is no longer than a short run of 6: give a larger --epochs"),
        ("fidelity", "4 trials are wanted, but 2 are complete: continue the search"),
        ("fidelity --trials 3", "--trials 3 is too few to compare ranks: give at least --trials 4, or 0"),
        ("fidelity --trials 0", "has fewer than 4 trials with full runs of one length: give --trials 12"),
    ],
)
def test_mistakes_about_longer_runs(
    command: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run("few", 2)
    code, out, err = search(command, capsys, monkeypatch)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_a_port_or_host_that_cannot_be_listened_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run("few", 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = search(f"dashboard few --port {port}", capsys, monkeypatch)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"127.0.0.1 port {port} cannot be listened on (Address already in use): give another --host or --port" in err
    code, out, err = search("dashboard few --host 192.0.2.1", capsys, monkeypatch)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "192.0.2.1 cannot be listened on (" in err


def test_full_runs_with_and_without_sharpness_aware_steps_do_not_mix(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(finished_run("few", 2), 0, asam=0.5)
    for flags, asam in (("--top 1", "0"), ("--top 1 --asam 1", "1"), ("--ladder 2x3,1x5 --asam 0.25", "0.25")):
        code, out, err = search(f"promote few {flags}", capsys, monkeypatch)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"the full runs of 'few' were trained with asam 0.5, not {asam}: give --asam 0.5, or delete" in err
    code, out, err = search("promote few --asam -1", capsys, monkeypatch)
    assert (code, err.count("\n")) == (2, 1)
    assert "Invalid value for '--asam'" in err


def test_sharpness_aware_steps_are_refused_where_a_run_trains_in_fp16(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run("few", 2)
    half = TrialRecord.recipe.fget  # type: ignore[attr-defined]  # a property
    monkeypatch.setattr(
        TrialRecord, "recipe", property(lambda trial: half(trial).model_copy(update={"precision": "fp16"}))
    )
    code, out, err = search("promote few --top 1 --asam 0.5", capsys, monkeypatch)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "asam does not work in fp16, in which 'few' trains: give --asam 0, or search with --precision bf16" in err


def test_a_promotion_with_sharpness_aware_steps_says_so_and_fidelity_goes_on_with_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished_run("few", 4, epochs=1, data=str(with_few(Path.cwd()) / "few.npz"))
    code, out, err = search("promote few --top 1 --epochs 2 --asam 0.5", capsys, monkeypatch)
    assert (code, err) == (0, "")
    assert "few: the top 1 for 2 epochs, once each, asam 0.5, on CPU" in out
    assert re.search(r"best on validation: .* 2 epochs, asam 0\.5", " ".join(out.split()))
    code, out, err = search("fidelity few --epochs 2 --trials 9", capsys, monkeypatch)
    assert (code, err) == (0, "")
    assert "few: 4 trials of every score (not 9: no more are complete) for 2 epochs, asam 0.5, on CPU" in out
    assert {run.recipe.asam for run in finished(folder)} == {0.5}
    facts = read_facts(folder)
    assert facts is not None
    assert facts.promoted[0] == "search promote few --ladder 1x2 --asam 0.5"


def test_a_control_has_a_name_and_random_draws_of_its_own_and_the_seed_of_the_search() -> None:
    for name, changes in CONTROLS.items():
        spec, folder = opening._named("digits", {"seed": 3}, RunRef(), Placement(), name)
        assert folder.name.endswith(f"-{name}")
        assert (spec.control, spec.seed) == (name, 3)
        assert spec.portfolio is changes["portfolio"]
    assert opening._named("digits", {}, RunRef(), Placement(), None)[0].control == ""


def test_promoting_more_than_there_are(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    finished_run("few", 2)
    code, _, err = search("promote --top 3", capsys, monkeypatch)
    assert (code, err.count("\n")) == (2, 1)
    assert "3 trials are wanted, but 2 are complete: continue the search with `search run`, or ask for at most 2" in err
    assert not Path("runs/few/promoted").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--budget 30k", "run 'mine' was made with budget 20,000, not 30,000: give the same, or another --name"),
        ("--epochs 9", "made with epochs 6, not 9"),
        ("--max-madds 1M", "run 'mine' was made without max_madds, not with max_madds 1,000,000: give the same, or"),
        ("--data other.npz", "made with data fingerprint"),
    ],
)
def test_continuing_with_something_else_is_refused_and_changes_nothing(
    flags: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run("mine", 1)
    generator = np.random.default_rng(0)
    x = generator.integers(0, 255, (40, 8, 8, 3), np.uint8)
    np.savez("other.npz", x_train=x, y_train=np.arange(40) % 2)
    spec = Path("runs/mine/study.toml").read_text()
    code, _, err = search(f"run digits --name mine {flags}", capsys, monkeypatch)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err
    assert Path("runs/mine/study.toml").read_text() == spec


def test_help_answers_in_under_four_tenths_of_a_second() -> None:
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        answer = subprocess.run([sys.executable, "-m", "search", "--help"], capture_output=True, text=True, check=True)
        taken.append(time.perf_counter() - started)
    assert "promote" in answer.stdout
    assert min(taken) < 0.4


@pytest.mark.parametrize("asks", ["-h", "run -h", "promote --help"])
def test_help_has_a_short_name_too(
    asks: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = search(asks, capsys, monkeypatch)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: ")


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("predict", "Missing argument 'model'. (see search predict --help)"),
        (
            "storage serve --bogus",
            "No such option: --bogus (Possible options: --host) (see search storage serve --help)",
        ),
        ("--bogus", "No such option: --bogus (see search --help)"),
        ('run digits --data ""', "--data is empty: give the name of a data set, a folder, a table, an archive or"),
    ],
)
def test_the_line_of_a_mistake_names_the_help_of_its_command(
    command: str, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = search(command, capsys, monkeypatch)
    assert code == 2
    assert err.startswith(f"search: {line}")
    assert err.count("\n") == 1


def test_the_version_is_that_of_the_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert search("--version", capsys, monkeypatch) == (0, f"search {version()}\n", "")


def test_count_lists_the_published_networks_with_their_sizes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = search("count cifar10 --budget 5e6", capsys, monkeypatch)
    assert code == 0
    assert "4,975,978 parameters" in next(line for line in out.splitlines() if line.startswith("A4"))
    assert "223 parameters" in next(line for line in out.splitlines() if line.startswith("smallest"))


def test_count_needs_no_download_of_a_named_data_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "load", None)  # a call fails
    Path("pets.toml").write_text('data = "oxford-pets"\nbudget = 50_000\n[reading]\nsize = "96x48"\n')
    for command, said in (
        ("cifar10-small --data stl10", "stl10 (96x96 RGB, 10 classes)"),
        ("cifar10-small --data fashion-mnist", "fashion-mnist (28x28 grey, 10 classes)"),
        ("pets.toml", "oxford-pets (96x48 RGB, 37 classes)"),
    ):
        code, out, _ = search(f"count {command}", capsys, monkeypatch)
        assert code == 0
        assert out.startswith(f"{command.split()[0]}: {said}, budget ")


def test_a_full_disk_is_waited_for_before_a_checkpoint_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def full(state: object, path: Path) -> None:
        tries.append(path)
        if len(tries) < 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "save", full)
    monkeypatch.setattr(storage, "QUIET_S", 0.1)
    with caplog.at_level(logging.WARNING, logger="search"):
        save_checkpoint(None, tmp_path / "trial.pt", stop=lambda: False)  # type: ignore[arg-type]  # nothing looks at it
    assert len(tries) == 4
    assert [record.getMessage() for record in caplog.records] == [
        f"the disk of {tmp_path} does not answer (No space left on device): trying again for 10 minutes",
        f"the disk of {tmp_path} answers again",
    ]
    tries.clear()
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(None, tmp_path / "trial.pt", stop=lambda: True)  # type: ignore[arg-type]  # as above


def test_a_disk_that_has_become_read_only_ends_the_command_at_once_with_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "runs/mine/trial.pt")

    monkeypatch.setattr(checkpoint, "save", read_only)
    monkeypatch.setattr(api, "report", lambda *_, **__: save_checkpoint(None, Path("trial.pt"), lambda: False))  # type: ignore[arg-type]  # as above
    assert search("report", capsys, monkeypatch) == (
        1,
        "",
        "search: runs/mine/trial.pt: Read-only file system: make room or fix the cause and run the same command to "
        "continue\n",
    )


def test_the_proxy_listens_on_this_machine_alone_unless_told_otherwise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[str] = []
    monkeypatch.setattr(api, "serve", lambda address, host, port: served.append(host))
    monkeypatch.setenv("SEARCH_STORAGE", "postgresql://db/studies")
    assert search("storage serve", capsys, monkeypatch)[0] == 0
    assert search("storage serve --host 0.0.0.0", capsys, monkeypatch)[0] == 0
    assert served == ["127.0.0.1", "0.0.0.0"]


def test_a_proxy_that_others_can_reach_comes_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = []
    monkeypatch.setattr(api, "serve", lambda address, host, port: served.append((str(address), host, port)))
    url = "postgresql://me:pw3@db/studies"
    for host in ("127.0.0.1", "0.0.0.0"):
        api.serve_storage(url, host=host, port=13000)
    assert served == [("postgresql on db/studies", host, 13000) for host in ("127.0.0.1", "0.0.0.0")]
    assert capsys.readouterr().out == (
        "serving postgresql on db/studies at grpc://127.0.0.1:13000; Ctrl-C ends it\n"
        "serving postgresql on db/studies at grpc://0.0.0.0:13000; Ctrl-C ends it\n"
        "warning: anyone who can reach this port can read, change and delete all studies: use a private network\n"
    )


@pytest.mark.parametrize("command", ["run", "count"])
def test_the_help_names_each_shipped_study_that_is_no_report(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = search(f"{command} --help", capsys, monkeypatch)
    files = (Path(__file__).parents[2] / "studies").glob("*.toml")
    own = {path.stem for path in files if "\n[published" not in path.read_text(encoding="utf-8")}
    assert "digits" in own
    named = out.partition("A shipped study")[2].partition("toml file")[0]
    assert own <= set(re.findall(r"[\w-]+", named))
