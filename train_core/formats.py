"""The formats of exported models: one record each, with everything that the rest of the code needs to know of one.

Each file can be used without this package, and contains, besides the network, its `Description`. Reading a file never
runs code that is in it. To add a format, name it in `FormatName` (`train_core/examples.py`, which needs no torch),
write the code there that shows how to use such a file, and give it a record in `FORMATS` here.
"""

import io
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train_core import examples, tflite
from train_core.arena import arena_of
from train_core.c_header import array_of, header_of
from train_core.deploy import Classifier, Deployed, Network
from train_core.description import Description
from train_core.device import is_out_of_memory
from train_core.errors import ModelError
from train_core.examples import FormatName
from train_core.images import draft_side, fit_code
from train_core.model_files import content_of, damaged, format_of, require, shorten
from train_core.models import ResNet
from train_core.quantised import quantised
from train_core.runtimes import HEADER, ONNX, TFLITE, Runtime, without_native_messages
from train_core.specs import num_params
from train_core.tables import table
from train_core.tflite import graph_of

OPSET = 18  # of ONNX: torch's default, which onnxruntime reads since 1.14


@dataclass(frozen=True, kw_only=True)
class Int8:
    """How a file that computes with 8-bit integers is made from a float32 file."""

    float_format: FormatName  # format of the float32 file
    calibrate: Callable[[bytes, NDArray[np.uint8]], bytes]  # from that file and from training images [N, H, W, C]
    arithmetic: str  # in a few words, for the model card
    rounding: str  # a sentence for the model card: what was rounded to what


@dataclass(frozen=True, kw_only=True)
class Format:
    """A file format of exported models."""

    write: Callable[[Deployed, Description], bytes]
    """Makes the file; for a format with `int8`, the float32 file before calibration."""
    int8: Int8 | None = None
    runtime: Runtime | None = None  # computes the file without torch
    read: Callable[[bytes], Classifier]  # raises any exception for a file that is not of this format
    load_elsewhere: Callable[[bytes], Network]
    """Loads a file that this process has written, with the format's own library; this may run code in it."""
    takes: str = "`images`, float32 [N, {channels}, {height}, {width}], 0 to 255, any N; the normalisation is inside"
    gives: str = "`logits`, float32 [N, {classes}]; their softmax are probabilities"
    facts: Callable[[bytes], dict[str, str]] = lambda _written: {}  # more rows for the model card, from the file
    example: str  # code that uses such a file without this package: see `train_core.examples`
    example_packages: str  # the packages that this code needs, for pip
    warning: str = ""  # a sentence for the model card
    packages_to_write: tuple[str, ...] = ()  # names to import of packages that are not always installed
    packages_to_read: tuple[str, ...] = ()
    extra: str = ""  # the extra of this package that installs them


def example(fmt: FormatName, about: Description, file: str, image: str = "image.png") -> str:
    """Code that prints the model's prediction for the picture `image`: three lines, each with a class and its share."""
    return Template(FORMATS[fmt].example).substitute(
        file=file,
        image=image,
        mode="L" if about.channels == 1 else "RGB",
        width=about.width,
        height=about.height,
        draft=draft_side(about.preparation),
        bits=about.bits,
        highest=(1 << about.bits) - 1,
        shift=about.bits - 8,
        background=about.background,
        fit=fit_code(about.preparation),
        channels=about.channels,
        network=examples.network_source(),
    )


def check_installed(fmt: FormatName) -> None:
    """Check that the packages for writing a format are installed.

    Raises:
        ModelError: one is missing; the message says how to install it.

    """
    require(fmt, FORMATS[fmt].packages_to_write, FORMATS[fmt].extra)


# -------------------------------------------------------------------------------------------------------- writing


def _as_onnx(model: Deployed, about: Description) -> bytes:
    import onnx

    with _without_messages():
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
    for node in proto.graph.node:  # the position of each in the source code, with this machine's paths
        del node.metadata_props[:]
    shorten(proto)
    onnx.helper.set_model_props(proto, about.metadata())
    content: bytes = proto.SerializeToString()
    return content


def _as_pt2(model: Deployed, about: Description) -> bytes:
    buffer = io.BytesIO()
    program = _program(model, about)
    program.example_inputs = None  # they would be kept as a pickle
    with _without_messages():
        torch.export.save(program, buffer, extra_files=about.metadata())
    return buffer.getvalue()


def _as_safetensors(model: Deployed, about: Description) -> bytes:
    from safetensors.torch import save

    return save(model.state_dict(), about.metadata())


