"""How fast the trainer is: one command for every number of `docs/benchmarks.md` that is about speed.

    python -m benchmarks DATA [SECTION ...] [--rounds 7] [--device auto] [--out FILE.json]

DATA is anything that `search run --data` takes, of 32x32 RGB images. Without SECTION all are measured:

standard   against the loop of tutorials: torchvision transforms image by image, a DataLoader with two workers, fp32,
           contiguous tensors; both train the same network at batch 128, in turn, and the ratio is taken in each round
packing    several processes on the device at once against one
search     a whole search of small networks against the same networks in a bare loop
precision  accuracy and loss of a short run in each precision, three seeds
optimizers the time of each optimizer's part of a step, and of whole steps, also sharpness-aware ones, over SGD's

`python -m benchmarks gpu --help` describes the command that measures a GPU.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.loops import NETWORKS, ON_CPU, Setting, fitted, interleaved, ratios, spread, stepper_for
from search import api
from search.identity import open_study
from search.run_folder import RunRef
from search.session import Placement
from search.trials import records
from train_core.data import TrainingData, default_cache, load_training
from train_core.device import describe, pick_device, pick_precision, release_memory, set_up, wait_for
from train_core.loop import train
from train_core.optimizers import OPTIMIZERS
from train_core.specs import Precision, ResNetSpec, TrainSpec
from train_core.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a section needs to know."""

    source: str
    device: str
    rounds: int
    seconds: float

    def load(self) -> TrainingData:
        """The data, on the device."""
        data = load_training(self.source, val_fraction=0.1, seed=0, cache=default_cache())
        return data.to(pick_device(self.device))

    def setting(self, network: str) -> Setting:
        """Our loop as a search runs it."""
        precision = pick_precision(pick_device(self.device))
        return Setting(network=NETWORKS[network], source=self.source, device=self.device, precision=precision)


def standard(bench: Bench) -> dict[str, Any]:
    results = {}
    for name in ON_CPU:
        ours = bench.setting(name)
        rates = interleaved({"standard": [replace(ours, kind="standard")], "ours": [ours]}, bench.rounds, bench.seconds)
        rates["ratio"] = ratios(rates["ours"], rates["standard"])
        results[name] = rates
        print(f"  {name:<6} standard {spread(rates['standard'], 0)}, ours {spread(rates['ours'], 0)} images/s")
        print(f"  {'':<6} ratio {spread(rates['ratio'])}", flush=True)
    return results


