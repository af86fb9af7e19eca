"""Kills searches, promotions and reports at random moments, repeatedly, and compares the results at the end.

    python -m benchmarks.soak                 until 200 kills, two rounds at a time
    python -m benchmarks.soak --kills 20

A round gives `search run`, `search promote` and `search report` as a user would, each until it ends by itself: whenever
it is killed, the same command is given again. Then the scores of all trials, and the weights and test accuracies of the
promoted networks, must equal those of an undisturbed round, to the last bit, and no trial may be lost, doubled or left
running. Prints the state at each kill and one line of JSON; exits with 1 if anything differs.
"""

import argparse
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from optuna.trial import TrialState

from search.identity import open_study
from search.promotions import finished
from search.run_folder import RunFolder
from search.trials import finished_trials, records
from train_core import checkpoint

COMMANDS = ("run digits --trials 8 --epochs 8", "promote --top 2 --epochs 30", "report")
KILLS_OF_A_REPORT = 3  # at most, in a round
AIMED = 0.5  # share of the kills that wait for a file to be half written, ...
AIM_S = 3.0  # ... for so long at most


def give(
    command: str,
    folder: Path,
    kill_after: float | None = None,
    *,
    aims: bool = False,
    leftovers: Set["HalfWritten"] = frozenset(),
) -> int:
    """The exit code of a command in `folder`; -9 if it was killed.

    It is killed after so many seconds; with `aims`, as soon as, after them, a file is half written that is not one of
    the `leftovers`.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SEARCH_CACHE": str(folder / "cache"), "SEARCH_STORAGE": ""}
    with (folder / "output").open("a") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "search", *command.split()],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        with suppress(subprocess.TimeoutExpired):
            return process.wait(kill_after)
        until = time.monotonic() + AIM_S
        while aims and process.poll() is None and time.monotonic() < until and not half_written(folder) - leftovers:
            pass
        process.kill()
        return process.wait()


HalfWritten = tuple[str, int]  # a file's name, and when it was written last


def half_written(folder: Path) -> set[HalfWritten]:
    """The files that are being written or were never completed: a database's journal, and temporary names."""
    found = set()
    for pattern in ("*-journal", "./.*.*", "trials/.*.*", "promoted/*/.*.*"):
        for path in run_folder(folder).root.glob(pattern):
            with suppress(FileNotFoundError):  # it is complete by now
                if path.suffix != ".lock" and path.is_file():
                    found.add((path.name, path.stat().st_mtime_ns))
    return found


def run_folder(folder: Path) -> RunFolder:
    """Where the round's search writes."""
    return RunFolder(folder / "runs" / "digits-20k")


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that must be the same, however often the round was disturbed."""
    run = run_folder(folder)
    study = open_study(run)
    trials = sorted(finished_trials(study), key=lambda trial: trial.first_attempt)
    weights = []
    for result in finished(run):
        path = run.promotion(result.trial, result.recipe.epochs, result.seed).checkpoint
        state = checkpoint.load(path, torch.device("cpu"))
        digest = hashlib.sha256()
        for tensor in state.final_model.state_dict().values():
            digest.update(tensor.contiguous().numpy().tobytes())
        weights.append(digest.hexdigest())
    return {
        # A second attempt has another number, but the place of the first.
        "trials": [(trial.outcome, trial.score, list(trial.curve.values())) for trial in trials],
        "weights": sorted(weights),
        "test": sorted(result.test_accuracy or 0.0 for result in finished(run)),
        "unfinished": [trial.number for trial in study.trials if not trial.state.is_finished()],
        "doubled": len(trials) - len({trial.first_attempt for trial in trials}),
        "report": run.report.exists(),
        "left over": sorted(path.name for path in (run.root / "trials").glob("*")),
    }


def where(folder: Path, command: str, leftovers: Set[HalfWritten]) -> str:
    """What the kill interrupted, judged by the files that are not `leftovers` of earlier kills."""
    run = run_folder(folder)
    if half := half_written(folder) - leftovers:
        name, _ = max(half, key=lambda each: each[1])
        what = "database" if name.endswith("-journal") else name.lstrip(".").rpartition(".")[0]
        return f"{command}: writing {re.sub('trial-.*', 'a checkpoint', what)}"
    if command != "run" or not run.database.exists():
        return f"{command}: elsewhere"
    running = records(open_study(run), TrialState.RUNNING)
    if not running:
        return "run: between two trials"
    if not running[0].is_decided:
        return "run: asking"
    return f"run: {'in a later' if running[0].curve else 'in the first'} epoch"


def disturbed(folder: Path, seconds: dict[str, float], generator: random.Random, kills: int) -> Counter[str]:
    """One round with as many kills as occur, at most `kills`; returns where they occurred."""
    fell: Counter[str] = Counter()
    leftovers: set[HalfWritten] = set()  # of earlier kills: they stay, because the tool must cope with them
    folder.mkdir()
    for command in COMMANDS:
        code, most = -9, KILLS_OF_A_REPORT if command == "report" else kills
        while code == -9:
            patience = generator.uniform(0.7, 1.0) * seconds["report"]  # starting takes most of its time
            if command != "report":
                patience += generator.uniform(0.0, 6.0)
            aims = generator.random() < AIMED
            code = give(
                command, folder, patience if most and fell.total() < kills else None, aims=aims, leftovers=leftovers
            )
            if code == -9:
                most -= 1
                fell[where(folder, command.split()[0], leftovers)] += 1
                leftovers |= half_written(folder)
        if code:
            raise RuntimeError(f"`search {command}` ended with {code}: see {folder / 'output'}")
    return fell


def soak(root: Path, kills: int, rounds_at_a_time: int, seed: int = 0) -> dict[str, Any]:
    """Rounds until there were `kills`; returns what they lost."""
    plain = root / "plain"
    plain.mkdir()
    seconds = {}
    for command in COMMANDS:
        started = time.monotonic()
        assert give(command, plain) == 0, (plain / "output").read_text()
        seconds[command] = (time.monotonic() - started) * (1.5 if rounds_at_a_time > 1 else 1.0)
    expected = outcome(plain)
    fell: Counter[str] = Counter()
    differences, resumed = [], 0
    started, rounds = time.monotonic(), 0
    with ThreadPoolExecutor(rounds_at_a_time) as pool:
        while fell.total() < kills:
            left = -(-(kills - fell.total()) // rounds_at_a_time)
            numbers = range(rounds, rounds + rounds_at_a_time)
            rounds += rounds_at_a_time
            made = {
                number: pool.submit(disturbed, root / f"round-{number}", seconds, random.Random(seed + number), left)
                for number in numbers
            }
            for number, future in made.items():
                fell += future.result()
                found = outcome(root / f"round-{number}")
                resumed += run_folder(root / f"round-{number}").log.read_text().count("goes on after epoch")
                wrong = [key for key in expected if found[key] != expected[key]]
                differences += [(number, key, expected[key], found[key]) for key in wrong]
            summary = f"{fell.total()} kills in {rounds} rounds, {len(differences)} differences"
            print(summary, file=sys.stderr, flush=True)
    return {
        "kills": fell.total(),
        "rounds": rounds,
        "seconds": round(time.monotonic() - started),
        "trials that went on from a checkpoint": resumed,
        "fell": dict(fell.most_common()),
        "differences": differences,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--at-a-time", type=int, default=2, help="rounds")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as root:
        found = soak(Path(root), given.kills, given.at_a_time)
        print(json.dumps(found))
    sys.exit(1 if found["differences"] else 0)


if __name__ == "__main__":
    main()