def _program(model: Deployed, about: Description) -> torch.export.ExportedProgram:
    """The model as a graph that takes any number of images."""
    images = torch.zeros(2, about.channels, about.height, about.width)  # two: one would be treated as a constant
    program = torch.export.export(model, (images,), dynamic_shapes=_sizes())
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # with this machine's paths
    return program


def _sizes() -> tuple[dict[int, torch.export.Dim]]:
    """Which sizes of the input are dynamic: only the number of images."""
    # Not a constant: making it takes half a second, which every command would wait for.
    return ({0: torch.export.Dim("N")},)


@contextmanager
def _without_messages() -> Iterator[None]:
    """Suppress messages of torch's exporter and its packages for their developers."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # some versions print
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _as_onnx_int8(written: bytes, images: NDArray[np.uint8]) -> bytes:
    with _without_messages():
        return quantised(written, images)


def _as_tflite(model: Deployed, about: Description) -> bytes:
    with _without_messages(), without_native_messages():
        from train_core.litert import converted

        try:
            return converted(model, about)
        except Exception as error:  # the converter raises many kinds of errors for unknown operators
            if is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"this network cannot be converted to TFLite ({type(error).__name__}: {reason}): take --format onnx"
            ) from error


def _as_tflite_int8(written: bytes, images: NDArray[np.uint8]) -> bytes:
    with _without_messages(), without_native_messages():
        return tflite.quantised(written, images)


def _as_header(written: bytes, images: NDArray[np.uint8]) -> bytes:
    return header_of(_as_tflite_int8(written, images))


# -------------------------------------------------------------------------------------------------------- reading


def read(path: Path) -> Classifier:
    """The model in a file that `Format.write` made. Nothing in the file is executed.

    Raises:
        ModelError: there is no such file, it has none of the formats, or a package to read it is missing.

    """
    fmt = format_of(path)
    require(fmt, FORMATS[fmt].packages_to_read, FORMATS[fmt].extra)
    written = content_of(path)
    try:
        model = FORMATS[fmt].read(written)
        about = model.about
        if model.logits(torch.zeros(1, about.channels, about.height, about.width)).shape != (1, len(about.classes)):
            raise ValueError("it gives something else than it says")
    except Exception as error:  # three libraries raise many kinds of errors for other files
        if is_out_of_memory(error):
            raise
        raise damaged(path) from error
    return model


def _reader(runtime: Runtime) -> Callable[[bytes], Classifier]:
    """The reader of files that a runtime computes."""

    def read(written: bytes) -> Classifier:
        about, network = runtime.network(written, torch.get_num_threads())
        return Classifier(about, lambda images: torch.from_numpy(network(images.numpy())))

    return read


def _read_pt2(written: bytes) -> Classifier:
    """Only weights and description from the archive; our own code rebuilds the graph from them.

    `torch.export.load` would unpickle what an archive requests, and evaluate the expressions in its graph.
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
        model = _untrained(about, len(written))
        tensors = json.loads(content("data/weights/model_weights_config.json"))["config"]
        state = {}
        for name, like in model.state_dict().items():
            if tensors[name]["use_pickle"]:
                raise ValueError(f"{name} is pickled")
            raw = bytearray(content(f"data/weights/{tensors[name]['path_name']}"))
            state[name] = torch.frombuffer(raw, dtype=like.dtype).view(like.shape)
    return _classifier(model, state, about)


def _read_safetensors(written: bytes) -> Classifier:
    from safetensors.torch import load

    header = json.loads(written[8 : 8 + int.from_bytes(written[:8], "little")])
    about = Description.from_metadata(header["__metadata__"])
    return _classifier(_untrained(about, len(written)), load(written), about)


def _untrained(about: Description, size: int) -> Deployed:
    """The described network; its weights will be filled in from a file of this size in bytes."""
    if 4 * num_params(about.network) > size:  # before a false description can request memory
        raise ValueError("it describes a larger network than it holds")
    return Deployed(ResNet(about.network), about)


def _classifier(model: Deployed, state: dict[str, Tensor], about: Description) -> Classifier:
    model.load_state_dict(state)
    return Classifier(about, _inferring(model.eval()))


