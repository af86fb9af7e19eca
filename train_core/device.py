"""Which device trains, in which precision, and how the host is set up for it."""

import atexit
import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from train_core.errors import UserError
from train_core.specs import Precision

NO_CAPTURE = "SEARCH_EAGER"
"""Environment variable: if it is 1, kernels are launched one by one instead of captured in a CUDA graph."""


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name` (auto, cpu, cuda, cuda:1, mps); `auto` is the fastest one available.

    Raises:
        UserError: this machine has no such device.

    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        if name.partition(":")[0] not in {"cpu", "cuda", "mps"}:  # torch would list devices that are not used here
            raise RuntimeError("neither cpu, cuda nor mps")
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--device {name!r} cannot be used here ({reason}): use --device auto or --device cpu"
        ) from error
    return device


def pick_precision(device: torch.device) -> Precision:
    """The precision to train in: bf16, else fp16, else fp32, the first that the device computes natively.

    bf16 comes first because it has the range of fp32: gradients need no scaling, and no step is skipped. It is not
    always the fastest: PyTorch computes batch norm in bf16 with its own kernels, in fp16 with cuDNN's, which can be
    faster (as on an H100).
    """
    if device.type == "cuda":
        with torch.cuda.device(device):  # otherwise the current device is asked
            if torch.cuda.is_bf16_supported(including_emulation=False):
                return "bf16"
        has_tensor_cores = torch.cuda.get_device_capability(device) >= (7, 0)
        return "fp16" if has_tensor_cores else "fp32"
    if device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False):
        return "bf16"
    # Without these instructions, a half precision would be emulated and slower than fp32.
    return "fp32"


def describe(device: torch.device) -> str:
    """The device in words, for people: the GPU's name, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def gpu_index(device: torch.device) -> int | None:
    """The index of a CUDA GPU that was chosen by its index, from 0; none for any other device."""
    return device.index if device.type == "cuda" else None


def set_up(device: torch.device) -> None:
    """Prepare this process for training on the device. Call it once, before the first batch.

    A GPU with an index becomes the current one; its streams are used by default.
    """
    _keep_freed_memory()
    if device.type == "cuda":
        if gpu_index(device) is not None:
            torch.cuda.set_device(device)
        # Every batch of a network has the same shape, so it is worth trying cuDNN's algorithms once: only the first
        # few, because each costs milliseconds for each convolution of each network.
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.benchmark_limit = 4


@contextmanager
def without_trials_of_algorithms() -> Iterator[None]:
    """Let cuDNN choose by its heuristics: for work that is too short to benefit from trying its algorithms."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def may_capture(device: torch.device) -> bool:
    """Whether kernels may be captured in a CUDA graph: on CUDA, unless `SEARCH_EAGER=1` is set."""
    return device.type == "cuda" and os.environ.get(NO_CAPTURE, "0") in {"", "0"}


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


# At exit, frozen objects must be found again, or some libraries complain that their objects were left.
atexit.register(gc.unfreeze)


def release_memory(device: torch.device) -> None:
    """Free what no tensor uses any more, including cycles of objects. Meant for the time between two networks."""
    gc.collect()
    # What is left belongs to no network: modules, and data of the study. Scanning it again before each trial takes a
    # quarter of a second.
    gc.freeze()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device has no memory left (torch has no single class for it)."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError)
        and any(
            words in said
            for words in (
                "out of memory",
                "can't allocate memory",
                "not enough memory",
                "STATUS_ALLOC_FAILED",
                "DEVICE_ALLOCATION_FAILED",
                "FIND was unable to find an engine",  # cuDNN's search, if there is no room for any workspace
            )
        )
    )


def _keep_freed_memory() -> None:
    """Make glibc keep freed blocks instead of returning every activation buffer to the system at each step.

    Otherwise each step maps and clears the same pages again. Does nothing with another C library.
    """
    if not sys.platform.startswith("linux"):
        return
    mmap_threshold, trim_threshold = -3, -1  # names of mallopt(3)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, 1 << 30)
