"""Real short and long runs of random networks and recipes: the data of the fidelity tables.

    OMP_NUM_THREADS=1 python -m benchmarks.short_runs DATA --out runs.jsonl [--configs 48] [--share 0/2] [--runs ...]
    OMP_NUM_THREADS=1 python -m benchmarks.short_runs DATA --out reversal.jsonl --recipes optimizers
    OMP_NUM_THREADS=1 python -m benchmarks.short_runs DATA --out regularisers.jsonl --recipes regularisers
    OMP_NUM_THREADS=1 python -m benchmarks.short_runs DATA --out ingredients.jsonl --recipes ingredients --runs long
    OMP_NUM_THREADS=1 python -m benchmarks.short_runs DATA --out mixes.jsonl --recipes mixes --runs longer

For each draw from `short_runs.toml`, a line of JSON in `--out` with the draw and the learning curves of

    full     40 epochs, annealed: the reference; its first epochs are also a run that is cut off
        short    6 epochs, annealed within them
    again    the same with another seed
    double   12 epochs, annealed within them
    part     40 epochs, annealed, on 15 % of the training images: as many steps as `short`, and each image as often
             as in `full`
    long     (only with `--runs long`) 60 epochs, annealed
    longer   (only with `--runs longer`) 200 epochs, annealed
    steady   (only with `--runs steady`) 40 epochs at a constant rate that falls to a tenth after 30 and 36: a run that
             could be continued from rung to rung, and is cooled down at its end

`--recipes` takes, instead of draws, one network with the three optimizers that Li & Huang 2024 compare, or with one
regulariser changed at a time, or with one of the ingredients of published recipes and networks; three seeds of each.

Every run is evaluated with its last weights and with their moving average, and at its end also on the test images. Run
it again to continue where it stopped. `--share 0/2` does every second draw, so that two processes can share the work,
each with its own file.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import torch

import space
from search.spec import load_study
from train_core.data import Split, TrainingData, default_cache, load_test, load_training
from train_core.device import pick_device, pick_precision, set_up
from train_core.errors import DivergedError
from train_core.loop import evaluate, train
from train_core.specs import AugmentSpec, Precision, ResNetSpec, TrainSpec, num_params
from train_core.state import TrainState

STUDY = Path(__file__).with_name("short_runs.toml")
PART = 0.15  # of the training images
DEFAULT_RUNS = "full,short,again,double,part"
RUNS: dict[str, tuple[int, int, float]] = {  # epochs, seed, share of the training images
    "full": (40, 0, 1.0),
    "short": (6, 0, 1.0),
    "again": (6, 1, 1.0),
    "double": (12, 0, 1.0),
    "part": (40, 0, PART),
    "long": (60, 0, 1.0),
    "longer": (200, 0, 1.0),
    "steady": (40, 0, 1.0),
}
STEADY = {"schedule": "multi-step", "milestones": (0.75, 0.9), "gamma": 0.1}
OPTIMIZERS: dict[
    str, dict[str, Any]
] = {  # at 30 epochs of 200 they reached 83.84, 89.71 and 90.6 %; at 200 the first reached 95.25, above the last
    "sgd, momentum": {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9},
    "sgd, plain": {"optimizer": "sgd", "lr": 0.1, "momentum": 0.0},
    "adam": {"optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0},
}
REGULARISERS: dict[str, dict[str, Any]] = {  # changes to the network, the recipe and the augmentation
    "crop and flip": {},
    "no crop": {"crop_padding": 0},
    "cutout 8": {"cutout": 8},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "dropout 0.2": {"block_dropout": 0.2},
    "no weight decay": {"weight_decay": 0.0},
    "weight decay 2e-3": {"weight_decay": 2e-3},
}
SMALL = ResNetSpec(
    widths=(24, 48, 96), blocks=(1, 1, 1), block="preact", stem_kernel=3, stem_stride=2, shortcut="max-pool"
)
SMALLER = {"widths": (16, 32, 64)}
INGREDIENTS: dict[str, dict[str, Any]] = {  # all networks have 77,000 to 78,000 parameters, for 10 classes
    "crop and flip": {},
    "cutout 16": {"cutout": 16},
    "cutmix": {"mix": "cutmix"},
    "ricap": {"mix": "ricap"},
    "trivial-augment": {"policy": "trivial-augment"},
    "cutmix, trivial-augment": {"mix": "cutmix", "policy": "trivial-augment"},
    "zero-init": {"zero_init": True},
    "basic blocks": {"block": "basic", "shortcut": "conv"},
    "wide residual": {
        "shortcut": "conv",
        "shortcut_norm": "none",
        "shortcut_input": "activated",
        "stem_end": "none",
        "final_norm": True,
    },
}
MIXES = {name: INGREDIENTS[name] for name in list(INGREDIENTS)[:6]}
CONTROLLED = {"optimizers": OPTIMIZERS, "regularisers": REGULARISERS, "ingredients": INGREDIENTS, "mixes": MIXES}


def main() -> None:
    """Parse the command line, and run what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--configs", type=int, default=48)
    parser.add_argument("--share", default="0/1")
    parser.add_argument("--runs", default=DEFAULT_RUNS)
    parser.add_argument("--recipes", choices=CONTROLLED)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    which, shares = map(int, options.share.split("/"))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    device = pick_device(options.device)
    set_up(device)

    study = load_study(str(STUDY), {"data": options.data})
    data = load_training(study.data, val_fraction=study.val_fraction, seed=0, cache=default_cache()).to(device)
    test = load_test(study.data, fingerprint=data.fingerprint, cache=default_cache())
    if test is None:
        raise SystemExit("the data needs a test split")
    test = test.to(device)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = {json.loads(line)["config"] for line in lines}
    drawn = [
        (config, *each)
        for config, each in enumerate(
            controlled(options.recipes, pick_precision(device), data.num_classes)
            if options.recipes
            else (draw(i, study.space, study.budget, pick_precision(device)) for i in range(options.configs))
        )
    ]
    for config, params, network, recipe in drawn[which::shares]:
        if config in done:
            continue
        runs = {name: run(network, recipe, name, data, test) for name in options.runs.split(",")}
        line = {
            "config": config,
            "params": params,
            "network": network.model_dump(mode="json", exclude_defaults=True),
            "parameters": num_params(network),
            "runs": runs,
        }
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        scores = {name: each["test"][1] if each["test"] else None for name, each in runs.items()}
        print(config, network, recipe, scores, flush=True)


