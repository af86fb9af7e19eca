"""A trained network as one file that can be used without this package: ONNX, a PyTorch program, or its weights alone.

What is deployed takes plain pixels and normalises them itself. Each file holds, beside the network, its `Description`.
Reading a file back never runs code that is in it.
"""

import copy
import io
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self, cast

import torch
from pydantic import model_validator
from torch import Tensor, nn

from train_core.data import TrainingData
from train_core.device import is_out_of_memory
from train_core.errors import ModelError
from train_core.models import ResNet
from train_core.specs import Frozen, PositiveInt, ResNetSpec, num_params

FORMATS = ("onnx", "pt2", "safetensors")
OPSET = 18  # of ONNX: what torch writes by itself, and what onnxruntime reads since 1.14

Network = Callable[[Tensor], Tensor]
"""From images float32 [N, C, H, W], 0 to 255, to logits float32 [N, classes]."""


class Description(Frozen):
    """What a model file says of itself. Each field is an entry of the file's metadata, as JSON."""

    version: Literal[1] = 1
    origin: str
    network: ResNetSpec
    classes: tuple[str, ...]
    height: PositiveInt
    width: PositiveInt
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, network: ResNetSpec, data: TrainingData, origin: str) -> Self:
        """What is to be said of a network that was trained on this data."""
        # The name of a folder may be no text.
        classes = tuple(name.encode(errors="replace").decode() for name in data.classes)
        height, width = data.size
        return cls(
            origin=origin,
            network=network,
            classes=classes,
            height=height,
            width=width,
            mean=data.mean,
            std=data.std,
        )

    @model_validator(mode="after")
    def _fits_the_network(self) -> Self:
        channels = self.network.in_channels
        if (len(self.classes), len(self.mean), len(self.std)) != (self.network.num_classes, channels, channels):
            raise ValueError("classes, mean and std must be those of the network's outputs and inputs")
        return self

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for RGB."""
        return self.network.in_channels

    def metadata(self) -> dict[str, str]:
        """The fields as entries of a file's metadata."""
        return {name: json.dumps(value) for name, value in self.model_dump(mode="json").items()}

    @classmethod
    def from_metadata(cls, entries: Mapping[str, str]) -> Self:
        """The description that `metadata` wrote; what else is among the entries is left alone."""
        return cls.model_validate({name: json.loads(entries[name]) for name in cls.model_fields})


class Deployed(nn.Module):
    """A network with its normalisation: maps images float32 [N, C, H, W], 0 to 255, to logits [N, classes]."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: ResNet, about: Description) -> None:
        super().__init__()
        self.network = network
        scale = [1 / (255 * std) for std in about.std]
        shift = [-mean / std for mean, std in zip(about.mean, about.std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale)[:, None, None])
        self.register_buffer("shift", torch.tensor(shift)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, C, H, W]."""
        logits: Tensor = self.network(images * self.scale + self.shift)
        return logits


def deployed(network: ResNet, about: Description) -> Deployed:
    """A copy of a trained network as it is deployed: on the CPU, in fp32, as it is when it is scored."""
    model = Deployed(copy.deepcopy(network), about).cpu().float().eval()
    return model.to(memory_format=torch.contiguous_format).requires_grad_(False)


@dataclass(frozen=True)
class Classifier:
    """A model file, read."""

    about: Description
    logits: Network

    def probabilities(self, images: Tensor) -> Tensor:
        """Of each class, [N, classes], for images uint8 [N, H, W, C]."""
        return self.logits(images.permute(0, 3, 1, 2).float().contiguous()).softmax(dim=1)


# -------------------------------------------------------------------------------------------------------- writing


def check_installed(fmt: str) -> None:
    """Check that the packages are here that writing a format takes.

    Raises:
        ModelError: one is missing; the message says how to get it.

    """
    if fmt == "onnx":
        _need("onnx", "onnxscript", "onnxruntime")


def serialised(model: Deployed, about: Description, fmt: str) -> bytes:
    """The content of a file of one of `FORMATS`."""
    writers = {"onnx": _as_onnx, "pt2": _as_pt2, "safetensors": _as_safetensors}
    return writers[fmt](model, about)


def as_others_load_it(written: bytes, fmt: str) -> Network:
    """What a file's content computes for whoever loads it by the library of its format; safetensors has none for that.

    Loading a PyTorch program can run code that is in it: this is for what this process has written.
    """
    if fmt != "pt2":
        return _READERS[fmt](written).logits
    with _quiet():
        return _inferring(torch.export.load(io.BytesIO(written)).module())


