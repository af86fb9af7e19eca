"""What a study will do, computed before it starts: the networks that it can draw and the time that it will take."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np
import torch

import space as search_space
from search.data_shape import DataShape
from search.errors import SpecError
from search.spec import StudySpec
from train_core.data import Split, TrainingData
from train_core.device import pick_precision, release_memory, wait_for
from train_core.errors import RecipeError
from train_core.loop import EVAL_BATCH, evaluate
from train_core.mixing import check_size
from train_core.specs import Precision, ResNetSpec, TrainSpec, num_madds, num_params
from train_core.state import TrainState
from train_core.step import WARM_UP, Stepper

SAMPLES = 100  # networks drawn to describe the space
QUANTILES = (0.1, 0.9, 0.3, 0.7)  # draws, by multiply-adds, that are timed besides the median
PATIENCE_S = 3.0  # after this time, no further network is timed
OVERHEAD = 1.01  # factor on a trial, for its checkpoints (trainer.CHECKPOINT_SHARE)
DRAW_S = 0.15  # to draw a trial and to record its verdict
PREFER_BF16 = 1.05  # bf16 may take this many times the seconds of fp16


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The contents of a space within a budget, from `SAMPLES` random draws."""

    smallest: ResNetSpec  # exact, of the whole space
    largest: ResNetSpec  # of the draws, by parameters
    typical: ResNetSpec  # of the draws, the median by multiply-adds
    mean_madds: float  # per image, over the draws
    batch_sizes: tuple[int, ...]  # of the draws
    draws: tuple[tuple[ResNetSpec, TrainSpec], ...] = ()  # networks and recipes, by multiply-adds


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """How long the short runs will take, from a few measured batches of the typical network."""

    images_per_second: float  # training speed of the typical network
    trial_s: float  # seconds of a short run, averaged over the space, if it is not pruned
    one_thread: float = 1.0  # how many times as fast a step of the typical network is with one CPU thread


