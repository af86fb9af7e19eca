"""The portfolio: configurations trained at full length on one data set after another.

    OMP_NUM_THREADS=1 python -m benchmarks.portfolio DATA --epochs 20 --budget 50e3 --out benchmarks/portfolio.jsonl

The configurations are 18 that an expert would try and 26 random draws of the space of `portfolio.toml`, stored once in
`portfolio_configurations.json`. They contain no widths: these follow from the budget. Each line of `--out` is one run:
the task (the file's name), the budget, the configuration, and the accuracy of the last weights on the test images. Run
it again to continue where it stopped. `--configurations 0:20` does only some of them, `--seed 1` repeats them.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import space
from search.spec import load_study
from train_core.data import TrainingData, default_cache, load_test, load_training
from train_core.device import pick_device, pick_precision, set_up
from train_core.errors import DivergedError
from train_core.loop import evaluate, train
from train_core.specs import ResNetSpec, TrainSpec, num_madds, num_params
from train_core.state import TrainState

STUDY = Path(__file__).with_name("portfolio.toml")
CONFIGURATIONS = Path(__file__).with_name("portfolio_configurations.json")
FLIPPED = ("cifar",)  # the mirror image of a digit or a sign is a different one


def main() -> None:
    """Parse the command line, and train what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--budget", type=lambda text: int(float(text)), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--configurations", default="0:1000")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = pick_device(options.device)
    set_up(device)
    precision = pick_precision(device)
    task = options.data.stem

    study = load_study(str(STUDY), {})
    data = load_training(str(options.data), val_fraction=0.02, seed=0, cache=default_cache()).to(device)
    test = load_test(str(options.data), fingerprint=data.fingerprint, cache=default_cache())
    if test is None:
        raise SystemExit("the data needs a test split")
    test = test.to(device)
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(line["task"], line["budget"], line["seed"], line["configuration"]) for line in lines}
    asked = space.Task(data.in_channels, data.num_classes, data.size)
    first, last = map(int, options.configurations.split(":"))
    for number, (name, draw) in list(enumerate(configurations(study.space)))[first:last]:
        if (task, options.budget, options.seed, number) in done:
            continue
        network = space.network(draw, study.space, options.budget, asked)
        values = {**draw, "flip": task.startswith(FLIPPED)}
        recipe = space.recipe(values, epochs=options.epochs, seed=options.seed, precision=precision)
        started = time.monotonic()
        accuracy = trained(network, recipe, data, test)
        line = {
            "task": task,
            "images": len(data.train),
            "classes": data.num_classes,
            "budget": options.budget,
            "epochs": options.epochs,
            "seed": options.seed,
            "configuration": number,
            "name": name,
            "draw": {key: draw[key] for key in space.parameters(study.space)},
            "network": str(network),
            "parameters": num_params(network),
            "madds": num_madds(network, data.size),
            "test": accuracy,
            "seconds": round(time.monotonic() - started, 1),
        }
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(task, options.budget, number, name, network, recipe, accuracy, line["seconds"], flush=True)


def configurations(dimensions: space.Space) -> list[tuple[str, space.Draw]]:
    """Each configuration's name, and its value for each parameter of the space."""
    held = space.held(dimensions)
    return [(each["name"], {**held, **each["draw"]}) for each in json.loads(CONFIGURATIONS.read_text())]


def trained(network: ResNetSpec, recipe: TrainSpec, data: TrainingData, test: Any) -> float | None:
    """The accuracy of the last weights on the test images; None if training diverged."""
    state = TrainState.new(network, recipe, data.train.images.device)
    try:
        for _ in train(state, data):
            pass
    except DivergedError:
        return None
    return round(evaluate(state.model, test, data.mean, data.std, recipe.precision).accuracy, 5)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
