"""How long networks take on the device of a search: measured before its first trial if latency is limited."""

import random
from collections.abc import Callable
from contextlib import suppress

import torch

import space as search_space
from search.data_shape import DataShape
from search.errors import RunError, StorageError
from search.identity import identity, open_study
from search.run_folder import RunFolder
from search.spec import StudySpec
from train_core.device import describe
from train_core.latency import COVERED, LatencyModel, fitted
from train_core.loop import latency
from train_core.models import ResNet
from train_core.specs import ResNetSpec, num_params

NETWORKS = 48
"""Number of networks that are timed: some dozens, of all sizes."""
BUSY = 0.75
"""An error that an idle machine did not exceed: docs/devices.md."""
BEYOND = 2.0
"""Networks larger than one that takes this many times the limit are not timed."""


def with_timing(
    spec: StudySpec, folder: RunFolder, shape: DataShape, device: torch.device, say: Callable[[str], object]
) -> StudySpec:
    """The spec with the latency model of its study; measured now if the study is new and latency is limited."""
    if spec.max_latency is None:
        return spec
    timed = _stored(folder)
    if timed is None:
        say(f"timing {NETWORKS} networks on {describe(device)}, to keep to {1000 * spec.max_latency:g} ms an image")
        timed = measured(spec, shape, device)
        say(f"  {100 * timed.error:.0f} % is added to what they predict: enough for {COVERED:.0%} of networks left out")
        if timed.error > BUSY:
            say("  warning: the times vary much; if other programs run here, end them and start again")
    return spec.model_copy(update={"timed": timed})


def _stored(folder: RunFolder) -> LatencyModel | None:
    """The model that the first worker measured; None: there is no such study yet."""
    with suppress(RunError, StorageError):
        if values := identity(open_study(folder)).get("timed"):
            return LatencyModel.model_validate(values)
    return None


def measured(
    spec: StudySpec,
    shape: DataShape,
    device: torch.device,
    time: Callable[[ResNetSpec], float] | None = None,
) -> LatencyModel:
    """The model of networks that the space draws, with budgets from the smallest network's to the study's.

    `time` gives the seconds of a network; by default it is measured on the device.
    """
    time = time or (lambda network: _timed(network, shape, device))
    generator = random.Random(0)
    trial = search_space.RandomTrial(generator, spec.space)
    least = num_params(search_space.smallest(spec.space, shape.task))
    most, free = spec.budget, spec.limits._replace(latency=None, front=())
    networks: list[ResNetSpec] = []
    seconds: list[float] = []
    for _ in range(NETWORKS):
        budget = round(least * (most / least) ** generator.random())
        draw = search_space.suggest(trial, spec.space)
        networks.append(search_space.network(draw, spec.space, free._replace(parameters=budget), shape.task))
        seconds.append(time(networks[-1]))
        if spec.max_latency is not None and seconds[-1] > BEYOND * spec.max_latency:
            most = max(least, min(most, num_params(networks[-1])))
    # Each once more, much later: the smaller time is less disturbed by what else the machine does.
    seconds = [min(once, time(network)) for once, network in zip(seconds, networks, strict=True)]
    return fitted(networks, seconds, shape.size, describe(device))


def _timed(network: ResNetSpec, shape: DataShape, device: torch.device) -> float:
    """Seconds for one image."""
    return latency(ResNet(network).to(device), (shape.in_channels, *shape.size))
