import io
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from tests.support import networks
from tests.support.formats import installed
from tests.train_core.strategies import resnet_specs
from train_core.augment import normalise
from train_core.data import TrainingData, load_training
from train_core.deploy import deployed
from train_core.description import Description
from train_core.errors import ModelError
from train_core.examples import FormatName
from train_core.formats import FORMATS, OPSET, check_installed, read
from train_core.model_files import RUNTIMES, format_of, read_without_torch, suffix_of
from train_core.models import ResNet
from train_core.specs import ResNetSpec

SMALL: dict[str, Any] = {"widths": (4, 8), "in_channels": 1, "num_classes": 10}
NETWORKS = {
    "basic": ResNetSpec(**SMALL, blocks=(2, 1), block_dropout=0.3, head_dropout=0.2),
    "preact": ResNetSpec(
        **SMALL, blocks=(1, 2), block="preact", final_norm=True, se_reduction=4, shortcut_norm="before"
    ),
    "pools": ResNetSpec(**SMALL, blocks=(1, 1), shortcut="max-pool", stem_pool=True, stem_kernel=7, k1=1, k2=5),
}


@pytest.fixture(scope="module")
def data() -> TrainingData:
    """Real images: the digits."""
    return load_training("digits", val_fraction=0.1, seed=0, cache=Path())


def described(spec: ResNetSpec, data: TrainingData) -> Description:
    return Description.of(spec, data, "a test")


def lived(spec: ResNetSpec, data: TrainingData) -> ResNet:
    """A network with norms that have seen images, and scales and shifts that are not 1 and 0."""
    torch.manual_seed(0)
    network = ResNet(spec)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.2)
    with torch.no_grad():
        for images in data.train.images[:320].chunk(5):
            network(normalise(images, data.mean, data.std, torch.float32))
    return network.to(memory_format=torch.channels_last)  # as the trainer keeps it


def logits_of(network: ResNet, images: Tensor, data: TrainingData) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = network.eval()(normalise(images, data.mean, data.std, torch.float32))
    return logits


