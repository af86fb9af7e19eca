"""Does the search beat the first guess of an expert, and do draws around that guess? Twelve minutes of one GPU.

    python -m benchmarks.first_guess DATA --out FILE.jsonl [--minutes 12]

DATA is all of CIFAR-100 (or another set of 32x32 images with a test split). In this order:

guess    G, wide pre-activation blocks [64,128,256] x [3,5,3] with SGD at 0.1 for 128 images: short with seeds 0 and 1,
         full with seed 0
random   R, draws of the space of the study `cifar10-wide`, which is open as the default space once was: short
around   P, draws around G: each parameter of the space drawn again with probability 0.15, at least two: short
best     the best of R and the best of P in full; the second of R in full; G in full with seed 1
test     McNemar's exact test of each finished model against G, on the same test images

A short run has 6 annealed epochs, a full run 40. Each result is a line of FILE, written at once; run again, the command
continues where it stopped. What does not fit into the minutes is left out: first the second of R, then G's second seed,
never R or P. On a CPU the networks are small, and there are few images: a rehearsal, whose figures mean nothing.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest

import space
from search.spec import load_study
from train_core.data import Split, TrainingData, default_cache, load_test, load_training
from train_core.device import describe, pick_device, pick_precision, set_up
from train_core.errors import DivergedError
from train_core.inference import predict
from train_core.loop import train
from train_core.specs import Precision, ResNetSpec, TrainSpec, num_params
from train_core.state import TrainState

SHORT, FULL = 6, 40  # epochs
RANDOM_S, AROUND_S = 265.0, 90.0  # of twelve minutes
REDRAWN = 0.15  # of the parameters of a draw around the guess
GUESS: dict[str, Any] = {
    "stages": 3,
    "blocks_1": 3,
    "blocks_2": 5,
    "blocks_3": 3,
    "growth_2": 2.0,
    "growth_3": 2.0,
    "block": "preact",
    "final_norm": True,
    "k1": 3,
    "k2": 3,
    "shortcut": "conv",
    "shortcut_kernel": 1,
    "stem_kernel": 3,
    "se_reduction": 0,
    "optimizer": "sgd",
    "sgd_lr": 0.2,
    "schedule": "cosine",
    "batch_size": 256,
    "budget_fraction": 1.0,
}
FIXED = {"batch_size": 256, "label_smoothing": 0.1, "cutout": 8, "mix": "none"}
"""The settings that all runs share, so that only networks, optimizers and rates differ."""


@dataclass(frozen=True)
class Setting:
    """The settings that every run shares."""

    data: TrainingData
    test: Split
    dimensions: space.Space
    budget: int
    precision: Precision
    until: float  # monotonic seconds

    @property
    def task(self) -> space.Task:
        """What the space needs to know about the data."""
        return space.Task(self.data.in_channels, self.data.num_classes, self.data.size)

    def left(self) -> float:
        """Seconds left."""
        return self.until - time.monotonic()


def main() -> None:
    """Parse the command line, and do the runs that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=12.0)
    options = parser.parse_args()
    setting = _setting(options.data, options.minutes)
    results = Results(options.out)
    for name, make in plan(setting, results):
        if name not in results.lines:
            results.add(name, make())
    for line in compared(results):
        print(line)


class Results:
    """The lines of the file, by name, and each model's predictions for the test images."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text() if path.exists() else ""
        self.lines: dict[str, dict[str, Any]] = {line["name"]: line for line in map(json.loads, text.splitlines())}

    def add(self, name: str, result: Mapping[str, Any]) -> None:
        """Keep a result, whatever happens next."""
        self.lines[name] = {"name": name, **result}
        with self.path.open("a") as file:
            file.write(json.dumps(self.lines[name]) + "\n")
        shown = {key: value for key, value in self.lines[name].items() if key not in ("draw", "correct", "curve")}
        print(json.dumps(shown), flush=True)

    def best(self, kind: str) -> list[dict[str, Any]]:
        """The results of this kind, the highest score first."""
        of_kind = [line for name, line in self.lines.items() if name.split()[0] == kind and line["score"] is not None]
        return sorted(of_kind, key=lambda line: line["score"], reverse=True)


def plan(setting: Setting, results: Results) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """The runs in order; each is decided when those before it are done."""

    def of(draw: Mapping[str, Any], epochs: int, seed: int) -> Callable[[], dict[str, Any]]:
        return lambda: trained(setting, draw, epochs, seed)

    guess = {**space.held(setting.dimensions), **GUESS}
    yield "guess short 0", of(guess, SHORT, 0)
    yield "guess short 1", of(guess, SHORT, 1)
    yield "guess full 0", of(guess, FULL, 0)
    scale = max(setting.left(), 0) / 615  # seconds that twelve minutes leave after the guess
    for kind, seconds, draw in (("random", RANDOM_S, at_random), ("around", AROUND_S, around)):
        end = time.monotonic() + seconds * scale
        number = 0
        while time.monotonic() < end or f"{kind} {number}" in results.lines:
            yield f"{kind} {number}", of(draw(setting, guess, number), SHORT, 0)
            number += 1
    networks = {line["network"] for line in results.best("random")[:1]}
    chosen = [("random", results.best("random")[:1]), ("around", results.best("around")[:1])]
    chosen.append(("second", [line for line in results.best("random") if line["network"] not in networks][:1]))
    full_s = results.lines["guess full 0"]["seconds"]
    for kind, lines in chosen:
        for line in lines:
            if setting.left() > 1.1 * full_s:
                yield f"full {kind}", of(line["draw"], FULL, 0)
    if setting.left() > full_s:
        yield "guess full 1", of(guess, FULL, 1)


def at_random(setting: Setting, _guess: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A draw of the space."""
    return {**space.suggest(space.RandomTrial(random.Random(number), setting.dimensions), setting.dimensions)}


