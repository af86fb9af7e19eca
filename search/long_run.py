"""One network trained to the end of its recipe, in a folder of its own, from where it was stopped."""

from collections.abc import Callable
from pathlib import Path

from search.errors import CheckpointError
from search.run_folder import PromotionFolder
from train_core import checkpoint
from train_core.data import TrainingData
from train_core.device import release_memory
from train_core.errors import DivergedError
from train_core.loop import train
from train_core.results import EpochResult
from train_core.specs import ResNetSpec, TrainSpec
from train_core.state import TrainState

Save = Callable[[TrainState, Path], None]


def train_to_end(
    folder: PromotionFolder,
    network: ResNetSpec,
    recipe: TrainSpec,
    data: TrainingData,
    *,
    save: Save,
    on_epoch: Callable[[EpochResult], None],
) -> tuple[TrainState, str | None]:
    """The state after the last epoch, and why there are fewer than the recipe has, if the loss was not finite.

    There is a checkpoint after every epoch, from which a run that was cut off goes on.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another network or recipe.
        ModelError: the weights to start from cannot be had.

    """
    device = data.train.images.device
    folder.root.mkdir(parents=True, exist_ok=True)
    release_memory(device)  # of the run before, however it ended
    if checkpoint.exists(folder.checkpoint):
        state = checkpoint.load(folder.checkpoint, device)
        if (state.network, state.recipe) != (network, recipe):
            raise CheckpointError(
                f"{folder.checkpoint} is of another network or recipe: delete {folder.root} to start over"
            )
    else:
        state = TrainState.new(network, recipe, device)
    try:
        for result in train(state, data):
            save(state, folder.checkpoint)
            on_epoch(result)
    except DivergedError as error:
        return state, str(error)
    return state, None


def finish(folder: PromotionFolder) -> None:
    """Delete what only an unfinished run needs."""
    checkpoint.previous(folder.checkpoint).unlink(missing_ok=True)
