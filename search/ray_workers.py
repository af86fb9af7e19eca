"""Several workers on this machine or a cluster, placed on its processors and GPUs and restarted by Ray."""

import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from search.errors import RunError, SpecError

POLL_S = 0.5  # between checks of what the workers have done
MAX_DEATHS = 100  # of one worker's processes: more than trials that kill their process can cause


def run_workers(
    count: int,
    work: Callable[[], Any],
    *,
    gpus_each: float | None,
    poll: Callable[[], None],
    stop: Callable[[], bool],
    gpu: int | None = None,
    address: str | None = None,
) -> None:
    """Run `work` in `count` processes until all of them have ended; call `poll` from time to time, and at the end.

    They run on the Ray cluster at `address`; None: on this machine only. There, `gpu` is the index of the only GPU that
    they see, which is then GPU 0 for each of them; None: they see all GPUs that this process sees.

    Each gets an equal part of the processors, and the share `gpus_each` of the GPUs; None: an equal part, at most one.
    Ray restarts a process that dies. When `stop` returns True, each is interrupted as by Ctrl-C; so are the others when
    one of them has raised.

    Raises:
        SpecError: there are fewer GPUs than that.
        RunError: Ray is not installed, or cannot be started.
        UserError: the first one that `work` raised.

    """
    ray = _ray()
    with _seeing(gpu):  # Ray finds the GPUs when it starts, and hands its environment on to the workers
        _start(ray, address)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus_each = _gpu_share(nodes, count, gpus_each)
        cpus_each = _cpu_share(nodes, count, gpus_each)
        # Retried if its process dies, not if it raises.
        task = ray.remote(num_cpus=cpus_each, num_gpus=gpus_each, max_retries=MAX_DEATHS)(_with_threads)
        running = [task.remote(work, max(1, int(cpus_each))) for _ in range(count)]
        interrupted, first_error = False, None
        while running:
            ended, running = ray.wait(running, timeout=POLL_S)
            try:
                poll()
            except Exception:
                if not stop():  # otherwise it was cut short, and the workers must still be interrupted
                    raise
            for one in ended:
                first_error = first_error or (None if interrupted else _error_of(ray, one))
            if (stop() or first_error) and not interrupted:
                interrupted = True  # each finishes its epoch, and its trial can be continued
                for one in running:
                    ray.cancel(one)
        if first_error:
            raise first_error
    finally:
        ray.shutdown()


def _gpu_share(nodes: Sequence[Mapping[str, float]], count: int, wanted: float | None) -> float:
    """The share of a GPU for each of `count` workers: `wanted`, or if None, an equal share, at most 1.

    Raises:
        SpecError: the nodes have too few GPUs for the wanted share.

    """
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    # A share lies on one GPU: count how many fit without being split.
    equal = 1 / math.ceil(count / gpus) if gpus else 0.0
    share = equal if wanted is None else wanted
    if share and gpus * _times(1, share) < count:
        raise SpecError(
            f"{count} workers with {share:g} of a GPU each need more than the {gpus:g} there are: "
            f"give --gpus-per-worker {math.floor(1000 * equal) / 1000:g}"
        )
    return share


def _cpu_share(nodes: Sequence[Mapping[str, float]], count: int, gpus_each: float) -> float:
    """The most processors that each of `count` workers can have, if each stays on a single node."""

    def held_by(node: Mapping[str, float], part: float) -> float:
        by_gpus = int(node.get("GPU", 0)) * _times(1, gpus_each) if gpus_each else count
        return min(by_gpus, _times(node.get("CPU", 0), part))

    parts = {node.get("CPU", 0) / share for node in nodes for share in range(1, count + 1)} - {0}
    fitting = (part for part in parts if sum(held_by(node, part) for node in nodes) >= count)
    most = max(fitting, default=0.0)
    return math.floor(most) or most  # above one, Ray counts in whole processors


def _times(whole: float, part: float) -> int:
    """How often the part fits into the whole."""
    return math.floor(whole / part + 1e-9)


def _with_threads(work: Callable[[], Any], threads: int) -> None:
    """Do the work with this many threads: more would wait for processors that other workers use."""
    import torch

    torch.set_num_threads(threads)
    work()


def _error_of(ray: Any, task: Any) -> Exception | None:
    """The error that a finished task raised, if any."""
    try:
        ray.get(task)
    except ray.exceptions.RayTaskError as error:
        cause: Exception = error.cause
        return cause
    except ray.exceptions.RayError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return RunError(f"a worker died again and again ({reason}): give fewer --workers, or see the run's search.log")
    return None


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise RunError(
            "--workers needs Ray: pip install '.[ray]' in the checkout; or give the same command without --workers in "
            "another terminal, which joins the search"
        ) from error
    return ray


@contextmanager
def _seeing(gpu: int | None) -> Iterator[None]:
    """Let the processes that are started in this context see only this GPU; `gpu` is its index in this process.

    If this process sees only some of the machine's GPUs, the index counts only those.
    """
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    if gpu is not None:
        os.environ[name] = str(gpu) if before is None else before.split(",")[gpu].strip()
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before
        elif gpu is not None:
            del os.environ[name]


def _start(ray: Any, address: str | None) -> None:
    # Otherwise Ray would report usage, and print about itself and about the output of its workers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        local = {"include_dashboard": False} if address is None else {}
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
        signal.signal(signal.SIGTERM, handler)  # Ray replaces it with its own
    except Exception as error:  # there are many reasons why it cannot start, and all are only reported
        first_line = (str(error).strip().splitlines() or [""])[0]
        if address:
            what = f"the Ray cluster at {address} cannot be joined ({first_line}): begin one with `ray start --head`"
            raise RunError(f"{what}, or leave out --ray-address") from error
        raise RunError(f"Ray cannot be started ({first_line}): search without --workers") from error
