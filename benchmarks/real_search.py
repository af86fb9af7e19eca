"""Small real searches, nothing made up: ours against itself without its short scores on a part, and against luck.

    OMP_NUM_THREADS=1 python -m benchmarks.real_search DATA --out searches.jsonl [--seeds 0,1,2] [--methods ours,all]

DATA is a small set of 32x32 RGB images with a test split. With each seed, in the space of `short_runs.toml`:

ours    `search run` of 16 trials with the steps of 6 epochs on a part of the images; `search promote --top 2`, 40 each
all     the same with short runs on all images
random  random draws at 40 epochs each, for no fewer epochs than the others take

The best on the validation images is what a method recommends; its accuracy on the test images is its result.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import optuna

from benchmarks.short_runs import STUDY, draw, run
from search import api, full_runs
from search.full_runs import PromoteFlags
from search.promotions import winner
from search.run_folder import RunRef
from search.session import Placement
from search.spec import load_study
from train_core.data import default_cache, load_test, load_training
from train_core.device import pick_device, pick_precision, set_up

TRIALS, TOP = 16, 2


def main() -> None:
    """Parse the command line, and search with each method and seed that is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2,3")
    parser.add_argument("--methods", default="ours,all,random")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    done = {(line["method"], line["seed"]) for line in map(json.loads, _lines(options.out))}
    for seed in map(int, options.seeds.split(",")):
        for method in options.methods.split(","):
            if (method, seed) in done:
                continue
            found = at_random(options.data, seed) if method == "random" else searched(options.data, seed, method)
            with options.out.open("a") as file:
                file.write(json.dumps({"method": method, "seed": seed, **found}) + "\n")
            print(method, seed, found, flush=True)


def searched(data: str, seed: int, method: str) -> dict[str, Any]:
    """The result of a search and its promotion."""
    images = "subset" if method == "ours" else "all"
    with tempfile.TemporaryDirectory() as folder:
        flags = {"data": data, "trials": TRIALS, "seed": seed, "short_run_images": images}
        ref, placement = RunRef("bench", Path(folder)), Placement(device="cpu")
        api.run(str(STUDY), flags, ref, placement)
        best = winner(full_runs.promote(ref, placement, PromoteFlags(top=TOP)))
    spec = load_study(str(STUDY), flags)
    epochs = TRIALS * spec.epochs + TOP * spec.promote.epochs  # at most: pruned trials take fewer
    return {"validation": best[0].val_accuracy, "test": best[0].test_accuracy, "epochs": epochs}


def at_random(data: str, seed: int) -> dict[str, Any]:
    """The accuracy of the best of some random draws after its full run."""
    spec = load_study(str(STUDY), {"data": data})
    device = pick_device("cpu")
    set_up(device)
    loaded = load_training(data, val_fraction=spec.val_fraction, seed=seed, cache=default_cache())
    test = load_test(data, fingerprint=loaded.fingerprint, cache=default_cache())
    if test is None:
        raise SystemExit("the data needs a test split")
    draws = -(-(TRIALS * spec.epochs + TOP * spec.promote.epochs) // spec.promote.epochs)
    results = []
    for i in range(draws):
        _, network, recipe = draw(1000 * (seed + 1) + i, spec.space, spec.budget, pick_precision(device))
        made = run(network, recipe, "full", loaded, test)
        if made["test"]:
            results.append((made["curve"][-1]["val_accuracy"], made["test"][1]))
    validation, tested = max(results)
    return {"validation": validation, "test": tested, "epochs": draws * spec.promote.epochs}


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
