"""Does training crash the process? Steps of randomly drawn networks, each group in its own process.

    python -m benchmarks.crashes [--cases 200] [--seed 0] [--out crashes.jsonl]

A case is a study (all shipped ones, and the one of docs/your-images.md), an image size, grey or RGB, a batch size, a
precision, a number of threads and an instruction set. Its process draws networks and recipes from the study's space,
takes two training steps of each and evaluates a few images. It must end by itself, with finite losses, within the time
limit. With the same `--out`, finished cases are not repeated.
"""

import argparse
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from search.completion import shipped_studies
from search.spec import load_study
from train_core.specs import Precision

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "your-images.md"
SIDES = (32, 48, 64, 96, 128, 224)
BATCHES = (2, 3, 32, 33, 128, 241)
SMALL = 200_000  # parameters, at most, of networks for images larger than 32x32: others take minutes per step
MADDS_A_STEP = 4e9  # a batch that needs more multiply-adds is reduced, to keep a step within seconds
TIME_LIMIT_S = 240


@dataclass(frozen=True, kw_only=True)
class Case:
    """The training of one process."""

    study: str  # the name of a shipped one, or the path of a file
    side: int  # of the square images, in pixels
    channels: int
    batch: int
    precision: Precision
    threads: int
    isa: str  # the most that oneDNN may use; empty: everything that the processor has
    seed: int
    draws: int = 4


def cases(studies: list[str], count: int, seed: int) -> Iterator[Case]:
    """Random cases; the first `count` for a seed are always the same."""
    generator = random.Random(seed)
    for i in range(count):
        yield Case(
            study=generator.choice(studies),
            side=generator.choice(SIDES),
            channels=generator.choice((1, 3)),
            batch=generator.choice(BATCHES),
            precision=generator.choice(("fp32", "bf16")),
            threads=generator.choice((1, 2, 3)),
            isa=generator.choice(("", "AVX2")),
            seed=1000 * seed + i,
        )


def train_draws(case: Case) -> None:
    """Take two steps of each drawn network, and evaluate images; prints each before it begins.

    Raises:
        FloatingPointError: a loss is not finite.

    """
    import torch

    import space as search_space
    from search.data_shape import DataShape
    from train_core.data import Split
    from train_core.loop import evaluate
    from train_core.specs import num_madds
    from train_core.state import TrainState
    from train_core.step import Stepper

    torch.set_num_threads(case.threads)
    spec = load_study(case.study, {})
    task = DataShape(fingerprint="", in_channels=case.channels, num_classes=10, size=(case.side, case.side))
    trial = search_space.RandomTrial(random.Random(case.seed), spec.space)
    torch.manual_seed(case.seed)
    shape = (case.batch, case.side, case.side, case.channels)
    split = Split(torch.randint(256, shape, dtype=torch.uint8), torch.randint(10, (case.batch,)))
    mean, std = (0.5,) * case.channels, (0.25,) * case.channels
    for _ in range(case.draws):
        draw = search_space.suggest(trial, spec.space)
        network = search_space.network(
            draw,
            spec.space,
            spec.limits if case.side == 32 else spec.limits._replace(parameters=min(spec.budget, SMALL)),
            task.task,
        )
        most = max(2, int(MADDS_A_STEP / (3 * num_madds(network, case.side))))
        batch = min(case.batch, most - (most + case.batch) % 2)  # even or odd as before
        recipe = search_space.recipe(draw, epochs=1, seed=case.seed, precision=case.precision)
        recipe = recipe.model_copy(update={"lr": recipe.lr / 100})  # there is only noise to learn here
        print(f"batch {batch}, {network}; {recipe}", flush=True)
        state = TrainState.new(network, recipe, torch.device("cpu"))
        state.model.train()
        stepper = Stepper.of(state, split, mean, std, batch_size=batch)
        for _ in range(2):
            stepper.step(torch.arange(batch), recipe.lr)
        scored = evaluate(state.model, Split(split.images[:3], split.labels[:3]), mean, std, case.precision)
        if not all(map(math.isfinite, (*stepper.sums.tolist(), scored.loss))):
            raise FloatingPointError(f"the losses are {stepper.sums.tolist()} and {scored.loss}")


def run(case: Case) -> dict[str, object]:
    """How a process that trains the case ends: "ok", a signal's name, an exit code or "too slow"."""
    started = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.crashes", "--one", json.dumps(asdict(case))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | ({"ONEDNN_MAX_CPU_ISA": case.isa} if case.isa else {})
    with tempfile.TemporaryFile("w+") as output:  # a pipe could fill up
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=ROOT)
        try:
            code = process.wait(timeout=TIME_LIMIT_S)
            end = "ok" if code == 0 else signal.Signals(-code).name if code < 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            end = "too slow"
        output.seek(0)
        said = output.read().splitlines()
    return asdict(case) | {"end": end, "seconds": round(time.monotonic() - started, 1), "said": said[-3:]}


def page_study(folder: Path) -> str:
    """The study file that docs/your-images.md shows, written to the folder; returns its path."""
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    path = folder / "photos.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.crashes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("crashes.jsonl"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        train_draws(Case(**json.loads(args.one)))
        return
    done = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        studies = [*sorted(shipped_studies()), page_study(Path(folder))]
        for case in list(cases(studies, args.cases, args.seed))[len(done) :]:
            done.append(run(case))
            with args.out.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
            if done[-1]["end"] != "ok":
                print(json.dumps(done[-1], indent=2), flush=True)
    bad = sum(each["end"] != "ok" for each in done)
    print(f"{len(done)} processes of {Case.draws} networks each: {bad} did not end well")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
