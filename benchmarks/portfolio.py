"""The portfolio: configurations trained at full length on several data sets, at several budgets.

    OMP_NUM_THREADS=1 python -m benchmarks.portfolio DATA --epochs 20 --budget 50e3 --out benchmarks/portfolio.jsonl

The task's name is the file's; its group, which is left out as one, is the name up to the first figure. Each line of
`--out` is one run: the task, the budget, the configuration, and the accuracy of the last weights on the test images.
Run again, it goes on where it stopped. `--configurations 0:20` does only some of them, `--seed 1` once more.
"""

import argparse
import json
import random
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
CONFIGURATIONS = 44
FLIPPED = ("cifar",)  # a mirrored digit, or a mirrored sign, is another one

_WIDE = {  # wide pre-activation networks (He et al. 2016b; Zagoruyko & Komodakis 2016), by the usual recipe
    "stages": 3,
    "block": "preact",
    "shortcut": "conv",
    "k1": 3,
    "k2": 3,
    "se_reduction": 0,
    "zero_init": False,
    "optimizer": "sgd",
    "sgd_lr": 0.1,
    "sgd_weight_decay": 5e-4,
    "schedule": "cosine",
    "batch_size": 128,
    "label_smoothing": 0.0,
    "cutout": 0,
    "mix": "none",
    **{f"blocks_{stage}": 1 for stage in range(1, 5)},
    **{f"growth_{stage}": 2.0 for stage in range(2, 5)},
    "adamw_lr": 3e-3,
    "adamw_weight_decay": 0.05,
    "muon_lr": 0.02,
}


def _blocks(*blocks: int) -> dict[str, int]:
    return {"stages": len(blocks)} | {f"blocks_{stage}": number for stage, number in enumerate(blocks, 1)}


_BASIC = {"block": "basic", "sgd_weight_decay": 1e-4}
EXPERT: dict[str, dict[str, Any]] = {  # changes to `_WIDE`
    "wide 1-1-1": {},
    "wide 2-2-2": _blocks(2, 2, 2),
    "wide 3-5-3": _blocks(3, 5, 3),
    "wide 1-1-1, batch 32": {"batch_size": 32, "sgd_lr": 0.05},
    "wide 1-1-1, one-cycle": {"schedule": "one-cycle", "sgd_lr": 0.2, "batch_size": 64},
    "wide 1-1-1, rate 0.3": {"sgd_lr": 0.3, "batch_size": 64},
    "wide 1-1-1, adamw": {"optimizer": "adamw", "batch_size": 64},
    "wide 1-1-1, muon": {"optimizer": "muon", "batch_size": 64},
    "wide 2-2-2, zero-init, smoothing": {**_blocks(2, 2, 2), "zero_init": True, "label_smoothing": 0.1},
    "wide 2-2-2, cutmix": {**_blocks(2, 2, 2), "mix": "cutmix"},
    "wide 1-2-1, max-pool": {**_blocks(1, 2, 1), "shortcut": "max-pool", "batch_size": 64},
    "wide 1-1-1, se": {"se_reduction": 4, "batch_size": 64},
    "wide 1-1-1-1": {**_blocks(1, 1, 1, 1), "batch_size": 64},
    "wide 1-1-1, growth 1.5": {"growth_2": 1.5, "growth_3": 1.5, "batch_size": 64},
    "basic 1-1-1": {**_BASIC, "batch_size": 64},
    "basic 3-3-3": {**_BASIC, **_blocks(3, 3, 3)},
    "basic 2-2-2-2": {**_BASIC, **_blocks(2, 2, 2, 2)},
    "basic 1-1-1, one-cycle": {**_BASIC, "schedule": "one-cycle", "sgd_lr": 0.4, "batch_size": 64},
}


def main() -> None:
    """Parse the command line, and train what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--budget", type=lambda text: int(float(text)), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--configurations", default=f"0:{CONFIGURATIONS}")
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
    """The experts' configurations, then draws of the space: always the same ones."""
    base = space.suggest(space.RandomTrial(random.Random(0), dimensions), dimensions)
    expert = [(name, {**base, **_WIDE, **changes}) for name, changes in EXPERT.items()]
    drawn = range(len(expert), CONFIGURATIONS)
    return expert + [
        (f"draw {i}", space.suggest(space.RandomTrial(random.Random(i), dimensions), dimensions)) for i in drawn
    ]


def trained(network: ResNetSpec, recipe: TrainSpec, data: TrainingData, test: Any) -> float | None:
    """The accuracy of the last weights on the test images; none where training diverged."""
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
