"""Finished full runs, and which network is the best. No torch, so that reading them is fast."""

from collections.abc import Sequence
from itertools import groupby
from statistics import fmean
from typing import Annotated

from pydantic import Field

from search.errors import RunError
from search.formatting import count, percent
from search.run_folder import RunFolder
from search.scores import named
from train_core.results import EpochResult, Score
from train_core.specs import Frozen, ResNetSpec, TrainSpec

Share = Annotated[float, Field(ge=0, le=1)]


class Promotion(Frozen):
    """One finished full run. Accuracies are shares of 1."""

    trial: int
    seed: int
    network: ResNetSpec
    recipe: TrainSpec
    parameters: int
    multiply_adds: int
    score: Score = Field(default="accuracy", description="what networks are compared by")
    short_score: Share = Field(description="of the trial's short run, by `score`")
    val_accuracy: Share | None = Field(description="after the last epoch; none: diverged, or a refit")
    val_balanced: Share | None = Field(default=None, description="the same, as balanced accuracy")
    test_accuracy: Share | None = Field(
        description="after the last epoch; none: not read yet, the data has no test split, or diverged"
    )
    test_balanced: Share | None = Field(default=None, description="the same, as balanced accuracy")
    tested: bool = Field(default=True, description="whether the test split was to be read; not on a ladder's way up")
    refit: bool = Field(default=False, description="trained on the validation images, too")
    mirrored_test_accuracy: Share | None = Field(
        default=None, description="the same, by the mean logits of each image and its mirror image; none: not asked for"
    )
    mirrored_test_balanced: Share | None = Field(default=None, description="the same, as balanced accuracy")
    test_images: int = Field(description="images in the test split")
    latency_s: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="from one image to its logits, in fp32, on the device; none: not measured"
    )
    seconds: float = Field(description="training and validation, over all pieces of the run")
    device: str
    diverged: str | None = Field(default=None, description="why the run ended early")
    history: tuple[EpochResult, ...]

    def __repr__(self) -> str:
        """Example: `trial 4, seed 0: [8,16] x [1,1] basic, 3x3 stem; 95.10 % on validation, ...; 18,170 parameters`."""
        score = named(self.score, "")
        figures = ((self.val_score, f"{score}on validation"), (self.test_score, f"{score}on test"))
        reached = ", ".join(f"{percent(share)} {what}" for share, what in figures if share is not None)
        length = count(self.recipe.epochs, "epoch")
        outcome = f"diverged within {length}" if self.diverged else f"{reached or 'no score'} after {length}"
        which = f"trial {self.trial}, seed {self.seed}{', refit' if self.refit else ''}"
        return f"{which}: {self.network}; {outcome}; {self.parameters:,} parameters"

    __str__ = __repr__

    @property
    def val_score(self) -> float | None:
        """Its score on the validation images, by `score`; None: diverged, or a refit."""
        return self.val_balanced if self.score == "balanced" else self.val_accuracy

    @property
    def test_score(self) -> float | None:
        """Its score on the test split, by `score`; None as for `test_accuracy`."""
        return self.test_balanced if self.score == "balanced" else self.test_accuracy

    @property
    def mirrored_test_score(self) -> float | None:
        """Its test score with the mean logits of each image and its mirror image; None: not requested."""
        return self.mirrored_test_balanced if self.score == "balanced" else self.mirrored_test_accuracy

    @property
    def curve(self) -> tuple[float, ...]:
        """Its score on the validation images after each epoch, by `score`."""
        return tuple(epoch.validation(self.score) for epoch in self.history)

    @property
    def ranking_score(self) -> float:
        """The validation score that runs are compared by; 0 if it diverged or is a refit."""
        return self.val_score or 0.0


def finished(folder: RunFolder) -> list[Promotion]:
    """All finished full runs of a run: the longest first, then by validation; refits come last."""
    results = [each.read(Promotion) for each in folder.promotions() if each.result.exists()]
    return sorted(results, key=lambda run: (not run.refit, run.recipe.epochs, run.ranking_score), reverse=True)


