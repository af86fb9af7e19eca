"""Which trials are trained longer: by score, but so that a family that short runs misjudge is not lost."""

import itertools
import re
from collections.abc import Callable, Sequence

from pydantic import Field

from search.errors import RunError, SpecError
from search.trials import TrialRecord
from train_core.specs import AugmentSpec, Frozen, ResNetSpec, TrainSpec

FAMILIES = sorted({*ResNetSpec.model_fields, *TrainSpec.model_fields, *AugmentSpec.model_fields} - {"augment"})
"""Fields by whose values a ladder can group trials into families."""

Scored = tuple[TrialRecord, float]
"""A trial and the score that it is chosen by: the study's score, of its short run or of a longer run."""


class Rung(Frozen):
    """A number of trials and a number of epochs; each run is annealed within its own length."""

    top: int = Field(ge=1)
    epochs: int = Field(ge=1)

    def __str__(self) -> str:
        """As in a study file: `8x60`."""
        return f"{self.top}x{self.epochs}"


def parse_ladder(text: str, what: str = "ladder") -> tuple[Rung, ...]:
    """The rungs of `8x60,3x200`: the best 8 for 60 epochs, then the best 3 of those for 200.

    Raises:
        SpecError: it is not such a list, or a rung does not have fewer trials and more epochs than the one before.

    """
    rungs = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-9]\d*)\s*x\s*([1-9]\d*)\s*", part)
        if match is None:
            raise SpecError(f"{what} {text!r}: {part.strip()!r} is no rung: write trials x epochs, as in 8x60,3x200")
        rungs.append(Rung(top=int(match[1]), epochs=int(match[2])))
    for lower, upper in itertools.pairwise(rungs):
        if upper.top > lower.top or upper.epochs <= lower.epochs:
            raise SpecError(f"{what} {text!r}: {upper} after {lower} must have more epochs, and no more trials")
    return tuple(rungs)


def family_of(trial: TrialRecord, key: str) -> str:
    """The trial's value of `key`, one of `FAMILIES`, as text."""
    recipe = trial.recipe
    for spec in (recipe, recipe.augment, trial.network):
        if key in type(spec).model_fields:
            return str(getattr(spec, key))
    raise KeyError(key)


def choose(scored: Sequence[Scored], top: int, family: str | None) -> list[TrialRecord]:
    """The `top` trials: first the best of each family, then by score. `family` is one of `FAMILIES`; None: by score.

    A short run finds the good third but misjudges families against each other (at 30 epochs Adam was best and SGD
    worst; at 200 the order was the reverse), so each family keeps its best candidate.

    Raises:
        RunError: there are fewer trials than that.

    """
    if len(scored) < top:
        wanted = "1 trial is" if top == 1 else f"{top} trials are"
        complete = f"{len(scored)} {'is' if len(scored) == 1 else 'are'}"
        raise RunError(f"{wanted} wanted, but {complete} complete: ask for fewer")
    ranked = [trial for trial, _ in sorted(scored, key=lambda pair: pair[1], reverse=True)]
    best_of: dict[str, TrialRecord] = {}
    for trial in ranked:
        best_of.setdefault(family_of(trial, family) if family else "", trial)
    leaders = list(best_of.values())
    return (leaders + [trial for trial in ranked if trial not in leaders])[:top]


def climb(
    trials: Sequence[TrialRecord],
    rungs: Sequence[Rung],
    family: str | None,
    train: Callable[[Sequence[TrialRecord], int], Sequence[float]],
) -> list[TrialRecord]:
    """The trials for the last rung. `train` gives the scores of trials after so many epochs.

    Every choice is made by family, except the last of several rungs, where the runs were long enough to compare
    families.

    Raises:
        RunError: fewer trials are complete than the first rung takes.

    """
    scored = [(trial, trial.score) for trial in trials if trial.score is not None]
    for rung, above in itertools.pairwise(rungs):
        chosen = choose(scored, rung.top, family)
        scored = list(zip(chosen, train(chosen, rung.epochs), strict=True))
        if above is rungs[-1]:
            family = None
    return choose(scored, rungs[-1].top, family)