def around(setting: Setting, guess: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A draw that shares most parameters with the guess."""
    generator = random.Random(10_000 + number)
    other = at_random(setting, guess, 20_000 + number)
    differ = [name for name in other if name in guess and other[name] != guess[name] and name != "budget_fraction"]
    chosen = {name for name in differ if generator.random() < REDRAWN}
    chosen |= set(generator.sample(differ, min(2, len(differ)))) if len(chosen) < 2 else set()
    return {**other, **guess, **{name: other[name] for name in chosen}, "budget_fraction": generator.uniform(0.95, 1.0)}


def trained(setting: Setting, draw: Mapping[str, Any], epochs: int, seed: int) -> dict[str, Any]:
    """One run: its score on the validation images; for a full run, also which test images it classifies correctly."""
    start = time.monotonic()
    network = space.network(draw, setting.dimensions, setting.budget, setting.task)
    recipe = space.recipe(draw, epochs=epochs, seed=seed, precision=setting.precision)
    line = {"epochs": epochs, "seed": seed, "network": str(network), "recipe": str(recipe), "draw": dict(draw)}
    line |= {"parameters": num_params(network), "card": describe(setting.data.train.images.device)}
    try:
        state, curve = _run(network, recipe, setting.data)
    except DivergedError:
        return {**line, "score": None, "seconds": time.monotonic() - start}
    line |= {"score": curve[-1], "curve": curve}
    if epochs == FULL:
        tested = predict(state.final_model, setting.test, setting.data, setting.precision)
        line |= {"test": tested.accuracy, "correct": "".join("01"[each] for each in tested.is_right.tolist())}
    return {**line, "seconds": time.monotonic() - start}


def _run(network: ResNetSpec, recipe: TrainSpec, data: TrainingData) -> tuple[TrainState, list[float]]:
    state = TrainState.new(network, recipe, data.train.images.device)
    return state, [result.val_accuracy for result in train(state, data)]


def compared(results: Results) -> Iterator[str]:
    """Each finished model against the guess, on the same test images."""
    guess = results.lines.get("guess full 0")
    shorts = [line["score"] for line in results.best("random")]
    if guess is None or guess["score"] is None:
        return
    level = results.lines["guess short 0"]["score"]
    above = sum(score > level for score in shorts)
    yield f"short: {above} of {len(shorts)} random draws are above the guess ({100 * level:.2f} %)"
    for name, line in results.lines.items():
        if "correct" not in line or line is guess:
            continue
        pairs = list(zip(guess["correct"], line["correct"], strict=True))
        better, worse = pairs.count(("0", "1")), pairs.count(("1", "0"))
        p = binomtest(better, better + worse).pvalue if better + worse else 1.0
        difference = 100 * (line["test"] - guess["test"])
        yield f"{name}: {difference:+.2f} points on test against the guess ({better} to {worse} images, p = {p:.3f})"


def _setting(source: str, minutes: float) -> Setting:
    until = time.monotonic() + 60 * minutes
    device = pick_device("auto")
    set_up(device)
    study = load_study("cifar10-wide", {})
    data = load_training(source, val_fraction=0.1, seed=0, cache=default_cache())
    test = load_test(source, fingerprint=data.fingerprint, cache=default_cache())
    if test is None:
        raise SystemExit("the data need a test split")
    budget = study.budget
    if device.type == "cpu":  # a rehearsal
        budget = 20_000
        few = torch.arange(256)
        test = Split(test.images[few], test.labels[few])
        data = replace(
            data,
            train=Split(data.train.images[few], data.train.labels[few]),
            val=Split(data.val.images[few], data.val.labels[few]),
        )
    return Setting(
        data=data.to(device),
        test=test.to(device),
        dimensions=study.space.model_copy(update=FIXED),
        budget=budget,
        precision=pick_precision(device),
        until=until,
    )


if __name__ == "__main__":
    main()
