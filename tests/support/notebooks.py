"""Notebooks without Jupyter: their code cells, run in order in a process, with `!` lines given to the shell."""

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from tests.support.forked import Forked

ROOT = Path(__file__).parents[2]

PRELUDE = '''
import os, re, subprocess, sys, types

os.setpgid(0, 0)  # to be killed together with what it starts

def display(what):
    print("displayed:", " ".join(str(what).split())[:200], flush=True)

sys.modules["IPython"] = types.ModuleType("IPython")
sys.modules["IPython.display"] = types.ModuleType("IPython.display")
sys.modules["IPython.display"].HTML = str

def shell(line):
    """As IPython does: what stands in braces is evaluated, and a command that fails is no error."""
    command = re.sub(r"[{](.+?)[}]", lambda found: str(eval(found[1], globals())), line)
    subprocess.run(command, shell=True)
'''


def read(path: Path) -> Any:
    """The notebook as JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path: Path) -> dict[str, str]:
    """The source of each code cell, by the cell's id, in order."""
    cells = [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    return {cell["id"]: "".join(cell["source"]) for cell in cells}


def as_python(source: str) -> str:
    """The source of a cell with its `!` lines as calls of `shell`."""
    return re.sub(r"^( *)!(.+)$", lambda found: f"{found[1]}shell({found[2]!r})", source, flags=re.M)


def run_all(path: Path, folder: Path, **parameters: str) -> Forked:
    """Run all cells in `folder`; the parameters replace those of the first cell. To be killed with `kill_all`."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    program = programs / "search"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m search "$@"\n')
    program.chmod(0o755)
    first, *others = map(as_python, code_cells(path).values())
    given = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    return Forked([], "\n".join([PRELUDE, first, given, *others]), folder, environment, module=None)


def kill_all(process: Forked) -> None:
    """Kill it and all that it has started, as when the machine is gone."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
