"""What a model loses in int8: both files classify the same validation images."""

import time
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from search.errors import ModelError, SpecError
from search.formatting import count, percent
from train_core.data import Split, TrainingData
from train_core.examples import FormatName
from train_core.formats import FORMATS
from train_core.runtimes import Logits

CALIBRATION = 300  # training images, unless the user asks for another number
ACCEPTED = 0.005  # a larger loss of accuracy gives a warning
BATCH = 200  # images at a time
WARM_UP, TIMED = 10, 50  # forward passes for the latency


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A file, as its runtime computes it on the CPU of this machine."""

    size: int  # in bytes, as a device stores it
    accuracy: float  # on the validation images
    latency: float  # median seconds from one image to its logits, on one thread


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """A file in int8, and the float32 file that it was made from."""

    floats: Measured
    int8: Measured
    calibrated_on: int  # training images
    images: int  # validation images
    float_format: FormatName = "onnx"
    test: "OnTest | None" = None  # both files on the test images; None: not read for this model, or not here

    @property
    def lost(self) -> float:
        """The loss of validation accuracy; negative if the int8 file is right more often."""
        return self.floats.accuracy - self.int8.accuracy

    @property
    def warning(self) -> str | None:
        """What to do about a loss that is too large, in a line; None: it is small."""
        if self.lost <= ACCEPTED:
            return None
        return (
            f"the int8 file loses {100 * self.lost:.2f} points of validation accuracy, more than {100 * ACCEPTED:g}: "
            f"calibrate it on more images (--calibration {max(1000, 2 * self.calibrated_on)}), promote and export "
            f"another trial (--trial), or use the float file (--format {self.float_format})"
        )

    def __str__(self) -> str:
        """For example `12,345 bytes (float: 45,678), 96.50 % right on 287 validation images (float: 96.86 %)`."""
        return (
            f"{self.int8.size:,} bytes (float: {self.floats.size:,}), {percent(self.int8.accuracy)} right on "
            f"{count(self.images, 'validation image')} (float: {percent(self.floats.accuracy)})"
        )


@dataclass(frozen=True, kw_only=True)
class OnTest:
    """The accuracy of a float32 file and of the int8 file on the test images, as shares of 1."""

    floats: float
    int8: float
    images: int


def on_test(written: bytes, made: bytes, fmt: FormatName, test: Split) -> OnTest:
    """The accuracies of the float32 file and of the int8 file (format `fmt`) on the test images."""
    how = FORMATS[fmt].int8
    assert how is not None
    threads = torch.get_num_threads()
    shares = [
        right_on(_network(content, each, threads), test) for content, each in ((written, how.float_format), (made, fmt))
    ]
    return OnTest(floats=shares[0], int8=shares[1], images=len(test))


def quantise(written: bytes, fmt: FormatName, data: TrainingData, number: int) -> tuple[bytes, Quantised]:
    """The int8 file of a format, made from a float32 file with about `number` training images, compared with it.

    The calibration images are the same share of each class, but at least one; they are the same in each call. Both
    files are measured on the validation images.

    Raises:
        ModelError: the int8 file is right less than half as often as the other one.

    """
    how = FORMATS[fmt].int8
    assert how is not None
    chosen = data.train.subset(min(1.0, number / len(data.train)), seed=0)
    quantised = how.calibrate(written, data.train.images[chosen].cpu().numpy())
    found = Quantised(
        floats=measured(written, how.float_format, data.val),
        int8=measured(quantised, fmt, data.val),
        calibrated_on=len(chosen),
        images=len(data.val),
        float_format=how.float_format,
    )
    if found.int8.accuracy < found.floats.accuracy / 2:
        raise ModelError(
            f"the int8 file would be right on {percent(found.int8.accuracy)} of the validation images, the float file "
            f"is on {percent(found.floats.accuracy)}; it was not written: take --format {how.float_format}, or another "
            "--trial"
        )
    return quantised, found


def measured(written: bytes, fmt: FormatName, split: Split) -> Measured:
    """Size, accuracy on a split, and latency of a file that its runtime computes without torch."""
    runtime = FORMATS[fmt].runtime
    assert runtime is not None
    accuracy = right_on(_network(written, fmt, torch.get_num_threads()), split)
    latency = _latency(_network(written, fmt, 1), _as_input(split.images[:1]))
    return Measured(size=len(runtime.stored(written)), accuracy=accuracy, latency=latency)


def right_on(network: Logits, split: Split) -> float:
    """The share of the images of a split that a network classifies correctly."""
    right = 0
    for start in range(0, len(split), BATCH):
        answers = network(_as_input(split.images[start : start + BATCH]))
        right += int((answers.argmax(axis=1) == split.labels[start : start + BATCH].cpu().numpy()).sum())
    return right / len(split)


def _network(written: bytes, fmt: FormatName, threads: int) -> Logits:
    runtime = FORMATS[fmt].runtime
    assert runtime is not None
    return runtime.network(written, threads)[1]


def check_calibration(fmt: FormatName, number: int | None) -> None:
    """Check that calibration images are requested only if the format takes some.

    Raises:
        SpecError: they are requested for another format.

    """
    if number is not None and FORMATS[fmt].int8 is None:
        names = " or ".join(name for name, each in FORMATS.items() if each.int8 is not None)
        raise SpecError(f"--calibration does not belong to --format {fmt}: leave it out, or take --format {names}")


def _as_input(images: torch.Tensor) -> NDArray[np.float32]:
    """Images uint8 [N, H, W, C] as network input: float32 [N, C, H, W]."""
    return np.ascontiguousarray(images.permute(0, 3, 1, 2).cpu().numpy(), dtype=np.float32)


def _latency(network: Logits, image: NDArray[np.float32]) -> float:
    seconds = []
    for _ in range(WARM_UP + TIMED):
        started = time.perf_counter()
        network(image)
        seconds.append(time.perf_counter() - started)
    return median(seconds[WARM_UP:])