def as_input(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float().contiguous()


class Files(Protocol):
    """Model files, each written once."""

    def __call__(self, fmt: FormatName, name: str = "basic") -> Path:
        """The file of the network of this name."""


@pytest.fixture(scope="module")
def files(data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("models")

    def file(fmt: FormatName, name: str = "basic") -> Path:
        path = folder / f"{name}{suffix_of(fmt)}"
        if not path.exists():
            about = described(NETWORKS[name], data)
            written = FORMATS[fmt].write(deployed(lived(NETWORKS[name], data), about), about)
            int8 = FORMATS[fmt].int8
            path.write_bytes(written if int8 is None else int8.calibrate(written, data.train.images[:60].numpy()))
        return path

    return file


first, *others = NETWORKS


@pytest.mark.parametrize("fmt", installed(fmt for fmt, each in FORMATS.items() if each.int8 is None))
@pytest.mark.parametrize("name", [first, *(pytest.param(name, marks=pytest.mark.long) for name in others)])
def test_a_file_gives_the_logits_of_the_network_that_was_trained(
    name: str, fmt: FormatName, files: Files, data: TrainingData, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = NETWORKS[name]
    network = lived(spec, data)
    path = files(fmt, name)
    written = path.read_bytes()
    for images in (data.val.images[:7], data.val.images[7:8]):
        expected = logits_of(network, images, data)
        assert expected.std() > 0.1
        for model in (FORMATS[fmt].load_elsewhere(written), read(path).logits):
            torch.testing.assert_close(model(as_input(images)), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(read(path).probabilities(images), expected.softmax(1), rtol=0, atol=1e-5)
    assert read(path).about == described(spec, data)
    assert str(Path.cwd()).encode() not in written
    assert str(Path(__file__).parents[2]).encode() not in written
    assert capfd.readouterr() == ("", "")


@settings(max_examples=25, deadline=None)
@given(spec=resnet_specs())
def test_any_network_of_the_family_survives_as_safetensors(spec: ResNetSpec) -> None:
    channels = spec.in_channels
    about = networks.described(spec)
    model = deployed(ResNet(spec), about)
    images = torch.randint(0, 256, (2, channels, 9, 12)).float()
    with torch.inference_mode():
        expected = model(images)
    assert torch.equal(
        FORMATS["safetensors"].load_elsewhere(FORMATS["safetensors"].write(model, about))(images), expected
    )


def test_the_network_stays_as_it_is(data: TrainingData) -> None:
    network = lived(NETWORKS["basic"], data).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    model = deployed(network, described(NETWORKS["basic"], data))
    assert network.training
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_an_onnx_file_says_what_it_takes_and_gives(files: Files, data: TrainingData) -> None:
    model = onnx.load(files("onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import if opset.domain == ""] == [OPSET]
    session = onnxruntime.InferenceSession(files("onnx"))
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(float)", ["N", 1, 32, 32])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["N", 10])
    entries = session.get_modelmeta().custom_metadata_map
    assert entries["classes"] == '["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]'
    assert Description.from_metadata(entries).mean == data.mean


@pytest.mark.parametrize("name", NETWORKS)
def test_an_int8_file_computes_with_integers(name: str, files: Files, data: TrainingData) -> None:
    """Each convolution and matrix product takes and gives integers; no batch norm is left."""
    model = onnx.load(files("onnx-int8", name))
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    maker = {output: node for node in model.graph.node for output in node.output}
    takers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for each in node.input:
            takers.setdefault(each, []).append(node.op_type)
    types = [node.op_type for node in model.graph.node]
    assert types.count("Conv") >= 6
    assert "BatchNormalization" not in types
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert {maker[each].op_type for each in node.input} == {"DequantizeLinear"}, node
        if node.op_type == "Conv":
            assert set(takers[node.output[0]]) <= {"QuantizeLinear"}, node
    weights = {each.data_type for each in model.graph.initializer if len(each.dims) == 4}
    assert weights == {onnx.TensorProto.INT8}
    images = as_input(data.val.images[:80])
    expected = logits_of(lived(NETWORKS[name], data), data.val.images[:80], data)
    answers = read(files("onnx-int8", name)).logits(images)
    assert 0 < (answers - expected).abs().max() < 0.1 * (expected.max() - expected.min())
    assert read(files("onnx-int8", name)).about == described(NETWORKS[name], data)
    assert str(Path.cwd()).encode() not in files("onnx-int8", name).read_bytes()


def test_the_same_images_give_the_same_int8_file(files: Files, data: TrainingData) -> None:
    int8 = FORMATS["onnx-int8"].int8
    assert int8 is not None
    again = int8.calibrate(files("onnx").read_bytes(), data.train.images[:60].numpy())
    assert again == files("onnx-int8").read_bytes()


@pytest.mark.parametrize(
    ("name", "fmt"),
    [
        ("a.onnx", "onnx"),
        ("a.int8.onnx", "onnx-int8"),
        ("A.INT8.ONNX", "onnx-int8"),
        ("a.v2.pt2", "pt2"),
        ("a.tflite", "tflite"),
        ("a.int8.tflite", "tflite-int8"),
        ("a.h", "tflite-header"),
    ],
)
def test_the_name_of_a_file_says_its_format(name: str, fmt: FormatName) -> None:
    assert format_of(Path(name)) == fmt


def test_a_name_that_is_no_text_becomes_one(data: TrainingData) -> None:
    odd = replace(data, classes=("caf\udce9", *data.classes[1:]))
    about = described(NETWORKS["basic"], odd)
    assert about.classes[0] == "caf?"
    assert Description.from_metadata(about.metadata()) == about


def test_a_description_that_does_not_fit_its_network_is_refused(data: TrainingData) -> None:
    about = described(NETWORKS["basic"], data)
    with pytest.raises(ValueError, match="must be those of the network's outputs and inputs"):
        Description.model_validate({**about.model_dump(), "classes": ("one", "two")})


# ---------------------------------------------------------------------------------------------- files that are none


class Bomb:
    """Pickled, it makes a file where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (Path("boom"),)


def assert_refused(path: Path) -> None:
    with pytest.raises(ModelError, match=rf"{path.name} is damaged, or no model that `search export` wrote"):
        read(path)
    assert not Path("boom").exists()


@pytest.mark.parametrize("fmt", installed())
def test_a_pickle_under_another_name_is_refused_and_not_run(fmt: FormatName) -> None:
    path = Path(f"model{suffix_of(fmt)}")
    path.write_bytes(pickle.dumps(Bomb()))
    assert_refused(path)
    torch.save(Bomb(), path)
    assert_refused(path)


@pytest.mark.parametrize("fmt", installed())
def test_a_damaged_file_is_refused(fmt: FormatName, files: Files) -> None:
    path = Path(f"model{suffix_of(fmt)}")
    content = files(fmt).read_bytes()
    for damaged in (b"", b"\0" * 64, content[: len(content) // 2]):
        path.write_bytes(damaged)
        assert_refused(path)


def rewritten(path: Path, changes: dict[str, Callable[[bytes], bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    """The archive with some of its entries changed, in the current folder."""
    changed = Path(path.name)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(changed, "w", compression) as copy:
        for info in archive.infolist():
            content = archive.read(info)
            name = info.filename.partition("/")[2]
            copy.writestr(info.filename, changes[name](content) if name in changes else content)
    return changed


def test_a_program_with_a_pickle_inside_is_refused_where_torch_would_run_it(
    files: Files,
) -> None:
    def pickled(_: bytes) -> bytes:
        torch.save(Bomb(), buffer := io.BytesIO())
        return buffer.getvalue()

    path = rewritten(
        files("pt2"),
        {
            "data/weights/weight_0": pickled,
            "data/weights/model_weights_config.json": lambda text: text.replace(
                b'"use_pickle": false', b'"use_pickle": true', 1
            ),
        },
    )
    assert_refused(path)
    with suppress(Exception):
        torch.export.load(path)
    assert Path("boom").exists()  # it was a real one


def test_a_program_with_code_in_its_graph_is_read_without_it(files: Files) -> None:
    """torch.export.load hands the sizes in a graph to sympy, which evaluates them."""
    code = r'"expr_str": "__import__(\"pathlib\").Path(\"boom\").touch()"'

    def infected(graph: bytes) -> bytes:
        return re.sub(r'"expr_str": "[^"]*"', lambda _: code, graph.decode()).encode()

    path = rewritten(files("pt2"), {"models/model.json": infected})
    read(path)
    assert not Path("boom").exists()
    with suppress(Exception):
        torch.export.load(path)
    assert Path("boom").exists()


def test_a_file_that_would_grow_when_it_is_read_is_refused(files: Files) -> None:
    padded = {"extra/origin": lambda text: text + b" " * 10_000_000}
    assert_refused(rewritten(files("pt2"), padded, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("fmt", ["pt2", "safetensors"])
def test_a_network_that_is_described_larger_than_it_is_takes_no_memory(
    fmt: FormatName, data: TrainingData, tmp_path: Path
) -> None:
    spec = NETWORKS["basic"]
    model = deployed(ResNet(spec), described(spec, data))
    huge = described(spec.model_copy(update={"widths": (10**6, 10**6)}), data)
    if fmt == "safetensors":
        Path("model.safetensors").write_bytes(FORMATS[fmt].write(model, huge))
        assert_refused(Path("model.safetensors"))
    else:
        (tmp_path / "honest").mkdir()
        honest = tmp_path / "honest" / "model.pt2"
        honest.write_bytes(FORMATS[fmt].write(model, described(spec, data)))
        assert_refused(rewritten(honest, {"extra/network": lambda _: huge.network.model_dump_json().encode()}))


def test_an_onnx_model_of_somebody_else_is_refused(files: Files) -> None:
    model = onnx.load(files("onnx"))
    del model.metadata_props[:]
    onnx.save(model, "model.onnx")
    assert_refused(Path("model.onnx"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "model.pth",
            "model.pth is not a model file: give one that ends in one of .onnx, .int8.onnx, .pt2, .safetensors, "
            ".tflite, .int8.tflite, .h",
        ),
        ("folder.onnx", "cannot read the model folder.onnx (Is a directory): check the path"),
        ("gone.pt2", "cannot read the model gone.pt2 (No such file or directory): check the path"),
    ],
)
def test_what_is_no_model_is_named(name: str, said: str) -> None:
    Path("folder.onnx").mkdir()
    with pytest.raises(ModelError) as refusal:
        read(Path(name))
    assert str(refusal.value) == said


def test_missing_packages_are_named_with_the_extra_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ModelError, match=r"^onnx files need onnxscript and onnxruntime: pip install '\.\[onnx\]' in the checkout$"
    ):
        check_installed("onnx")
    with pytest.raises(ModelError, match=r"^onnx files need onnxruntime: "):
        read(Path("model.onnx"))
    with pytest.raises(ModelError, match=r"^onnx-int8 files need .*: pip install '\.\[int8\]' in the checkout$"):
        check_installed("onnx-int8")
    for name in ("litert_torch", "ai_edge_quantizer", "ai_edge_litert"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ModelError,
        match=r"^tflite-int8 files need litert_torch and ai_edge_quantizer and ai_edge_litert: pip install "
        r"'\.\[tflite\]' in the checkout$",
    ):
        check_installed("tflite-int8")
    with pytest.raises(ModelError, match=r"^tflite files need ai_edge_litert: pip install '\.\[tflite\]' in the"):
        read(Path("model.tflite"))
    with pytest.raises(ModelError, match=r"^tflite-header files need ai_edge_litert: pip install '\.\[litert\]' in"):
        read_without_torch(Path("model.h"), *RUNTIMES["tflite-header"])
    check_installed("pt2")
    check_installed("safetensors")
