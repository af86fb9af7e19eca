"""Many processes on one study, some of them killed: no trial may be lost or doubled, and the total has to be exact.

    python -m benchmarks.many_workers                       8 processes, 1,000 trials, a PostgreSQL server of its own
    python -m benchmarks.many_workers --kill-every 3        and every 3 s one of them is killed and started again
    python -m benchmarks.many_workers --storage grpc        through `search storage serve`
    python -m benchmarks.many_workers --storage sqlite      in the run folder
    python -m benchmarks.many_workers --apart               each process has a run folder of its own, as on machines
                                                            that share the storage alone: no locks, only beats

The search is the real one, from the study file to the storage; training is replaced by a learning curve that takes
`--epoch-s` per epoch. Prints one line of JSON; exits with 1 if anything is wrong.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import TrialState

from search import study as studies
from search.data_shape import NAMED_SHAPES
from search.drawing import Setting
from search.heartbeat import Worker
from search.identity import join, open_study
from search.run_folder import RunFolder
from search.spec import StudySpec, load_study
from search.storage import Address, parse_address
from search.trials import DUPLICATE, REPEATED, SURPLUS, finished_trials, records
from tests.support.postgres import server
from tests.support.processes import proxy
from tests.support.trainers import FakeTrainer, Silent
from train_core.specs import ResNetSpec, TrainSpec, num_params

EPOCHS = 5
LEASE_S = 3.0  # of the workers here, because nothing takes long


def lucky_score(network: ResNetSpec, recipe: TrainSpec) -> float:
    """A simulated accuracy: larger networks are better, and each network with its recipe has its own random part."""
    luck = random.Random(f"{network} {recipe}").random()
    return 0.5 + 0.2 * min(1.0, num_params(network) / 5e6) + 0.2 * luck


KNOWN = 12  # networks


def spec_of(trials: int) -> StudySpec:
    """The shipped study for CIFAR-10, with some of its known networks, so that few trials include draws as well."""
    spec = load_study("cifar10", {"trials": trials, "epochs": EPOCHS})
    return spec.model_copy(update={"baselines": dict(list(spec.baselines.items())[:KNOWN])})


def work(folder: RunFolder, trials: int, epoch_s: float) -> None:
    """The work of one process."""
    spec, shape = spec_of(trials), NAMED_SHAPES["cifar10"]
    folder.create()
    study, *_ = join(folder, spec, shape)
    with Worker(folder, study) as worker:
        studies.run(Setting(study, spec, shape, "fp32", worker), FakeTrainer(lucky_score, epoch_s=epoch_s), Silent())


def verdict(study: optuna.Study) -> dict[str, Any]:
    """The outcome of the trials; `lost` and `doubled` should be 0, `ended` the total."""
    trials, counted = records(study), finished_trials(study)
    baselines = [trial.baseline for trial in counted if trial.baseline is not None]
    drawn = Counter((trial.network, trial.recipe) for trial in counted if trial.is_decided)
    by_first_attempt = Counter(trial.first_attempt for trial in counted)
    reasons = [trial.reason or "" for trial in trials if trial.optuna.state == TrialState.FAIL]
    # A trial that was interrupted while it was drawn had nothing to lose: another draw has its place.
    cut_off = {trial.first_attempt for trial in trials if trial.was_interrupted and trial.retry_draw}
    settled = {trial.first_attempt for trial in counted}
    counts = (*by_first_attempt.values(), *drawn.values(), *Counter(baselines).values())
    return {
        "ended": len(counted),
        "lost": len(cut_off - settled),
        "doubled": sum(number - 1 for number in counts),
        "baselines": len(baselines),
        "left running or waiting": sum(trial.is_running or trial.is_waiting for trial in trials),
        "cut off": sum(trial.was_interrupted for trial in trials),
        "tried again": len(cut_off),
        "surplus": reasons.count(SURPLUS),
        "duplicates": sum(reason.startswith(DUPLICATE) for reason in reasons),
        "enqueued twice": sum(reason.startswith(REPEATED) for reason in reasons),
        "failed": sum(trial.outcome == "failed" for trial in trials),
    }


def is_right(found: dict[str, Any], spec: StudySpec) -> bool:
    """Whether nothing was lost or doubled."""
    nothing = all(found[key] == 0 for key in ("lost", "doubled", "left running or waiting", "failed"))
    return nothing and found["ended"] == spec.trials


@contextmanager
def storage_of(kind: str) -> Iterator[Address | None]:
    """A new storage of this kind."""
    with ExitStack() as stack:
        if kind == "sqlite":
            yield None
            return
        if kind not in {"postgresql", "grpc"}:
            yield parse_address(kind)
            return
        url = stack.enter_context(server()).new_database()
        if kind == "grpc":
            url = stack.enter_context(proxy(url))[0]
        yield parse_address(url)


def command_of(folder: RunFolder, trials: int, epoch_s: float) -> list[str]:
    """The command of a process that works on the study."""
    command = [sys.executable, "-m", "benchmarks.many_workers", "--work", str(folder.root)]
    return [*command, "--trials", str(trials), "--epoch-s", str(epoch_s)]


def environment_of(folder: RunFolder) -> dict[str, str]:
    """The environment of such a process."""
    return {
        **os.environ,
        "SEARCH_STORAGE": folder.storage.url if folder.storage else "",
        "SEARCH_LEASE_S": str(LEASE_S),
        "OMP_NUM_THREADS": "1",
    }


def start_anew(folder: RunFolder, trials: int, epoch_s: float) -> subprocess.Popen[bytes]:
    """Start such a process."""
    command = command_of(folder, trials, epoch_s)
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], env=environment_of(folder))


class Process(Protocol):
    """The methods that are used of a process."""

    def poll(self) -> int | None:
        """Return the exit code if it has ended."""

    def send_signal(self, number: int, /) -> None:
        """Send it a signal."""

    def wait(self) -> int:
        """Wait for it to end."""


def run(
    address: Address | None,
    runs: Path,
    *,
    processes: int,
    trials: int,
    epoch_s: float,
    kill_every: float,
    apart: bool,
    most_kills: float = float("inf"),
    start: Callable[[RunFolder, int, float], Process] = start_anew,
) -> dict[str, Any]:
    """Let the processes work until all have ended; some are killed, and started again."""
    generator = random.Random(0)
    folders = [RunFolder(runs / (str(i) if apart else "all") / "study", address) for i in range(processes)]
    started = time.monotonic()
    alive = [start(folder, trials, epoch_s) for folder in folders]
    kills, next_kill = 0, started + kill_every if kill_every else float("inf")
    while any(process.poll() is None for process in alive):
        time.sleep(0.05)
        if time.monotonic() > next_kill and kills < most_kills:
            next_kill += kill_every * generator.uniform(0.5, 1.5)
            victim = generator.randrange(processes)
            if alive[victim].poll() is None:
                alive[victim].send_signal(signal.SIGKILL)
                alive[victim].wait()
                kills += 1
                alive[victim] = start(folders[victim], trials, epoch_s)
    codes = [process.wait() for process in alive]
    seconds = time.monotonic() - started
    found = verdict(open_study(folders[0]))
    how = {"processes": processes, "kills": kills, "exit codes": sorted(set(codes)), "seconds": round(seconds)}
    return how | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", default="postgresql", help="postgresql, grpc, sqlite, or an address")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epoch-s", type=float, default=0.02)
    parser.add_argument("--kill-every", type=float, default=0, help="seconds; 0: never")
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        url = os.environ["SEARCH_STORAGE"]
        work(RunFolder(given.work, parse_address(url) if url else None), given.trials, given.epoch_s)
        return
    with storage_of(given.storage) as address, tempfile.TemporaryDirectory() as runs:
        found = run(
            address,
            Path(runs),
            processes=given.processes,
            trials=given.trials,
            epoch_s=given.epoch_s,
            kill_every=given.kill_every,
            apart=given.apart,
        )
    print(json.dumps({"storage": given.storage if "@" not in given.storage else "an address", **found}))
    sys.exit(0 if is_right(found, spec_of(given.trials)) else 1)


if __name__ == "__main__":
    main()
