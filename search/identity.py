"""A run's Optuna study: how it is made, opened and joined, and what makes it the same study."""

import contextlib
import json
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import optuna

import space as search_space
from search.data_shape import DataShape, with_data_shape
from search.errors import RunError, SpecError, StorageError, UserError
from search.listing import Listing, changes, read_listing
from search.run_folder import RunFolder, write_text
from search.scores import named
from search.spec import StudySpec, load_study
from search.starts import Configuration, enqueue_starts
from search.storage import STORAGE_ERRORS, connect, reason_of
from search.trials import BASELINE, finished_trials, has_begun, records
from train_core.specs import Precision

log = logging.getLogger(__name__)

CLAIM_TIMEOUT_S = 10.0  # for the worker that makes a study to record its identity
CLAIM_POLL_S = 0.1

# Names of attributes of the study.
IDENTITY, PRECISION = "identity", "precision"
FINGERPRINT = "data fingerprint"  # in the identity


def open_study(folder: RunFolder, *, create: bool = False) -> optuna.Study:
    """The run's Optuna study.

    Raises:
        RunError: there is no such study.
        StorageError: the storage cannot be opened.

    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not create and not folder.address.is_shared and not folder.database.exists():
        raise RunError(
            f"{folder.root} holds no study: give the command that made the run again, or put back a copy of "
            f"{folder.database.name}"
        )
    storage = connect(folder.address)
    try:
        names = [] if folder.address.is_shared else optuna.get_all_study_names(storage)
        if create and not names:
            with contextlib.suppress(optuna.exceptions.DuplicatedStudyError):
                return optuna.create_study(storage=storage, study_name=folder.name, direction="maximize")
        # A renamed folder holds its study under the old name.
        study = optuna.load_study(storage=storage, study_name=names[0] if len(names) == 1 else folder.name)
    except KeyError as error:
        raise RunError(
            f"{folder.address} has no study {folder.name!r}: give the command that made the run again, or put back a "
            "copy of it"
        ) from error
    except STORAGE_ERRORS as error:
        raise StorageError(
            f"{folder.address} cannot be opened as a study ({reason_of(error)}): fix the cause and run it again"
        ) from error
    if folder.address.is_shared:  # another worker may be creating it
        until = time.monotonic() + CLAIM_TIMEOUT_S
        while create and IDENTITY not in study.user_attrs and time.monotonic() < until:
            time.sleep(CLAIM_POLL_S)
    return study


class Joined(NamedTuple):
    """A run's study, and its first trials."""

    study: optuna.Study
    spec: StudySpec  # as its study file has it
    baselines: Mapping[str, bool]  # by name: whether budget and space allow it
    starts: Sequence[str]  # the source of each configuration that did best on other images


def join(
    folder: RunFolder,
    spec: StudySpec,
    shape: DataShape,
    learned: Callable[[], Sequence[Configuration]] = list,
    images: Callable[[], Listing] | None = None,
) -> Joined:
    """The run's study, created if needed, for a worker to join. It begins with what was `learned` from other runs.

    `images` lists the images of this command, so that a message can name the differences.

    Raises:
        RunError: the run was made with another budget, space or data; the message names it.
        StorageError: the storage cannot be opened.

    """
    with contextlib.nullcontext() if folder.address.is_shared else folder.alone():
        study = open_study(folder, create=True)
        check(study, spec, shape, folder, images, advice=RENAME)
        _check_not_lost(study, folder)
        joined = with_total(_as_begun(spec, study, folder), study, folder)
        write_text(folder.study_file, joined.as_toml())
        baselines = enqueue_baselines(study, spec, shape)
        starts = enqueue_starts(study, spec, shape, learned)
        claim(study, spec, shape, folder)  # last: other workers wait for it
    return Joined(study, joined, baselines, starts)


def _check_not_lost(study: optuna.Study, folder: RunFolder) -> None:
    """Check that an empty study is not one whose trials were lost: full runs name their trials by number.

    Raises:
        RunError: there are full runs, but no trials.

    """
    if not study.get_trials(deepcopy=False) and any(each.result.exists() for each in folder.promotions()):
        raise RunError(
            f"the study of run {folder.name!r} is lost, but its full runs are there: put back a copy of the study "
            f"({folder.address}), or give another --name"
        )


def spec_of(folder: RunFolder) -> StudySpec:
    """The spec of a run, from its study file.

    Raises:
        RunError: the file is damaged.

    """
    try:
        return load_study(str(folder.study_file), {})
    except SpecError as error:
        raise RunError(
            f"the study file of run {folder.name!r} is damaged ({error}): give the command that made the run again, "
            "which writes it again"
        ) from error


def _as_begun(spec: StudySpec, study: optuna.Study, folder: RunFolder) -> StudySpec:
    """The spec with what the study began with: its first trials are made once, and a later command cannot change that.

    A warning is logged if the command asks for something else.
    """
    if not (has_begun(study) and folder.study_file.exists()):
        return spec
    try:
        before = spec_of(folder)
    except UserError:  # damaged: it is written again
        return spec
    kept = {"portfolio": before.portfolio, "learn_from": before.learn_from}
    if (before.portfolio and not spec.portfolio) or (spec.learn_from and not before.learn_from):
        log.warning("the study has begun: --no-portfolio and --learn-from do not change its first trials")
    return spec.model_copy(update=kept)


