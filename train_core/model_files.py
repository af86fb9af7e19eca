"""Files of exported models, and reading of those that need no torch, so that one image is classified quickly."""

import os
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from train_core.description import Description
from train_core.errors import ModelError
from train_core.examples import FormatName
from train_core.runtimes import HEADER, ONNX, TFLITE, Logits, Runtime

if TYPE_CHECKING:
    from onnx import ModelProto

RUNTIMES: dict[FormatName, tuple[Runtime, str]] = {
    "onnx": (ONNX, "onnx"),
    "onnx-int8": (ONNX, "onnx"),
    "tflite": (TFLITE, "litert"),
    "tflite-int8": (TFLITE, "litert"),
    "tflite-header": (HEADER, "litert"),
}
"""The library that computes a format without torch, and the extra that installs it."""


def format_of(path: Path) -> FormatName:
    """The format of a model file, by its name.

    Raises:
        ModelError: its name is not that of a model file.

    """
    names: tuple[FormatName, ...] = get_args(FormatName)
    for name in sorted(names, key=len, reverse=True):  # onnx-int8 before onnx
        if path.suffix and path.name.lower().endswith(suffix_of(name)):
            return name
    raise ModelError(f"{path} is not a model file: give one that ends in one of {', '.join(map(suffix_of, names))}")


def suffix_of(fmt: FormatName) -> str:
    """The ending of file names in this format: `.onnx`, `.int8.onnx` for onnx-int8, or `.h` for a header."""
    if fmt == "tflite-header":
        return ".h"
    return "." + ".".join(reversed(fmt.split("-")))


def require(fmt: FormatName, packages: Sequence[str], extra: str) -> None:
    """Check that these packages are installed; `extra` is the extra of this package that installs them.

    Raises:
        ModelError: one is missing; the message says how to install it.

    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ModelError(f"{fmt} files need {' and '.join(missing)}: pip install '.[{extra}]' in the checkout")


def content_of(path: Path) -> bytes:
    """The contents of a model file.

    Raises:
        ModelError: it cannot be read.

    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model {path} ({error.strerror}): check the path") from error


def damaged(path: Path) -> ModelError:
    """The error for a file that contains no model."""
    return ModelError(f"{path} is damaged, or no model that `search export` wrote: export it again")


def read_without_torch(path: Path, runtime: Runtime, extra: str) -> tuple[Description, Logits]:
    """The description and the network of a model file. Nothing in the file is executed.

    Raises:
        ModelError: it cannot be read, or the runtime is missing, which `extra` of this package installs.

    """
    require(format_of(path), (runtime.package,), extra)
    written = content_of(path)
    try:
        about, logits = runtime.network(written, threads())
        blank = np.zeros((1, about.channels, about.height, about.width), np.float32)
        if logits(blank).shape != (1, len(about.classes)):
            raise ValueError("it gives something else than it says")
    except MemoryError:
        raise
    except Exception as error:  # the runtimes raise many kinds of errors for other files
        raise damaged(path) from error
    return about, logits


def threads() -> int:
    """As many threads as torch would use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shorten(model: "ModelProto") -> None:
    """Remove what only readers of the graph need: in a small network, the names take more space than the weights."""
    graph = model.graph
    del graph.value_info[:]
    short = {name: name for name in ("", "images", "logits")}
    for node in graph.node:
        node.name = ""
        for names in (node.input, node.output):
            names[:] = [short.setdefault(name, str(len(short))) for name in names]
    for each in graph.initializer:
        each.name = short.setdefault(each.name, str(len(short)))


def stored_size(path: Path) -> int:
    """Bytes of a model file that a device stores: of a C array, its elements; if it is damaged, the text."""
    if path.suffix == ".h":
        with suppress(ValueError, IndexError, TypeError):
            return len(HEADER.stored(path.read_bytes()))
    return path.stat().st_size