def survey(spec: StudySpec, shape: DataShape) -> Survey:
    """Draw networks of the study's space to describe it.

    Raises:
        SpecError: a limit is below the cost of the smallest network; the message names that cost. Or the images are too
            small for a way of mixing in the space.

    """
    _check_mixes(spec, shape)
    smallest = search_space.smallest(spec.space, shape.task)
    for limit, cost, most in spec.limits.costs(smallest, shape.size):
        if cost > most:
            raise SpecError(
                f"a limit of {limit.words(most)} is less than the smallest network of this space, {smallest}, takes: "
                f"{limit.words(cost)}; give at least {limit.flag} {limit.asked(cost)}"
            )
    trial = search_space.RandomTrial(random.Random(0), spec.space)
    draws = [search_space.suggest(trial, spec.space) for _ in range(SAMPLES)]
    networks = [search_space.network(draw, spec.space, spec.limits, shape.task) for draw in draws]
    recipes = [search_space.recipe(draw, epochs=spec.epochs, seed=spec.seed, precision="fp32") for draw in draws]
    by_madds = sorted(zip(networks, recipes, strict=True), key=lambda drawn: num_madds(drawn[0], shape.size))
    return Survey(
        smallest=smallest,
        largest=max(networks, key=num_params),
        typical=by_madds[SAMPLES // 2][0],
        mean_madds=sum(num_madds(network, shape.size) for network in networks) / SAMPLES,
        batch_sizes=tuple(draw["batch_size"] for draw in draws),
        draws=tuple(by_madds),
    )


def _check_mixes(spec: StudySpec, shape: DataShape) -> None:
    for mix in search_space.choices_of(spec.space.mix):
        try:
            check_size(mix, shape.size)
        except RecipeError as error:
            raise SpecError(f"space.mix: {error}") from error


def estimate(spec: StudySpec, found: Survey, data: TrainingData, precision: Precision) -> Estimate:
    """Time a few training batches of networks that the space draws, and compute how long a short run takes.

    The time before a trial's steps run at full speed is counted once for each trial: on CUDA, trying algorithms and
    capturing. What is loaded once per process, such as the parts of PyTorch that its first optimizer step imports, is
    not counted: the smallest network is trained first to get past it. Small batches take more time per image, on CUDA
    much more, so the typical network is timed with two batch sizes, and the others of the space are interpolated. The
    growth of the cost with a network's multiply-adds is interpolated between a few draws, each timed with its own
    optimizer and augmentation, for at most `PATIENCE_S`.
    """
    batches = sorted(min(batch, len(data.train)) for batch in found.batch_sizes)
    middle = batches[len(batches) // 2]
    time_steps(found.smallest, data, precision, middle)
    started = time.perf_counter()
    pace = {middle: time_steps(found.typical, data, precision, middle)}
    evaluation_s = time_evaluation(found.typical, data, precision)
    on_cuda = data.train.images.device.type == "cuda"
    for batch in dict.fromkeys((batches[0], batches[-1])):
        if batch != middle and (on_cuda or time.perf_counter() - started < PATIENCE_S):
            pace[batch] = time_steps(found.typical, data, precision, batch)
    step_s = {batch: each.step_s for batch, each in pace.items()}
    image_s = sum(_seconds_an_image(batch, step_s) for batch in batches) / len(batches)

    cost = {num_madds(found.typical, data.size): 1.0}  # by multiply-adds, relative to the typical network
    for quantile in QUANTILES if found.draws else ():
        network, recipe = found.draws[round(quantile * (len(found.draws) - 1))]
        if (madds := num_madds(network, data.size)) not in cost and time.perf_counter() - started < PATIENCE_S:
            cost[madds] = time_steps(network, data, precision, middle, recipe).step_s / pace[middle].step_s
    relative = mean_cost(cost, [num_madds(network, data.size) for network, _ in found.draws] or [found.mean_madds])
    epoch_s = relative * (len(data.train) * image_s + evaluation_s)
    start_up_s = max(each.start_up_s for each in pace.values())
    trial_s = OVERHEAD * spec.epochs * epoch_s + start_up_s + DRAW_S
    one_thread = _gain_of_one_thread(found.typical, data, precision, middle, step_s[middle])
    return Estimate(images_per_second=1 / image_s, trial_s=trial_s, one_thread=one_thread)


def _gain_of_one_thread(
    network: ResNetSpec, data: TrainingData, precision: Precision, batch_size: int, step_s: float
) -> float:
    """How many times as fast a step is with one thread as with all threads, which take `step_s`.

    Beside other programs, several threads can take many times as long: each operation waits for the last thread to get
    its turn, and oneDNN's gradients of weights keep a processor busy while they wait.
    """
    threads = torch.get_num_threads()
    if threads == 1 or data.train.images.device.type != "cpu":
        return 1.0
    torch.set_num_threads(1)
    try:
        return step_s / time_steps(network, data, precision, batch_size).step_s
    finally:
        torch.set_num_threads(threads)


def mean_cost(cost: Mapping[int, float], madds: Sequence[float]) -> float:
    """The mean cost of networks with these multiply-adds, from the cost of some; beyond those it is proportional."""
    known, values = np.array(sorted(cost)), np.array([cost[each] for each in sorted(cost)])
    wanted = np.array(madds)
    beyond = np.where(wanted > known[-1], wanted / known[-1], np.where(wanted < known[0], wanted / known[0], 1.0))
    return float(np.mean(np.interp(wanted, known, values) * beyond))


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a network trains: seconds per step, and the time before its steps reach this speed."""

    step_s: float
    start_up_s: float


def time_steps(
    network: ResNetSpec, data: TrainingData, precision: Precision, batch_size: int, recipe: TrainSpec | None = None
) -> Pace:
    """Train a network for a few steps on the data's device, and time them; by default with the usual recipe."""
    device = data.train.images.device
    recipe = (recipe or TrainSpec(epochs=1)).model_copy(update={"precision": precision, "batch_size": batch_size})
    release_memory(device)
    started = time.perf_counter()
    state = TrainState.new(network, recipe, device)
    stepper = Stepper.of(state, data.train, data.mean, data.std, batch_size)
    on_cuda = device.type == "cuda"
    # On CUDA, until the captured steps are stable.
    warm_up, timed = (WARM_UP + 5, 50) if on_cuda else (2, 5)
    ends = []
    for i in range(warm_up + timed):
        stepper.step(torch.randint(len(data.train), (batch_size,), device=device), recipe.lr)
        if not on_cuda or i in (warm_up - 1, warm_up + timed - 1):  # otherwise a step would wait for the one before
            wait_for(device)
            ends.append(time.perf_counter())
    if on_cuda:
        settled, step_s = ends[0], (ends[1] - ends[0]) / timed
    else:  # the median: others may use the processors too
        settled = ends[warm_up - 1]
        step_s = median(later - earlier for earlier, later in pairwise(ends[warm_up - 1 :]))
    return Pace(step_s=step_s, start_up_s=max(0.0, settled - started - warm_up * step_s))


def time_evaluation(network: ResNetSpec, data: TrainingData, precision: Precision) -> float:
    """Seconds that a network takes to evaluate all validation images, from one batch of them."""
    part = Split(data.val.images[:EVAL_BATCH], data.val.labels[:EVAL_BATCH])
    state = TrainState.new(network, TrainSpec(epochs=1, precision=precision), data.train.images.device)
    for _ in range(2):  # the first one warms up
        started = time.perf_counter()
        evaluate(state.model, part, data.mean, data.std, precision)
        took = time.perf_counter() - started
    return took * len(data.val) / len(part)


def _seconds_an_image(batch: int, step_s: Mapping[int, float]) -> float:
    """Seconds per image at a batch size, from the seconds per step of one or two others: a fixed and a linear cost."""
    (small, small_s), (large, large_s) = min(step_s.items()), max(step_s.items())
    if small == large:
        return small_s / small
    by_image = (large_s - small_s) / (large - small)
    return max(by_image, 0.0) + max(small_s - by_image * small, 0.0) / batch


def fastest_precision(
    found: Survey, data: TrainingData, pace: Callable[..., Pace] = time_steps
) -> tuple[Precision, dict[Precision, float]]:
    """The precision in which the typical network trains fastest on the data's device, and the seconds per step of each.

    Only half precisions on CUDA are compared, where no precision is the fastest for all networks: batch norm in bf16
    uses PyTorch's own kernels, in fp16 cuDNN's. bf16 is preferred if it is at most `PREFER_BF16` times as slow, because
    it skips no step for gradients out of range. Elsewhere nothing is timed: the device's instructions decide
    (`pick_precision`).
    """
    device = data.train.images.device
    picked = pick_precision(device)
    if device.type != "cuda" or picked != "bf16":
        return picked, {}
    batch_size = min(sorted(found.batch_sizes)[len(found.batch_sizes) // 2], len(data.train))
    kinds: tuple[Precision, ...] = ("bf16", "fp16")
    seconds = {kind: pace(found.typical, data, kind, batch_size).step_s for kind in kinds}
    return ("bf16" if seconds["bf16"] <= PREFER_BF16 * seconds["fp16"] else "fp16"), seconds
