"""Trains one network to the end of its recipe, in its own folder, continuing from where it was stopped."""

from collections.abc import Callable

from search.between import BetweenSteps, Watcher
from search.checkpoints import PacedCheckpoints, Save
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

CHECKPOINT_SHARE = 0.03  # of a full run's time, for checkpoints


def train_to_end(
    folder: PromotionFolder,
    network: ResNetSpec,
    recipe: TrainSpec,
    data: TrainingData,
    *,
    save: Save,
    on_epoch: Callable[[EpochResult], None],
    watcher: Watcher,
) -> tuple[TrainState, str | None]:
    """The state after the last epoch, and, if the loss was not finite, why there are fewer epochs than in the recipe.

    An interrupted run continues from its last checkpoint: that of the epoch after which `watcher` or `on_epoch` stopped
    it, or the last one that `CHECKPOINT_SHARE` of the time allowed.

    Raises:
        CheckpointError: the checkpoint is damaged, or belongs to another network or recipe.
        ModelError: the weights to start from are not available.
        KeyboardInterrupt: the `watcher` has asked to stop.

    """
    device = data.train.images.device
    folder.root.mkdir(parents=True, exist_ok=True)
    release_memory(device)  # from the run before, however it ended
    if checkpoint.exists(folder.checkpoint):
        state = checkpoint.load(folder.checkpoint, device)
        if (state.network, state.recipe) != (network, recipe):
            raise CheckpointError(
                f"{folder.checkpoint} is of another network or recipe: delete {folder.root} to start over"
            )
    else:
        state = TrainState.new(network, recipe, device)
    checkpoints = PacedCheckpoints(folder.checkpoint, save, share=CHECKPOINT_SHARE, resumed=bool(state.history))
    try:
        for result in train(state, data, BetweenSteps(watcher, checkpoints)):
            if result.epoch == recipe.epochs:
                checkpoints.save(state)
            else:
                checkpoints.save_if_due(state)
            try:
                on_epoch(result)
                if watcher.stop() and result.epoch < recipe.epochs:  # a fully trained run will finish soon anyway
                    raise KeyboardInterrupt
            except KeyboardInterrupt:  # stopped here, to continue from here
                checkpoints.save(state)
                raise
    except DivergedError as error:
        return state, str(error)
    return state, None


def finish(folder: PromotionFolder) -> None:
    """Delete the files that only an unfinished run needs."""
    checkpoint.previous(folder.checkpoint).unlink(missing_ok=True)
