"""Runs a study: asks for a trial, trains it short, reports every epoch, prunes, tells.

The loop is our own (ask and tell), so that every end of a trial is written down the same way and a trial that was
interrupted is found and tried again.
"""

import contextlib
import json
import logging
import time
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

import space as search_space
from search.errors import RunError, StudyFailedError
from search.pruner import MedianOfLike
from search.run_folder import RunFolder, Worker
from search.spec import StudySpec
from train_core.data import TrainingData
from train_core.errors import DivergedError, UserError
from train_core.specs import Precision, ResNetSpec, TrainSpec, num_madds, num_params
from train_core.state import EpochResult

ALL_FAILED_AFTER = 5  # a study whose first trials all fail is stopped here
POLL_S = 1.0  # between looks at the last trials of other workers
MOST_DEATHS = 5  # of a process, with the same trial; then the trial is failed
INTERRUPTED, DIED = "interrupted", "its process died"  # reasons of trials that are tried again
DUPLICATE = "the same as trial "  # reason of a trial that was not trained; the number follows
MOST_DUPLICATES = 50  # draws in a row; then the space holds nothing new
RANDOM_AFTER = 10  # duplicates in a row, draws are random: TPE would go on proposing what it likes best
STORAGE_ERRORS = (SQLAlchemyError, optuna.exceptions.StorageInternalError)
RANDOM_TRIALS = 10  # drawn at random before TPE has a model, besides the known networks (Optuna's default)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the data asks of a network, and which data it is."""

    fingerprint: str
    in_channels: int
    num_classes: int
    size: tuple[int, int]  # height and width of the images, in pixels


def task_of(data: TrainingData) -> Task:
    """What these images ask of a network."""
    return Task(
        fingerprint=data.fingerprint, in_channels=data.in_channels, num_classes=data.num_classes, size=data.size
    )


NAMED_TASKS = {
    "cifar10": Task(fingerprint="", in_channels=3, num_classes=10, size=(32, 32)),
    "cifar100": Task(fingerprint="", in_channels=3, num_classes=100, size=(32, 32)),
    "digits": Task(fingerprint="", in_channels=1, num_classes=10, size=(32, 32)),
}
"""What the named data sets ask, for counting without loading them."""


def fitted(network: ResNetSpec, task: Task) -> ResNetSpec:
    """The network with the task's channels and classes."""
    return network.model_copy(update={"in_channels": task.in_channels, "num_classes": task.num_classes})


class Trainer(Protocol):
    """Trains networks, and remembers how far it came with those that have no verdict yet."""

    def __call__(self, network: ResNetSpec, recipe: TrainSpec, root: int) -> Generator[EpochResult]:
        """Train a network by a recipe, an epoch a step.

        Where an earlier attempt at the trial `root` was interrupted, or closed after an epoch, its epochs are yielded
        again, and training goes on from there.
        """

    def forget(self, root: int) -> None:
        """The trial `root` has its verdict."""


class Events(Protocol):
    """Who is told what happens, as it happens; each method's name says when."""

    def trial_started(self, number: int, network: ResNetSpec, recipe: TrainSpec) -> None: ...  # noqa: D102  # as the class says
    def epoch_ended(self, number: int, result: EpochResult) -> None: ...  # noqa: D102  # as the class says
    def trial_ended(self, trial: FrozenTrial, ended: list[FrozenTrial]) -> None: ...  # noqa: D102  # as the class says


class _StoppedError(Exception):
    """There is no time left for another epoch, or none is wanted."""


