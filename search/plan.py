"""What a study will do, worked out before it starts: the networks it can draw and the time it will take."""

import random
import time
from dataclasses import dataclass

import torch

import space as search_space
from search.errors import SpecError
from search.spec import StudySpec
from search.study import Task, madds_limit
from train_core.data import TrainingData
from train_core.device import wait_for
from train_core.specs import Precision, ResNetSpec, TrainSpec, num_madds, num_params
from train_core.state import TrainState
from train_core.step import WARM_UP, Stepper

SAMPLES = 100  # networks drawn to see what the space holds
EVALUATION = 1 / 3  # cost of scoring an image over that of training on it: a forward pass alone


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a space holds within a budget, from `SAMPLES` random draws."""

    smallest: ResNetSpec  # of the whole space, exactly
    largest: ResNetSpec  # of the draws, by parameters
    typical: ResNetSpec  # of the draws, the median by multiply-adds
    mean_madds: float  # multiply-adds an image, over the draws


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """How long the short runs will take, from a few measured batches of the typical network."""

    images_per_second: float
    seconds: float  # for all trials, none of them pruned


def survey(spec: StudySpec, task: Task) -> Survey:
    """Draw networks of the study's space to see what it holds.

    Raises:
        SpecError: the budget is less than the smallest network, or the limit on multiply-adds less than it takes; the
            message names how much that is.

    """
    shape = {"in_channels": task.in_channels, "num_classes": task.num_classes}
    smallest = search_space.smallest(spec.space, **shape)
    if num_params(smallest) > spec.budget:
        raise SpecError(
            f"a budget of {spec.budget:,} is less than the smallest network of this space, {smallest}, "
            f"which has {num_params(smallest):,} parameters: give at least --budget {num_params(smallest)}"
        )
    madds = num_madds(smallest, task.size)
    if spec.max_madds is not None and madds > spec.max_madds:
        raise SpecError(
            f"a limit of {spec.max_madds:,} multiply-adds is less than the smallest network of this space, {smallest}, "
            f"takes: give at least --max-madds {madds}"
        )
    trial = search_space.RandomTrial(random.Random(0))
    networks = [
        search_space.network(
            search_space.suggest(trial, spec.space), spec.space, spec.budget, **shape, madds=madds_limit(spec, task)
        )
        for _ in range(SAMPLES)
    ]
    by_madds = sorted(networks, key=lambda network: num_madds(network, task.size))
    return Survey(
        smallest=smallest,
        largest=max(networks, key=num_params),
        typical=by_madds[SAMPLES // 2],
        mean_madds=sum(num_madds(network, task.size) for network in networks) / SAMPLES,
    )


def estimate(spec: StudySpec, found: Survey, data: TrainingData, precision: Precision) -> Estimate:
    """Time a few training batches of the typical network, and reckon from its multiply-adds to the whole study."""
    device = data.train.images.device
    recipe = TrainSpec(epochs=1, precision=precision, batch_size=min(128, len(data.train)))
    state = TrainState.new(found.typical, recipe, device)
    stepper = Stepper.of(state, data.train, data.mean, data.std, recipe.batch_size)
    # On CUDA, until the captured steps have settled.
    warm_up, timed = (WARM_UP + 5, 50) if device.type == "cuda" else (1, 3)
    started = 0.0
    for i in range(warm_up + timed):
        if i == warm_up:
            wait_for(device)
            started = time.perf_counter()
        stepper.step(torch.randint(len(data.train), (recipe.batch_size,), device=device), recipe.lr)
    wait_for(device)
    rate = timed * recipe.batch_size / (time.perf_counter() - started)

    images = spec.trials * spec.epochs * (len(data.train) + EVALUATION * len(data.val))
    relative_cost = found.mean_madds / num_madds(found.typical, data.size)
    return Estimate(images_per_second=rate, seconds=images * relative_cost / rate)
