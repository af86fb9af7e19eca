"""What a study trains on: the device, the precision, the images."""

from collections.abc import Callable
from functools import partial

import torch

from search.console import loading_bars
from search.spec import StudySpec
from train_core.data import Split, TrainingData, default_cache, load_test, load_training
from train_core.device import pick_device, pick_precision, set_up
from train_core.specs import Precision


def prepare(spec: StudySpec, device: str) -> tuple[torch.device, Precision, TrainingData]:
    """The device, set up; the precision to train in; and the training images, on the device.

    Raises:
        UserError: there is no such device, or the data cannot be read.

    """
    where = pick_device(device)
    set_up(where)
    precision: Precision = pick_precision(where) if spec.precision == "auto" else spec.precision
    return where, precision, load(spec).to(where)


def load(spec: StudySpec) -> TrainingData:
    """The study's training and validation images, in main memory; with a bar where they are fetched.

    Raises:
        DataError: they cannot be read.

    """
    with loading_bars() as progress:
        return load_training(
            spec.data, val_fraction=spec.val_fraction, seed=spec.seed, cache=default_cache(), progress=progress
        )


def test_of(spec: StudySpec, data: TrainingData) -> Callable[[], Split | None]:
    """The only way to the test split: what reads the test split, when a model is finished."""
    return partial(load_test, spec.data, fingerprint=data.fingerprint, cache=default_cache())