def _inferring(model: nn.Module) -> Network:
    def logits(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return cast(Tensor, model(images))

    return logits


# ---------------------------------------------------------------------------------------------------------- the table


def _load_pt2(written: bytes) -> Network:
    with _without_messages():
        return _inferring(torch.export.load(io.BytesIO(written)).module())


def _load_safetensors(written: bytes) -> Network:
    """Load with the code of the model card, because nothing else exists for such a file."""
    namespace: dict[str, object] = {"__name__": "example"}
    with TemporaryDirectory() as folder:
        file = Path(folder, "model.safetensors")
        file.write_bytes(written)
        exec(examples.network_code(file), namespace)
    return _inferring(cast(nn.Module, namespace["model"]))


def _facts_of_header(written: bytes) -> dict[str, str]:
    """What a microcontroller needs for the network in a header."""
    _, array = array_of(written)
    arena = arena_of(graph_of(array))
    return {
        "flash": f"{len(array):,} bytes for the array, which is the TFLite file without the description",
        "RAM": (
            f"{arena.tensors:,} bytes for tensors, computed from the file and not measured; with an estimate of what "
            f"TensorFlow Lite Micro stores beside them, {arena.total:,} bytes"
        ),
    }


_ONNX = Format(
    write=_as_onnx,
    runtime=ONNX,
    read=_reader(ONNX),
    load_elsewhere=lambda written: _reader(ONNX)(written).logits,
    example=examples.ONNX,
    example_packages="onnxruntime numpy pillow",
    packages_to_write=("onnx", "onnxscript", "onnxruntime"),
    packages_to_read=("onnxruntime",),
    extra="onnx",
)
_TFLITE = Format(
    write=_as_tflite,
    runtime=TFLITE,
    read=_reader(TFLITE),
    load_elsewhere=lambda written: _reader(TFLITE)(written).logits,
    takes="`images`, float32 [1, {height}, {width}, {channels}], 0 to 255; the normalisation is inside",
    gives="`logits`, float32 [1, {classes}]; their softmax are probabilities",
    example=examples.TFLITE,
    example_packages="ai-edge-litert numpy pillow",
    packages_to_write=("litert_torch", "ai_edge_quantizer", "ai_edge_litert"),
    packages_to_read=("ai_edge_litert",),
    extra="tflite",
)
_INT8 = Int8(
    float_format="tflite",
    calibrate=_as_tflite_int8,
    arithmetic="int8 weights, activations and logits",
    rounding=(
        "Its weights were rounded to int8, with one scale for each output channel of a convolution and one for "
        "each matrix product, and its activations and logits to int8"
    ),
)
_TFLITE_INT8 = replace(
    _TFLITE,
    int8=_INT8,
    takes=(
        "`images`, int8 [1, {height}, {width}, {channels}]: each pixel (0 to 255) minus 128; normalisation is inside"
    ),
    gives="`logits`, int8 [1, {classes}]; the file has the scale and the zero point that make logits of them",
    example=examples.TFLITE_INT8,
)

FORMATS: dict[FormatName, Format] = table(
    "format",
    FormatName,
    {
        "onnx": _ONNX,
        "onnx-int8": replace(
            _ONNX,
            int8=Int8(
                float_format="onnx",
                calibrate=_as_onnx_int8,
                arithmetic="int8 weights, uint8 activations; logits in fp32",
                rounding=(
                    "Its weights were rounded to int8, with one scale for each output channel, and its activations to "
                    "uint8"
                ),
            ),
            extra="int8",
        ),
        "pt2": Format(
            write=_as_pt2,
            read=_read_pt2,
            load_elsewhere=_load_pt2,
            example=examples.PT2,
            example_packages="torch numpy pillow",
            warning="Loading a `.pt2` file can run code that somebody put into it: load only files that you trust.",
        ),
        "safetensors": Format(
            write=_as_safetensors,
            read=_read_safetensors,
            load_elsewhere=_load_safetensors,
            example=examples.SAFETENSORS,
            example_packages="safetensors torch numpy pillow",
            warning="The file holds the weights alone: the classes above are the network.",
        ),
        "tflite": _TFLITE,
        "tflite-int8": _TFLITE_INT8,
        "tflite-header": replace(
            _TFLITE_INT8,
            int8=replace(_INT8, calibrate=_as_header),
            runtime=HEADER,
            read=_reader(HEADER),
            load_elsewhere=lambda written: _reader(HEADER)(written).logits,
            facts=_facts_of_header,
            example=examples.HEADER,
            warning=(
                "The code above runs the array on a computer, to try it. On a microcontroller, include the file and "
                "hand `model_data` to TensorFlow Lite Micro; its first lines say which operators to register."
            ),
        ),
    },
)
