"""Which device trains, in which precision, and how the host is set up for it."""

import ctypes
import sys

import torch

from train_core.errors import UserError
from train_core.specs import Precision


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name` (auto, cpu, cuda, cuda:1, mps); `auto` is the fastest one there.

    Raises:
        UserError: this machine has no such device.

    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in {"cpu", "cuda", "mps"}:
            raise RuntimeError("neither cpu, cuda nor mps")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} cannot be used here ({reason}): use --device auto or --device cpu") from error
    return device


def pick_precision(device: torch.device) -> Precision:
    """bf16 where the device computes it natively (half the bytes, the range of fp32), else fp32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        # Without the instructions, bf16 would be emulated and slower than fp32.
        native = torch.cpu.get_capabilities().get("avx512_bf16", False)
    else:
        native = False
    return "bf16" if native else "fp32"


def describe(device: torch.device) -> str:
    """The device in words, for people: the GPU's name, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def keep_freed_memory() -> None:
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