def with_total(spec: StudySpec, study: optuna.Study, folder: RunFolder) -> StudySpec:
    """The spec, whose number of trials is never less than what the study has, or what other processes search for."""
    least = [spec.trials, len(finished_trials(study))]
    if folder.workers() and folder.study_file.exists():
        with contextlib.suppress(UserError):  # damaged: it is written again
            least.append(spec_of(folder).trials)
    return spec.model_copy(update={"trials": max(least)})


def claim(study: optuna.Study, spec: StudySpec, shape: DataShape, folder: RunFolder) -> None:
    """Record the identity of this study, or check it against the recorded one.

    Raises:
        RunError: the run was made with another budget, space or data; the message names it.

    """
    if IDENTITY in study.user_attrs:
        check(study, spec, shape, folder, advice=RENAME)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # it labels the dashboard's axis
        study.set_metric_names([named(spec.scored_by, "validation accuracy")])
    study.set_user_attr(IDENTITY, _identity(spec, shape))


RENAME = "give the same, or another --name"


def check(
    study: optuna.Study,
    spec: StudySpec,
    shape: DataShape,
    folder: RunFolder,
    images: Callable[[], Listing] | None = None,
    *,
    advice: str | None = None,
) -> None:
    """Check that this study has the recorded identity, if one was recorded.

    `images` lists the images of this command; `advice` says what to do (None: for a command that only continues).

    Raises:
        RunError: the run was made with another budget, space or data; the message names it.

    """
    given = _identity(spec, shape)
    stored = study.user_attrs.get(IDENTITY, given)
    for key in given:
        before, now = stored.get(key), given[key]
        if now == before:
            continue
        listing = read_listing(folder) if key == FINGERPRINT and images is not None else None
        if listing is not None and images is not None:
            restore = "put the images back as they were"
            other = "give another --name" if advice else "give --data with the folder that has them"
            raise RunError(
                f"run {folder.name!r} was made with other images: {changes(listing, images())}; {restore}, or {other}"
            )
        restore = "put the images back as they were" if key == FINGERPRINT else f"put it back in {folder.study_file}"
        raise RunError(
            f"run {folder.name!r} was made {_with(key, before)}, not {_with('' if before is not None else key, now)}: "
            f"{advice or f'{restore}, or start another run'}"
        )


def _with(key: str, value: Any) -> str:
    """For example `with epochs 6` and `without max_madds`; without a key, only the value, or `without it`."""
    if value is None:
        return f"without {key or 'it'}"
    return f"with {key} {_shown(value)}" if key else _shown(value)


def identity(study: optuna.Study) -> dict[str, Any]:
    """All that makes two trials of the study comparable, one value for each name; empty before it is recorded."""
    stored: dict[str, Any] = study.user_attrs.get(IDENTITY, {})
    return stored


def agreed_precision(study: optuna.Study, measure: Callable[[], Precision]) -> Precision:
    """The precision that all trials of the study train in, as measured by the first worker."""
    if PRECISION not in study.user_attrs:
        study.set_user_attr(PRECISION, measure())
    agreed: Precision = study.user_attrs[PRECISION]
    return agreed


def _identity(spec: StudySpec, shape: DataShape) -> dict[str, Any]:
    """All that makes two trials of a study comparable; the space by its dimensions."""
    others = {
        "trials",
        "promote",
        "baselines",
        "baseline_recipe",
        "portfolio",
        "learn_from",
        "data",
        "published",
        "target",
    }
    values = spec.model_dump(mode="json", exclude=others)
    dimensions = values.pop("space")
    del values["short_run_images"]
    if spec.max_memory is None and spec.max_file is None:
        del values["format"]  # no limit depends on it
    values["score"] = spec.scored_by
    values["control"] = spec.control or None
    values["front"] = list(spec.front) or None
    if spec.phases.architecture:
        values["baseline_recipe"] = spec.baseline_recipe  # the recipe by which architectures are compared
    return {
        "budget": values.pop("budget"),
        FINGERPRINT: shape.fingerprint,
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


def enqueue_baselines(study: optuna.Study, spec: StudySpec, shape: DataShape) -> dict[str, bool]:
    """Enqueue the baselines that budget and space allow as the first trials; returns for each whether it is allowed.

    Done once for each study: a name that is already among the trials is not enqueued again.
    """
    enqueued = {trial.baseline for trial in records(study) if not trial.is_surplus}
    allowed = {}
    for name, network in spec.baselines.items():
        parameters = search_space.as_parameters(
            with_data_shape(network, shape),
            spec.baseline_recipe,
            spec.space,
            spec.limits,
            size=shape.size,
        )
        allowed[name] = parameters is not None
        if parameters is not None and name not in enqueued:
            study.enqueue_trial(parameters, user_attrs={BASELINE: name})
    return allowed
