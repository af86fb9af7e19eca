"""TFLite files: of each kind of network, in float32, in int8 and as an array in C."""

import re
import shutil
import subprocess
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from benchmarks.file_sizes import drawn, exported
from tests.support import networks
from train_core import litert
from train_core.arena import Buffer, arena_of, buffers_of, planned
from train_core.blocks import BlockName
from train_core.c_header import array_of
from train_core.deploy import Deployed, deployed
from train_core.description import Description
from train_core.errors import ModelError
from train_core.examples import FormatName
from train_core.formats import FORMATS, read
from train_core.models import ResNet
from train_core.specs import ResNetSpec, num_params
from train_core.tflite import description_of, graph_of

SMALL: dict[str, Any] = {"widths": (8, 16), "blocks": (1, 1), "in_channels": 3, "num_classes": 10}
NETWORKS = {
    "basic": ResNetSpec(**SMALL, se_reduction=4, shortcut_norm="before"),
    "preact": ResNetSpec(**SMALL, block="preact", se_reduction=4, stem_end="none", shortcut_input="activated"),
    "bottleneck": ResNetSpec(**SMALL, block="bottleneck", groups=2, stem_pool=True, stem_kernel=7),
    "preact-bottleneck": ResNetSpec(**SMALL, block="preact-bottleneck", shortcut="max-pool", final_norm=True),
    "pyramid": ResNetSpec(**SMALL, block="pyramid", shortcut="pad", final_norm=True),
    "pyramid-bottleneck": ResNetSpec(**SMALL, block="pyramid-bottleneck", se_reduction=4, shortcut="none"),
    "inverted-residual": ResNetSpec(**{**SMALL, "in_channels": 1}, block="inverted-residual", se_reduction=4, k1=5),
}
HEIGHT, WIDTH = 17, 20

MISSING = [name for name in FORMATS["tflite"].packages_to_write if find_spec(name) is None]
converts = [
    pytest.mark.skipif(bool(MISSING), reason="the extra tflite is not installed"),
    pytest.mark.long,
]


def described(spec: ResNetSpec) -> Description:
    return networks.described(spec, HEIGHT, WIDTH)


def lived(spec: ResNetSpec) -> Deployed:
    """A network with norms that have seen images, and scales and shifts that are not 1 and 0."""
    torch.manual_seed(0)
    network = ResNet(spec)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.2)
    with torch.no_grad():
        for _ in range(5):
            network(torch.randn(32, spec.in_channels, HEIGHT, WIDTH))
    return deployed(network, described(spec))


def pictures(spec: ResNetSpec, number: int = 40) -> NDArray[np.uint8]:
    """Images [N, H, W, C] with structure: a gradient in each, and noise."""
    draw = np.random.default_rng(0)
    slope = np.linspace(0, 1, WIDTH)[None, None, :, None] * draw.uniform(0, 255, (number, 1, 1, spec.in_channels))
    noise = draw.normal(0, 30, (number, HEIGHT, WIDTH, spec.in_channels))
    return np.asarray((slope + noise).clip(0, 255), np.uint8)


def calibrated(written: bytes, images: NDArray[np.uint8], fmt: FormatName = "tflite-int8") -> bytes:
    int8 = FORMATS[fmt].int8
    assert int8 is not None
    return int8.calibrate(written, images)


class Files(Protocol):
    """TFLite files of the networks above, each written once."""

    def __call__(self, name: str, fmt: FormatName = "tflite") -> bytes:
        """The file of the network of this name."""


@pytest.fixture(scope="module")
def files() -> Files:
    made: dict[tuple[str, FormatName], bytes] = {}

    def file(name: str, fmt: FormatName = "tflite") -> bytes:
        if (name, fmt) not in made:
            spec = NETWORKS[name]
            if fmt == "tflite":
                made[name, fmt] = FORMATS[fmt].write(lived(spec), described(spec))
            else:
                made[name, fmt] = calibrated(file(name), pictures(spec), fmt)
        return made[name, fmt]

    return file


# ------------------------------------------------------------------------------------------------------- converting


def test_the_networks_have_every_kind_of_block() -> None:
    assert {spec.block for spec in NETWORKS.values()} == set(get_args(BlockName))


def each_network(test: Any) -> Any:
    for mark in (*converts, pytest.mark.parametrize("name", NETWORKS)):
        test = mark(test)
    return test


def conversion(test: Any) -> Any:
    for mark in converts:
        test = mark(test)
    return test


