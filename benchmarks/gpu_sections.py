"""The sections of `python -m benchmarks gpu`: each yields the rows of its table, and checks its clock between them."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import cuda_tests, nvidia_mps
from benchmarks.gpu import Bench
from benchmarks.loops import NETWORKS, SETTLING, Setting, fitted, running, stepper_for, together
from benchmarks.timed import Clock, OutOfTimeError, Row, Spread, in_a_line
from train_core import checkpoint
from train_core.data import NAMED, Split, TrainingData, default_cache, load_training
from train_core.device import describe, pick_precision, release_memory, set_up, wait_for
from train_core.loop import evaluate, latency, train
from train_core.optimizers import OptimizerName
from train_core.specs import AugmentSpec, Precision, ResNetSpec, TrainSpec, num_madds
from train_core.state import TrainState
from train_core.step import Stepper

NEEDS_CUDA = "needs CUDA"
EPOCH = 50_000  # images
LR = 0.01  # of all steps that are only timed
TRIALS = 20  # in the section about memory
FULL = 200  # epochs of a long run, at most
PILOT = 3  # epochs that are timed before a long run
BEGINNING = 0.6  # of a search's time, in which trials may begin
MARGIN = 1.15  # factor by which a long run may take longer than its pilot; 3 % of its time are checkpoints

TINY = {
    "A5": ResNetSpec(widths=(4, 8), blocks=(1, 1), block="preact", stem_kernel=1, shortcut="max-pool"),
    "B2": ResNetSpec(widths=(8, 8), blocks=(1, 1)),
    "small": ResNetSpec(widths=(4, 8), blocks=(1, 1)),
}
"""The networks of a rehearsal."""

PEAKS = {
    "H100 PCIe": (756.0, 378.0),
    "H100 NVL": (835.0, 417.0),
    "H100": (989.0, 495.0),
    "H200": (989.0, 495.0),
    "A100": (312.0, 156.0),
}
"""Dense TFLOP/s of tensor cores by a part of the card's name, from its maker's data sheets: in bf16 and fp16, and in
TF32, in which cuDNN computes fp32 convolutions unless another precision is set."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured."""

    networks: dict[str, ResNetSpec]
    train: int  # number of noise images; in a rehearsal with real images, about as many are used
    test: int
    scored: int  # images of an evaluation
    batches: tuple[int, int]
    settling: int  # steps before any is timed
    rounds: int
    window_s: float  # of a round of steps
    trial_images: int  # of each of `TRIALS`
    packed: tuple[str, ...]  # networks of which several are trained at once
    processes: tuple[int, ...]  # numbers of processes
    packed_s: float  # of a round with several processes
    study: str
    flags: dict[str, Any]  # of `search run`
    made_up_epochs: int  # of a long run on noise, where no accuracy can be learned


GPU = Size(
    networks=NETWORKS,
    train=50_000,
    test=10_000,
    scored=10_000,
    batches=(128, 512),
    settling=SETTLING,
    rounds=5,
    window_s=0.4,
    trial_images=5_000,
    packed=("A5", "small"),
    processes=(1, 2, 3),
    packed_s=3.0,
    study="cifar10",
    flags={"trials": 6, "epochs": 3},
    made_up_epochs=20,
)
REHEARSAL = Size(
    networks=TINY,
    train=400,
    test=100,
    scored=100,
    batches=(8, 16),
    settling=1,
    rounds=2,
    window_s=0.01,
    trial_images=32,
    packed=("small",),
    processes=(1, 2),
    packed_s=0.1,
    study="cifar10-small",
    flags={"trials": 2, "epochs": 1, "budget": 10_000, "max_madds": 2_000_000},
    made_up_epochs=PILOT,
)


