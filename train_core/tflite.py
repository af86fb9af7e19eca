"""TFLite files (LiteRT): their description, and the same network in int8. Imports no torch.

A file takes one image as its pixels are in memory: [1, height, width, channels]. In float32 the values are 0 to 255. In
int8 they are the same minus 128, so a byte of a camera needs one subtraction and no normalisation.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_core.description import Description

SIGNATURE = "serving_default"
ALIGNED = 16  # bytes: the schema requires it for all constants, and a microcontroller may read them in place


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of an operator."""

    shape: tuple[int, ...]
    size: int  # in bytes
    is_constant: bool


@dataclass(frozen=True, kw_only=True)
class Operator:
    """A step of the network."""

    name: str  # as in the schema: `CONV_2D`
    inputs: tuple[int, ...]  # indices of tensors; -1: left out
    outputs: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The network of a file."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]  # in the order of computation
    input: int
    output: int
    scale: float  # of the int8 output: a logit is (value - zero) * scale
    zero: int


def graph_of(written: bytes) -> Graph:
    """The network of a file."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType

    names = {value: name for name, value in vars(BuiltinOperator).items() if isinstance(value, int)}
    types = {value: name for name, value in vars(TensorType).items() if isinstance(value, int)}
    model = _parsed(written)
    (graph,) = model.subgraphs

    def operator(each: Any) -> Operator:
        code = model.operatorCodes[each.opcodeIndex]
        name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        return Operator(name=name, inputs=tuple(map(int, each.inputs)), outputs=tuple(map(int, each.outputs)))

    def tensor(each: Any) -> Tensor:
        shape = tuple(map(int, each.shape)) if each.shape is not None else ()
        content = model.buffers[each.buffer].data
        return Tensor(
            shape=shape,
            size=prod(shape) * BYTES[types[each.type]],
            is_constant=content is not None and len(content) > 0,
        )

    (taken,), (given,) = graph.inputs, graph.outputs
    how = graph.tensors[given].quantization
    is_int8 = how is not None and how.scale is not None
    return Graph(
        tensors=tuple(map(tensor, graph.tensors)),
        operators=tuple(map(operator, graph.operators)),
        input=int(taken),
        output=int(given),
        scale=float(how.scale[0]) if is_int8 else 1.0,
        zero=int(how.zeroPoint[0]) if is_int8 else 0,
    )


BYTES = {"INT8": 1, "UINT8": 1, "BOOL": 1, "INT16": 2, "FLOAT16": 2, "INT32": 4, "FLOAT32": 4, "INT64": 8}


def described(written: bytes, about: Description) -> bytes:
    """The file with its description among its metadata, and with short names.

    The tensor names from the converter take more space than the weights of a small network.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = _parsed(written)
    (graph,) = model.subgraphs
    for number, tensor in enumerate(graph.tensors):
        tensor.name = str(number)
    graph.tensors[graph.inputs[0]].name, graph.tensors[graph.outputs[0]].name = "images", "logits"
    graph.name = "main"
    (signature,) = model.signatureDefs
    signature.inputs[0].name, signature.outputs[0].name = "images", "logits"
    signature.signatureKey = SIGNATURE
    model.description = "budget-search"
    model.metadata = [each for each in model.metadata or () if each.name == b"min_runtime_version"]
    for name, value in about.metadata().items():
        model.buffers.append(schema.BufferT(data=np.frombuffer(value.encode(), np.uint8)))
        model.metadata.append(schema.MetadataT(name=name, buffer=len(model.buffers) - 1))
    return _packed(model)


def without_description(written: bytes) -> bytes:
    """The file without what a microcontroller does not read: the description, and the names of tensors."""
    model = _parsed(written)
    kept = [each for each in model.metadata or () if each.name == b"min_runtime_version"]
    for each in model.metadata or ():
        if each not in kept:
            model.buffers[each.buffer].data = None  # their indices stay, because the tensors have the others
    model.metadata = kept
    for tensor in model.subgraphs[0].tensors:
        tensor.name = None
    return _packed(model)


def description_of(written: bytes) -> Description:
    """The description inside the file."""
    from ai_edge_litert.schema_py_generated import Model

    model = Model.GetRootAs(written)
    entries = {}
    for number in range(model.MetadataLength()):
        each = model.Metadata(number)
        if each.Name().decode() in Description.model_fields:
            entries[each.Name().decode()] = bytes(model.Buffers(each.Buffer()).DataAsNumpy()).decode()
    return Description.from_metadata(entries)


def quantised(written: bytes, images: NDArray[np.uint8]) -> bytes:
    """The int8 file, made from a float32 file and from calibration images [N, H, W, C].

    Weights have one scale for each output channel, or one for all in matrix products. Activations are int8, with one
    scale for each tensor, from the minimum and the maximum over all images. The quantiser's own moving average of both
    cuts off the images with large values (docs/benchmarks.md).
    """
    from ai_edge_quantizer import qtyping, recipe
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.quantizer import Quantizer
    from ai_edge_quantizer.recipe_manager import RecipeManager
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    about = description_of(written)
    maker = Quantizer(bytearray(written), recipe.static_wi8_ai8())
    # One scale for all: older releases of TensorFlow Lite Micro read no other in a matrix product, without an error.
    maker.add_static_config(
        ".*", qtyping.TFLOperationName.FULLY_CONNECTED, 8, 8, weight_granularity=qtyping.QuantGranularity.TENSORWISE
    )
    pixels = [{"images": image[None].astype(np.float32)} for image in images]
    manager = RecipeManager()
    manager.load_quantization_recipe(maker.get_quantization_recipe())
    calibrator = Calibrator(written, num_threads=1, qsv_update_func=min_max_update)
    calibrator.calibrate({SIGNATURE: pixels}, manager)
    ranges = calibrator.get_model_qsvs()
    for each in ranges.values():
        if "max" in each and np.size(each["max"]) == 1 and max(abs(each["min"]), abs(each["max"])) < DEAD:
            each["max"] = np.ones_like(each["max"])  # such as a gate that is off: LiteRT refuses a scale of nearly 0
    # All possible pixels: the scale is 1, and the stored value is the pixel minus 128.
    ranges["images"] = {name: np.full_like(ranges["images"][name], value) for name, value in PIXELS.items()}
    made = maker.quantize(ranges, enable_progress_report=False).quantized_model
    return described(bytes(made), about)


DEAD = 1e-4  # a tensor whose values are all smaller
PIXELS = {"min": 0, "max": 255}


def _parsed(written: bytes) -> Any:
    from ai_edge_litert.schema_py_generated import Model, ModelT

    model = ModelT.InitFromObj(Model.GetRootAs(written))
    for buffer in model.buffers:
        if buffer.size:  # in a larger file, the quantiser puts constants after the model
            buffer.data = np.frombuffer(written, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def _packed(model: Any) -> bytes:
    """The file of this model, with its constants at multiples of `ALIGNED`."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    class Aligned(schema.BufferT):  # type: ignore[misc]  # the library has no types
        def Pack(self, builder: Any) -> int:  # noqa: N802  # the library's name
            data = None
            if self.data is not None and len(self.data):
                content = np.asarray(self.data, np.uint8).tobytes()
                builder.StartVector(1, len(content), ALIGNED)
                builder.head -= len(content)
                builder.Bytes[builder.head : builder.head + len(content)] = content
                data = builder.EndVector()
            schema.BufferStart(builder)
            if data is not None:
                schema.BufferAddData(builder, data)
            return int(schema.BufferEnd(builder))

    model.buffers = [Aligned(data=each.data) for each in model.buffers]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