def packing(bench: Bench) -> dict[str, Any]:
    cuda = pick_device(bench.device).type == "cuda"
    cores = os.cpu_count() or 1
    results = {}
    for name in ON_CPU:
        ours = bench.setting(name)
        groups = {}
        for count in (1, 2, 4) if cuda else (1, 2):
            threads = None if cuda else max(1, cores // count)
            groups[f"{count}"] = [replace(ours, threads=threads)] * count
        groups["standard"] = [replace(ours, kind="standard")]
        rates = interleaved(groups, bench.rounds, bench.seconds)
        results[name] = rates
        for group in list(rates)[1:-1]:
            gain, over = ratios(rates[group], rates["1"]), ratios(rates[group], rates["standard"])
            print(f"  {name:<6} {group} processes {spread(rates[group], 0)} images/s")
            print(f"  {'':<6} {spread(gain)} times one process, {spread(over)} times the standard loop", flush=True)
    return results


def search(bench: Bench) -> dict[str, Any]:
    """Images per second of a search from its first trial's start to its last one's end, relative to a bare loop."""
    device, data = pick_device(bench.device), bench.load()
    set_up(device)
    with tempfile.TemporaryDirectory() as folder:
        flags = {"data": bench.source, "trials": 6, "epochs": 4, "val_fraction": 0.1}
        run = api.run("cifar10-small", flags, RunRef("bench", Path(folder)), Placement(device=bench.device))
        trials = [trial for trial in records(open_study(run)) if trial.curve]
    starts = [trial.optuna.datetime_start for trial in trials if trial.optuna.datetime_start]
    ends = [trial.optuna.datetime_complete for trial in trials if trial.optuna.datetime_complete]
    wall = (max(ends) - min(starts)).total_seconds()
    images, bare_seconds = 0, 0.0
    for trial in trials:
        recipe = trial.recipe
        trained = len(trial.curve) * (len(data.train) // recipe.batch_size) * recipe.batch_size
        images += trained
        bare_seconds += trained / _bare(trial.network, recipe, data, bench.seconds)
    share = bare_seconds / wall
    print(f"  {images / wall:,.0f} images/s in a search of {len(trials)} trials, {share:.1%} of the bare loop's")
    print(f"  ({len(data.val) / len(data.train):.0%} more images are scored than trained on)", flush=True)
    return {"images_per_second": images / wall, "bare_images_per_second": images / bare_seconds, "share": share}


def precision(bench: Bench) -> dict[str, Any]:
    device, data = pick_device(bench.device), bench.load()
    set_up(device)
    kinds: list[Precision] = ["fp32", "bf16", "fp16"] if device.type == "cuda" else ["fp32", "bf16"]
    results: dict[str, Any] = {}
    for kind in kinds:
        runs = []
        for seed in range(3):
            recipe = TrainSpec(epochs=5, lr=0.1, weight_decay=5e-4, warmup=0.1, precision=kind, seed=seed)
            *_, last = train(TrainState.new(NETWORKS["small"], recipe, device), data)
            runs.append(last)
        results[kind] = [{"val_accuracy": run.val_accuracy, "val_loss": run.val_loss} for run in runs]
        accuracy, loss = [100 * run.val_accuracy for run in runs], [run.val_loss for run in runs]
        seconds = [run.seconds for run in runs]
        print(
            f"  {kind}  accuracy {spread(accuracy)} %, loss {spread(loss, 3)}, {spread(seconds)} s an epoch", flush=True
        )
    return results


def optimizers(bench: Bench) -> dict[str, Any]:
    """By network and optimizer, seconds of its own part of a step; for the small network, also a step relative to SGD.

    All take turns in a round, at batch 128. On a CPU, the seconds are of processor time: other work counts less.
    """
    device, data = pick_device(bench.device), bench.load()
    set_up(device)
    precision = pick_precision(device)
    kinds = {f"{name}": TrainSpec(epochs=1, optimizer=name, lr=kind.lr[0]) for name, kind in OPTIMIZERS.items()}
    kinds["sgd, asam 0.5"] = TrainSpec(epochs=1, lr=0.01, asam=0.5)
    results: dict[str, Any] = {}
    for network in reversed(ON_CPU):
        steps: dict[str, Callable[[], object]] = {}
        parts: dict[str, Callable[[], object]] = {}
        for kind, recipe in kinds.items():
            recipe = recipe.model_copy(update={"precision": precision, "nesterov": True})
            state = TrainState.new(fitted(NETWORKS[network], data), recipe, device)
            stepper = stepper_for(state, data, captured=False)
            chosen = torch.randint(len(data.train), (recipe.batch_size,), device=device)
            steps[kind], parts[kind] = partial(stepper.step, chosen, recipe.lr), state.optimizer.step
            steps[kind]()  # creates gradients and buffers
        part = {kind: [_seconds(each, device, 0.5) for _ in range(bench.rounds)] for kind, each in parts.items()}
        results[network] = {"part": part}
        for kind, seconds in part.items():
            print(f"  {network:<6} {kind:<14} {spread([1000 * each for each in seconds])} ms, its part", flush=True)
        if network == "small":
            rounds = [
                {kind: _seconds(each, device, bench.seconds) for kind, each in steps.items()} for _ in part["sgd"]
            ]
            whole = {kind: [each[kind] for each in rounds] for kind in kinds}
            results[network]["ratio"] = {kind: ratios(whole[kind], whole["sgd"]) for kind in kinds}
            print(f"  {network:<6} sgd {spread([1000 * each for each in whole['sgd']])} ms a step; the others over it:")
            for kind, ratio in results[network]["ratio"].items():
                print(f"  {network:<6} {kind:<14} {spread(ratio)}", flush=True)
    return results


def _seconds(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """How long the work takes, repeated for about `seconds`."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    wait_for(device)
    until, began, count = time.perf_counter() + seconds, clock(), 0
    while time.perf_counter() < until:
        work()
        wait_for(device)
        count += 1
    return (clock() - began) / count


def _bare(network: ResNetSpec, recipe: TrainSpec, data: TrainingData, seconds: float) -> float:
    """Images per second of steps alone."""
    device = data.train.images.device
    release_memory(device)
    stepper = stepper_for(TrainState.new(network, recipe, device), data)
    chosen = torch.randint(len(data.train), (recipe.batch_size,), device=device)
    for _ in range(5):
        stepper.step(chosen, recipe.lr)
    wait_for(device)
    started, count = time.perf_counter(), 0
    while time.perf_counter() < started + seconds:
        for _ in range(10):
            stepper.step(chosen, recipe.lr)
        wait_for(device)
        count += 10
    return count * recipe.batch_size / (time.perf_counter() - started)


SECTIONS = {each.__name__: each for each in (standard, packing, search, precision, optimizers)}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], metavar="SECTION")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement, about")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    device = pick_device(args.device)
    bench = Bench(source=args.data, device=args.device, rounds=args.rounds, seconds=args.seconds)
    results: dict[str, Any] = {
        "command": " ".join(sys.argv[1:]),
        "device": describe(device),
        "torch": str(torch.__version__),
    }
    print(f"{results['device']}, torch {results['torch']}, {pick_precision(device)}")
    for name in args.sections or SECTIONS:
        print(name)
        results[name] = SECTIONS[name](bench)
        if args.out:
            args.out.write_text(json.dumps(results, indent=2))