class Lab:
    """The prepared device of a section, with the images on it and suitable networks."""

    def __init__(self, bench: Bench) -> None:
        if not bench.cuda:
            torch.set_num_threads(1)
        self.size = size_of(bench)
        self.device = torch.device("cuda" if bench.cuda else "cpu")
        self.data = loaded(bench.source).to(self.device)
        self.networks = {name: fitted(network, self.data) for name, network in self.size.networks.items()}
        self.precision = bench.precision
        set_up(self.device)

    def stepper(self, state: TrainState, *, captured: bool = True) -> tuple[Stepper, torch.Tensor]:
        """The stepper for this state, and the batch of images for its steps."""
        chosen = torch.randint(len(self.data.train), (state.recipe.batch_size,), device=self.device)
        return stepper_for(state, self.data, captured=captured), chosen

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds that the device takes for the work."""
        wait_for(self.device)
        began = time.perf_counter()
        work()
        wait_for(self.device)
        return time.perf_counter() - began


def size_of(bench: Bench) -> Size:
    """The amount of measurement for this section."""
    return GPU if bench.cuda else REHEARSAL


def loaded(source: str) -> TrainingData:
    """Training and validation images, in main memory."""
    return load_training(source, val_fraction=0.1, seed=0, cache=default_cache())


def recipe_for(**changes: object) -> TrainSpec:
    """A recipe such as the default space draws."""
    values = {"epochs": 1, "lr": LR, "nesterov": True, "label_smoothing": 0.1, "augment": AugmentSpec(cutout=8)}
    return TrainSpec.model_validate(values | changes)


def attempt(row: Row, work: Callable[[], Row]) -> Row:
    """The row with the measurements of the work, or with the reason why it failed: the next row is measured anyway."""
    try:
        return row | work()
    except Exception as error:  # noqa: BLE001  # any error becomes the row, and the next row is measured
        return row | {"failed": in_a_line(error)}


# --------------------------------------------------------------------------------------------------------- preparation


def preparation(bench: Bench, _: Clock) -> Iterator[Row]:
    """One row: whether there is CUDA, the device, and where the images are.

    Raises:
        DataError: the images cannot be read.

    """
    bench = replace(bench, cuda=bench.cuda and torch.cuda.is_available())
    device = torch.device("cuda" if bench.cuda else "cpu")
    source = images_of(bench)
    data = loaded(source)
    named = data.name if bench.data else "made-up noise"
    words = f"{len(data.train):,} training and {len(data.val):,} validation images"
    yield {
        "cuda": bench.cuda,
        "source": source,
        "device": describe(device) if bench.cuda else "CPU, 1 thread",
        "precision": pick_precision(device),
        "torch": str(torch.__version__),
        "data": f"{named}: {words} of {data.size[0]}x{data.size[1]}, {data.num_classes} classes",
    }


def images_of(bench: Bench) -> str:
    """The source of the images: the user's, a few of those in a rehearsal, or a file of noise."""
    if bench.data is None:
        return made_up(size_of(bench), bench.folder / "noise.npz")
    is_path = bench.data not in NAMED and Path(bench.data).exists()
    source = str(Path(bench.data).absolute()) if is_path else bench.data  # so that it is found from any folder
    return source if bench.cuda else few_of(source, size_of(bench), bench.folder)


def made_up(size: Size, file: Path) -> str:
    """Write images of noise, in ten classes."""
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in (("train", size.train), ("test", size.test)):
        arrays[f"x_{split}"] = generator.integers(256, size=(count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 10
    np.savez(file, **arrays)
    return str(file)


def few_of(source: str, size: Size, folder: Path) -> str:
    """Write a few images of each class of another source."""
    data = loaded(source)
    arrays: dict[str, Any] = {"classes": np.array(data.classes)}
    for name, split in (("train", data.train), ("val", data.val)):
        chosen = split.subset(min(1.0, size.train / len(data.train)), seed=0)
        arrays[f"x_{name}"], arrays[f"y_{name}"] = split.images[chosen].numpy(), split.labels[chosen].numpy()
    file = folder / f"{data.name}.npz"
    np.savez(file, **arrays)
    return str(file)


# --------------------------------------------------------------------------------------------------------- environment


def environment(bench: Bench, _: Clock) -> Iterator[Row]:
    """Versions, card, driver, processors, and the kernels that batch norm goes to."""
    facts = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "NVIDIA MPS": "installed" if nvidia_mps.is_installed() else "not installed",
        **(_card() if bench.cuda else {"card": NEEDS_CUDA}),
    }
    for what, value in facts.items():
        yield {"what": what, "value": value}
    device = torch.device("cuda" if bench.cuda else "cpu")
    for precision, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        yield {"what": f"batch norm in {precision}", "value": _batch_norm(device, dtype)}


def _card() -> dict[str, object]:
    free, total = torch.cuda.mem_get_info()
    facts: dict[str, object] = {
        "CUDA of torch": torch.version.cuda or "",
        "cuDNN": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]  # torch ships it without types
        "card": describe(torch.device("cuda")),
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count,
        "memory, GiB": total / 2**30,
        "of it free, GiB": free / 2**30,
        "TF32 in fp32 convolutions": str(torch.backends.cudnn.allow_tf32),
    }
    asked = ("driver_version", "compute_mode", "mig.mode.current", "clocks.max.sm", "power.limit")
    query = ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10).stdout.splitlines()[0]
        return facts | dict(zip(asked, map(str.strip, said.split(",")), strict=True))
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        return facts | {"nvidia-smi": f"says nothing ({in_a_line(error)})"}


