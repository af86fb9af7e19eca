"""What the pruner stops, in simulated worlds: with the median of all trials, and with that of the surviving ones.

    python -m benchmarks.pruned [--worlds 50]

Each world has 200 random draws, in the short runs of `world.py` on a part of the images. The pruner is the tool's own,
with its defaults. "The best lost" are the draws with the highest true accuracies that were stopped.
"""

import argparse

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmarks.world import SHORT, STUDY, World, drawn_evenly
from benchmarks.worlds import Mean
from search.pruner import MedianOfLike

DRAWS, BEST = 200, 20
LIKE: dict[str, BaseDistribution] = {
    name: CategoricalDistribution(getattr(STUDY.space, name)) for name in STUDY.pruner.like
}


class Survivors(MedianOfLike):
    """The median of the trials that were not stopped: it rises with each stopped trial."""

    def _ended(self, study: optuna.Study, kind: list[object]) -> list[FrozenTrial] | None:
        ended = super()._ended(study, kind)
        return ended and [trial for trial in ended if trial.state == TrialState.COMPLETE]


def with_defaults(rule: type[MedianOfLike]) -> MedianOfLike:
    """The rule as a study has it."""
    known = STUDY.pruner
    return rule(
        like=known.like,
        startup_trials=known.startup_trials,
        warmup_epochs=round(known.warmup * SHORT),
        min_values=known.min_values,
    )


def stopped(world: World, pruner: MedianOfLike) -> list[bool]:
    """For each draw whether it is stopped, the best by true accuracy first."""
    study = optuna.create_study(direction="maximize", pruner=pruner)
    generator = np.random.default_rng(world.seed)
    ended = []
    for _ in range(DRAWS):
        params = drawn_evenly(generator)
        if world.diverges(params):
            continue
        curve = world.short(params, part=True)
        seen = {name: params[name] for name in LIKE}
        at = next((epoch for epoch in range(1, len(curve)) if _prunes(pruner, study, seen, curve[:epoch])), None)
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if at is None else TrialState.PRUNED,
                value=curve[-1] if at is None else None,
                params=seen,
                distributions=LIKE,
                intermediate_values=dict(enumerate(curve[:at], 1)),
            )
        )
        ended.append((world.accuracy(params), at is not None))
    return [was_stopped for _, was_stopped in sorted(ended, reverse=True)]


def _prunes(pruner: MedianOfLike, study: optuna.Study, params: dict[str, object], curve: list[float]) -> bool:
    running = create_trial(
        state=TrialState.RUNNING, params=params, distributions=LIKE, intermediate_values=dict(enumerate(curve, 1))
    )
    running.number = len(study.get_trials(deepcopy=False))
    return pruner.prune(study, running)


def shown(shares: list[float]) -> str:
    """A mean over worlds, in percent, and its 95 % interval."""
    known = Mean.of(shares)
    return f"{known.value:.0%} ({known.low:.0%} to {known.high:.0%})"


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=50)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name, rule in {"all that reached the epoch": MedianOfLike, "survivors": Survivors}.items():
        by_world = [stopped(World(number), with_defaults(rule)) for number in range(options.worlds)]
        shares = {"stopped": DRAWS, f"of the best {BEST}": BEST, "the best lost": 1}
        for what, first in shares.items():
            print(f"{name}: {what} {shown([float(np.mean(each[:first])) for each in by_world])}")


if __name__ == "__main__":
    main()
