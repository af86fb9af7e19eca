"""Every command that a page shows is run: whole, but on a few tiny images and for an epoch or two."""

import argparse
import re
import runpy
import shlex
import shutil
import sys
import timeit
import tomllib
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from search import dashboard, watch
from tests.support.commands import search
from tests.support.documents import DOCS, PAGES, ROOT, commands, text_of

OURS = "search(?= [a-z])"
OTHERS = r"search(?= --)|python3?(?= )|pip|optuna-dashboard(?= )|scripts/\w+|sbatch|kubectl|apt-get|ssh|ray(?= )"

NOT_RUN_HERE = {
    "search run --budget 5e6 --trials 200 --workers 16 --ray-address auto": "needs a Ray cluster of several machines",
    "search run --budget 5e6 --trials 200 --device cuda:1": "needs two GPUs",
    "search storage serve": "serves until it is stopped: tests/search/test_shared_storage.py",
    "search storage serve --host 10.0.0.1": "the same, and needs that address",
    "search watch --host 0.0.0.0 --port 8080": "serves until it is stopped: tests/search/test_watch.py",
    "search auto --budget 5e6 --hours 8 --log tensorboard": "needs TensorBoard: tests/search/test_loggers.py",
    "search promote --asam 0.5": "full runs of one run are all alike: tests/search/test_cli.py",
    "search errors --files": "these images come from no files: tests/search/test_mistakes.py",
    **dict.fromkeys(
        ("search rm RUN...", "search rm night", "search rm 'luck-*' --yes"),
        "deletes what the others read: tests/search/test_removal.py",
    ),
    **{
        command: "needs several runs: tests/search/test_groups.py"
        for command in commands(DOCS / "terminal.md")
        if command.startswith(("search compare 'tpe", "search compare tpe"))
    },
    **dict.fromkeys(
        ("search archive --open cifar10-5M.zip", "search archive --open cifar10-5M.zip --name theirs"),
        "needs an archive: tests/search/test_archive.py",
    ),
    "search --help": "run by tests/search/test_cli.py",
    "search --install-completion": "changes the shell's files: tests/search/test_inspection.py",
    **{
        command: "run by tests/test_docs.py, with the photos of the page"
        for command in commands(DOCS / "your-images.md")
        if "photo" in command
    },
    "scripts/demo": "makes an environment; its commands are run here, as other pages show them, too",
    "scripts/check": "runs this test",
    "scripts/check -k space": "runs tests",
    "scripts/check -m long": "runs this test",
    "python -m pytest -m long tests/search/test_published.py": "runs tests, which are run without it, too",
    "python -m sphinx -W -b html docs site": "run by tests/test_docs.py",
    **dict.fromkeys(
        commands(DOCS / "space.md", "python(?= -m pytest)"), "run by tests/test_docs.py, in a changed copy"
    ),
    **dict.fromkeys(
        (
            "search promote --front 5",
            "search export --front",
            "search promote cifar10-5M-front --front 5",
            "search export cifar10-5M-front --front",
        ),
        "needs a front of two networks: tests/search/test_front.py",
    ),
    "search run --data photos --size 32 --max-file 250kB --max-memory 100kB --format tflite-header": "needs an extra",
    **dict.fromkeys(
        ("search report NAME.zip", "search report cifar10-5M.zip"), "needs an archive: tests/search/test_archive.py"
    ),
    "sbatch --array=1-8 docs/clusters/slurm.sh": "needs Slurm: tests/test_clusters.py runs the script",
    "sbatch --array=1-32 --time=8:00:00 docs/clusters/slurm.sh --budget 2M": "needs Slurm, too",
    **dict.fromkeys(
        ("sbatch examples/slurm.sh", "sbatch --time=12:00:00 examples/slurm.sh --budget 2M"),
        "needs Slurm: tests/test_examples.py runs the script",
    ),
    "kubectl apply -f docs/clusters/kubernetes.yaml": "needs Kubernetes: tests/test_clusters.py reads the file",
    "kubectl logs --follow --prefix --max-log-requests 8 --selector app=search": "needs Kubernetes",
    "kubectl delete job search": "needs Kubernetes",
    "ssh -L 8080:127.0.0.1:8080 machine": "needs another machine",
    "ray start": "begins a cluster",
    "ray start --head": "the same",
    "pip install 'ray[default]'": "of Ray's own: its dashboard",
    "apt-get install chromium": "changes the machine",
    "apt-get install postgresql": "changes the machine",
}
"""The commands that are only parsed, or not even that, and why."""

RUN = "images-20k"
NAMES = {
    **dict.fromkeys(("cifar10-5M", "digits-20k", "night", "luck", "RUN"), RUN),
    "[RUN]": "",
    "[STUDY]": "",
    "[SOURCE]": "images.npz",
    "REPORT": "ganz-adya",
    "[ROW...]": "B2",
    "MODEL": "model.safetensors",
    "IMAGE...": "cat.jpg",
    "model.onnx": "model.safetensors",
    "moved/photos": "images.npz",
    "runs/cifar10-5M/exported/trial-0042-epochs-200-seed-0.onnx": "model.safetensors",
    "12": "2",
    "8x60,3x200": "3x2,1x3",
}
"""What stands in place of names and numbers shown."""

STUDIES = {"my-study.toml": "digits"}  # the same, by another name

SHORT = {
    "run": "--data images.npz --budget 20k --trials 2 --epochs 1 --workers 1",
    "auto": "--data images.npz --budget 20k",
    "promote": "--workers 1",
    "fidelity": "--trials 4 --epochs 2",
    "export": "--format safetensors",
    "reproduce": "--data images.npz --epochs 1",
    "dashboard": "--no-browser --port 0",
}
"""What is written behind the flags shown, and wins over them."""


