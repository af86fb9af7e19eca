"""The libraries that compute model files without torch, so that one image is classified quickly: one record each."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train_core.c_header import array_of
from train_core.description import Description
from train_core.tflite import description_of

Logits = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Maps images [N, C, H, W], 0 to 255, to logits [N, classes]."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A library that computes a kind of model files on the CPU. Nothing in a file is executed."""

    name: str  # for readers
    package: str  # to import
    network: Callable[[bytes, int], tuple[Description, Logits]]
    """Reads a file, to compute with this number of threads; raises any exception for other files."""
    stored: Callable[[bytes], bytes] = lambda written: written  # the part of a file that a device stores


def _onnx_network(written: bytes, threads: int) -> tuple[Description, Logits]:
    """By onnxruntime, which computes only the operators of the ONNX standard."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are also raised
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])

    def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
        answers: NDArray[np.float32] = session.run(["logits"], {"images": images})[0]
        return answers

    return Description.from_metadata(session.get_modelmeta().custom_metadata_map), logits


def _tflite_network(written: bytes, threads: int) -> tuple[Description, Logits]:
    return description_of(written), _computed(written, threads)


def _header_network(written: bytes, threads: int) -> tuple[Description, Logits]:
    about, array = array_of(written)
    return about, _computed(array, threads)


def _computed(written: bytes, threads: int) -> Logits:
    """The network of a TFLite file, by LiteRT, which has only its own operators; one image at a time."""
    with without_native_messages():
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=written, num_threads=threads)
        interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    is_int8 = taken["dtype"] == np.int8
    if is_int8 and taken["quantization"] != (1.0, -128):
        raise ValueError("its input is not pixels minus 128")
    scale, zero = given["quantization"] if is_int8 else (1.0, 0)

    def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
        answers = []
        for image in images.transpose(0, 2, 3, 1)[:, None]:
            pixels = (image.round() - 128).astype(np.int8) if is_int8 else image
            interpreter.set_tensor(taken["index"], np.ascontiguousarray(pixels))
            interpreter.invoke()
            answers.append(interpreter.get_tensor(given["index"]))
        stacked = np.concatenate(answers).astype(np.float32)
        return ((stacked - zero) * scale).astype(np.float32) if is_int8 else stacked

    return logits


@contextmanager
def without_native_messages() -> Iterator[None]:
    """Suppress what C++ libraries write to standard error past Python, such as greetings when they are loaded."""
    if sys.stderr is not None:
        sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


ONNX = Runtime(name="onnxruntime", package="onnxruntime", network=_onnx_network)
TFLITE = Runtime(name="LiteRT", package="ai_edge_litert", network=_tflite_network)
HEADER = Runtime(
    name="LiteRT",
    package="ai_edge_litert",
    network=_header_network,
    stored=lambda written: array_of(written)[1],
)
