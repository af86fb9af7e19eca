"""A run's state as one file: written whole or not at all, read without executing anything."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from train_core.errors import CheckpointError
from train_core.files import written_whole
from train_core.specs import ResNetSpec, TrainSpec
from train_core.state import EpochResult, TrainState

FORMAT = 2


def save(state: TrainState, path: Path) -> None:
    """Write the state to `path`. A crash at any instant leaves the old file or the new one."""
    content = {
        "format": FORMAT,
        "network": state.network.model_dump_json(),
        "recipe": state.recipe.model_dump_json(),
        "history": [asdict(result) for result in state.history],
        "model": state.model.state_dict(),
        "averaged": state.averaged.state_dict() if state.averaged is not None else None,
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
    }
    with written_whole(path) as file:
        torch.save(content, file)


def load(path: Path, device: torch.device) -> TrainState:
    """The state that `save` wrote, on `device`.

    Raises:
        CheckpointError: the file is damaged, or of another format.

    """
    try:
        # weights_only: tensors, numbers and strings alone; a file made to run code is refused.
        content = torch.load(path, map_location=device, weights_only=True)
        if content["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {content['format']}, this version reads {FORMAT}: delete it to start over"
            )
        state = TrainState.new(
            ResNetSpec.model_validate_json(content["network"]), TrainSpec.model_validate_json(content["recipe"]), device
        )
        state.model.load_state_dict(content["model"])
        _load_optimizer(state.optimizer, content["optimizer"])
        if state.scaler.is_enabled():
            state.scaler.load_state_dict(content["scaler"])
        if state.averaged is not None:
            state.averaged.load_state_dict(content["averaged"])
        state.history = [EpochResult(**result) for result in content["history"]]
        state.parts = state.history[-1].parts if state.history else 1
    except CheckpointError:
        raise
    except Exception as error:  # torch raises half a dozen kinds for a damaged file
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__}): delete it to start over") from error
    return state


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Take the buffers that were saved. The settings stay: they are the recipe's, in this device's form."""
    settings = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, ours in zip(optimizer.param_groups, settings, strict=True):
        group.update(ours)
