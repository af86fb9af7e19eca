"""What the documents tell people to type is what the commands take; what they name is there."""

import ast
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from PIL import Image

from search.mistakes import Mistakes
from search.records import Comparison, Group, GroupComparison, Measure, Run, Status, Trial
from search.report import write_report
from search.run_folder import write_text
from search.spec import load_study
from tests.support.commands import search
from tests.support.documents import DOCS, PAGES, ROOT, assert_accepted, blocks, commands, text_of
from tests.support.processes import python
from tests.support.runs import make_run
from tests.support.transcripts import PROMOTE, RUN
from train_core.census import Census
from train_core.datasets import DATASETS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_is_one_the_command_line_takes(page: Path) -> None:
    for command in commands(page):
        # Raises, or fails its own assertion, on a mistake.
        assert_accepted(shlex.split(command.replace("...", "").replace("TRIAL", "0")))


def test_the_readme_shows_the_owners_command_and_the_whole_loop() -> None:
    shown = commands(ROOT / "README.md")
    assert "search run --budget 5e6 --trials 200" in shown
    assert "search promote --top 3" in shown
    assert "    optuna-dashboard sqlite:///runs/cifar10-5M/study.db\n" in text_of(ROOT / "README.md")


def test_the_readme_and_the_first_page_begin_alike() -> None:
    """The same first paragraph and command; and the same commands under the headings that both have."""
    readme, index = (text_of(page) for page in (ROOT / "README.md", DOCS / "index.md"))
    assert readme.partition("\n![")[0] == index.partition("\n![")[0]
    for heading in ("## Quick start: digits in two minutes", "## CIFAR-10 overnight"):
        one, other = (
            re.findall(r"^ {4}(?:search|pip) .*$", page.partition(heading)[2], re.M)[:3] for page in (readme, index)
        )
        assert one == other
        assert len(one) == 3


def test_the_page_of_named_data_sets_says_what_their_records_say() -> None:
    rows = re.findall(
        r"^\| `([\w-]+)` \|[^|]+\| (\d+)x(\d+) (RGB|grey) \| (\d+) \|[^|]+\| (same class|other) \|$",
        text_of(DOCS / "data-sets.md"),
        re.MULTILINE,
    )
    assert rows == [
        (
            name,
            *map(str, each.size),
            "RGB" if each.in_channels == 3 else "grey",
            str(each.num_classes),
            "same class" if each.mirrored_is_same else "other",
        )
        for name, each in DATASETS.items()
    ]


@pytest.mark.parametrize("script", ["scripts/demo", "scripts/check", ".ci/run"])
def test_the_scripts_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)


def test_nothing_shown_has_gone() -> None:
    """Every file that a page names is there."""
    for page in PAGES:
        for name in re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|toml|md))`", text_of(page)):
            assert (ROOT / name).exists() or (ROOT / "search" / name).exists() or name.startswith("runs/"), (page, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_and_module_that_is_named_is_there(page: Path) -> None:
    for file, test in re.findall(r"(tests/[\w/]+\.py)(?:::(test_\w+))?", text_of(page)):
        assert not test or f"\ndef {test}(" in text_of(ROOT / file), (file, test)
    for module in re.findall(r"python -m (benchmarks[.\w]*)", text_of(page)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_the_pages_that_the_readme_links_to_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)", text_of(ROOT / "README.md")):
        assert (ROOT / target).exists(), target


def strings_of(source: Path) -> Iterator[str]:
    """The strings in a module except docstrings, with a zero byte in place of each value that is filled in."""
    nodes = list(ast.walk(ast.parse(text_of(source))))
    docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if node in docstrings:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub("%[sdg]", "\0", node.value)


def test_every_message_that_is_explained_is_one_that_the_code_prints() -> None:
    """The headings of the page are pieces of messages; three dots stand for what is filled in."""
    printed = "\n".join(
        text for room in ("search", "train_core") for path in (ROOT / room).rglob("*.py") for text in strings_of(path)
    )
    explained = re.findall(r"^### (.+)$", text_of(DOCS / "troubleshooting.md"), re.MULTILINE)
    assert len(explained) >= 25
    for heading in explained:
        assert heading == f"`{heading.strip('`')}`"
        pieces = map(re.escape, heading.strip("`").split("..."))
        assert re.search("[^\n]*?\0[^\n]*?".join(pieces), printed), heading


