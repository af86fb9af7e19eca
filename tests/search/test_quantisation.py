"""What a model loses in int8, on real images: a small network that has learned the digits."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from search.errors import ModelError
from search.quantisation import Measured, Quantised, measured, quantise
from train_core.augment import normalise
from train_core.data import TrainingData, load_training
from train_core.deploy import deployed
from train_core.description import Description
from train_core.formats import FORMATS, read
from train_core.loop import train
from train_core.models import BasicBlock, ResNet
from train_core.specs import AugmentSpec, ResNetSpec, TrainSpec
from train_core.state import TrainState

pytest.importorskip("onnxruntime", reason="the extra int8 is not installed")
pytest.importorskip("onnxscript", reason="the extra int8 is not installed")

NETWORK = ResNetSpec(widths=(8, 16, 32), blocks=(1, 1, 1), stem_stride=2, in_channels=1, num_classes=10)
RECIPE = TrainSpec(epochs=4, optimizer="adamw", lr=3e-3, batch_size=32, augment=AugmentSpec(crop_padding=0, flip=False))


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return load_training("digits", val_fraction=0.2, seed=0, cache=Path())


@pytest.fixture(scope="module")
def network(data: TrainingData) -> ResNet:
    state = TrainState.new(NETWORK, RECIPE, torch.device("cpu"))
    *_, last = train(state, data)
    assert last.val_accuracy > 0.8
    return state.final_model


def floats(network: ResNet, data: TrainingData) -> bytes:
    about = Description.of(NETWORK, data, "a test")
    return FORMATS["onnx"].write(deployed(network, about), about)


def with_one_large_channel(network: ResNet, factor: float) -> ResNet:
    """The same function; one channel inside each block is this much larger than the others, which share its scale."""
    changed = copy.deepcopy(network)
    with torch.no_grad():
        for block in changed.modules():
            if isinstance(block, BasicBlock):
                assert isinstance(block.norm1, torch.nn.BatchNorm2d)
                block.norm1.weight[0] *= factor
                block.norm1.bias[0] *= factor
                block.conv2.weight[:, 0] /= factor
    return changed


def test_a_trained_network_loses_little_and_its_numbers_are_those_of_the_files(
    network: ResNet, data: TrainingData
) -> None:
    written = floats(network, data)
    int8, found = quantise(written, "onnx-int8", data, 200)
    assert abs(found.lost) <= 0.02  # some images in 287, in either direction
    assert len(int8) < len(written) / 2
    for content, each in ((written, found.floats), (int8, found.int8)):
        Path("model.onnx").write_bytes(content)
        right = read(Path("model.onnx")).probabilities(data.val.images).argmax(1) == data.val.labels
        assert each.size == len(content)
        assert each.accuracy == pytest.approx(right.double().mean().item())
        assert 0 < each.latency < 1
    with torch.inference_mode():
        logits = network.eval()(normalise(data.val.images, data.mean, data.std, torch.float32))
    assert found.floats.accuracy == pytest.approx((logits.argmax(1) == data.val.labels).double().mean().item())


def test_the_calibration_images_are_training_images_of_every_class(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[NDArray[np.uint8]] = []
    written = b"a float file"

    def remember(content: bytes, images: NDArray[np.uint8]) -> bytes:
        assert content == written
        seen.append(images)
        raise ModelError("stop here")

    form = FORMATS["onnx-int8"]
    assert form.int8 is not None
    monkeypatch.setitem(FORMATS, "onnx-int8", replace(form, int8=replace(form.int8, calibrate=remember)))
    for _ in range(2):
        with pytest.raises(ModelError, match="stop here"):
            quantise(written, "onnx-int8", data, 100)
    assert np.array_equal(seen[0], seen[1])
    assert 90 <= len(seen[0]) <= 110
    labels = {
        image.numpy().tobytes(): int(label) for image, label in zip(data.train.images, data.train.labels, strict=True)
    }
    assert {labels[image.tobytes()] for image in seen[0]} == set(range(10))


def test_a_network_that_loses_much_is_warned_of(network: ResNet, data: TrainingData) -> None:
    _, found = quantise(floats(with_one_large_channel(network, 100), data), "onnx-int8", data, 200)
    assert found.lost > 0.005
    assert found.warning == (
        f"the int8 file loses {100 * found.lost:.2f} points of validation accuracy, more than 0.5: calibrate it on "
        "more images (--calibration 1000), promote and export another trial (--trial), or use the float file "
        "(--format onnx)"
    )


def test_a_network_that_answers_nonsense_is_refused(network: ResNet, data: TrainingData) -> None:
    extreme = floats(with_one_large_channel(network, 1e6), data)
    assert measured(extreme, "onnx", data.val).accuracy > 0.8
    with pytest.raises(
        ModelError, match=r"^the int8 file would be right on .*; it was not written: take --format onnx"
    ):
        quantise(extreme, "onnx-int8", data, 200)


def test_half_a_point_is_not_warned_of() -> None:
    def lost(points: float) -> Quantised:
        one, other = (Measured(size=1, accuracy=each, latency=1) for each in (0.9, 0.9 - points / 100))
        return Quantised(floats=one, int8=other, calibrated_on=800, images=1000)

    assert lost(0.4).warning is None
    assert lost(-3).warning is None
    assert "--calibration 1600" in (lost(0.6).warning or "")
