"""A training batch as the network sees it, and predictions as files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tiny import NETWORK, tiny_data, tiny_recipe
from train_core.inference import predict, seen_batch
from train_core.loop import evaluate
from train_core.models import ResNet
from train_core.predictions import Predictions, SeenBatch
from train_core.specs import AugmentSpec, CopySpec, Precision

DATA = tiny_data()
PLAIN = AugmentSpec(crop_padding=0, flip=False)


def test_an_unchanged_batch_is_training_images_with_their_classes() -> None:
    batch = seen_batch(DATA, tiny_recipe(augment=PLAIN))
    assert batch.pictures.shape == (16, 8, 8, 3)
    assert batch.classes == DATA.classes
    assert batch.shares.tolist() == [1]
    known = {
        image.numpy().tobytes(): int(label) for image, label in zip(DATA.train.images, DATA.train.labels, strict=True)
    }
    assert [known[picture.tobytes()] for picture in batch.pictures] == batch.labels[0].tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {"augment": AugmentSpec(crop_padding=2, cutout=4)},
        {"augment": AugmentSpec(policy="trivial-augment", flip_order="alternating")},
        {"augment": PLAIN, "copies": (CopySpec(crop_padding=0, flip=False, mirror=True), CopySpec(crop_padding=2))},
    ],
    ids=["cutout", "policy", "copies"],
)
def test_a_batch_is_augmented_by_the_recipe_and_the_same_each_time(changes: dict[str, Any]) -> None:
    recipe = tiny_recipe(**changes)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    batch, again = seen_batch(DATA, recipe), seen_batch(DATA, recipe)
    assert torch.equal(state, torch.get_rng_state())
    assert (batch.pictures == again.pictures).all()
    known = {image.numpy().tobytes() for image in DATA.train.images}
    assert sum(picture.tobytes() not in known for picture in batch.pictures) > 8


def test_mixed_images_have_shares_of_their_classes() -> None:
    batch = seen_batch(DATA, tiny_recipe(mix="ricap", mix_share=1.0))
    assert batch.labels.shape == (4, 16)
    assert batch.shares.sum() == pytest.approx(1)


def test_predictions_and_batches_come_back_as_they_were_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ResNet(NETWORK)
    split = type(DATA.val)(DATA.val.images, DATA.val.labels, tuple(f"val/ä{i}.jpg" for i in range(len(DATA.val))))
    made = predict(model, split, DATA, "fp32")
    assert made.accuracy == evaluate(model, split, DATA.mean, DATA.std, "fp32").accuracy
    made.write(tmp_path / "p.npz")
    read = Predictions.read(tmp_path / "p.npz")
    assert (read.classes, read.digest, read.files) == (made.classes, made.digest, split.files)
    for name in ("labels", "logits", "pictured", "pictures"):
        assert np.array_equal(getattr(read, name), getattr(made, name))
        assert getattr(read, name).dtype == getattr(made, name).dtype
    batch = seen_batch(DATA, tiny_recipe())
    batch.write(tmp_path / "b.npz")
    assert (SeenBatch.read(tmp_path / "b.npz").pictures == batch.pictures).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_predictions_have_the_accuracies_of_an_evaluation_to_the_bit(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train_core.loop.EVAL_BATCH", 7)  # in several batches, the last of another size
    torch.manual_seed(3)
    model = ResNet(NETWORK)
    made = predict(model, DATA.train, DATA, precision)
    evaluated = evaluate(model, DATA.train, DATA.mean, DATA.std, precision)
    assert 0 < made.accuracy < 1
    assert (made.accuracy, made.balanced) == (evaluated.accuracy, evaluated.balanced)


def test_the_digest_tells_other_images_and_labels_apart() -> None:
    model = ResNet(NETWORK)
    other = DATA.val.images.clone()
    other[0, 0, 0, 0] ^= 1
    kind = type(DATA.val)
    splits = [DATA.val, kind(other, DATA.val.labels), kind(DATA.val.images, DATA.val.labels.flip(0))]
    assert len({predict(model, split, DATA, "fp32").digest for split in splits}) == 3


def test_a_damaged_file_is_a_value_error(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    made = predict(ResNet(NETWORK), DATA.val, DATA, "fp32")
    made.write(path)
    whole = path.read_bytes()
    for content in (b"", b"no archive", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            Predictions.read(path)
    np.savez(path, labels=made.labels)
    with pytest.raises(ValueError, match="is damaged"):
        Predictions.read(path)
    with pytest.raises(FileNotFoundError):
        Predictions.read(tmp_path / "missing.npz")