def finalists(promotions: Sequence[Promotion]) -> list[list[Promotion]]:
    """The full runs that compete to be the best: a list for each trial, with one run for each seed; the best first.

    The best has the highest mean score on validation, with 0 for diverged seeds. Only runs of the greatest length
    compete. If any full run is tested, only tested ones compete, with the diverged seeds of the same trials: full runs
    that `search fidelity` trained, or a ladder on its way up, never take the place of a network with a test number. A
    trial whose seeds all diverged is left out.
    """
    compared = [run for run in promotions if not run.refit]
    ended = [run for run in compared if run.diverged is None]
    tested = [run for run in ended if run.tested]  # a diverged run is never tested
    longest = max((run.recipe.epochs for run in tested or ended), default=0)
    rivals = [run for run in compared if run.recipe.epochs == longest]
    if tested:
        trials = {run.trial for run in rivals if run.tested}
        rivals = [run for run in rivals if run.trial in trials and (run.tested or run.diverged)]
    by_trial = groupby(sorted(rivals, key=lambda run: run.trial), key=lambda run: run.trial)
    seeds = [list(runs) for _, runs in by_trial]
    return sorted((runs for runs in seeds if not all(run.diverged for run in runs)), key=mean_score, reverse=True)


def mean_score(runs: Sequence[Promotion]) -> float:
    """The mean score of a network's full runs on validation, by which networks are compared; 0 for diverged runs."""
    return fmean(run.ranking_score for run in runs)


def winner(promotions: Sequence[Promotion]) -> list[Promotion]:
    """The full runs of the best finalist, one for each seed that did not diverge; empty if there is none."""
    best = next(iter(finalists(promotions)), [])
    return [run for run in best if run.diverged is None]


def best_run(promotions: Sequence[Promotion]) -> Promotion | None:
    """The full run that represents the best network: of several seeds, the best on validation; None: there is none.

    A run without a score on validation comes after all others.
    """
    return max(winner(promotions), key=lambda run: -1.0 if run.val_score is None else run.val_score, default=None)


def full_runs_of(folder: RunFolder, trial: int | None) -> list[Promotion]:
    """The finished full runs that did not diverge, of one trial or (None) of all; in the order of `finished`.

    Raises:
        RunError: there are none.

    """
    runs = [run for run in finished(folder) if run.diverged is None]
    if trial is not None:
        promoted = sorted({run.trial for run in runs})
        runs = [run for run in runs if run.trial == trial]
        if not runs:
            advice = f"give one of {', '.join(map(str, promoted))}" if promoted else "start one with `search promote`"
            raise RunError(f"trial {trial} of run {folder.name!r} has no finished full run: {advice}")
    if not winner(runs):
        raise RunError(
            f"run {folder.name!r} has no finished full run, only short ones: train its best with "
            f"`search promote {folder.name}`"
        )
    return runs


def untested_longer(promotions: Sequence[Promotion], chosen: Sequence[Promotion]) -> list[Promotion]:
    """The full runs that are longer than those of the best network and were not tested, so they do not compete."""
    epochs = chosen[0].recipe.epochs
    return [run for run in promotions if not (run.refit or run.diverged or run.tested) and run.recipe.epochs > epochs]


def diverged_of(promotions: Sequence[Promotion], chosen: Sequence[Promotion]) -> list[Promotion]:
    """The winner's runs of the same length, with other seeds, that diverged."""
    length = (chosen[0].trial, chosen[0].recipe.epochs)
    return [run for run in promotions if run.diverged and not run.refit and (run.trial, run.recipe.epochs) == length]


def refit_of(promotions: Sequence[Promotion], chosen: Sequence[Promotion]) -> Promotion | None:
    """The winner's run on training and validation images together, if there is one of the same length."""
    matches = [
        run
        for run in promotions
        if run.refit
        and run.diverged is None
        and (run.trial, run.recipe.epochs) == (chosen[0].trial, chosen[0].recipe.epochs)
    ]
    return matches[0] if matches else None