def _as_onnx(model: Deployed, about: Description) -> bytes:
    import onnx

    with _quiet():
        program = torch.onnx.export(
            _program(model, about),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=_sizes(),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    proto.producer_name, proto.producer_version = "budget-search", ""
    proto.doc_string = "images: float32 [N, C, H, W], 0 to 255; logits: float32 [N, classes]"
    for node in proto.graph.node:  # where in the source code each came from, with this machine's paths
        del node.metadata_props[:]
    onnx.helper.set_model_props(proto, about.metadata())
    content: bytes = proto.SerializeToString()
    return content


def _as_pt2(model: Deployed, about: Description) -> bytes:
    buffer = io.BytesIO()
    program = _program(model, about)
    program.example_inputs = None  # they would be kept as a pickle
    with _quiet():
        torch.export.save(program, buffer, extra_files=about.metadata())
    return buffer.getvalue()


def _as_safetensors(model: Deployed, about: Description) -> bytes:
    from safetensors.torch import save

    return save(model.state_dict(), about.metadata())


def _program(model: Deployed, about: Description) -> torch.export.ExportedProgram:
    """The model as a graph that takes any number of images."""
    images = torch.zeros(2, about.channels, about.height, about.width)  # two: one would be taken for a constant
    program = torch.export.export(model, (images,), dynamic_shapes=_sizes())
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # with this machine's paths
    return program


def _sizes() -> tuple[dict[int, torch.export.Dim]]:
    """Which sizes of the input are free: the number of images alone."""
    # No constant: making it takes half a second, which every command would wait for.
    return ({0: torch.export.Dim("N")},)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch's exporter and its packages tell their developers."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # some versions print
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _need(*packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ModelError(f"ONNX needs {' and '.join(missing)}: pip install '.[onnx]' in the checkout")


# -------------------------------------------------------------------------------------------------------- reading


def read(path: Path) -> Classifier:
    """The model in a file that `serialised` made. Nothing that is in the file is executed.

    Raises:
        ModelError: there is no such file, it is none of these, or a package is missing that reads it.

    """
    fmt = path.suffix.lower().removeprefix(".")
    if fmt not in FORMATS:
        raise ModelError(f"{path} is no model file: give one that ends in .onnx, .pt2 or .safetensors")
    if fmt == "onnx":
        _need("onnxruntime")
    try:
        written = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model {path} ({error.strerror}): check the path") from error
    try:
        model = _READERS[fmt](written)
        about = model.about
        if model.logits(torch.zeros(1, about.channels, about.height, about.width)).shape != (1, len(about.classes)):
            raise ValueError("it gives something else than it says")
    except Exception as error:  # whatever three libraries make of a file that is none of ours
        if is_out_of_memory(error):
            raise
        raise ModelError(f"{path} is damaged, or no model that `search export` wrote: export it again") from error
    return model


def _read_onnx(written: bytes) -> Classifier:
    """By onnxruntime, which computes with the operators of the ONNX standard and has no others to call."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # an error is raised, too
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])

    def logits(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return Classifier(Description.from_metadata(session.get_modelmeta().custom_metadata_map), logits)


def _read_pt2(written: bytes) -> Classifier:
    """Weights and description alone, out of the archive; the graph in it is the one that our own code makes of them.

    `torch.export.load` would unpickle what an archive asks it to, and evaluate the expressions in its graph.
    """
    with zipfile.ZipFile(io.BytesIO(written)) as archive:
        root = archive.namelist()[0].split("/")[0]

        def content(name: str) -> bytes:
            info = archive.getinfo(f"{root}/{name}")
            if info.file_size > len(written):  # torch compresses nothing
                raise ValueError(f"{name} is compressed")
            return archive.read(info)

        about = Description.from_metadata(
            {name: content(f"extra/{name}").decode() for name in Description.model_fields}
        )
        model = _empty(about, len(written))
        tensors = json.loads(content("data/weights/model_weights_config.json"))["config"]
        state = {}
        for name, like in model.state_dict().items():
            if tensors[name]["use_pickle"]:
                raise ValueError(f"{name} is pickled")
            raw = bytearray(content(f"data/weights/{tensors[name]['path_name']}"))
            state[name] = torch.frombuffer(raw, dtype=like.dtype).view(like.shape)
    return _with(model, state, about)


def _read_safetensors(written: bytes) -> Classifier:
    from safetensors.torch import load

    header = json.loads(written[8 : 8 + int.from_bytes(written[:8], "little")])
    about = Description.from_metadata(header["__metadata__"])
    return _with(_empty(about, len(written)), load(written), about)


_READERS: dict[str, Callable[[bytes], Classifier]] = {
    "onnx": _read_onnx,
    "pt2": _read_pt2,
    "safetensors": _read_safetensors,
}


def _empty(about: Description, size: int) -> Deployed:
    """The described network, its weights to be filled in from a file of this size in bytes."""
    if 4 * num_params(about.network) > size:  # before memory is taken for what a false description asks
        raise ValueError("it describes a larger network than it holds")
    return Deployed(ResNet(about.network), about)


def _with(model: Deployed, state: dict[str, Tensor], about: Description) -> Classifier:
    model.load_state_dict(state)
    return Classifier(about, _inferring(model.eval()))


def _inferring(model: nn.Module) -> Network:
    def logits(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return cast(Tensor, model(images))

    return logits
