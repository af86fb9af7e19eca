"""An int8 TFLite file as an array in C, for TensorFlow Lite Micro. Imports no torch."""

import json
import re

from train_core.arena import arena_of
from train_core.description import Description
from train_core.tflite import description_of, graph_of, without_description

_TEMPLATE = """\
// An image classifier in int8 for TensorFlow Lite Micro, written by budget-search.
//
// input: int8 [1, {height}, {width}, {channels}], row by row: each pixel (0 to 255) minus 128
// output: int8 [1, {classes}]; a logit is (value - MODEL_OUTPUT_ZERO_POINT) * MODEL_OUTPUT_SCALE
// operators to register: {operators}
// RAM, computed from the file and not measured: MODEL_TENSOR_BYTES for the tensors, with the plan of the library's
// greedy planner; MODEL_ARENA_BYTES with an estimate of what the library stores about tensors and operators.
// Optimised kernels can need more: read arena_used_bytes() on the device.
//
// The classes and the rest of the description, as JSON:
// {about}

#ifndef BUDGET_SEARCH_MODEL_H_
#define BUDGET_SEARCH_MODEL_H_

#define MODEL_HEIGHT {height}
#define MODEL_WIDTH {width}
#define MODEL_CHANNELS {channels}
#define MODEL_CLASSES {classes}
#define MODEL_OUTPUT_SCALE {scale:.9g}f
#define MODEL_OUTPUT_ZERO_POINT ({zero})
#define MODEL_TENSOR_BYTES {tensors}
#define MODEL_ARENA_BYTES {arena}
#define MODEL_BYTES {size}

#if defined(__cplusplus)
alignas(16)
#elif defined(__GNUC__)
__attribute__((aligned(16)))
#endif
static const unsigned char model_data[MODEL_BYTES] = {{
{rows}
}};

#endif  // BUDGET_SEARCH_MODEL_H_
"""

_ROW = 16  # bytes


def header_of(written: bytes) -> bytes:
    """The header for an int8 TFLite file."""
    about, array = description_of(written), without_description(written)
    graph = graph_of(array)
    arena = arena_of(graph)
    rows = (array[start : start + _ROW] for start in range(0, len(array), _ROW))
    text = _TEMPLATE.format(
        height=about.height,
        width=about.width,
        channels=about.channels,
        classes=len(about.classes),
        operators=", ".join(sorted({_method(each.name) for each in graph.operators})),
        about=json.dumps(about.metadata()),
        scale=graph.scale,
        zero=graph.zero,
        tensors=arena.tensors,
        arena=arena.total,
        size=len(array),
        rows=",\n".join("  " + ", ".join(f"0x{byte:02x}" for byte in row) for row in rows),
    )
    return text.encode("ascii")


def array_of(header: bytes) -> tuple[Description, bytes]:
    """The description and the TFLite file in a header.

    Raises:
        ValueError: it is not a header of a model.

    """
    text = header.decode("ascii")
    (about,) = re.findall(r"^// (\{.*\})$", text, re.MULTILINE)
    (size,) = re.findall(r"^#define MODEL_BYTES (\d+)$", text, re.MULTILINE)
    (rows,) = re.findall(r"model_data\[MODEL_BYTES\] = \{([0-9a-fx,\s]*)\};", text)
    array = bytes(int(byte, 16) for byte in rows.split(","))
    if len(array) != int(size):
        raise ValueError("it holds another number of bytes than it says")
    return Description.from_metadata(json.loads(about)), array


def _method(name: str) -> str:
    """The method that registers an operator: `AddConv2D` for CONV_2D."""
    return "Add" + "".join(word.capitalize() for word in name.replace("PADV2", "PAD_V2").split("_")).replace("2d", "2D")