def _batch_norm(device: torch.device, dtype: torch.dtype) -> str:
    """The kernels that train a batch norm of this type, by torch's names."""
    select = getattr(torch._C, "_select_batch_norm_backend", None)
    if select is None:
        return "this torch does not say"
    images = torch.empty(8, 8, 4, 4, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    channels = torch.empty(8, device=device)
    return str(select(images, channels, channels, channels, channels, True, 1e-5)).rpartition(".")[2]


# --------------------------------------------------------------------------------------------------------------- tests


def tests(bench: Bench, clock: Clock) -> Iterator[Row]:
    """How the tests that need CUDA ended, and those that failed."""
    noted = bench.folder / "tests.jsonl"
    problem = _run_tests(noted, clock.left, cuda=bench.cuda)
    lines = list(map(json.loads, noted.read_text().splitlines())) if noted.exists() else []
    outcomes = ("passed", "failed", "skipped")
    counted = {outcome: sum(line["outcome"] == outcome for line in lines) for outcome in outcomes}
    yield {"test": "all that need CUDA", **counted, **({} if bench.cuda else {"why": NEEDS_CUDA})}
    for line in lines:
        if line["outcome"] == "failed":
            yield {"test": line["test"], "failed": 1, "why": line["why"]}
    if problem:
        raise RuntimeError(problem)


def _run_tests(noted: Path, seconds: float, *, cuda: bool) -> str:
    """Run the tests that need CUDA, with each outcome recorded in a file; returns why not all were run."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.cuda_tests", "-p", "no:cacheprovider"]
    environment = {**os.environ, cuda_tests.FILE: str(noted), **({} if cuda else {"CUDA_VISIBLE_DEVICES": ""})}
    try:
        ended = subprocess.run(
            [*command, *map(str, cuda_tests.files())],
            cwd=cuda_tests.TESTS.parent,
            env=environment,
            timeout=seconds,
            capture_output=True,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "pytest was stopped: its time was up"
    if ended.returncode in {0, 1}:  # 1: tests failed
        return ""
    last = (ended.stdout + ended.stderr).strip().splitlines()[-1:]
    return f"pytest ended with exit code {ended.returncode}: {''.join(last)}"


# --------------------------------------------------------------------------------------------------------------- steps


def steps(bench: Bench, clock: Clock) -> Iterator[Row]:
    """Seconds an epoch of steps alone, the most important settings first."""
    lab = Lab(bench)
    small, large = lab.size.batches
    settings: list[tuple[Precision, int, bool]] = [
        ("bf16", small, True),
        ("fp16", small, True),
        ("bf16", small, False),
        ("bf16", large, True),
        ("fp16", large, True),
        ("fp32", small, True),
        ("fp16", small, False),
        ("bf16", large, False),
        ("fp16", large, False),
    ]
    for setting, name in clock.each([(setting, name) for setting in settings for name in lab.networks]):
        precision, batch, captured = setting
        row = {"network": name, "precision": precision, "batch": batch, "steps": "captured" if captured else "eager"}
        recipe = recipe_for(precision=precision, batch_size=batch)
        yield attempt(row, partial(_steps, lab, name, recipe, captured=captured))


def _steps(lab: Lab, name: str, recipe: TrainSpec, *, captured: bool) -> Row:
    release_memory(lab.device)
    network, batch = lab.networks[name], recipe.batch_size
    stepper, chosen = lab.stepper(TrainState.new(network, recipe, lab.device), captured=captured)

    take = partial(_seconds_a_step, lab, stepper, chosen)
    settling = lab.size.settling
    first = settling * take(settling)
    steps = max(1, round(lab.size.window_s / take(settling)))
    times = Spread(tuple(take(steps) for _ in range(lab.size.rounds)))
    row: Row = {"s an epoch": times.times(EPOCH / batch), "ms a step": times.times(1000)}
    # Forward and backward take three times the forward pass's multiply-adds, of two operations each.
    if peak := peak_of(describe(lab.device), recipe.precision):
        flop = 6 * num_madds(network, lab.data.size) * batch
        row["% of peak"] = Spread(tuple(100 * flop / time / peak for time in times.values))
    row["first steps, s"] = first
    if captured and not stepper.is_captured:
        row["steps"] = "eager: the capture failed" if lab.device.type == "cuda" else f"eager: a capture {NEEDS_CUDA}"
    return row


def _seconds_a_step(lab: Lab, stepper: Stepper, chosen: torch.Tensor, steps: int) -> float:
    def work() -> None:
        for _ in range(steps):
            stepper.step(chosen, LR)

    return lab.timed(work) / steps


def peak_of(card: str, precision: Precision) -> float | None:
    """The operations per second that the card's maker states; None for an unknown card."""
    half, tf32 = next((peaks for part, peaks in PEAKS.items() if part in card), (None, None))
    peak = tf32 if precision == "fp32" else half
    return peak and peak * 1e12


# -------------------------------------------------------------------------------------------------------------- around


def around(bench: Bench, clock: Clock) -> Iterator[Row]:
    """The costs besides steps: evaluations, checkpoints; and the latency of one image."""
    lab = Lab(bench)
    optimizers: tuple[OptimizerName, ...] = ("sgd", "adamw")
    evaluated = f"evaluation of {min(lab.size.scored, len(lab.data.train)):,} images"
    jobs: list[tuple[Row, Callable[[], Row]]] = [
        *(({"what": evaluated, "network": name}, partial(_evaluation, lab, name)) for name in lab.networks),
        *(
            ({"what": f"checkpoint, {name}", "network": "A5"}, partial(_saving, lab, name, bench.folder / f"{name}.pt"))
            for name in optimizers
        ),
        *(({"what": "latency, fp32", "network": name}, partial(_latency, lab, name)) for name in lab.networks),
    ]
    for row, job in clock.each(jobs):
        yield attempt(row, job)


def _evaluation(lab: Lab, name: str) -> Row:
    release_memory(lab.device)
    recipe, data = recipe_for(precision=lab.precision), lab.data
    model, some = TrainState.new(lab.networks[name], recipe, lab.device).model, _first(data.train, lab.size.scored)

    def score() -> float:
        return lab.timed(lambda: evaluate(model, some, data.mean, data.std, recipe.precision))

    first = score()
    return {"ms": Spread(tuple(score() for _ in range(lab.size.rounds))).times(1000), "first, ms": 1000 * first}


def _saving(lab: Lab, optimizer: OptimizerName, file: Path) -> Row:
    release_memory(lab.device)
    recipe = recipe_for(precision=lab.precision, batch_size=lab.size.batches[0], optimizer=optimizer)
    state = TrainState.new(lab.networks["A5"], recipe, lab.device)
    stepper, chosen = lab.stepper(state)
    stepper.step(chosen, LR)  # creates the optimizer's buffers
    times = Spread(tuple(lab.timed(lambda: checkpoint.save(state, file)) for _ in range(lab.size.rounds)))
    return {"ms": times.times(1000), "MB": file.stat().st_size / 1e6}


def _latency(lab: Lab, name: str) -> Row:
    model = TrainState.new(lab.networks[name], recipe_for(), lab.device).model
    shape = (lab.data.in_channels, *lab.data.size)
    return {"ms": Spread(tuple(latency(model, shape) for _ in range(3))).times(1000)}


# -------------------------------------------------------------------------------------------------------------- memory


def memory(bench: Bench, clock: Clock) -> Iterator[Row]:
    """The device memory that trials of different small networks leave allocated, trial by trial."""
    lab = Lab(bench)
    images = lab.size.trial_images
    data = replace(lab.data, train=_first(lab.data.train, images), val=_first(lab.data.val, images))
    recipe = recipe_for(precision=lab.precision, batch_size=lab.size.batches[0])
    for trial in clock.each(range(1, TRIALS + 1)):
        first, *others = lab.networks["small"].widths
        widths = (first + first // 2 * (trial % 5), *others)
        network = lab.networks["small"].model_copy(update={"widths": widths})
        seconds = lab.timed(partial(_trial, network, recipe, data))
        release_memory(lab.device)
        reserved = torch.cuda.memory_reserved() / 2**20 if bench.cuda else NEEDS_CUDA
        yield {"trial": trial, "network": str(network), "s": seconds, "MiB reserved after it": reserved}


def _trial(network: ResNetSpec, recipe: TrainSpec, data: TrainingData) -> None:
    for _ in train(TrainState.new(network, recipe, data.train.images.device), data):
        pass


def _first(split: Split, images: int) -> Split:
    return Split(split.images[:images], split.labels[:images])


# ------------------------------------------------------------------------------------------------------------- packing


def packing(bench: Bench, clock: Clock) -> Iterator[Row]:
    """Images per second of several processes on the device at once, without and with NVIDIA's MPS."""
    size = size_of(bench)
    for name, mps in clock.each([(name, mps) for name in size.packed for mps in (False, True)]):
        row: Row = {"network": name, "MPS": "with" if mps else "without"}
        if mps and not bench.cuda:
            yield row | {"why not": NEEDS_CUDA}
        elif mps and not nvidia_mps.is_installed():
            yield row | {"why not": f"there is no {nvidia_mps.CONTROL}"}
        else:
            try:
                for packed in _packed(bench, size, name, mps=mps):
                    yield row | packed
            except RuntimeError as error:
                yield row | {"why not": in_a_line(error)}


def _packed(bench: Bench, size: Size, name: str, *, mps: bool) -> Iterator[Row]:
    """A row for each number of processes; they take turns, in two rounds."""
    device = "cuda" if bench.cuda else "cpu"
    setting = Setting(
        network=size.networks[name],
        source=bench.source,
        device=device,
        precision=bench.precision,
        batch=size.batches[0],
        threads=None if bench.cuda else 1,
    )
    folder = bench.folder / "mps"
    with nvidia_mps.running(folder) if mps else nullcontext(), running([setting] * max(size.processes)) as loops:
        rates: dict[int, list[float]] = {count: [] for count in size.processes}
        for _ in range(2):
            for count, found in rates.items():
                found.append(together(loops[:count], size.packed_s))
        used = {"MPS": "with" if nvidia_mps.is_used(folder) else "asked for, but not used"} if mps else {}
    for count, found in rates.items():
        gain = Spread(tuple(many / one for many, one in zip(found, rates[1], strict=True)))
        yield {"processes": count, "images/s": Spread(tuple(found)), "times one process": gain, **used}


# -------------------------------------------------------------------------------------------------------------- search


RUN = "gpu"  # the name of the search


def search(bench: Bench, clock: Clock) -> Iterator[Row]:
    """`search run` of a few trials: each of them, and all together."""
    from search import api
    from search.identity import open_study
    from search.run_folder import RunRef
    from search.session import Placement
    from search.terminal import console
    from search.trials import finished_trials

    console.quiet = True
    size = size_of(bench)
    yield attempt({"trial": "typical network"}, partial(_typical, bench, size))
    began = time.perf_counter()
    # A trial that has begun is trained to its end, and rows come after the last: on an H200, six took over a minute.
    hours = max(0.0, BEGINNING * clock.left) / 3600
    placement = Placement(device="cuda" if bench.cuda else "cpu")
    ref = RunRef(RUN, bench.folder / "runs")
    folder = api.run(size.study, {"data": bench.source, **size.flags}, ref, placement, hours=hours)
    seconds = time.perf_counter() - began
    done = finished_trials(open_study(folder))
    for trial in done:
        row: Row = {"trial": str(trial.number), "outcome": trial.outcome, "s": trial.seconds or 0.0}
        if trial.is_decided:
            recipe = trial.recipe
            row |= {"network": trial.network_words, "batch": recipe.batch_size, "precision": recipe.precision}
        if bench.data and trial.score is not None:
            row["validation, %"] = 100 * trial.score
        yield row
    yield {"trial": f"all {len(done)}", "outcome": f"of {size.flags['trials']}", "s": seconds}


def _typical(bench: Bench, size: Size) -> Row:
    """The median network of the search's space, and the precision in which it trains fastest."""
    from search.data_shape import data_shape_of
    from search.plan import fastest_precision, survey
    from search.spec import load_study

    lab = Lab(bench)
    found = survey(load_study(size.study, {"data": bench.source, **size.flags}), data_shape_of(lab.data))
    fastest, seconds = fastest_precision(found, lab.data)
    times = {f"{precision}, ms a step": 1000 * step_s for precision, step_s in seconds.items()}
    return {"network": str(found.typical), "precision": f"{fastest} is the fastest" if times else fastest, **times}


def long_run(bench: Bench, clock: Clock) -> Iterator[Row]:
    """`search promote` of that search's best trial, for as many epochs as there is time for."""
    from search.full_runs import PromoteFlags, promote
    from search.identity import open_study
    from search.run_folder import RunRef
    from search.session import Placement
    from search.terminal import console
    from search.trials import best, finished_trials

    console.quiet = True
    runs = bench.folder / "runs"
    if not (runs / RUN).exists():
        raise RuntimeError("there is no search whose best trial could be trained: measure the section `search`, too")
    ref = RunRef(RUN, runs)
    trial = best(finished_trials(open_study(ref.find())))
    if trial is None:
        raise RuntimeError("the search has no complete trial to train in full")
    recipe = trial.recipe.model_copy(update={"epochs": PILOT, "data_fraction": 1.0})
    began = time.perf_counter()
    seconds, saving = _pilot(bench, trial.network, recipe)
    cost = time.perf_counter() - began  # once more: images are read, algorithms are chosen, the test split is scored
    epoch = max(seconds[1:])
    about: Row = {"network": str(trial.network), "recipe": str(recipe)}
    times = Spread(tuple(seconds[1:]))
    yield {"run": "pilot", "epochs": PILOT, "s an epoch": times, "checkpoint, s": saving, **about}

    epochs = min(FULL if bench.data else size_of(bench).made_up_epochs, int((clock.left - cost) / (MARGIN * epoch)))
    if epochs < PILOT:
        raise OutOfTimeError(f"there was no time for {PILOT} epochs of {epoch:.1f} s")
    began = time.perf_counter()
    placement = Placement(device="cuda" if bench.cuda else "cpu")
    (run,) = promote(ref, placement, PromoteFlags(top=1, epochs=epochs))
    row: Row = {"run": "full", "epochs": len(run.history), "s": time.perf_counter() - began}
    row["s an epoch"] = Spread(tuple(result.seconds for result in run.history[1:]))
    if run.diverged:
        row["failed"] = run.diverged
    elif bench.data:
        row["validation, %"] = 100 * (run.val_accuracy or 0)
        row["test, %"] = 100 * run.test_accuracy if run.test_accuracy is not None else "no test split"
    yield row | about


def _pilot(bench: Bench, network: ResNetSpec, recipe: TrainSpec) -> tuple[list[float], float]:
    """Seconds of each epoch of a run, and of writing its checkpoint."""
    lab = Lab(bench)
    state = TrainState.new(network, recipe, lab.device)
    seconds = [result.seconds for result in train(state, lab.data)]
    return seconds, lab.timed(lambda: checkpoint.save(state, bench.folder / "pilot.pt"))