def test_every_promise_names_what_holds_it() -> None:
    promises = re.split(r"^## \d\. ", text_of(DOCS / "promises.md"), flags=re.MULTILINE)[1:]
    assert len(promises) == 8
    assert all("`tests/" in promise for promise in promises)


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """A link between pages that leads nowhere is one."""
    build = shlex.split("-m sphinx -q -W --keep-going -b html -d trees")
    command = [sys.executable, *build, str(DOCS), "site"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    for page in DOCS.glob("*.md"):
        assert (tmp_path / "site" / page.name).with_suffix(".html").exists()


def alike(text: str) -> str:
    """What is the same in two outputs of one command: not the numbers, nor where lines end."""
    return re.sub(r"\b(sgd|adamw?|muon)\b", "O", re.sub(r"[\d.,]+", "N", " ".join(text.split())))


@pytest.mark.parametrize(
    ("page", "begins", "printed"),
    [(DOCS / "index.md", "runs/digits-20k: new study", RUN), (ROOT / "README.md", "Full runs, the longest", PROMOTE)],
    ids=["run", "promote"],
)
def test_what_a_page_says_that_a_command_prints_is_what_it_prints(page: Path, begins: str, printed: str) -> None:
    (block,) = re.findall(rf"^( {{4}}{begins}.*\n(?: {{4}}.*\n)*)", text_of(page), re.M)
    for line in block.splitlines():
        if not line.startswith("    device"):
            assert alike(line.removesuffix("...")) in alike(printed), line


def test_the_page_of_all_keys_is_what_the_specs_say() -> None:
    keys = runpy.run_path(str(DOCS / "study_keys.py"))
    assert text_of(DOCS / "study-files.md") == keys["page"](), "run: python docs/study_keys.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_study_file_shown_can_be_read(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "toml"):
        file = tmp_path / "my-study.toml"
        # A part of a study file, perhaps: what has no default and is not shown is put before it.
        file.write_text(tomli_w.dumps({"data": "digits", "budget": 20_000, **tomllib.loads(block)}))
        assert load_study(str(file), {})


def test_every_key_of_json_is_named() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text_of(DOCS / "terminal.md"), re.M))
    for row, kind in (("list", Run), ("show", Trial), ("errors", Mistakes), ("compare", Comparison), ("data", Census)):
        assert set(kind.__dataclass_fields__) <= set(re.findall(r"`(\w+)`", rows[row])), row
    (groups,) = re.findall(r"^\| `compare` of groups \| (.*) \|$", text_of(DOCS / "terminal.md"), re.M)
    fields = {name for kind in (GroupComparison, Group, Measure) for name in kind.__dataclass_fields__}
    assert fields <= set(re.findall(r"`(\w+)`", groups))
    assert Status.__dataclass_fields__.keys() - Run.__dataclass_fields__.keys() <= set(
        re.findall(r"`(\w+)`", rows["status"])
    )


def test_the_page_about_the_report_has_its_sections_in_their_order(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.5])
    make_run(tmp_path / "run-random", [], sampler="random")
    write_text(folder.exported(folder.promotion(0, 5, 0), "onnx"), "a model")
    page = text_of(write_report(folder))
    sections = re.findall("^## (.+)$", text_of(DOCS / "report.md"), flags=re.MULTILINE)
    headings = re.findall("<h2[^>]*>(.+?)</h2>", page)
    assert {"Its recipe", "Contents"} <= set(headings)  # which need no explanation
    assert sections == ["The answer", *(each for each in headings if each not in {"Its recipe", "Contents"})]


