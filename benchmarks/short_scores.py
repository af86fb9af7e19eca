"""Which short score ranks best? The tables of `docs/benchmarks.md`, from the runs that `short_runs` made.

    python -m benchmarks.short_scores [runs.jsonl ...] [--out scores.json]
    python -m benchmarks.short_scores --recipes recipes.jsonl ...

Each score is compared with the accuracy of the same draw on the test images after its full run. Intervals
are 95 %: of a rank correlation as in `search fidelity`, otherwise by bootstrap over the draws.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from search.fidelity import Pair, agreement
from search.formatting import Interval, interval

SHIPPED = Path(__file__).with_name("short_runs.jsonl")
SHORT = 6  # epochs of a short run
RESAMPLES = 2000
Config = dict[str, Any]
Score = Callable[[Config], float]


def curve(config: Config, run: str, key: str) -> list[float]:
    return [epoch.get(key, float("nan")) for epoch in config["runs"][run]["curve"]]


def end(run: str, key: str) -> Score:
    return lambda config: curve(config, run, key)[-1]


def cut(key: str) -> Score:
    """The score of the full run after as many epochs as a short run has."""
    return lambda config: curve(config, "full", key)[SHORT - 1]


def without_gap(run: str) -> Score:
    """Validation accuracy minus the excess of training accuracy over it: an estimate of the future overfitting."""
    return lambda config: 2 * end(run, "last_val_accuracy")(config) - end(run, "train_accuracy")(config)


LAST, AVERAGED = "last_val_accuracy", "val_accuracy"
SCORES: dict[str, tuple[float, Score]] = {  # epochs that it costs, and how it is computed
    "cut from the full run: last epoch": (6, cut(LAST)),
    "cut: mean of the last 3 epochs": (
        6,
        lambda config: float(np.mean(curve(config, "full", LAST)[SHORT - 3 : SHORT])),
    ),
    "cut: averaged weights": (6, cut(AVERAGED)),
    "cut: summed training loss": (6, lambda config: -sum(curve(config, "full", "train_loss")[:SHORT])),
    "annealed: last epoch": (6, end("short", LAST)),
    "annealed: mean of the last 3 epochs": (6, lambda config: float(np.mean(curve(config, "short", LAST)[-3:]))),
    "annealed: averaged weights": (6, end("short", AVERAGED)),
    "annealed: summed training loss": (6, lambda config: -sum(curve(config, "short", "train_loss"))),
    "annealed: less the gap to training": (6, without_gap("short")),
    "annealed, two seeds": (12, lambda config: end("short", LAST)(config) + end("again", LAST)(config)),
    "annealed, 12 epochs": (12, end("double", LAST)),
    "annealed, 40 epochs on 15 % of the images": (6, end("part", LAST)),
    "both: 6 epochs on all, 40 on 15 %": (12, lambda config: end("short", LAST)(config) + end("part", LAST)(config)),
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", default=[SHIPPED])
    parser.add_argument("--recipes", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.recipes:
        for path in options.recipes:
            print_recipes(load([path]))
        return
    configs = load(options.runs)
    results: dict[str, Any] = {"n": len(configs)}
    groups = {
        "all draws": configs,
        "with crop": [config for config in configs if config["params"]["crop_padding"]],
        "without crop": [config for config in configs if not config["params"]["crop_padding"]],
    }
    for name, group in groups.items():
        results[name] = ranking(group)
        print(f"\n{name}, n = {len(group)}: rank correlation with the full run, and regret of the best k (points)\n")
        print("| score | epochs | Spearman | Kendall | k = 1 | 3 | 5 |\n|---|---|---|---|---|---|---|")
        for score, row in results[name].items():
            regrets = " | ".join(f"{100 * regret:.1f}" for regret in row["regret"].values())
            print(f"| {score} | {SCORES[score][0]:g} | {row['spearman']} | {row['kendall']} | {regrets} |")
    gained = results["on a part over annealed"] = gain(
        configs, "annealed, 40 epochs on 15 % of the images", "annealed: last epoch"
    )
    print(f"\nSpearman on a part less that of the annealed last epoch, all draws: {interval(Interval(*gained))}")
    results["strata"] = strata(configs)
    print(
        "\nRegret (points) of promoting the best of each stratum by the annealed last epoch, and of as many by score:"
    )
    for keys, (kept, by_stratum, by_score) in results["strata"].items():
        print(f"{keys}: {kept} strata, {100 * by_stratum:.1f} against {100 * by_score:.1f}")
    results["effects"] = effects(configs)
    print("\nEffects, in points of accuracy (least squares over all draws)\n")
    runs = list(next(iter(results["effects"].values())))
    print(f"| | {' | '.join(runs)} |\n|---|{'---|' * len(runs)}")
    for factor, row in results["effects"].items():
        print(f"| {factor} | {' | '.join(points(Interval(*row[run])) for run in runs)} |")
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


RECIPE_SCORES: dict[str, Score] = {
    "cut at 6 of 40 epochs": cut(LAST),
    "cut, averaged weights": cut(AVERAGED),
    "annealed, 6 epochs": end("short", LAST),
    "the same steps on 15 %": end("part", LAST),
    "full, 40 epochs (test)": lambda config: quality(config),
}


def print_recipes(configs: Sequence[Config]) -> None:
    """One line for each recipe: the mean over its seeds, and their range."""
    names = list(dict.fromkeys(config["params"]["recipe"] for config in configs))
    print(f"\n| accuracy, % | seeds | {' | '.join(RECIPE_SCORES)} |\n|---|---|{'---|' * len(RECIPE_SCORES)}")
    for name in names:
        group = [config for config in configs if config["params"]["recipe"] == name]
        cells = []
        for score in RECIPE_SCORES.values():
            values = [100 * score(config) for config in group]
            cells.append(f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})")
        print(f"| {name} | {len(group)} | {' | '.join(cells)} |")


def load(paths: Sequence[Path]) -> list[Config]:
    """The configurations without a diverged run, by number."""
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    whole = [line for line in lines if not any(run["diverged"] for run in line["runs"].values())]
    return sorted(whole, key=lambda line: int(line["config"]))


def quality(config: Config) -> float:
    """The target: the full run's accuracy on the test images, with its last weights."""
    return float(config["runs"]["full"]["test"][0])


