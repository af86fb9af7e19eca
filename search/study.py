"""Runs a study: asks for a trial, trains it short, reports every epoch, prunes, tells.

The loop is our own (ask and tell), so that every end of a trial is written down the same way and a trial that was
interrupted is found and tried again.

Several workers need no lock for it where the storage numbers trials and hands out enqueued ones one at a time, as all
but SQLite do: what a trial is gets decided in the order of the numbers (`_in_turn`), and each decision depends on the
trials with lower numbers alone, which no worker sees differently.
"""

import contextlib
import json
import logging
import time
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

import space as search_space
from search.errors import RunError, StorageError, StudyFailedError
from search.heartbeat import Worker
from search.pruner import MedianOfLike
from search.run_folder import RunFolder, write_text
from search.spec import StudySpec
from search.storage import STORAGE_ERRORS, RetryingStorage, connect, reason_of
from search.trials import (
    DIED,
    DUPLICATE,
    FAULTED,
    INTERRUPTED,
    KILLED,
    REPEATED,
    SURPLUS,
    TRAINED,
    Root,
    counts,
    ended,
    failed_or_diverged,
    params_of,
    root_of,
    roots,
    was_interrupted,
    was_surplus,
)
from train_core.datasets import DATASETS
from train_core.errors import DivergedError, UserError
from train_core.results import EpochResult
from train_core.specs import Precision, ResNetSpec, TrainSpec, num_madds, num_params

if TYPE_CHECKING:  # it brings torch, which who only looks at a study need not wait for
    from train_core.data import TrainingData

ALL_FAILED_AFTER = 5  # a study whose first trials all fail is stopped here
POLL_S = 1.0  # between looks at the last trials of other workers
TURN_S = 0.02  # between looks at whether those before have decided what they are
CLAIM_S = 10.0  # for whoever makes a study to say what it is
MAX_DEATHS = 8  # of a process, with the same trial, that got it no further; then the trial is failed, ...
MAX_FAULTS = 2  # ... and so it is after so many that a fault explains, as a segmentation fault
MAX_DUPLICATES = 50  # draws in a row; then the space holds nothing new
RANDOM_AFTER = 10  # duplicates in a row, draws are random: TPE would go on proposing what it likes best
RANDOM_TRIALS = 10  # drawn at random before TPE has a model, besides the known networks (Optuna's default)

_VERDICTS = frozenset({TrialState.COMPLETE, TrialState.PRUNED})

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DataShape:
    """What the data asks of a network, and which data it is."""

    fingerprint: str
    in_channels: int
    num_classes: int
    size: tuple[int, int]  # height and width of the images, in pixels


def data_shape_of(data: "TrainingData") -> DataShape:
    """What these images ask of a network."""
    return DataShape(
        fingerprint=data.fingerprint, in_channels=data.in_channels, num_classes=data.num_classes, size=data.size
    )


NAMED_SHAPES = {
    str(name): DataShape(fingerprint="", in_channels=each.in_channels, num_classes=each.num_classes, size=each.size)
    for name, each in DATASETS.items()
}
"""What the named data sets ask, for counting without loading them."""


def fitted(network: ResNetSpec, task: DataShape) -> ResNetSpec:
    """The network with the task's channels and classes."""
    return network.model_copy(update={"in_channels": task.in_channels, "num_classes": task.num_classes})


def madds_limit(spec: StudySpec, task: DataShape) -> search_space.Madds | None:
    """The study's limit on multiply-adds, which the size of the images gives its meaning."""
    return search_space.Madds(spec.max_madds, task.size) if spec.max_madds is not None else None