def changed(text: str, diff: Iterator[str]) -> str:
    """The text with a change as pages show it: lines that stay, that go (-) and that come (+)."""
    lines = list(diff)
    before = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
    assert text.count(before) == 1, before
    return text.replace(before, "".join(f"{line[1:]}\n" for line in lines if line[0] in " +"))


WALKTHROUGHS = {
    "Adding a dimension of the recipe": """
draws = [space.suggest(trial, space.Space(beta2=(0.99, 0.999))) for trial in trials]
print(sorted({space.recipe(draw, epochs=1, seed=0, precision="fp32").beta2 for draw in draws}))
""",
    "Adding a dimension of the network": """
pools = space.Space(head_pool=("mean", "max"))
networks = [space.network(space.suggest(trial, pools), pools, 50_000, TASK) for trial in trials]
for network in networks:
    check(network)
print(sorted({network.head_pool for network in networks}))
""",
    "Adding a block": """
single = space.Space(block="single")
networks = [space.network(space.suggest(trial, single), single, 50_000, TASK) for trial in trials]
for network in networks:
    check(network)
print(sorted({network.block for network in networks}))
""",
    "Adding an optimizer": """
network = ResNetSpec(widths=(8, 16), blocks=(1, 1))
draw = space.suggest(trials[0], space.Space(optimizer="adamax", adamax_lr=2e-3))
recipe = space.recipe(draw, epochs=1, seed=0, precision="fp32")
torch.manual_seed(0)
model = ResNet(network)
optimizer = make_optimizer(model, recipe)
images, labels = torch.randn(16, 3, 16, 16), torch.arange(16) % 10
losses = []
for _ in range(20):
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    losses.append(loss.item())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
assert losses == sorted(losses, reverse=True), losses
print([type(optimizer).__name__])
""",
}
"""What is done with the changed code, for each section of docs/space.md that shows changes."""

BEFORE = """
import random
import space, torch
from train_core.models import ResNet
from train_core.optim import make_optimizer
from train_core.specs import ResNetSpec, num_madds, num_params

TASK = space.Task()
trials = [space.RandomTrial(random.Random(seed), space.Space()) for seed in range(12)]


def check(network):
    model, counts = ResNet(network).eval(), []

    def count(module, inputs, output):
        kernel = getattr(module, "kernel_size", (1, 1))
        counts.append(output[0].numel() * inputs[0].shape[1] * kernel[0] * kernel[1])

    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 10)
    assert num_params(network) == sum(each.numel() for each in model.parameters()) <= 50_000
    assert num_madds(network, 16) == sum(counts)
"""


AFTER = """
import runpy
runpy.run_path("docs/study_keys.py", run_name="__main__")
"""


