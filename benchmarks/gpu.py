"""Measures what this project does on a GPU, in a quarter of an hour.

    python -m benchmarks gpu [DATA] [--minutes 10] [--out FILE.json]

DATA is anything that `search run --data` takes; without it, 32x32 images of random noise are made. Sections, the most
important first:

environment  versions, card, driver, processors; the kernels that batch norm goes to
tests        the tests that need CUDA
steps        seconds an epoch of 50,000 images and share of the card's peak: three networks, precisions, batch sizes,
             steps captured as a graph and not
around       evaluation of 10,000 images, writing a checkpoint, latency of one image in fp32
memory       how much memory 20 trials leave allocated on the card
packing      several processes on the card at once, with and without NVIDIA's MPS
search       `search run` of a few trials
long_run     the best trial of that search trained by its recipe, for as many epochs as there is time for

Each section has its own process and time limit. A section that does not fit into the remaining minutes is dropped.
FILE.json is written after each row. Without CUDA, the same sections run on the CPU with tiny networks and few images:
this rehearses the command, and none of its figures describes a GPU.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from rich.box import SIMPLE
from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmarks import nvidia_mps, timed
from benchmarks.timed import Outcome, Row, Section
from search.interrupt import end_on_sigterm
from search.terminal import console, draw, is_drawn_on, tell
from train_core.files import written_whole
from train_core.specs import Precision

REHEARSAL = "rehearsal on a CPU: no figure here is of a GPU"
SPARE_S = 2.0  # to write the last results and to clean up


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What sections need to know. The first section fills in what is not known before."""

    data: str | None  # as the user gave it; None: noise
    folder: Path  # for files of all sections
    cuda: bool  # False: a rehearsal
    source: str = ""  # of the images, as `search run --data` takes it
    precision: Precision = "fp32"  # in which the device trains, unless a section compares several


# Minimum and maximum seconds of each section: on a GPU, and in a rehearsal on one slow core.
TIMES = {
    "environment": ((10, 40), (6, 30)),
    "tests": ((25, 90), (12, 60)),
    "steps": ((35, 170), (8, 40)),
    "around": ((15, 45), (8, 30)),
    "memory": ((20, 60), (8, 30)),
    "packing": ((40, 140), (15, 60)),
    "search": ((40, 90), (12, 60)),
    "long_run": ((35, 3600), (10, 60)),
}
PREPARATION = Section(name="preparation", measure="benchmarks.gpu_sections:preparation", needs=5, limit=120)


def sections(*, cuda: bool) -> list[Section]:
    """All sections, the most important first."""
    found = []
    for name, times in TIMES.items():
        needs, limit = times[0 if cuda else 1]
        found.append(Section(name=name, measure=f"benchmarks.gpu_sections:{name}", needs=needs, limit=limit))
    return found


class Report:
    """All measurements: shown at once, and kept in a file."""

    def __init__(self, out: Path | None, head: dict[str, Any]) -> None:
        self._out = out
        self._content = {**head, "sections": {}}

    def measure(self, section: Section, bench: Bench, left: float) -> Outcome:
        """Measure a section in at most `left` seconds."""
        tell(f"{section.name} (at most {min(section.limit, max(left, 0)):.0f} s)")
        live = Live(console=console, auto_refresh=False, transient=True) if is_drawn_on() else None
        with live or nullcontext():

            def on_row(outcome: Outcome) -> None:
                self._write(section, outcome)
                if live and outcome.rows:
                    live.update(table(outcome.rows), refresh=True)

            outcome = timed.measured(section, bench, left, on_row)
        self._write(section, outcome)
        if outcome.rows:
            draw(table(outcome.rows))
        tell(f"  {outcome}")
        tell("")
        return outcome

    def _write(self, section: Section, outcome: Outcome) -> None:
        self._content["sections"][section.name] = outcome.as_json()
        if self._out:
            with written_whole(self._out) as file:
                file.write(json.dumps(self._content, indent=2).encode() + b"\n")


def table(rows: list[Row]) -> Table:
    """Rows, with the columns that any of them has."""
    drawn = Table(box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for name in columns:
        is_text = all(isinstance(row[name], str) for row in rows if name in row)
        drawn.add_column(name, justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(_shown(row.get(name, ""))) for name in columns))
    return drawn


def _shown(value: object) -> str:
    if isinstance(value, float):
        return timed.rounded(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    started = time.monotonic()
    given = parse(sys.argv[2:])
    end_on_sigterm()
    try:
        with tempfile.TemporaryDirectory(prefix="gpu-", ignore_cleanup_errors=True) as folder:
            bench = Bench(data=given.data, folder=Path(folder), cuda=not given.rehearse)
            try:
                failed = run(given, bench, started + 60 * given.minutes - SPARE_S)
            finally:
                nvidia_mps.stop(bench.folder / "mps")  # if its section was cut off
    except KeyboardInterrupt:
        kept = f": what was measured is in {given.out}" if given.out else ""
        _end(f"interrupted{kept}", 130)
    sys.exit(1 if failed else 0)


def parse(words: list[str]) -> argparse.Namespace:
    """The values of the command line. Ends the program if they are impossible."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", help="as `search run --data` takes it; none: noise")
    parser.add_argument("--minutes", type=float, default=10, help="that all of it may take at most (default: 10)")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    parser.add_argument("--sections", nargs="+", choices=list(TIMES), default=list(TIMES), metavar="SECTION")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, also where there is a GPU")
    given = parser.parse_args(words)
    if not given.minutes >= 1:
        parser.error(f"--minutes {given.minutes:g} is too short to begin: give at least 1")
    if given.out and not given.out.absolute().parent.is_dir():
        parser.error(f"--out {given.out}: there is no folder {given.out.parent}: make it first")
    if given.out and given.out.is_dir():
        parser.error(f"--out {given.out} is a folder: name a file in it")
    return given


def run(given: argparse.Namespace, bench: Bench, until: float) -> bool:
    """Measure the requested sections until this time of `time.monotonic`; returns whether any section failed."""
    begins_search = {"search", "long_run"} & set(given.sections)
    # The first optimizer that is made imports `torch._dynamo`, which takes seconds.
    timed.preload(["torch._dynamo", "benchmarks.gpu_sections", *(["search.full_runs"] if begins_search else [])])
    bench, known = prepare(bench, until)
    head = {"command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]), "minutes": given.minutes, **known}
    if not bench.cuda:
        head = {"note": REHEARSAL, **head}
        tell(REHEARSAL)
    tell(f"{known['device']}, torch {known['torch']}, {known['precision']}; {known['data']}")
    tell("")
    report = Report(given.out, head)
    outcomes = [
        report.measure(section, bench, until - time.monotonic())
        for section in sections(cuda=bench.cuda)
        if section.name in given.sections
    ]
    return any(outcome.state == "failed" for outcome in outcomes)


def prepare(bench: Bench, until: float) -> tuple[Bench, dict[str, Any]]:
    """What sections need to know, with the images and the device. Ends the program if there is none."""
    outcome = timed.measured(PREPARATION, bench, until - time.monotonic(), lambda _: None)
    if outcome.state != "measured":
        _end(outcome.why.partition(": ")[2] or outcome.why, 2)
    (known,) = outcome.rows
    return replace(bench, cuda=known.pop("cuda"), source=known.pop("source"), precision=known["precision"]), known


def _end(message: str, code: int) -> NoReturn:
    print(f"python -m benchmarks gpu: {message}", file=sys.stderr)
    sys.exit(code)