class Trainer(Protocol):
    """Trains networks, and remembers how far it came with those that have no verdict yet."""

    def __call__(self, network: ResNetSpec, recipe: TrainSpec, root: int) -> Generator[EpochResult]:
        """Train a network by a recipe, an epoch a step.

        Where an earlier attempt at the trial `root` was interrupted, or closed after an epoch, its epochs are yielded
        again, and training goes on from there. One that an error is thrown into has lost its trial to another worker,
        and keeps nothing.
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
        RunError: there is no such study.
        StorageError: the storage cannot be opened.

    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not create and not folder.address.is_shared and not folder.database.exists():
        raise RunError(f"{folder.root} holds no study: continue it with `search run`")
    storage = connect(folder.address)
    try:
        names = [] if folder.address.is_shared else optuna.get_all_study_names(storage)
        if create and not names:
            with contextlib.suppress(optuna.exceptions.DuplicatedStudyError):
                return optuna.create_study(storage=storage, study_name=folder.name, direction="maximize")
        # A folder that was renamed holds its study under the old name.
        study = optuna.load_study(storage=storage, study_name=names[0] if len(names) == 1 else folder.name)
    except KeyError as error:
        raise RunError(f"{folder.address} has no study {folder.name!r}: start it with `search run`") from error
    except STORAGE_ERRORS as error:
        raise StorageError(f"{folder.address} cannot be opened as a study ({reason_of(error)}): mend it") from error
    if folder.address.is_shared:  # and another worker may be making it
        until = time.monotonic() + CLAIM_S
        while create and "identity" not in study.user_attrs and time.monotonic() < until:
            time.sleep(POLL_S / 10)
    return study


def join(folder: RunFolder, spec: StudySpec, task: DataShape) -> tuple[optuna.Study, dict[str, bool]]:
    """The run's study, made where there is none, for a worker to go on with; and which known networks are in it.

    Raises:
        RunError: the run was made with another budget, space or data; the message says which.
        StorageError: the storage cannot be opened.

    """
    with contextlib.nullcontext() if folder.address.is_shared else folder.alone():
        study = open_study(folder, create=True)
        check(study, spec, task, folder)
        write_text(folder.study_file, spec.as_toml())
        baselines = enqueue_baselines(study, spec, task)
        claim(study, spec, task, folder)  # last: other workers wait for it
    return study, baselines


def claim(study: optuna.Study, spec: StudySpec, task: DataShape, folder: RunFolder) -> None:
    """Write down what this study is, or check that it is the same that was written down.

    Raises:
        RunError: the run was made with another budget, space or data; the message says which.

    """
    if "identity" in study.user_attrs:
        check(study, spec, task, folder)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the dashboard's axis says it
        study.set_metric_names(["validation accuracy"])
    study.set_user_attr("identity", _identity(spec, task))


def check(study: optuna.Study, spec: StudySpec, task: DataShape, folder: RunFolder) -> None:
    """Check that this study, if it is one already, is the same that was written down.

    Raises:
        RunError: the run was made with another budget, space or data; the message says which.

    """
    ours = _identity(spec, task)
    theirs = study.user_attrs.get("identity", ours)
    for key in ours:
        if ours[key] != theirs.get(key):
            raise RunError(
                f"run {folder.name!r} was made with {key} {_shown(theirs.get(key))}, not {_shown(ours[key])}: "
                "give the same, or another --name"
            )


def _identity(spec: StudySpec, task: DataShape) -> dict[str, Any]:
    """All that makes two trials of a study comparable: one name, one value; the space by its dimensions."""
    others = {"trials", "promote", "baselines", "baseline_recipe", "data", "published"}
    values = spec.model_dump(mode="json", exclude=others)
    dimensions = values.pop("space")
    del values["short_run_images"]
    if spec.phases.architecture:
        values["baseline_recipe"] = spec.baseline_recipe  # architectures are compared by it
    return {
        "budget": values.pop("budget"),
        "data fingerprint": task.fingerprint,
        "short_run_images and promote.epochs, which make short runs train on a share of the images of": (
            spec.data_fraction
        ),
        **values,
        **{f"space.{name}": dimension for name, dimension in dimensions.items()},
    }


def _shown(value: Any) -> str:
    return (
        f"{value:,}" if isinstance(value, int) else json.dumps(value) if isinstance(value, dict | list) else str(value)
    )


def enqueue_baselines(study: optuna.Study, spec: StudySpec, task: DataShape) -> dict[str, bool]:
    """Make the known networks that budget and space hold the first trials; says of each whether it was one.

    Done once in a study's life: a name that is there already is not enqueued again.
    """
    there = {trial.user_attrs.get("baseline") for trial in study.get_trials(deepcopy=False) if not was_surplus(trial)}
    held = {}
    for name, network in spec.baselines.items():
        params = search_space.as_parameters(
            fitted(network, task), spec.baseline_recipe, spec.space, spec.budget, madds_limit(spec, task)
        )
        held[name] = params is not None
        if params is not None and name not in there:
            study.enqueue_trial(params, user_attrs={"baseline": name})
    return held


def retry_interrupted(study: optuna.Study, worker: Worker) -> list[FrozenTrial]:
    """Enqueue every trial that was cut off, once, and log why, where its process died. Doing it twice changes nothing.

    One that has lost its process `MAX_DEATHS` times, or `MAX_FAULTS` times in a fault that Python saw, and got no
    further, is failed for good, since it may well be what ends it. Returns those that are failed here.
    """
    failed: list[FrozenTrial] = []
    trials = study.get_trials(deepcopy=False)
    without = {root_of(trial) for trial in trials if trial.state not in _VERDICTS}  # or with an attempt without
    for root in roots(trial for trial in trials if root_of(trial) in without).values():
        last = root.last
        if last.state in _VERDICTS:
            continue
        dead = {
            trial.number: worker.how_died(trial)
            for trial in root.attempts
            if trial.state == TrialState.RUNNING and worker.is_dead(trial)
        }
        cut_off = [
            (trial, dead.get(trial.number) or trial.user_attrs["reason"])
            for trial in root.attempts
            if trial.number in dead or was_interrupted(trial)
        ]
        hopeless = _hopeless(cut_off) if dead else None
        reasons = {number: f"given up: {hopeless}" if hopeless else reason for number, reason in dead.items()}
        ours = [
            trial
            for trial in root.attempts
            if trial.number in dead and _end_without_verdict(study, trial._trial_id, reasons[trial.number])
        ]
        if hopeless:
            for trial in ours:
                log.warning(
                    "trial %s %s: it counts as failed, and the search goes on", _tried_as(root, trial), hopeless
                )
                failed.append(study._storage.get_trial(trial._trial_id))
            continue
        if len(ours) < len(dead):
            continue  # the others have ended after all, or somebody else has found them, too
        at_work = [trial for trial in root.attempts if counts(trial) and trial.number not in dead]
        params = params_of(last)
        if not at_work and (ours or was_interrupted(last)) and params:
            names = ("baseline", "recipe", "in words", "parameters", "multiply-adds", "network")
            kept = {name: last.user_attrs[name] for name in names if name in last.user_attrs}
            study.enqueue_trial(params, user_attrs={**kept, "retry_of": root.number})
        for trial in ours:
            then = "it is tried again" if params else "another trial is drawn in its place"
            log.warning("trial %d %s: %s", root.number, dead[trial.number], then)
    return failed


def _hopeless(cut_off: list[tuple[FrozenTrial, str]]) -> str | None:
    """Why a trial is not to be tried again, of whose attempts these were cut off, each for its reason; none if it is.

    Those count that ended with their process since the last one that reached a new epoch. That one says nothing against
    the trial if its end is unexplained; if it ended in a fault, it is the first that did so there.
    """
    furthest, deaths = 0, 0
    faults: list[str] = []
    for trial, reason in cut_off:
        deaths += reason != INTERRUPTED
        if (trial.last_step or 0) > furthest:
            furthest, deaths = trial.last_step or 0, 0
            faults.clear()
        if reason.startswith(FAULTED):
            faults.append(reason.removeprefix(FAULTED).strip(" ()"))
    if len(faults) >= MAX_FAULTS:
        before, last = faults[-2:]
        return f"{FAULTED} ({last}) twice" if before == last else f"{FAULTED} twice ({before}, then {last})"
    if deaths >= MAX_DEATHS:
        _, last = cut_off[-1]
        return f"{DIED} {deaths} times{KILLED.removeprefix(DIED) if last == KILLED else ''}"
    return None


def _tried_as(root: Root, attempt: FrozenTrial) -> str:
    """The trial's number, by which it is known, and that of the attempt at it: `3 (tried again as trial 5)`."""
    again = f" (tried again as trial {attempt.number})" if attempt.number != root.number else ""
    return f"{root.number}{again}"


