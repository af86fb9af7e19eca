"""A run's state as one file: written whole or not at all, checked when it is read, and read without executing it."""

import hashlib
import io
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from train_core.device import is_out_of_memory
from train_core.errors import CheckpointError
from train_core.files import half_written, written_whole
from train_core.models import ResNet
from train_core.results import EpochResult
from train_core.specs import ResNetSpec, TrainSpec
from train_core.state import TrainState

FORMAT = 3
DIGEST_SIZE = 32  # bytes

log = logging.getLogger(__name__)


def save(state: TrainState, path: Path) -> None:
    """Write the state to `path`, and keep the earlier file as `previous(path)`.

    A crash at any moment leaves a complete file under one of the two names, if there was one.
    """
    content = {
        "format": FORMAT,
        "network": state.network.model_dump_json(),
        "recipe": state.recipe.model_dump_json(),
        "history": [asdict(result) for result in state.history],
        "model": state.model.state_dict(),
        "ema_model": state.ema_model.state_dict() if state.ema_model is not None else None,
        "best_model": state.best_model.state_dict() if state.best_model is not None else None,
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with written_whole(path) as file:
        file.write(_digest(buffer.getbuffer()))
        file.write(buffer.getbuffer())
        if _is_whole(path):  # a damaged file does not replace the good one before it
            path.replace(previous(path))


def previous(path: Path) -> Path:
    """The path of the checkpoint before the one at `path`."""
    return path.with_name(f"previous-{path.name}")


def exists(path: Path) -> bool:
    """Whether there is a checkpoint at `path`, or an earlier one."""
    return path.exists() or previous(path).exists()


def delete(path: Path) -> None:
    """Delete the checkpoint at `path` and the earlier one, if they exist."""
    for each in (path, previous(path), *half_written(path)):
        each.unlink(missing_ok=True)


def load(path: Path, device: torch.device) -> TrainState:
    """The state that `save` wrote, on `device`; if it is damaged or missing, the earlier one.

    Raises:
        CheckpointError: both are damaged or missing, or of another format.

    """
    try:
        return _read(path, device)
    except CheckpointError as error:
        if not previous(path).exists():
            raise
        state = _read(previous(path), device)
        log.warning("%s; the one before it is used, of epoch %d", str(error).split(":")[0], len(state.history))
        return state


def _is_whole(path: Path) -> bool:
    try:
        written = path.read_bytes()
    except OSError:
        return False
    return written[:DIGEST_SIZE] == _digest(memoryview(written)[DIGEST_SIZE:])


def _read(path: Path, device: torch.device) -> TrainState:
    try:
        written = path.read_bytes()
        payload = memoryview(written)[DIGEST_SIZE:]
        if written[:DIGEST_SIZE] != _digest(payload):
            raise CheckpointError(f"{path} is damaged, or of another version: {_delete(path)}")
        # weights_only: only tensors, numbers and strings; a file that would run code is refused.
        content = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
        if content["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {content['format']}, this version reads {FORMAT}: {_delete(path)}"
            )
        network, recipe = (
            ResNetSpec.model_validate_json(content["network"]),
            TrainSpec.model_validate_json(content["recipe"]),
        )
        state = TrainState.of(ResNet(network), network, recipe, device)
        state.model.load_state_dict(content["model"])
        _load_optimizer(state.optimizer, content["optimizer"])
        if state.scaler.is_enabled():
            state.scaler.load_state_dict(content["scaler"])
        if state.ema_model is not None:
            state.ema_model.load_state_dict(content["ema_model"])
        if state.best_model is not None:
            state.best_model.load_state_dict(content["best_model"])
        state.history = [EpochResult(**result) for result in content["history"]]
        state.accumulation_steps = state.history[-1].accumulation_steps if state.history else 1
    except CheckpointError:
        raise
    except Exception as error:  # torch raises many kinds of errors for files that are no checkpoints
        if is_out_of_memory(error) or (isinstance(error, OSError) and not isinstance(error, FileNotFoundError)):
            raise  # the file may be a good one
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__}): {_delete(path)}") from error
    return state


def _delete(path: Path) -> str:
    both = previous(path).exists() and path.exists()
    return f"delete it{f' and {previous(path).name} beside it' if both else ''} to start over"


def _digest(payload: memoryview) -> bytes:
    return hashlib.blake2b(payload, digest_size=DIGEST_SIZE).digest()


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load the saved buffers. The settings stay: they are the recipe's, in the form for this device."""
    settings = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, ours in zip(optimizer.param_groups, settings, strict=True):
        group.update(ours)
