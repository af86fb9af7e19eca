"""Trains short runs, continuing earlier attempts that were interrupted."""

import logging
from collections.abc import Generator
from functools import partial
from pathlib import Path

import torch

from search.between import BetweenSteps, Watcher
from search.checkpoints import PacedCheckpoints, save_checkpoint
from search.errors import CheckpointError
from search.run_folder import RunFolder
from train_core import checkpoint
from train_core.data import TrainingData
from train_core.device import release_memory
from train_core.loop import train
from train_core.results import EpochResult
from train_core.specs import ResNetSpec, TrainSpec
from train_core.state import TrainState

CHECKPOINT_SHARE = 0.01  # share of a short run's time for checkpoints

log = logging.getLogger(__name__)


class Trainer:
    """Trains networks on the data, each on a clean device; continues from where an interrupted attempt stopped."""

    def __init__(self, folder: RunFolder, data: TrainingData, device: torch.device, watcher: Watcher) -> None:
        self.folder = folder
        self.data = data
        self.device = device
        self.watcher = watcher

    def __call__(self, network: ResNetSpec, recipe: TrainSpec, first_attempt: int) -> Generator[EpochResult]:
        """See `study.Trainer`."""
        release_memory(self.device)  # memory of the trial before, however it ended
        path = self.folder.trial_checkpoint(first_attempt)
        path.parent.mkdir(exist_ok=True)
        state = self._resumed(path, network, recipe) or TrainState.new(network, recipe, self.device)
        if state.history:
            log.info("trial %d, run again, goes on after epoch %d", first_attempt, len(state.history))
        yield from tuple(state.history)
        save = partial(save_checkpoint, stop=self.watcher.stop)
        checkpoints = PacedCheckpoints(path, save, share=CHECKPOINT_SHARE, resumed=bool(state.history))
        for result in train(state, self.data, BetweenSteps(self.watcher, checkpoints)):
            try:
                yield result  # first: any other error here means that another worker has the trial now
            except GeneratorExit:  # stopped here, to continue from here
                checkpoints.save(state)
                raise
            if result.epoch < recipe.epochs:
                checkpoints.save_if_due(state)

    def _resumed(self, path: Path, network: ResNetSpec, recipe: TrainSpec) -> TrainState | None:
        """The state of an earlier attempt; None if it cannot be used: the trial then starts again."""
        if not checkpoint.exists(path):
            return None
        try:
            state = checkpoint.load(path, self.device)
        except CheckpointError as error:
            log.warning("%s", error)
            return None
        return state if (state.network, state.recipe) == (network, recipe) else None

    def forget(self, first_attempt: int) -> None:
        """Delete the trial's checkpoints."""
        checkpoint.delete(self.folder.trial_checkpoint(first_attempt))