def run(
    study: optuna.Study,
    spec: StudySpec,
    task: DataShape,
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
    stop_retrying_when(study, stop)
    while len(ended(study)) < spec.trials and time.monotonic() + epoch_s < deadline and not stop():
        drawn: _Drawn | None = None
        try:
            with worker.alone():
                failed = retry_interrupted(study, worker)
                drawn = _draw(study, spec, task, precision, worker) if _has_room(study, spec) else None
            for trial in failed:
                events.trial_ended(trial, ended(study))
            if failed:
                _stop_if_nothing_works(study)
            if drawn is None:
                if study.user_attrs.get("used up") and not study.get_trials(
                    deepcopy=False, states=[TrialState.RUNNING]
                ):
                    break
                time.sleep(POLL_S)
                continue
            finished, epoch_s = _run_trial(study, drawn, trainer, events, deadline, stop)
        except optuna.exceptions.UpdateFinishedTrialError:
            # As after a long sleep of this machine. What was trained is in the trial's checkpoint.
            log.warning("a trial was taken from this worker, which gave no sign of life: another one tries it again")
            continue
        except BaseException as error:
            # Where the storage itself has gone, the next start finds the trial still running.
            with contextlib.suppress(Exception):
                if drawn is not None:
                    _end_without_verdict(study, drawn.trial._trial_id, INTERRUPTED)
            if isinstance(error, _StoppedError):
                return
            raise
        finally:
            worker.has(None)
        events.trial_ended(finished, ended(study))
        _stop_if_nothing_works(study)
    if trials := ended(study):
        _stop_if_all_failed(trials)


def stop_retrying_when(study: optuna.Study, stop: Callable[[], bool]) -> None:
    """No longer wait for a storage that does not answer, once `stop` says so."""
    if isinstance(study._storage, RetryingStorage):
        study._storage.stop = stop


def _has_room(study: optuna.Study, spec: StudySpec) -> bool:
    """Whether another trial can begin without the study coming to more than it is to have."""
    trials = study.get_trials(deepcopy=False)
    if len(trials) < spec.trials:  # the shortest way, however many of them count
        return True
    found = [root for root in roots(trials).values() if root.counts]
    waiting = sum(root.last.state == TrialState.WAITING for root in found)
    # One that is enqueued is not begun anew.
    return len(found) - waiting < spec.trials and (waiting > 0 or len(found) < spec.trials)


def _sampler(
    spec: StudySpec, before: list[Root], *, first: int = 0, random: bool = False
) -> optuna.samplers.BaseSampler:
    """A new sampler for each trial, seeded by the study's seed and the number of trials `before` it.

    So a study that was stopped and continued draws what it would have drawn, and no two draws are the same.
    """
    drawn = [root for root in before if not root.drew_nothing]
    seed = int(np.random.SeedSequence((spec.seed, len(drawn))).generate_state(1)[0])
    if spec.sampler == "random" or random:
        sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        # The known networks are much alike: a model made from them alone would look no further.
        known = sum("baseline" in root.last.user_attrs for root in drawn)
        sampler = _Tpe(seed=seed, n_startup_trials=RANDOM_TRIALS + known)
    if spec.phases.architecture and (held := _held(spec, before, first)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.PartialFixedSampler(held, sampler)
    return sampler


class _Tpe(optuna.samplers.TPESampler):
    """TPE that knows the space from one trial, since all have the same, instead of comparing all of them each time."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The distributions of all parameters, in the order in which Optuna has them."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        found = next((each.distributions for each in study.get_trials(deepcopy=False, states=states)), {})
        return {name: found[name] for name in sorted(found) if not found[name].single()}


def _held(spec: StudySpec, before: list[Root], first: int) -> dict[str, Any]:
    """The parameters that the next trial of a study of two phases does not draw.

    In the `first` trials the recipe's; in the others the architecture's, those of the first ones' best in turn.
    """
    counted = [root.last for root in before if root.counts]
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


def _draw(study: optuna.Study, spec: StudySpec, task: DataShape, precision: Precision, worker: Worker) -> _Drawn | None:
    """Ask for the next trial that is not the same as an earlier one, and write down what it is; none, if it seems so.

    None, too, if other workers have it, or the study's last place, already. A first phase that holds nothing new is
    over; so, after that, is the study, of which this is noted.
    """
    if spec.phases.architecture and "first phase" not in study.user_attrs:
        # Written down once: a larger total later does not begin it again.
        study.set_user_attr("first phase", round(spec.phases.architecture * spec.trials))
    if study.user_attrs.get("used up") and not study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
        return None
    for attempt in range(MAX_DUPLICATES):
        trial = study.ask()
        worker.has(trial._trial_id)
        trial.set_user_attr("worker", worker.id)
        others = _in_turn(study, trial.number, worker)
        # Another attempt at a trial that was cut off while it was drawn is drawn as that was.
        own = trial.user_attrs.get("retry_of", trial.number)
        before = [root for root in others if root.number < own]
        reason = _is_had(trial, others, len([root for root in before if root.counts]), spec)
        if reason is None:
            first = study.user_attrs.get("first phase", 0)
            study.sampler = _sampler(spec, before, first=first, random=attempt >= RANDOM_AFTER)
            network, recipe = _design(trial, spec, task, precision)
            attributes = _attributes(network, recipe, task)
            reason = _is_known(attributes, trial, others)
        if reason is None:
            for name, value in attributes.items():
                trial.set_user_attr(name, value)
            return _Drawn(trial, network, recipe)
        _end_without_verdict(study, trial._trial_id, reason)
        if not reason.startswith(DUPLICATE):
            return None
    counted = len(ended(study))
    if counted < study.user_attrs.get("first phase", 0):
        study.set_user_attr("first phase", counted)
        return _draw(study, spec, task, precision, worker)
    study.set_user_attr("used up", True)
    return None


def _in_turn(study: optuna.Study, number: int, worker: Worker) -> list[Root]:
    """Wait until each trial with a lower number has decided what it is, or has lost its worker; returns all others."""
    while True:
        others = [trial for trial in study.get_trials(deepcopy=False) if trial.number != number]
        undecided = [
            trial
            for trial in others
            if trial.number < number and trial.state == TrialState.RUNNING and "network" not in trial.user_attrs
        ]
        if not undecided:
            return list(roots(others).values())
        if any(worker.is_dead(trial) for trial in undecided):
            retry_interrupted(study, worker)
        time.sleep(TURN_S)


def _is_had(trial: Trial, others: list[Root], place: int, spec: StudySpec) -> str | None:
    """Why this trial, with so many before it, is one too many, if it is: other workers have it, or the last place."""
    attributes = trial.user_attrs
    if "retry_of" in attributes:
        root = next(root for root in others if root.number == attributes["retry_of"])
        first = next((other.number for other in root.attempts if counts(other) and other.number < trial.number), None)
        return f"{REPEATED}{first}" if first is not None else None
    for root in others if "baseline" in attributes else []:
        if (
            root.number < trial.number
            and root.counts
            and root.last.user_attrs.get("baseline") == attributes["baseline"]
        ):
            return f"{DUPLICATE}{root.last.number}"
    return SURPLUS if place >= spec.trials else None


def _is_known(attributes: dict[str, Any], trial: Trial, others: list[Root]) -> str | None:
    """Why this trial is nothing new, if it is.

    Different draws can be the same network: by a parameter that it does not use, or a little more `budget_fraction`.
    """
    ours = {name: attributes[name] for name in ("network", "recipe")}
    own = trial.user_attrs.get("retry_of")
    for root in others:
        if root.number != own and root.counts and ours.items() <= root.last.user_attrs.items():
            return f"{DUPLICATE}{root.last.number}"
    return None


def _design(trial: Trial, spec: StudySpec, task: DataShape, precision: Precision) -> tuple[ResNetSpec, TrainSpec]:
    """The network and the recipe that the trial draws."""
    # Everything is suggested before anything can end the trial: a trial that lacks a parameter would take that
    # parameter out of the sampler's joint model for good.
    draw = search_space.suggest(trial, spec.space)
    network = search_space.network(
        draw,
        spec.space,
        spec.budget,
        in_channels=task.in_channels,
        num_classes=task.num_classes,
        madds=madds_limit(spec, task),
    )
    return network, search_space.recipe(
        draw, epochs=spec.epochs, seed=spec.seed, precision=precision, data_fraction=spec.data_fraction
    )


def _attributes(network: ResNetSpec, recipe: TrainSpec, task: DataShape) -> dict[str, Any]:
    """What the study keeps of a trial; once it has a `network`, the last to be written, it is decided."""
    return {
        "recipe": recipe.model_dump_json(),
        "in words": str(network),
        "parameters": num_params(network),
        "multiply-adds": num_madds(network, task.size),
        "network": network.model_dump_json(),
    }


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
            try:
                trial.report(result.val_accuracy, result.epoch)
            except optuna.exceptions.UpdateFinishedTrialError as error:
                results.throw(error)
            events.epoch_ended(trial.number, result)
            if result.epoch < recipe.epochs:
                if trial.should_prune():
                    state, reason = TrialState.PRUNED, f"below the median of its kind at epoch {result.epoch}"
                elif stop() or time.monotonic() + result.seconds > deadline:
                    raise _StoppedError
    del results  # gives the network's memory back before the next trial
    # Epochs of an earlier attempt took their time, too.
    trial.set_user_attr(TRAINED, round(max(time.monotonic() - started, trained_s), 3))
    if last is not None and last.accumulation_steps > 1:
        trial.set_user_attr("parts of a batch", last.accumulation_steps)
    if reason is not None:
        trial.set_user_attr("reason", reason)
    score = last.val_accuracy if state == TrialState.COMPLETE and last is not None else None
    finished = _tell(study, trial, score, state)
    trainer.forget(root)
    return finished, last.seconds if last is not None else 0.0


def _tell(study: optuna.Study, trial: Trial, score: float | None, state: TrialState) -> FrozenTrial:
    """Write the verdict down.

    Raises:
        UpdateFinishedTrialError: another worker has taken this one for dead.

    """
    try:
        finished = study.tell(trial, score, state, skip_if_finished=True)
    except optuna.exceptions.UpdateFinishedTrialError:  # as where it is told already, and the answer was lost
        finished = study._storage.get_trial(trial._trial_id)
    if was_interrupted(finished):
        raise optuna.exceptions.UpdateFinishedTrialError
    return finished


def _end_without_verdict(study: optuna.Study, trial_id: int, reason: str) -> bool:
    """Fail the trial; says whether it had not ended before."""
    try:
        study._storage.set_trial_user_attr(trial_id, "reason", reason)
        return study._storage.set_trial_state_values(trial_id, TrialState.FAIL)
    except optuna.exceptions.UpdateFinishedTrialError:
        return False


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
    if all(failed_or_diverged(trial) for trial in trials):
        which = f"the first {len(trials)} trials all" if len(trials) > 1 else "the only trial"
        raise StudyFailedError(
            f"{which} failed, {'the last ' if len(trials) > 1 else ''}with: {trials[-1].user_attrs['reason']}; "
            "mend the data or the space, and begin anew under another --name"
        )
