"""Trains the best trials at full length. The only reader of the test split, once per finished model."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from statistics import fmean
from typing import Annotated

import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field, ValidationError

from search.errors import CheckpointError, RunError
from search.run_folder import PromotionFolder, RunFolder, write_text
from train_core import checkpoint
from train_core.data import Split, TrainingData
from train_core.device import release_memory
from train_core.errors import DivergedError
from train_core.loop import evaluate, train
from train_core.specs import Frozen, ResNetSpec, TrainSpec, num_madds, num_params
from train_core.state import EpochResult, TrainState

Share = Annotated[float, Field(ge=0, le=1)]


class Promotion(Frozen):
    """One full run, finished. Accuracies are shares of 1."""

    trial: int
    seed: int
    network: ResNetSpec
    recipe: TrainSpec
    parameters: int
    multiply_adds: int
    short_score: Share = Field(description="validation accuracy of the trial's short run")
    val_accuracy: Share | None = Field(description="after the last epoch; none: diverged")
    test_accuracy: Share | None = Field(
        description="after the last epoch; none: the data has no test split, or diverged"
    )
    mirrored_test_accuracy: Share | None = Field(
        default=None, description="the same, by the mean logits of each image and its mirror image; none: not asked for"
    )
    test_images: int = Field(description="images in the test split")
    seconds: float = Field(description="training and validation, over all pieces of the run")
    device: str
    diverged: str | None = Field(default=None, description="why the run ended early")
    history: tuple[EpochResult, ...]


def choose(study: optuna.Study, top: int) -> list[FrozenTrial]:
    """The `top` trials to promote: the best of each optimizer first, then by score.

    A short run finds the good third but misjudges optimizers against each other (at 30 epochs Adam was best and SGD
    worst; at 200 the order was the reverse), so that each family keeps its best candidate.

    Raises:
        RunError: fewer trials are complete.

    """
    complete = sorted(
        study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]), key=lambda trial: trial.value or 0, reverse=True
    )
    if not complete:
        raise RunError(f"run {study.study_name!r} has no complete trial to promote: continue it with `search run`")
    if len(complete) < top:
        raise RunError(
            f"the top {top} were asked for, but {len(complete)} trials are complete: use --top {len(complete)}"
        )
    best_of: dict[str, FrozenTrial] = {}
    for trial in complete:
        best_of.setdefault(recipe_of(trial).optimizer, trial)
    leaders = list(best_of.values())
    return (leaders + [trial for trial in complete if trial not in leaders])[:top]


def network_of(trial: FrozenTrial) -> ResNetSpec:
    """The network that the trial trained."""
    return ResNetSpec.model_validate_json(trial.user_attrs["network"])


def recipe_of(trial: FrozenTrial) -> TrainSpec:
    """The recipe that the trial trained by."""
    return TrainSpec.model_validate_json(trial.user_attrs["recipe"])


def promote(
    trial: FrozenTrial,
    folder: PromotionFolder,
    *,
    epochs: int,
    seed: int,
    data: TrainingData,
    load_test: Callable[[], Split | None],
    device_name: str,
    on_epoch: Callable[[EpochResult], None],
    mirrored: bool = False,
) -> Promotion:
    """Train one trial's network for `epochs`, from its checkpoint where there is one, then read the test split.

    Run again, a finished promotion is read back and not trained. A diverged one is finished, too. `mirrored`: the test
    accuracy is measured on averages over mirror images, too.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another study.

    """
    device = data.train.images.device
    network, recipe = network_of(trial), recipe_of(trial).model_copy(update={"epochs": epochs, "seed": seed})
    if folder.result.exists():
        done = read_result(folder)
        if (done.network, done.recipe) != (network, recipe):
            raise RunError(f"{folder.result} is of another network or recipe: delete {folder.root} to train this one")
        return done
    folder.root.mkdir(parents=True, exist_ok=True)
    release_memory(device)  # of the run before, however it ended
    if folder.checkpoint.exists():
        state = checkpoint.load(folder.checkpoint, device)
        if (state.network, state.recipe) != (network, recipe):
            raise CheckpointError(f"{folder.checkpoint} is of another network or recipe: delete it to start over")
    else:
        state = TrainState.new(network, recipe, device)

    diverged = None
    try:
        for result in train(state, data):
            checkpoint.save(state, folder.checkpoint)
            on_epoch(result)
    except DivergedError as error:
        diverged = str(error)

    val_accuracy = test_accuracy = mirrored_test_accuracy = None
    test = None
    if diverged is None:
        val_accuracy = state.history[-1].val_accuracy
        test = load_test()
        if test is not None:
            score = partial(evaluate, state.scored, test.to(device), data.mean, data.std, recipe.precision)
            test_accuracy = score().accuracy
            mirrored_test_accuracy = score(mirrored=True).accuracy if mirrored else None
    promotion = Promotion(
        trial=trial.number,
        seed=seed,
        network=network,
        recipe=recipe,
        parameters=num_params(network),
        multiply_adds=num_madds(network, data.size),
        short_score=trial.value or 0.0,
        val_accuracy=val_accuracy,
        test_accuracy=test_accuracy,
        mirrored_test_accuracy=mirrored_test_accuracy,
        test_images=len(test) if test is not None else 0,
        seconds=sum(result.seconds for result in state.history),
        device=device_name,
        diverged=diverged,
        history=tuple(state.history),
    )
    write_text(folder.result, promotion.model_dump_json(indent=2) + "\n")
    return promotion


def read_result(folder: PromotionFolder) -> Promotion:
    """A finished promotion's outcome.

    Raises:
        RunError: the file is damaged.

    """
    try:
        return Promotion.model_validate_json(folder.result.read_text(encoding="utf-8"))
    except (ValidationError, OSError, UnicodeDecodeError) as error:
        raise RunError(f"{folder.result} cannot be read: delete it to have it made anew from the checkpoint") from error


def finished(folder: RunFolder) -> list[Promotion]:
    """All finished promotions of a run, the best validation accuracy first."""
    results = [read_result(each) for each in folder.promotions() if each.result.exists()]
    return sorted(results, key=lambda promotion: promotion.val_accuracy or 0, reverse=True)


def winner(promotions: Sequence[Promotion]) -> list[Promotion]:
    """The full runs of the best network, one for each seed; empty where none came to an accuracy.

    The best has the highest mean validation accuracy. Only runs of the same length, the greatest, compete.
    """
    whole = sorted((run for run in promotions if run.diverged is None), key=lambda run: run.trial)
    longest = max((run.recipe.epochs for run in whole), default=0)
    rivals = groupby((run for run in whole if run.recipe.epochs == longest), key=lambda run: run.trial)
    return max(
        (list(runs) for _, runs in rivals), key=lambda runs: fmean(run.val_accuracy or 0 for run in runs), default=[]
    )