def ranking(configs: Sequence[Config]) -> dict[str, Any]:
    """Rank correlations and regrets of each score."""
    rows = {}
    for name, (_, score) in SCORES.items():
        pairs = [Pair(trial=i, family="", short=score(c), long=quality(c)) for i, c in enumerate(configs)]
        known = agreement(SHORT, pairs)
        rows[name] = {
            "spearman": interval(known.spearman),
            "kendall": f"{known.kendall:.2f}",
            "regret": known.regret,
        }
    return rows


def strata(configs: Sequence[Config]) -> dict[str, tuple[int, float, float]]:
    """The number of strata, and the regrets of promoting one of each, and as many by score alone."""
    score = SCORES["annealed: last epoch"][1]
    best = max(map(quality, configs))
    ranked = sorted(configs, key=score, reverse=True)
    table = {}
    for keys in (("crop_padding",), ("crop_padding", "block_dropout"), ("crop_padding", "cutout", "label_smoothing")):
        leaders: dict[tuple[Any, ...], Config] = {}
        for config in ranked:
            leaders.setdefault(tuple(config["params"][key] for key in keys), config)
        by_stratum = best - max(map(quality, leaders.values()))
        by_score = best - max(map(quality, ranked[: len(leaders)]))
        table[", ".join(keys)] = (len(leaders), by_stratum, by_score)
    return table


def gain(configs: Sequence[Config], one: str, other: str) -> tuple[float, float, float]:
    """How much higher the rank correlation of one score is than another's; resampled together."""
    long = np.array([quality(config) for config in configs])
    ones, others = (np.array([SCORES[name][1](config) for config in configs]) for name in (one, other))
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(configs), size=len(configs)) for _ in range(RESAMPLES)]
    differences = [
        spearmanr(ones[draw], long[draw]).statistic - spearmanr(others[draw], long[draw]).statistic for draw in draws
    ]
    low, high = np.percentile(differences, [2.5, 97.5])
    known = spearmanr(ones, long).statistic - spearmanr(others, long).statistic
    return float(known), float(low), float(high)


REGULARISERS = ("crop_padding", "cutout", "label_smoothing", "block_dropout")


def effects(configs: Sequence[Config]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """The effect of each regulariser on the accuracy, in shorter runs and in the full one, with the others constant.

    Least squares on all factors at once: each regulariser (off or on), weight decay (0, 1, 2), the optimizer, its
    learning rate (the logarithm, and its square), batch size, and size.
    """
    outcomes: dict[str, Score] = {
        "cut at 6 epochs, averaged": cut(AVERAGED),
        "annealed, 6 epochs": end("short", LAST),
        "annealed, 12 epochs": end("double", LAST),
        "40 epochs on 15 %": end("part", LAST),
        "full, 40 epochs": quality,
    }
    factors: NDArray[np.float64] = np.array([_factors(config["params"]) for config in configs])
    names = [*REGULARISERS, "weight decay, a step"]
    rng = np.random.default_rng(0)
    table: dict[str, dict[str, tuple[float, float, float]]] = {name: {} for name in names}
    for outcome, score in outcomes.items():
        values: NDArray[np.float64] = np.array([score(config) for config in configs])
        best = _fit(factors, values)
        draws = [rng.integers(len(configs), size=len(configs)) for _ in range(RESAMPLES)]
        resampled = np.array([_fit(factors[draw], values[draw]) for draw in draws])
        for i, name in enumerate(names):
            low, high = np.percentile(resampled[:, i], [2.5, 97.5])
            table[name][outcome] = (float(best[i]), float(low), float(high))
    return table


def _factors(params: dict[str, Any]) -> list[float]:
    optimizer = params["optimizer"]
    decays = {"sgd": [0.0, 5e-4, 2e-3], "adam": [0.0, 5e-5, 2e-4], "adamw": [0.0, 0.05, 0.2]}[optimizer]
    rate = np.log10(params[f"{optimizer}_lr"] / {"sgd": 0.07, "adam": 2.5e-3, "adamw": 2.5e-3}[optimizer])
    return [
        *(float(params[name] > 0) for name in REGULARISERS),
        float(decays.index(params[f"{optimizer}_weight_decay"])),
        *(float(optimizer == name) for name in ("sgd", "adam", "adamw")),
        *(float(rate) * (optimizer == name) for name in ("sgd", "adam")),
        float(rate) * (optimizer == "adamw"),
        float(rate**2),
        float(params["batch_size"] == 64),
        float(params["budget_fraction"]),
    ]


def _fit(factors: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.lstsq(factors, values, rcond=None)[0], dtype=np.float64)


def points(known: Interval) -> str:
    """For example `+1.2 (-0.3 to +2.5)`, in points."""
    return f"{100 * known.value:+.1f} ({100 * known.low:+.1f} to {100 * known.high:+.1f})"


if __name__ == "__main__":
    main()
