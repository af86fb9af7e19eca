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
"""Environment variable: set to 1, kernels are launched one by one instead of captured in a CUDA graph."""


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name` (auto, cpu, cuda, cuda:1, mps); `auto` is the fastest one there.

    Raises:
        UserError: this machine has no such device.

    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        if name.partition(":")[0] not in {"cpu", "cuda", "mps"}:  # torch would list devices that nothing here uses
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
        with torch.cuda.device(device):  # else the current one is asked
            if torch.cuda.is_bf16_supported(including_emulation=False):
                return "bf16"
        has_tensor_cores = torch.cuda.get_device_capability(device) >= (7, 0)
        return "fp16" if has_tensor_cores else "fp32"
    if device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False):
        return "bf16"
    # Without the instructions, a half precision would be emulated and slower than fp32.
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

    A GPU with an index becomes the current one, whose streams are used where nothing else is said.
    """
    _keep_freed_memory()
    if device.type == "cuda":
        if gpu_index(device) is not None:
            torch.cuda.set_device(device)
        # Every batch of a network has one shape, so that trying cuDNN's algorithms once pays: the first few of them,
        # since each costs milliseconds for each convolution of each network.
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.benchmark_limit = 4


@contextmanager
def without_trials_of_algorithms() -> Iterator[None]:
    """Let cuDNN choose by its heuristics: for work that is too short to repay trying its algorithms."""
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
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


# At the end all is to be found again, or some libraries complain that their objects were left.
atexit.register(gc.unfreeze)


def release_memory(device: torch.device) -> None:
    """Give back what no tensor uses any more, cycles of objects included. Meant for between two networks."""
    gc.collect()
    # What is left belongs to no network: modules, and what is known of the study. To look through it again before each
    # trial takes a quarter of a second.
    gc.freeze()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device has no memory left (torch has no one class for it)."""
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
                "FIND was unable to find an engine",  # cuDNN's search, where there is no room for any workspace
            )
        )
    )


def _keep_freed_memory() -> None:
    """Let glibc keep freed blocks instead of giving every activation buffer back to the system at each step.

    Without it, each step maps and clears the same pages again. Does nothing where the C library is another.
    """
    if not sys.platform.startswith("linux"):
        return
    mmap_threshold, trim_threshold = -3, -1  # names of mallopt(3)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, 1 << 30)
