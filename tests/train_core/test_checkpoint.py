import io
import os
import pickle
from pathlib import Path

import pytest
import torch

from tests.support.tiny import NETWORK, same, tiny_data, tiny_recipe, weights
from train_core import checkpoint
from train_core.errors import CheckpointError
from train_core.loop import train
from train_core.state import TrainState

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "lr": 0.01},
        {"optimizer": "nadam", "lr": 0.01},
        {"optimizer": "radam", "lr": 0.01},
        {"optimizer": "rmsprop", "lr": 0.001},
        {"optimizer": "lion", "lr": 0.001, "weight_decay": 0.5},
        {"optimizer": "muon", "lr": 0.01, "weight_decay": 0.05, "nesterov": True},
        {"optimizer": "muon", "lr": 0.01, "precision": "fp16"},
        {"ema_decay": 0.9},
        {"schedule": "one-cycle", "precision": "bf16"},
        {"precision": "fp16", "clip_norm": 1.0},
        {
            "mix": "cutmix",
            "mix_share": 0.5,
            "augment": {"policy": "trivial-augment", "flip_order": "alternating", "erasing": 0.5},
        },
        {"mix": "ricap", "mix_off": 0.4, "augment": {"flip_order": "alternating"}, "data_fraction": 0.5},
        {"mix": "mixup", "mix_alpha": 0.4},
    ],
)
def test_a_resumed_run_ends_with_the_same_bits_as_an_uninterrupted_one(
    changes: dict[str, object], tmp_path: Path
) -> None:
    network = NETWORK.model_copy(update={"block_dropout": 0.3})
    whole = TrainState.new(network, tiny_recipe(epochs=4, **changes), CPU)
    list(train(whole, tiny_data()))

    state = TrainState.new(network, tiny_recipe(epochs=4, **changes), CPU)
    for _ in range(2):
        next(train(state, tiny_data()))  # one epoch, then as if killed
        checkpoint.save(state, tmp_path / "run.pt")
        torch.rand(5)
        state = checkpoint.load(tmp_path / "run.pt", CPU)
    list(train(state, tiny_data()))

    assert same(weights(whole), weights(state))
    assert same(whole.model.state_dict(), state.model.state_dict())
    assert [result.val_loss for result in state.history] == [result.val_loss for result in whole.history]


def test_the_optimizers_settings_are_this_devices_not_the_checkpoints(tmp_path: Path) -> None:
    state = TrainState.new(NETWORK, tiny_recipe(optimizer="adam"), CPU)
    next(train(state, tiny_data()))
    for group in state.optimizer.param_groups:  # as on a GPU
        group.update(lr=torch.tensor(0.3), capturable=True)
    checkpoint.save(state, tmp_path / "run.pt")
    for group in checkpoint.load(tmp_path / "run.pt", CPU).optimizer.param_groups:
        assert (group["lr"], group["capturable"]) == (state.recipe.lr, False)


def test_a_run_that_had_to_be_taken_in_parts_goes_on_in_parts(tmp_path: Path) -> None:
    state = TrainState.new(NETWORK, tiny_recipe(), CPU)
    state.accumulation_steps = 2
    next(train(state, tiny_data()))
    checkpoint.save(state, tmp_path / "run.pt")
    assert checkpoint.load(tmp_path / "run.pt", CPU).accumulation_steps == 2


def test_specs_and_history_come_back(tmp_path: Path) -> None:
    state = TrainState.new(NETWORK, tiny_recipe(), CPU)
    next(train(state, tiny_data()))
    checkpoint.save(state, tmp_path / "run.pt")
    loaded = checkpoint.load(tmp_path / "run.pt", CPU)
    assert (loaded.network, loaded.recipe, loaded.history) == (state.network, state.recipe, state.history)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.pt"
    state = TrainState.new(NETWORK, tiny_recipe(), CPU)
    checkpoint.save(state, path)
    before = path.read_bytes()

    def half(content: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]  # as torch.save takes it
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(state, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def damaged(content: bytes, damage: str) -> bytes:
    altered = bytearray(content)
    altered[-len(content) // 3] ^= 1
    return {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "not a checkpoint": b"hello" * 100,
        "altered": bytes(altered),
    }[damage]


def test_the_best_epochs_weights_are_kept_in_it(tmp_path: Path) -> None:
    state = TrainState.new(NETWORK, tiny_recipe(epochs=6, lr=0.5, schedule="constant", keep="best"), CPU)
    for _ in train(state, tiny_data()):
        checkpoint.save(state, tmp_path / "run.pt")
    kept = checkpoint.load(tmp_path / "run.pt", CPU).final_model.state_dict()
    assert all(torch.equal(values, kept[name]) for name, values in state.final_model.state_dict().items())
    assert not all(torch.equal(values, kept[name]) for name, values in state.model.state_dict().items())


DAMAGES = ["cut", "empty", "not a checkpoint", "altered"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_in_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    checkpoint.save(TrainState.new(NETWORK, tiny_recipe(), CPU), path)
    path.write_bytes(damaged(path.read_bytes(), damage))
    with pytest.raises(CheckpointError, match=r"run\.pt is damaged, or of another version: delete it to start over$"):
        checkpoint.load(path, CPU)


@pytest.mark.parametrize("damage", [*DAMAGES, "missing"])
def test_where_the_last_is_damaged_the_one_before_it_is_used(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run.pt"
    state = TrainState.new(NETWORK, tiny_recipe(), CPU)
    for _ in train(state, tiny_data()):
        checkpoint.save(state, path)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(damaged(path.read_bytes(), damage))
    assert checkpoint.exists(path)
    assert len(checkpoint.load(path, CPU).history) == 2
    assert "the one before it is used, of epoch 2" in caplog.text
    checkpoint.previous(path).write_bytes(b"")
    with pytest.raises(CheckpointError):
        checkpoint.load(path, CPU)
    checkpoint.delete(path)
    assert not checkpoint.exists(path)


def test_a_damaged_file_does_not_take_the_place_of_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    state = TrainState.new(NETWORK, tiny_recipe(), CPU)
    for _ in train(state, tiny_data()):
        checkpoint.save(state, path)
    path.write_bytes(damaged(path.read_bytes(), "altered"))

    def crash(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="Input/output"):
        checkpoint.save(state, path)
    assert len(checkpoint.load(path, CPU).history) == 2
    monkeypatch.undo()
    checkpoint.save(state, path)
    assert len(checkpoint._read(path, CPU).history) == 3
    assert len(checkpoint._read(checkpoint.previous(path), CPU).history) == 2


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    checkpoint.save(TrainState.new(NETWORK, tiny_recipe(), CPU), tmp_path / "run.pt")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.load(tmp_path / "run.pt", CPU)


class Malicious:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("import pathlib; pathlib.Path('owned').touch()",)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_file_made_to_run_code_is_refused(writer: str, tmp_path: Path) -> None:
    path, buffer = tmp_path / "run.pt", io.BytesIO()
    if writer == "torch":
        torch.save({"format": checkpoint.FORMAT, "network": Malicious()}, buffer)
    else:
        buffer.write(pickle.dumps(Malicious()))
    path.write_bytes(checkpoint._digest(buffer.getbuffer()) + buffer.getvalue())  # by somebody who knows the format
    with pytest.raises(CheckpointError, match=r"run\.pt cannot be read \(\w+\): delete it to start over"):
        checkpoint.load(path, CPU)
    assert not Path("owned").exists()