def open_study(folder: RunFolder, *, create: bool = False) -> optuna.Study:
    """The run's Optuna study.

    Raises:
        RunError: the storage cannot be opened.

    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        # Workers write by turns; SQLite gives up after five seconds unless told to wait.
        storage = optuna.storages.RDBStorage(folder.storage, engine_kwargs={"connect_args": {"timeout": 60}})
        names = optuna.get_all_study_names(storage)
        if create and not names:
            return optuna.create_study(storage=storage, study_name=folder.name, direction="maximize")
        # A folder that was renamed holds its study under the old name.
        return optuna.load_study(storage=storage, study_name=names[0] if len(names) == 1 else folder.name)
    except (*STORAGE_ERRORS, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{folder.database} cannot be opened as a study ({reason}): choose another --name") from error


def claim(study: optuna.Study, spec: StudySpec, task: Task, folder: RunFolder) -> None:
    """Write down what this study is, or check that it is the same that was written down.

    Raises:
        RunError: the run was made with another budget, space or data; the message says which.

    """
    ours = _identity(spec, task)
    if "identity" not in study.user_attrs:
        study.set_user_attr("identity", ours)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the dashboard's axis says it
            study.set_metric_names(["validation accuracy"])
        return
    theirs = study.user_attrs["identity"]
    for key in ours:
        if ours[key] != theirs.get(key):
            raise RunError(
                f"run {folder.name!r} was made with {key} {_shown(theirs.get(key))}, not {_shown(ours[key])}: "
                "give the same, or another --name"
            )


def _identity(spec: StudySpec, task: Task) -> dict[str, Any]:
    """All that makes two trials of a study comparable: one name, one value; the space by its dimensions."""
    values = spec.model_dump(mode="json", exclude={"trials", "promote", "baselines", "baseline_recipe", "data"})
    dimensions = values.pop("space")
    del values["short_images"]
    if spec.phases.architecture:
        values["baseline_recipe"] = spec.baseline_recipe  # architectures are compared by it
    return {
        "budget": values.pop("budget"),
        "data fingerprint": task.fingerprint,
        "short_images and promote.epochs, which make short runs train on a share of the images of": spec.part,
        **values,
        **{f"space.{name}": dimension for name, dimension in dimensions.items()},
    }


def _shown(value: Any) -> str:
    return (
        f"{value:,}" if isinstance(value, int) else json.dumps(value) if isinstance(value, dict | list) else str(value)
    )


def enqueue_baselines(study: optuna.Study, spec: StudySpec, task: Task) -> dict[str, bool]:
    """Make the known networks that budget and space hold the first trials; says of each whether it was one.

    Done once in a study's life: a name that is there already is not enqueued again.
    """
    there = {trial.user_attrs.get("baseline") for trial in study.get_trials(deepcopy=False)}
    held = {}
    for name, network in spec.baselines.items():
        params = search_space.as_parameters(fitted(network, task), spec.baseline_recipe, spec.space, spec.budget)
        held[name] = params is not None
        if params is not None and name not in there:
            study.enqueue_trial(params, user_attrs={"baseline": name})
    return held


def retry_interrupted(study: optuna.Study, worker: Worker) -> None:
    """Enqueue every trial that was cut off, once. Doing it twice changes nothing.

    Call it where `worker` is alone and has no trial of its own: a running trial that is no other living worker's has
    then lost its process. One that has lost it `MOST_DEATHS` times is failed for good, since it may well be what kills
    the process.
    """
    roots: dict[int, list[FrozenTrial]] = {}
    for trial in study.get_trials(deepcopy=False):
        roots.setdefault(trial.user_attrs.get("retry_of", trial.number), []).append(trial)
    for root, attempts in roots.items():
        last = attempts[-1]
        given_up = False
        if last.state == TrialState.RUNNING:
            # One without a worker was cut off between its number and its owner's.
            if "worker" in last.user_attrs and worker.is_alive(last.user_attrs["worker"]):
                continue
            deaths = 1 + sum(trial.user_attrs.get("reason") == DIED for trial in attempts)
            given_up = deaths >= MOST_DEATHS
            reason = f"given up: its process died {deaths} times" if given_up else DIED
            _end_without_verdict(study, last.number, last._trial_id, reason)
        elif not was_interrupted(last):
            continue
        # One that was cut off before it drew anything, and was not enqueued, leaves nothing to repeat.
        params = {**last.system_attrs.get("fixed_params", {}), **last.params}
        if params and not given_up:
            kept = {name: last.user_attrs[name] for name in ("baseline",) if name in last.user_attrs}
            study.enqueue_trial(params, user_attrs={**kept, "retry_of": root})


def was_interrupted(trial: FrozenTrial) -> bool:
    """Whether the trial was cut off from outside, so that it says nothing about its network."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get("reason") in {INTERRUPTED, DIED}


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count towards the total: complete, pruned or failed; not the interrupted, nor duplicates."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [
        trial
        for trial in study.get_trials(deepcopy=False, states=states)
        if not was_interrupted(trial) and not _is_duplicate(trial)
    ]


def _is_duplicate(trial: FrozenTrial) -> bool:
    return str(trial.user_attrs.get("reason", "")).startswith(DUPLICATE)