@each_network
def test_a_file_gives_the_logits_of_the_network(
    name: str, files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = NETWORKS[name]
    images = torch.from_numpy(pictures(spec, 5).transpose(0, 3, 1, 2)).float().contiguous()
    with torch.inference_mode():
        expected = lived(spec)(images)
    assert expected.std() > 0.05
    path = tmp_path / "model.tflite"
    path.write_bytes(files(name))
    torch.testing.assert_close(read(path).logits(images), expected, rtol=0, atol=1e-5)
    assert read(path).about == described(spec)
    assert str(Path.cwd()).encode() not in files(name)
    assert str(Path(__file__).parents[2]).encode() not in files(name)
    assert capfd.readouterr() == ("", "")


@each_network
def test_an_int8_file_computes_with_integers_on_pixels_that_lie_by_rows(name: str, files: Files) -> None:
    """No operator transposes features, and no norm is left; the first one takes plain pixels.

    An exception are padded shortcuts: litert-converter 0.5 pads channels between two transposes.
    """
    spec = NETWORKS[name]
    graph = graph_of(files(name, "tflite-int8"))
    counts = Counter(each.name for each in graph.operators)
    assert set(counts) <= KNOWN | ({"TRANSPOSE"} if spec.shortcut == "pad" else set())
    assert counts["CONV_2D"] + counts["DEPTHWISE_CONV_2D"] >= 5
    assert graph.tensors[graph.input].shape == (1, HEIGHT, WIDTH, spec.in_channels)
    assert graph.tensors[graph.input].size == HEIGHT * WIDTH * spec.in_channels  # a byte for each
    features = [each for each in graph.tensors if len(each.shape) == 4 and not each.is_constant]
    assert all(each.size == np.prod(each.shape) for each in features)
    images = torch.from_numpy(pictures(spec).transpose(0, 3, 1, 2)).float().contiguous()
    with torch.inference_mode():
        expected = lived(spec)(images)
    answers = FORMATS["tflite-int8"].load_elsewhere(files(name, "tflite-int8"))(images)
    assert 0 < (answers - expected).abs().mean() < 0.1 * (expected.max() - expected.min())
    assert description_of(files(name, "tflite-int8")) == described(spec)


@conversion
def test_the_scales_hold_for_every_calibration_image() -> None:
    """Also for one with strong contrast among many without."""
    spec = NETWORKS["preact"]
    images = (128 + (pictures(spec, 60).astype(float) - 128) / 50).astype(np.uint8)
    images[5] = pictures(spec)[0]
    written = calibrated(FORMATS["tflite"].write(lived(spec), described(spec)), images)
    strong = torch.from_numpy(images[5:6].transpose(0, 3, 1, 2)).float().contiguous()
    with torch.inference_mode():
        expected = lived(spec)(strong)
    answers = FORMATS["tflite-int8"].load_elsewhere(written)(strong)
    assert (answers - expected).abs().max() < 0.1 * (expected.max() - expected.min())


KNOWN = {
    "ADD",
    "AVERAGE_POOL_2D",
    "CONCATENATION",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "LOGISTIC",
    "MAX_POOL_2D",
    "MEAN",
    "MUL",
    "PAD",
    "PADV2",
    "STRIDED_SLICE",
}


@conversion
def test_the_same_images_give_the_same_int8_file(files: Files) -> None:
    assert calibrated(files("basic"), pictures(NETWORKS["basic"])) == files("basic", "tflite-int8")


@conversion
def test_a_larger_network_keeps_all_its_weights() -> None:
    """The quantiser stores large constants behind the model, in a file of more than some hundred kilobytes."""
    spec, side = drawn(20)
    assert num_params(spec) > 250_000
    assert len(exported(spec, side, "tflite-int8", 20)) > num_params(spec)


@conversion
def test_images_of_one_value_still_give_a_file(files: Files) -> None:
    """As of one class whose images are all alike: the input's range is that of pixels, whatever was seen."""
    black = np.zeros((3, HEIGHT, WIDTH, 3), np.uint8)
    answers = FORMATS["tflite-int8"].load_elsewhere(calibrated(files("basic"), black))(torch.zeros(1, 3, HEIGHT, WIDTH))
    assert answers.isfinite().all()


def test_a_network_that_cannot_be_converted_is_named_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: Deployed, about: Description) -> bytes:
        raise RuntimeError("no lowering for\naten.odd")

    monkeypatch.setattr(litert, "converted", fail)
    spec = NETWORKS["basic"]
    with pytest.raises(ModelError) as refusal:
        FORMATS["tflite"].write(lived(spec), described(spec))
    assert str(refusal.value) == (
        "this network cannot be converted to TFLite (RuntimeError: no lowering for aten.odd): take --format onnx"
    )


# ------------------------------------------------------------------------------------------------------------- in C