def shown(program: str) -> list[str]:
    """The commands of a program in all pages, each once."""
    return list(dict.fromkeys(command for page in PAGES for command in commands(page, program)))


def shrunk(command: str) -> str:
    """What is run in place of a command of ours; it may be the same for several."""
    verb, *words = command.split()[1:]
    if verb == "auto":
        words = re.sub("--(hours|minutes|until) [0-9:]+", "--minutes 1", " ".join(words)).split()
    words = [*filter(None, (NAMES.get(word, word) for word in words)), *SHORT.get(verb, "").split()]
    if verb in ("run", "auto"):  # all that are of one study go on with one run
        study = "cifar10" if words[0].startswith("--") else words[0]
        name = STUDIES.get(study, study) + ("-night" if verb == "auto" else "-front" if "--front" in words else "")
        words += ["--name", name]
    elif verb in ("promote", "fidelity", "export", "report", "show", "errors"):
        words += ["--top 1 --epochs 2"] if verb == "promote" and "--ladder" not in words else []
        words += [RUN] if RUN not in words else []
    return " ".join([verb, *words])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The current folder, with a few images as files and as arrays, and a study file."""
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, images in (("train", 80), ("test", 20)):
        arrays[f"x_{split}"] = generator.integers(256, size=(images, 8, 8, 3), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(images) % 4
    np.savez("images.npz", **arrays)
    Path("photos").mkdir()
    for name in ("cat.jpg", "dog.png", "photos/1.jpg", "photos/2.jpg"):
        Image.fromarray(arrays["x_test"][0]).save(name)
    shutil.copy(ROOT / "studies" / "digits.toml", "my-study.toml")
    return tmp_path


def test_what_is_not_run_is_shown_somewhere() -> None:
    assert set(NOT_RUN_HERE) <= {*shown(OURS), *shown(OTHERS)}


@pytest.mark.long
def test_the_lines_of_python_and_then_each_command_of_ours(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (python,) = re.findall(r"(?:^(?: {4}.*)?\n)+(?=`run` takes)", text_of(DOCS / "python.md"), re.M)
    for long, short in (
        ("trials=10", "data='images.npz', trials=4, epochs=1"),
        ("epochs=20", "epochs=2"),
        ("export()", "export(format='safetensors')"),
    ):
        assert python.count(long) == 1
        python = python.replace(long, short)
    found: dict[str, Any] = {}
    exec(f"if True:\n{python}", found)
    assert found["result"].best.test_accuracy is not None
    (model,) = Path(f"runs/{RUN}/exported").glob("*.safetensors")
    shutil.copy(model, "model.safetensors")
    for server in (dashboard._Server, watch._Server):
        monkeypatch.setattr(server, "serve_forever", lambda self: None)
    capsys.readouterr()

    # Named alone, they are spoken of: what they need is not there.
    spoken_of = {"search auto", "search predict", "search reproduce", "search compare", "search data"}
    to_run = [command for command in shown(OURS) if command not in {*NOT_RUN_HERE, *spoken_of}]
    for command in dict.fromkeys(map(shrunk, to_run)):
        code, out, err = search(command, capsys, monkeypatch)
        assert (command, code, err) == (command, 0, "")
        assert out


def test_the_commands_of_the_demo_are_among_those_shown() -> None:
    demo = re.findall(r"\.venv/bin/(search .+)", text_of(ROOT / "scripts" / "demo"))
    assert demo == ["search run digits", "search promote digits-20k"]
    assert demo[0] in shown(OURS)
    assert demo[1].removesuffix(" digits-20k") in shown(OURS)


@pytest.mark.parametrize("command", [command for command in shown(OTHERS) if command not in NOT_RUN_HERE])
def test_each_command_of_others(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installing is checked by the name of the extra, a benchmark by its flags; the rest is run."""
    program, *arguments = shlex.split(command)
    if program == "pip":
        (what,) = arguments[1:]
        folder, _, extra = what.removesuffix("]").partition("[")
        extras = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
        assert (arguments[0], folder) == ("install", ".")
        assert not extra or set(extra.split(",")) <= extras.keys()
    elif program == "optuna-dashboard":
        (dashboards,) = entry_points(group="console_scripts", name=program)
        parse(dashboards.load(), [program, *arguments], monkeypatch)
    elif arguments[:2] == ["-m", "timeit"]:
        timeit.main(["--number", "1", "--repeat", "1", *arguments[2:]])
        assert "1 loop, best of 1" in capsys.readouterr().out
    elif arguments[0] == "-m":
        assert arguments[1].startswith("benchmarks")
        if len(arguments) > 2:  # named alone, it is spoken of
            module = import_module("benchmarks.__main__" if arguments[1] == "benchmarks" else arguments[1])
            parse(module.main, arguments[1:], monkeypatch)
    else:
        assert command == "python docs/study_keys.py"
        page = Path("docs/study-files.md")
        page.parent.mkdir()
        shutil.copy(DOCS / "study_keys.py", page.parent)
        runpy.run_path("docs/study_keys.py", run_name="__main__")
        assert text_of(page) == text_of(DOCS / page.name)


def parse(main: Callable[[], Any], argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a program read its command line, and do nothing else."""
    whole = argparse.ArgumentParser.parse_args

    class ReadError(Exception):
        """It has."""

    def parse_only(self: argparse.ArgumentParser, *words: list[str]) -> None:
        whole(self, *words)
        raise ReadError

    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    with pytest.raises(ReadError):
        main()
