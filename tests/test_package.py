"""The package as a user installs it: not editable, run from any folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed package and nothing of the checkout."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--target", target, ROOT], check=True)
    return target


def python(code: str, installed: Path, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, env=environment, cwd=cwd, check=True, capture_output=True, text=True).stdout


def test_every_room_is_in_the_package(installed: Path, tmp_path: Path) -> None:
    code = "import search, space, train_core; print(search.__file__, space.__file__, train_core.__file__, sep='\\n')"
    assert all(line.startswith(str(installed)) for line in python(code, installed, tmp_path).splitlines())


def test_the_shipped_studies_are_found_from_any_folder(installed: Path, tmp_path: Path) -> None:
    code = "import sys; from search.cli import main; sys.argv[1:] = ['count', 'cifar10']; main()"
    out = python(code, installed, tmp_path)
    assert "4,975,978 parameters" in out
    assert {path.name for path in (installed / "search" / "studies").iterdir()} == {
        path.name for path in (ROOT / "studies").iterdir()
    }


@pytest.mark.parametrize(
    ("name", "content"), [("space.py", "x = 1\n"), ("space.py", None), ("train_core/__init__.py", "")]
)
def test_a_file_beside_the_user_that_hides_a_module_is_named_in_one_line(
    name: str, content: str | None, tmp_path: Path
) -> None:
    """`None`: an edited copy of the tool's own, which would be used without a word."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text((ROOT / "space.py").read_text() if content is None else content)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for arguments, code in ((["-m", "search", "count", "digits"], 2), (["-c", "from search import run"], 1)):
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        hidden = Path(name).parts[0].removesuffix(".py")
        said = f"{file} hides the tool's own {hidden}: rename it, or run `search` in another folder"
        assert done.returncode == code
        assert done.stderr.splitlines()[-1] in {f"search: {said}", f"ImportError: {said}"}
        assert code == 1 or len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("given", "found"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
@pytest.mark.parametrize("package", ["search", "train_core"])
def test_the_threads_of_torch_sleep_while_they_wait(package: str, given: dict[str, str], found: str) -> None:
    """Unless the user says otherwise; torch reads it when it is loaded, so it must be set before."""
    code = f"import os, sys, {package}; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert said == f"{found} False\n"