@conversion
def test_a_header_compiles_and_holds_the_int8_file(files: Files, tmp_path: Path) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no gcc")
    header = files("basic", "tflite-header")
    (tmp_path / "model.h").write_bytes(header)
    (tmp_path / "main.c").write_text(MAIN)
    program = tmp_path / "main"
    strict = ("-std=c99", "-Wall", "-Wextra", "-Werror")
    subprocess.run([compiler, *strict, "main.c", "-o", program], cwd=tmp_path, check=True)
    about, array = array_of(header)
    printed = subprocess.run([program], capture_output=True, check=True).stdout
    assert printed == array
    assert about == described(NETWORKS["basic"])
    assert len(array) < len(files("basic", "tflite-int8"))
    images = torch.from_numpy(pictures(NETWORKS["basic"], 5).transpose(0, 3, 1, 2)).float().contiguous()
    one, other = (FORMATS[fmt].load_elsewhere(files("basic", fmt))(images) for fmt in ("tflite-int8", "tflite-header"))
    assert torch.equal(one, other)


MAIN = """\
#include <stdio.h>
#include "model.h"
int main(void) {
  int is_aligned = ((unsigned long)model_data) % 16 == 0;
  int fits = MODEL_ARENA_BYTES > MODEL_TENSOR_BYTES && MODEL_OUTPUT_SCALE > 0;
  fwrite(model_data, 1, sizeof model_data, stdout);
  return is_aligned && fits && MODEL_OUTPUT_ZERO_POINT < 128 ? 0 : 1;
}
"""


@conversion
def test_constants_are_aligned_as_a_microcontroller_reads_them(files: Files) -> None:
    from ai_edge_litert.schema_py_generated import Model

    for written in (files("basic"), files("basic", "tflite-int8"), array_of(files("basic", "tflite-header"))[1]):
        model = Model.GetRootAs(written)
        start = np.frombuffer(written, np.uint8).__array_interface__["data"][0]
        found = [model.Buffers(number).DataAsNumpy() for number in range(model.BuffersLength())]
        offsets = [each.__array_interface__["data"][0] - start for each in found if not isinstance(each, int)]
        assert len(offsets) > 20
        assert not any(offset % 16 for offset in offsets)


@conversion
@pytest.mark.parametrize("change", [b"0xzz", b"", b"0x100"])
def test_a_header_that_was_changed_is_refused(change: bytes, files: Files, tmp_path: Path) -> None:
    path = tmp_path / "model.h"
    path.write_bytes(re.sub(rb"0x[0-9a-f]{2}(?=,)", change, files("basic", "tflite-header"), count=1))
    with pytest.raises(ModelError, match=r"model.h is damaged, or no model that `search export` wrote"):
        read(path)


# --------------------------------------------------------------------------------------------------------- the arena


def buffer(size: int, first: int, last: int) -> Buffer:
    return Buffer(size=size, first=first, last=last)


def test_buffers_share_memory_where_they_are_not_in_use_together() -> None:
    assert planned([]) == 0
    assert planned([buffer(64, 0, 1), buffer(32, 1, 2), buffer(64, 2, 3)]) == 96
    assert planned([buffer(64, 0, 3), buffer(32, 0, 1), buffer(32, 2, 3)]) == 96
    # The largest is placed first, the second behind it; the small one then fits below neither.
    assert planned([buffer(16, 0, 2), buffer(32, 0, 1), buffer(48, 1, 2)]) == 96


@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.integers(0, 9), st.integers(0, 5)).map(
            lambda each: buffer(16 * each[0], each[1], each[1] + each[2])
        ),
        max_size=20,
    )
)
def test_a_plan_is_no_smaller_than_what_is_in_use_at_once(buffers: list[Buffer]) -> None:
    in_use = [sum(each.size for each in buffers if each.first <= now <= each.last) for now in range(15)]
    assert max(in_use) <= planned(buffers) <= sum(each.size for each in buffers)


@each_network
def test_the_arena_is_that_of_the_tensors_of_the_file(name: str, files: Files) -> None:
    graph = graph_of(files(name, "tflite-int8"))
    arena = arena_of(graph)
    tensors = [[graph.tensors[number] for number in (*each.inputs, *each.outputs)] for each in graph.operators]
    largest = max(sum(each.size for each in group if not each.is_constant) for group in tensors)
    features = [each.size for each in graph.tensors if not each.is_constant]
    assert largest <= arena.tensors <= sum(features) + 16 * 8 * len(graph.operators)
    assert arena.total % 1024 == 0
    assert arena.total >= arena.tensors + arena.records
    assert len(list(buffers_of(graph))) >= len(features)
