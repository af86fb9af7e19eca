"""The setting of a training: the device, the precision, the images; and where workers run."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import torch

from search.data_shape import DataShape, data_shape_of
from search.errors import DataError, SpecError
from search.forecast import Speedup
from search.listing import Listing, is_missing, moved
from search.spec import StudySpec
from train_core.census import Census, take_census
from train_core.data import NAMED, Split, TrainingData, default_cache, load_test, load_training
from train_core.device import gpu_index, pick_device, pick_precision, set_up
from train_core.sources.contents import Progress
from train_core.specs import Precision

PER_GPU_WITH_MPS = 2  # a third worker added little more (docs/benchmarks.md)


@dataclass(frozen=True, kw_only=True)
class Session:
    """The prepared device; the precision to train in; and the training images, on the device."""

    device: torch.device
    precision: Precision
    data: TrainingData

    @property
    def shape(self) -> DataShape:
        """What the images require of a network."""
        return data_shape_of(self.data)

    def listing(self) -> Listing:
        """Which images these are."""
        return Listing.of(self.data)

    def with_precision(self, precision: Precision) -> Self:
        """The same session in another precision."""
        return replace(self, precision=precision)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a command trains: on which device, in how many processes, where Ray places them; and where it logs."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1 or mps
    workers: int = 1  # 0: as many as are worth starting, for `search auto`
    gpus_per_worker: float | None = None  # none: an equal share, at most a whole GPU
    ray_address: str | None = None  # address of a cluster; None: this machine
    log: tuple[str, ...] = ()  # names of the loggers that get trials and full runs

    @property
    def uses_ray(self) -> bool:
        """Whether Ray places the workers."""
        return self.workers > 1 or self.ray_address is not None

    @property
    def device_here(self) -> str:
        """The device of this process: on a cluster, each worker finds its own, and this machine may have none."""
        return self.device if self.ray_address is None or self.device == "cpu" else "auto"

    def device_of_workers(self, session: Session) -> str:
        """The device that each worker uses."""
        return session.device.type if self.ray_address is None else self.device

    def speedup(self, session: Session) -> Speedup:
        """The speedup of its workers over one worker; on a cluster, the machines are not known."""
        if self.ray_address is not None:
            return Speedup(high=self.workers, workers=self.workers)
        one = gpu_index(session.device) is not None
        gpus = 0 if session.device.type != "cuda" else 1 if one else torch.cuda.device_count()
        return Speedup.of(self.workers, gpus)

    def check(self) -> None:
        """Check that the options can be combined.

        Raises:
            SpecError: they cannot.

        """
        kind, _, index = self.device.partition(":")
        if self.ray_address and index:
            raise SpecError(
                f"--device {self.device} is a device of one machine, and --ray-address places workers on several: "
                f"give --device {kind}"
            )


def worth_starting(device: str) -> int:
    """How many workers train more than one on this machine: one for each NVIDIA GPU, two where NVIDIA's MPS runs.

    Without MPS, two processes on an H200 trained 0.9 times as many images as one, with it 1.4 times as many
    (docs/benchmarks.md). On a CPU and on an Apple GPU it is one, as it is without Ray.
    """
    chosen = pick_device(device)
    if chosen.type != "cuda" or find_spec("ray") is None:
        return 1
    gpus = torch.cuda.device_count() if chosen.index is None else 1
    return gpus * (PER_GPU_WITH_MPS if mps_is_running() else 1)


def mps_is_running() -> bool:
    """Whether NVIDIA's Multi-Process Service runs on this machine, where processes look for it."""
    folder = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))  # NVIDIA's default
    try:
        os.kill(int((folder / "nvidia-cuda-mps-control.pid").read_text(encoding="ascii")), 0)
    except PermissionError:  # another user's
        return True
    except (OSError, ValueError):
        return False
    return True


def open_session(spec: StudySpec, device: str, progress: Progress | None = None) -> Session:
    """The session of a study on the device of this name; its precision is the spec's, or else the device's usual one.

    `progress` is called while data are loaded.

    Raises:
        UserError: there is no such device, or the data cannot be read.

    """
    chosen = pick_device(device)
    set_up(chosen)
    precision: Precision = pick_precision(chosen) if spec.precision == "auto" else spec.precision
    return Session(device=chosen, precision=precision, data=load(spec, progress).to(chosen))


def load(spec: StudySpec, progress: Progress | None = None) -> TrainingData:
    """The study's training and validation images, in main memory; `progress` is called while they are loaded.

    Raises:
        DataError: they cannot be read.

    """
    return load_training(
        spec.data,
        val_fraction=spec.val_fraction,
        test_fraction=spec.test_fraction,
        reading=spec.reading,
        seed=spec.seed,
        cache=default_cache(),
        progress=progress,
    )


def with_images_at(spec: StudySpec, data: str | None) -> StudySpec:
    """The spec of an existing run; `data` is where its images are now, None: where they were.

    Raises:
        DataError: they are no longer there.

    """
    if data is None:
        if spec.data not in NAMED and is_missing(spec.data):
            raise DataError(moved(spec.data))
        return spec
    return spec.model_copy(update={"data": data if data in NAMED or is_missing(data) else str(Path(data).absolute())})


def census_of(spec: StudySpec, sheet: Path | None, progress: Progress | None = None) -> Census:
    """The contents of the study's data, including test images; `sheet` is a PNG file to draw training images in.

    Raises:
        DataError: they cannot be read.
        OSError: the sheet cannot be written.

    """
    return take_census(
        spec.data,
        val_fraction=spec.val_fraction,
        test_fraction=spec.test_fraction,
        reading=spec.reading,
        seed=spec.seed,
        cache=default_cache(),
        sheet=sheet,
        progress=progress,
    )


def test_of(spec: StudySpec, data: TrainingData) -> Callable[[], Split | None]:
    """The only access to the test split: a function that reads it, for finished models."""
    return partial(
        load_test,
        spec.data,
        fingerprint=data.fingerprint,
        test_fraction=spec.test_fraction,
        reading=spec.reading,
        cache=default_cache(),
    )