def run(
    study: optuna.Study,
    spec: StudySpec,
    task: Task,
    trainer: Trainer,
    events: Events,
    *,
    worker: Worker,
    precision: Precision,
    deadline: float = float("inf"),
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run trials until the study has `spec.trials`, until `deadline` (in `time.monotonic` seconds), or until `stop`.

    Other workers may do the same at the same time. The last trials are waited for, whoever runs them, and tried again
    here if their worker dies.

    Raises:
        StudyFailedError: the first trials all failed, or the last ones all for the same reason.

    """
    study.pruner = MedianOfLike(
        like=spec.pruner.like,
        startup_trials=spec.pruner.startup_trials,
        warmup_epochs=round(spec.pruner.warmup * spec.epochs),
        min_values=spec.pruner.min_values,
    )
    epoch_s = 0.0  # of the last epoch: another one is begun only where it fits before the deadline
    while len(ended(study)) < spec.trials and time.monotonic() + epoch_s < deadline and not stop():
        with worker.alone():
            retry_interrupted(study, worker)
            drawn = _draw(study, spec, task, precision, worker) if _has_room(study, spec) else None
        if drawn is None:
            if study.user_attrs.get("used up") and not study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
                break
            time.sleep(POLL_S)
            continue
        try:
            finished, epoch_s = _run_trial(study, drawn, trainer, events, deadline, stop)
        except _StoppedError:
            _end_without_verdict(study, drawn.trial.number, drawn.trial._trial_id, INTERRUPTED)
            return
        except BaseException:
            # Where the storage itself has gone, the next start finds the trial still running.
            with contextlib.suppress(*STORAGE_ERRORS):
                _end_without_verdict(study, drawn.trial.number, drawn.trial._trial_id, INTERRUPTED)
            raise
        events.trial_ended(finished, ended(study))
        _stop_if_nothing_works(study)
    if trials := ended(study):
        _stop_if_all_failed(trials)


def _has_room(study: optuna.Study, spec: StudySpec) -> bool:
    """Whether another trial can begin without the study coming to more than it is to have."""
    return len(ended(study)) + len(study.get_trials(deepcopy=False, states=[TrialState.RUNNING])) < spec.trials


def _sampler(
    spec: StudySpec, trials: list[FrozenTrial], *, first: int = 0, random: bool = False
) -> optuna.samplers.BaseSampler:
    """A new sampler for each trial, seeded by the study's seed and the number of trials so far.

    So a study that was stopped and continued draws what it would have drawn, and never repeats its first draws.
    """
    seed = int(np.random.SeedSequence((spec.seed, len(trials))).generate_state(1)[0])
    if spec.sampler == "random" or random:
        sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        # The known networks are much alike: a model made from them alone would look no further.
        known = sum("baseline" in trial.user_attrs for trial in trials)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS + known)
    if spec.phases.architecture and (held := _held(spec, trials, first)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.PartialFixedSampler(held, sampler)
    return sampler


def _held(spec: StudySpec, trials: list[FrozenTrial], first: int) -> dict[str, Any]:
    """The parameters that the next trial of a study of two phases does not draw.

    In the `first` trials the recipe's; in the others the architecture's, those of the first ones' best in turn.
    """
    counted = [trial for trial in trials if not _is_duplicate(trial)]
    if len(counted) < first:
        drawn = set(search_space.parameters(spec.space))
        return {name: value for name, value in spec.baseline_recipe.items() if name in drawn}
    complete = [trial for trial in counted[:first] if trial.state == TrialState.COMPLETE]
    best = sorted(complete, key=lambda trial: trial.value or 0, reverse=True)[: spec.phases.keep]
    if not best:
        return {}
    chosen = best[(len(counted) - first) % len(best)]
    return {name: value for name, value in chosen.params.items() if search_space.is_architecture(name)}


@dataclass(frozen=True)
class _Drawn:
    """A trial that has everything it is to be, and has not begun to train."""

    trial: Trial
    network: ResNetSpec
    recipe: TrainSpec


def _draw(study: optuna.Study, spec: StudySpec, task: Task, precision: Precision, worker: Worker) -> _Drawn | None:
    """Ask for the next trial that is not the same as an earlier one, and write down what it is; none, if it seems so.

    A first phase that holds nothing new is over; so, after that, is the study, of which this is noted.
    """
    if spec.phases.architecture and "first phase" not in study.user_attrs:
        # Written down once: a larger total later does not begin it again.
        study.set_user_attr("first phase", round(spec.phases.architecture * spec.trials))
    if study.user_attrs.get("used up") and not study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
        return None
    for attempt in range(MOST_DUPLICATES):
        known = [trial for trial in study.get_trials(deepcopy=False) if not was_interrupted(trial)]
        first = study.user_attrs.get("first phase", 0)
        study.sampler = _sampler(spec, known, first=first, random=attempt >= RANDOM_AFTER)
        drawn = _ask(study, spec, task, precision, worker)
        attributes = {"network": drawn.network.model_dump_json(), "recipe": drawn.recipe.model_dump_json()}
        # Different draws can be the same network: by a parameter that it does not use, or a little more `fill`.
        same = next(
            (
                trial.number
                for trial in known
                if not _is_duplicate(trial) and attributes.items() <= trial.user_attrs.items()
            ),
            None,
        )
        if same is None:
            return drawn
        _end_without_verdict(study, drawn.trial.number, drawn.trial._trial_id, f"{DUPLICATE}{same}")
    counted = len(ended(study))
    if counted < study.user_attrs.get("first phase", 0):
        study.set_user_attr("first phase", counted)
        return _draw(study, spec, task, precision, worker)
    study.set_user_attr("used up", True)
    return None


def _ask(study: optuna.Study, spec: StudySpec, task: Task, precision: Precision, worker: Worker) -> _Drawn:
    trial = study.ask()
    trial.set_user_attr("worker", worker.number)
    # Everything is suggested before anything can end the trial: a trial that lacks a parameter would take that
    # parameter out of the sampler's joint model for good.
    draw = search_space.suggest(trial, spec.space)
    network = search_space.network(
        draw, spec.space, spec.budget, in_channels=task.in_channels, num_classes=task.num_classes
    )
    recipe = search_space.recipe(draw, epochs=spec.epochs, seed=spec.seed, precision=precision, part=spec.part)
    for name, value in {
        "network": network.model_dump_json(),
        "recipe": recipe.model_dump_json(),
        "in words": str(network),
        "parameters": num_params(network),
        "multiply-adds": num_madds(network, task.size),
    }.items():
        trial.set_user_attr(name, value)
    return _Drawn(trial, network, recipe)


def _run_trial(
    study: optuna.Study,
    drawn: _Drawn,
    trainer: Trainer,
    events: Events,
    deadline: float,
    stop: Callable[[], bool],
) -> tuple[FrozenTrial, float]:
    """One short run, to the verdict; with the seconds that its last epoch took."""
    trial, recipe = drawn.trial, drawn.recipe
    root = trial.user_attrs.get("retry_of", trial.number)
    events.trial_started(trial.number, drawn.network, recipe)

    started, trained_s = time.monotonic(), 0.0
    state, reason = TrialState.COMPLETE, None
    last: EpochResult | None = None
    with contextlib.closing(trainer(drawn.network, recipe, root)) as results:
        while state == TrialState.COMPLETE:
            # What the trainer raises is about this network; what the storage raises, outside of this `try`, is not.
            try:
                result = next(results, None)
            except (UserError, OSError):
                raise
            except DivergedError as error:
                # Pruned, not failed: the sampler learns nothing from a failed trial, and much from this one.
                state, reason = TrialState.PRUNED, f"diverged: {error}"
                break
            except Exception as error:  # whatever goes wrong in one trial, the study goes on
                first_line = (str(error).strip().splitlines() or [""])[0]
                state, reason = TrialState.FAIL, f"{type(error).__name__}: {first_line}"
                log.exception("trial %d failed", trial.number)
                break
            if result is None:
                break
            last, trained_s = result, trained_s + result.seconds
            trial.report(result.val_accuracy, result.epoch)
            events.epoch_ended(trial.number, result)
            if result.epoch < recipe.epochs:
                if trial.should_prune():
                    state, reason = TrialState.PRUNED, f"below the median of its kind at epoch {result.epoch}"
                elif stop() or time.monotonic() + result.seconds > deadline:
                    raise _StoppedError
    del results  # gives the network's memory back before the next trial
    # Epochs of an earlier attempt took their time, too.
    trial.set_user_attr("seconds", round(max(time.monotonic() - started, trained_s), 3))
    if last is not None and last.parts > 1:
        trial.set_user_attr("parts of a batch", last.parts)
    if reason is not None:
        trial.set_user_attr("reason", reason)
    score = last.val_accuracy if state == TrialState.COMPLETE and last is not None else None
    finished = study.tell(trial, score, state)
    trainer.forget(root)
    return finished, last.seconds if last is not None else 0.0


def _end_without_verdict(study: optuna.Study, number: int, trial_id: int, reason: str) -> None:
    study._storage.set_trial_user_attr(trial_id, "reason", reason)
    study.tell(number, state=TrialState.FAIL)


def gave_nothing(trial: FrozenTrial) -> bool:
    """Whether the trial failed or diverged."""
    return trial.state == TrialState.FAIL or str(trial.user_attrs.get("reason", "")).startswith("diverged")


def _stop_if_nothing_works(study: optuna.Study) -> None:
    trials = ended(study)
    if len(trials) >= ALL_FAILED_AFTER:
        _stop_if_all_failed(trials)
        reasons = {(trial.state, trial.user_attrs.get("reason")) for trial in trials[-ALL_FAILED_AFTER:]}
        (state, reason), *others = reasons
        if state == TrialState.FAIL and not others:
            raise StudyFailedError(
                f"the last {ALL_FAILED_AFTER} trials all failed with: {reason}; mend it, and the same command continues"
            )


def _stop_if_all_failed(trials: list[FrozenTrial]) -> None:
    if all(gave_nothing(trial) for trial in trials):
        which = f"the first {len(trials)} trials all" if len(trials) > 1 else "the only trial"
        raise StudyFailedError(
            f"{which} failed, {'the last ' if len(trials) > 1 else ''}with: {trials[-1].user_attrs['reason']}; "
            "mend the data or the space, and begin anew under another --name"
        )