def copy_of_the_code(folder: Path) -> None:
    for name in ("train_core", "search", "studies", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("space.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)


def extended(folder: Path, section: str) -> tuple[str, list[str]]:
    """Apply the changes of a section to a copy of the code; returns its two `python` commands, the second in words."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## )", text_of(DOCS / "space.md"), re.M | re.S)
    for diff in re.findall(r"^```diff\n(.*?)^```$", text, re.M | re.S):
        lines = iter(diff.splitlines())
        file = folder / next(lines).removeprefix("--- ")
        file.write_text(changed(file.read_text(encoding="utf-8"), lines), encoding="utf-8")
    keys, tests = re.findall(r"^    python (.*)$", text, re.M)
    return keys, shlex.split(tests)


def run_in(folder: Path, *arguments: str) -> str:
    process = python([*arguments], folder)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    return out


@pytest.mark.parametrize(
    ("section", "printed"),
    [*zip(WALKTHROUGHS, ("[0.99, 0.999]", "['max', 'mean']", "['single']", "['Adamax']"), strict=True)],
    ids=["recipe", "network", "block", "optimizer"],
)
def test_the_code_is_extended_as_the_page_says(tmp_path: Path, section: str, printed: str) -> None:
    """The changes of the section are applied to a copy of the code, which does what it could not do before."""
    copy_of_the_code(tmp_path)
    keys, _ = extended(tmp_path, section)
    assert keys == "docs/study_keys.py"
    before = text_of(tmp_path / "docs" / "study-files.md")
    assert run_in(tmp_path, "-c", BEFORE + WALKTHROUGHS[section] + AFTER) == f"{printed}\n"
    assert text_of(tmp_path / "docs" / "study-files.md") != before


@pytest.mark.long
def test_the_extended_code_passes_the_tests_that_the_page_names(tmp_path: Path) -> None:
    """The changes of all sections together; in that copy, each test file that one of them names is run once."""
    copy_of_the_code(tmp_path)
    named = [extended(tmp_path, section)[1] for section in WALKTHROUGHS]
    assert all(command[:2] == ["-m", "pytest"] for command in named)
    files = list(dict.fromkeys(file for command in named for file in command[2:]))
    for file in map(tmp_path.joinpath, files):  # a tenth of the examples: all are drawn from the code as it is
        file.write_text(re.sub(r"(max_examples=\d+)0\b", r"\1", text_of(file)), encoding="utf-8")
    run_in(tmp_path, "docs/study_keys.py")
    # The first test of test_names.py imports a copy for each case, and a test of time needs an idle machine.
    left_out = "not when_the_code_is_imported and not microseconds"
    out = run_in(tmp_path, "-m", "pytest", *files, "-q", "-p", "no:cacheprovider", "-k", left_out)
    assert " passed" in out
    assert "single: conv-norm, add" in text_of(tmp_path / "docs" / "study-files.md")


SPOKEN_OF = [f"search {verb}" for verb in ("data", "run", "promote", "fidelity", "export", "predict")]


def write_photos_as_people_have_them(root: Path) -> None:
    """Thirty photos of two classes: of many sizes and formats, sideways, in folders inside the class, and a note."""
    generator = np.random.default_rng(0)
    for label in ("cat", "dog"):
        for i in range(15):
            photo = root / label / ("from my phone" if i % 3 == 1 else ".") / f"IMG_{i:04d}.jpg"
            photo.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(generator.integers(256, size=(90, 120 + i, 3), dtype=np.uint8))
            exif = Image.Exif()
            exif[0x0112] = 6 if i % 5 == 0 else 1
            if i % 4 == 3:
                picture.putalpha(200)
                picture.save(photo.with_suffix(".png"))
            else:
                picture.save(photo, exif=exif)
    (root / "cat" / "notes.txt").write_text("my cats")


@pytest.mark.long
def test_photos_become_a_model_within_the_limits_as_the_page_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = DOCS / "your-images.md"
    write_photos_as_people_have_them(Path("photos"))
    (study,) = blocks(page, "toml")
    Path("photos.toml").write_text(study)
    short = {"run": " --trials 2 --epochs 1", "promote": " --top 1 --epochs 1"}
    made = Path("runs/photos-300k-20M-madds")
    shutil.copy("photos/cat/IMG_0000.jpg", "some-photo.jpg")
    for command in commands(page):
        verb = command.split()[1]
        if command in SPOKEN_OF:
            continue
        if verb == "predict":
            (model,) = made.glob("exported/*.onnx")
            command = command.replace("MODEL", model.stem)
        code, out, err = search(command.removeprefix("search ") + short.get(verb, ""), capsys, monkeypatch)
        assert (command, code, err) == (command, 0, "")
        assert verb != "run" or ("64x64 RGB, 2 classes" in out or "96x64 RGB, 2 classes" in out)
        assert verb != "run" or "left out: 1 file not in an image format" in out
    assert out.startswith("some-photo.jpg  ")
    assert "(resized from 90x120)" in out  # it lies on its side in the file
    (result,) = (json.loads(path.read_text()) for path in made.glob("promoted/*/result.json"))
    assert result["parameters"] <= 300_000
    assert result["multiply_adds"] <= 20_000_000
    assert result["test_images"] == 4
    assert result["latency_s"] > 0
    assert "Milliseconds" in text_of(made / "report.html")