def controlled(which: str, precision: Precision, classes: int) -> list[tuple[dict[str, Any], ResNetSpec, TrainSpec]]:
    """A small network with each of the recipes, three seeds of each."""
    made = []
    for seed in range(3):
        for name, changes in CONTROLLED[which].items():
            values: dict[str, Any] = {"epochs": 1, "weight_decay": 5e-4, "ema_decay": 0.99, "precision": precision}
            values |= {key: value for key, value in changes.items() if key in TrainSpec.model_fields}
            augment = AugmentSpec(**{key: value for key, value in changes.items() if key in AugmentSpec.model_fields})
            layers = {key: value for key, value in changes.items() if key in ResNetSpec.model_fields}
            layers |= SMALLER if which in ("ingredients", "mixes") else {}
            network = ResNetSpec.model_validate({**SMALL.model_dump(), "num_classes": classes, **layers})
            recipe = TrainSpec.model_validate({**values, "seed": seed, "augment": augment})
            made.append(({"recipe": name}, network, recipe))
    return made


def draw(
    config: int, dimensions: space.Space, budget: int, precision: Precision
) -> tuple[dict[str, Any], ResNetSpec, TrainSpec]:
    """The parameters, network and recipe of draw number `config`."""
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=config)).ask()
    values = space.suggest(trial, dimensions)
    network = space.network(values, dimensions, budget, space.Task())
    return trial.params, network, space.recipe(values, epochs=1, seed=0, precision=precision)


def run(network: ResNetSpec, recipe: TrainSpec, name: str, data: TrainingData, test: Split) -> dict[str, Any]:
    """One run's curves: an entry for each epoch, and [last weights, averaged weights] on the test images at the end."""
    epochs, seed, share = RUNS[name]
    changes = STEADY if name == "steady" else {}
    recipe = recipe.model_copy(update={"epochs": epochs, "seed": recipe.seed + seed, **changes})
    state = TrainState.new(network, recipe, data.train.images.device)
    seen = data
    if share < 1:
        # Evaluated completely only at its end: forty evaluations would cost more than its training.
        part = slice(0, round(share * len(data.train)))
        seen = replace(
            data,
            train=Split(data.train.images[part], data.train.labels[part]),
            val=Split(data.val.images[:100], data.val.labels[:100]),
        )
    curve: list[dict[str, float]] = []
    diverged, tested = None, None
    try:
        for result in train(state, seen):
            kept = ("train_loss", "train_accuracy", *(("val_loss", "val_accuracy") if share == 1 else ()))
            entry = {key: value for key, value in asdict(result).items() if key in kept}
            if share == 1:
                entry["last_val_accuracy"] = _accuracy(state.model, data.val, data, recipe)
            curve.append(entry)
        if share < 1:
            curve[-1]["val_accuracy"] = _accuracy(state.eval_model, data.val, data, recipe)
            curve[-1]["last_val_accuracy"] = _accuracy(state.model, data.val, data, recipe)
        tested = [_accuracy(model, test, data, recipe) for model in (state.model, state.eval_model)]
    except DivergedError as error:
        diverged = str(error)
    rounded = [{key: round(value, 5) for key, value in entry.items()} for entry in curve]
    return {"curve": rounded, "test": tested, "diverged": diverged}


def _accuracy(model: Any, split: Split, data: TrainingData, recipe: TrainSpec) -> float:
    return evaluate(model, split, data.mean, data.std, recipe.precision).accuracy


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
