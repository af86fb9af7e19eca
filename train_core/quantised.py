"""An ONNX file whose network computes with 8-bit integers: onnxruntime's static quantisation.

Weights are int8, with one scale for each output channel; activations are uint8, with one scale for each tensor, which
covers all values that occur for calibration images.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from train_core.model_files import shorten

if TYPE_CHECKING:
    from onnx import ModelProto

BATCH = 20  # calibration images at a time: the values of all layers are in memory


def quantised(written: bytes, images: NDArray[np.uint8]) -> bytes:
    """The int8 file, made from a float32 file and from calibration images [N, H, W, C]."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    floats = onnx.load_from_string(written)
    for number, node in enumerate(floats.graph.node):
        node.name = str(number)  # nodes are excluded by name
    with TemporaryDirectory() as folder:
        prepared, file = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
        quant_pre_process(_without_norms(floats), prepared)
        model = onnx.load(prepared)
        quantize_static(
            model,
            file,
            _Batches(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # 7 bits: on x86 without VNNI, sums of products of 8 bits would overflow
            nodes_to_exclude=_normalisation(model),
            calibrate_method=CalibrationMethod.MinMax,  # percentiles changed the logits more: docs/benchmarks.md
            extra_options={
                "CalibStridedMinMax": 1,  # one batch at a time is in memory
                "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],  # logits of 8 bits would often be equal
            },
        )
        made = onnx.load(file)
    made.producer_name, made.producer_version, made.doc_string = "budget-search", "", floats.doc_string
    del made.metadata_props[:]
    made.metadata_props.extend(floats.metadata_props)
    shorten(made)
    domains = {node.domain for node in made.graph.node}
    used = [each for each in made.opset_import if each.domain in domains]
    del made.opset_import[:]
    made.opset_import.extend(used)
    content: bytes = made.SerializeToString()
    return content


class _Batches:
    """Calibration images in the form that onnxruntime requests: by batch numbers, one after another."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        self.next: Iterator[NDArray[np.uint8]] = iter(())

    def __len__(self) -> int:
        return len(self.batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Return these batches next, without the one at `end_index`."""
        self.next = iter(self.batches[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch as the network takes it; None after the last."""
        batch = next(self.next, None)
        if batch is None:
            return None
        return {"images": np.ascontiguousarray(batch.transpose(0, 3, 1, 2), dtype=np.float32)}


def _normalisation(model: "ModelProto") -> list[str]:
    """The names of the nodes before the first convolution: they take the pixels and stay in float32."""
    names = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            break
        names.append(node.name)
    return names


def _without_norms(model: "ModelProto") -> "ModelProto":
    """The same network without batch norms.

    The exporter has already folded norms that follow a convolution into it. Any other norm, for example the first norm
    of a pre-activation block, becomes a 1x1 convolution with as many groups as channels, which can be quantised.
    """
    from onnx import helper, numpy_helper

    changed = type(model)()
    changed.CopyFrom(model)
    graph = changed.graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for number, node in enumerate(graph.node):
        if node.op_type != "BatchNormalization":
            continue
        scale, shift, mean, variance = (constants[name].astype(np.float64) for name in node.input[1:5])
        epsilon = next((each.f for each in node.attribute if each.name == "epsilon"), 1e-5)
        factor = scale / np.sqrt(variance + epsilon)
        weight, bias = factor[:, None, None, None], shift - mean * factor
        names = [f"{node.output[0]}_weight", f"{node.output[0]}_bias"]
        for name, values in zip(names, (weight, bias), strict=True):
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        convolution = helper.make_node(
            "Conv", [node.input[0], *names], [node.output[0]], name=node.name, group=len(factor), kernel_shape=[1, 1]
        )
        graph.node[number].CopyFrom(convolution)
    used = {name for node in graph.node for name in node.input}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return changed
