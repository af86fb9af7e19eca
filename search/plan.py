"""What a study will do, worked out before it starts: the networks it can draw and the time it will take."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

import space as search_space
from search.data_shape import DataShape
from search.errors import SpecError
from search.spec import StudySpec
from train_core.data import TrainingData
from train_core.device import pick_precision, release_memory, wait_for
from train_core.errors import RecipeError
from train_core.loop import EVALUATION
from train_core.mixing import check_size
from train_core.specs import Precision, ResNetSpec, TrainSpec, num_madds, num_params
from train_core.state import TrainState
from train_core.step import WARM_UP, Stepper

SAMPLES = 100  # networks drawn to see what the space holds
PREFER_BF16 = 1.05  # times the seconds of fp16


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a space holds within a budget, from `SAMPLES` random draws."""

    smallest: ResNetSpec  # of the whole space, exactly
    largest: ResNetSpec  # of the draws, by parameters
    typical: ResNetSpec  # of the draws, the median by multiply-adds
    mean_madds: float  # multiply-adds an image, over the draws
    batch_sizes: tuple[int, ...]  # of the draws


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """How long the short runs will take, from a few measured batches of the typical network."""

    images_per_second: float
    seconds: float  # for all trials, none of them pruned


def survey(spec: StudySpec, shape: DataShape) -> Survey:
    """Draw networks of the study's space to see what it holds.

    Raises:
        SpecError: the budget is less than the smallest network, or the limit on multiply-adds less than it takes; the
            message names how much that is. Or the space mixes images in a way that they are too small for.

    """
    _check_mixes(spec, shape)
    smallest = search_space.smallest(spec.space, shape.task)
    if num_params(smallest) > spec.budget:
        raise SpecError(
            f"a budget of {spec.budget:,} is less than the smallest network of this space, {smallest}, "
            f"which has {num_params(smallest):,} parameters: give at least --budget {num_params(smallest)}"
        )
    madds = num_madds(smallest, shape.size)
    if spec.max_madds is not None and madds > spec.max_madds:
        raise SpecError(
            f"a limit of {spec.max_madds:,} multiply-adds is less than the smallest network of this space, {smallest}, "
            f"takes: give at least --max-madds {madds}"
        )
    trial = search_space.RandomTrial(random.Random(0), spec.space)
    draws = [search_space.suggest(trial, spec.space) for _ in range(SAMPLES)]
    networks = [
        search_space.network(draw, spec.space, spec.budget, shape.task, max_madds=spec.max_madds) for draw in draws
    ]
    by_madds = sorted(networks, key=lambda network: num_madds(network, shape.size))
    return Survey(
        smallest=smallest,
        largest=max(networks, key=num_params),
        typical=by_madds[SAMPLES // 2],
        mean_madds=sum(num_madds(network, shape.size) for network in networks) / SAMPLES,
        batch_sizes=tuple(draw["batch_size"] for draw in draws),
    )


def _check_mixes(spec: StudySpec, shape: DataShape) -> None:
    for mix in search_space.choices_of(spec.space.mix):
        try:
            check_size(mix, shape.size)
        except RecipeError as error:
            raise SpecError(f"space.mix: {error}") from error


def estimate(spec: StudySpec, found: Survey, data: TrainingData, precision: Precision) -> Estimate:
    """Time a few training batches of the typical network, and work out from its multiply-adds how long the study takes.

    What a trial costs before its steps run at full speed is counted once for each trial: on CUDA, trying algorithms and
    capturing. There, small batches are also much slower by the image, so that two sizes are timed and those that the
    space draws are interpolated.
    """
    batches = [min(batch, len(data.train)) for batch in found.batch_sizes]
    on_cuda = data.train.images.device.type == "cuda"
    timed = {min(batches), max(batches)} if on_cuda else {sorted(batches)[len(batches) // 2]}
    pace = {batch: time_steps(found.typical, data, precision, batch) for batch in timed}
    image_s = sum(_seconds_an_image(batch, {size: each.step_s for size, each in pace.items()}) for batch in batches)
    image_s /= len(batches)

    images = spec.trials * spec.epochs * (len(data.train) + EVALUATION * len(data.val))
    relative_cost = found.mean_madds / num_madds(found.typical, data.size)
    start_up = spec.trials * max(each.start_up_s for each in pace.values())
    return Estimate(images_per_second=1 / image_s, seconds=images * relative_cost * image_s + start_up)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a network trains: seconds a step, and what comes once before the steps are that fast."""

    step_s: float
    start_up_s: float


def time_steps(network: ResNetSpec, data: TrainingData, precision: Precision, batch_size: int) -> Pace:
    """Train a network for a few steps on the data's device, and time them."""
    device = data.train.images.device
    recipe = TrainSpec(epochs=1, precision=precision, batch_size=batch_size)
    release_memory(device)
    started = time.perf_counter()
    state = TrainState.new(network, recipe, device)
    stepper = Stepper.of(state, data.train, data.mean, data.std, batch_size)
    # On CUDA, until the captured steps have settled.
    warm_up, timed = (WARM_UP + 5, 50) if device.type == "cuda" else (1, 3)
    settled = started
    for i in range(warm_up + timed):
        if i == warm_up:
            wait_for(device)
            settled = time.perf_counter()
        stepper.step(torch.randint(len(data.train), (batch_size,), device=device), recipe.lr)
    wait_for(device)
    step_s = (time.perf_counter() - settled) / timed
    return Pace(step_s=step_s, start_up_s=max(0.0, settled - started - warm_up * step_s))


def _seconds_an_image(batch: int, step_s: Mapping[int, float]) -> float:
    """Of a batch size, from the seconds a step of one or two others: a cost by the step and one by the image."""
    (small, small_s), (large, large_s) = min(step_s.items()), max(step_s.items())
    if small == large:
        return small_s / small
    by_image = (large_s - small_s) / (large - small)
    return max(by_image, 0.0) + max(small_s - by_image * small, 0.0) / batch


def fastest_precision(
    found: Survey, data: TrainingData, pace: Callable[..., Pace] = time_steps
) -> tuple[Precision, dict[Precision, float]]:
    """The precision in which the typical network trains fastest on the data's device, and the seconds a step of each.

    Half precisions alone are tried on CUDA, where none is the fastest for all: batch norm of bf16 takes PyTorch's own
    kernels, of fp16 cuDNN's. bf16 is preferred where it is at most `PREFER_BF16` slower, since no step of it is skipped
    for gradients out of range. Elsewhere nothing is timed: the device's instructions decide (`pick_precision`).
    """
    device = data.train.images.device
    picked = pick_precision(device)
    if device.type != "cuda" or picked != "bf16":
        return picked, {}
    batch_size = min(sorted(found.batch_sizes)[len(found.batch_sizes) // 2], len(data.train))
    kinds: tuple[Precision, ...] = ("bf16", "fp16")
    seconds = {kind: pace(found.typical, data, kind, batch_size).step_s for kind in kinds}
    return ("bf16" if seconds["bf16"] <= PREFER_BF16 * seconds["fp16"] else "fp16"), seconds
