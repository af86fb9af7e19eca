"""Logs trials and full runs to TensorBoard, MLflow and Weights & Biases: one record each, in `LOGGERS`.

All of them write into the run's folder, and nothing leaves the machine unless the user has set WANDB_MODE. A logger
that fails is left out from then on, with one warning, and the work continues. To add one, write a class with the
methods of `Logger` and give it a record.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Protocol

from search.errors import SpecError
from search.promotions import Promotion
from search.run_folder import RunFolder
from search.storage import reason_of
from search.study import Events
from search.trials import TrialRecord
from train_core.results import EpochResult
from train_core.specs import ResNetSpec, TrainSpec, num_params

Value = int | float | str

log = logging.getLogger(__name__)


class Logger(Protocol):
    """Records what happens in trials and full runs; each has its own name."""

    def begin(self, name: str, parameters: Mapping[str, Value]) -> None:
        """A trial or a full run begins, or continues."""

    def log(self, name: str, metrics: Mapping[str, float], epoch: int) -> None:
        """An epoch of it has ended."""

    def end(self, name: str, outcome: Mapping[str, Value]) -> None:
        """It has ended."""

    def close(self) -> None:
        """No more calls follow."""


class _TensorBoard:
    """An event file for each trial or full run, in the folder `tensorboard` of the run."""

    def __init__(self, folder: RunFolder) -> None:
        self._root = folder.tracked("tensorboard")
        self._writers: dict[str, Any] = {}
        self._parameters: dict[str, Mapping[str, Value]] = {}

    def begin(self, name: str, parameters: Mapping[str, Value]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writers[name] = SummaryWriter(str(self._root / name))
        self._parameters[name] = parameters

    def log(self, name: str, metrics: Mapping[str, float], epoch: int) -> None:
        for metric, value in metrics.items():
            self._writers[name].add_scalar(metric, value, epoch)
        self._writers[name].flush()

    def end(self, name: str, outcome: Mapping[str, Value]) -> None:
        numbers = {f"outcome/{key}": value for key, value in outcome.items() if not isinstance(value, str)}
        words = {key: value for key, value in outcome.items() if isinstance(value, str)}
        writer = self._writers.pop(name)
        writer.add_hparams({**self._parameters.pop(name), **words}, numbers, run_name=".")
        writer.close()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


class _MLflow:
    """An MLflow run for each trial or full run, in the file `mlflow.db` of the run's folder."""

    def __init__(self, folder: RunFolder) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        database, files = folder.absolute().tracked("mlflow.db"), folder.absolute().tracked("mlflow")
        with folder.alone():  # other workers create the database at the same time
            self._client = MlflowClient(f"sqlite:///{database}")
            found = self._client.get_experiment_by_name(folder.name)
            self._experiment = (
                found.experiment_id if found else self._client.create_experiment(folder.name, files.as_uri())
            )
        self._runs: dict[str, str] = {}

    def begin(self, name: str, parameters: Mapping[str, Value]) -> None:
        self._runs[name] = self._client.create_run(self._experiment, run_name=name).info.run_id
        for key, value in parameters.items():
            self._client.log_param(self._runs[name], key, value)

    def log(self, name: str, metrics: Mapping[str, float], epoch: int) -> None:
        for metric, value in metrics.items():
            self._client.log_metric(self._runs[name], metric, value, step=epoch)

    def end(self, name: str, outcome: Mapping[str, Value]) -> None:
        run = self._runs.pop(name)
        for key, value in outcome.items():
            if isinstance(value, str):
                self._client.set_tag(run, key, value)
            else:
                self._client.log_metric(run, f"outcome/{key}", value)
        self._client.set_terminated(run)

    def close(self) -> None:
        for run in self._runs.values():
            self._client.set_terminated(run, status="KILLED")
        self._runs.clear()


class _WandB:
    """A Weights & Biases run for each trial or full run, in the folder `wandb` of the run; `wandb sync` uploads it."""

    def __init__(self, folder: RunFolder) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        self._folder = folder
        self._runs: dict[str, Any] = {}

    def begin(self, name: str, parameters: Mapping[str, Value]) -> None:
        import wandb

        self._runs[name] = wandb.init(
            project=self._folder.name,
            name=name,
            dir=str(self._folder.root.absolute()),
            config=dict(parameters),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, name: str, metrics: Mapping[str, float], epoch: int) -> None:
        self._runs[name].log(dict(metrics), step=epoch)

    def end(self, name: str, outcome: Mapping[str, Value]) -> None:
        run = self._runs.pop(name)
        run.summary.update({f"outcome/{key}": value for key, value in outcome.items()})
        run.finish()

    def close(self) -> None:
        for run in self._runs.values():
            run.finish(exit_code=130)
        self._runs.clear()


@dataclass(frozen=True, kw_only=True)
class Record:
    """A tracker: its package, which is also the name of the extra that installs it, and how to make its logger."""

    package: str
    make: Callable[[RunFolder], Logger]


LOGGERS = {
    "tensorboard": Record(package="tensorboard", make=_TensorBoard),
    "mlflow": Record(package="mlflow", make=_MLflow),
    "wandb": Record(package="wandb", make=_WandB),
}


def check_loggers(names: Sequence[str]) -> None:
    """Check that the loggers are known and installed.

    Raises:
        SpecError: one is not.

    """
    for name in names:
        if name not in LOGGERS:
            raise SpecError(f"--log {name!r} is unknown: give one of {', '.join(LOGGERS)}")
        package = LOGGERS[name].package
        if find_spec(package) is None:
            raise SpecError(f"--log {name} needs {package}: pip install '.[{package}]' in the checkout")


class Loggers:
    """Several loggers as one, which never raises: one that fails is left out from then on."""

    def __init__(self, names: Sequence[str], folder: RunFolder) -> None:
        self._all: dict[str, Logger] = {}
        for name in dict.fromkeys(names):
            self._attempt(name, partial(self._make, name, folder))
        self._begun: set[str] = set()

    def _make(self, name: str, folder: RunFolder) -> None:
        self._all[name] = LOGGERS[name].make(folder)

    def begin(self, name: str, network: ResNetSpec, recipe: TrainSpec) -> None:
        """A trial or a full run begins."""
        self._begun.add(name)
        parameters = parameters_of(network, recipe)
        self._each(lambda logger: logger.begin(name, parameters))

    def epoch_ended(self, name: str, result: EpochResult) -> None:
        """An epoch of it has ended."""
        metrics = metrics_of(result)
        self._each(lambda logger: logger.log(name, metrics, result.epoch))

    def end(self, name: str, outcome: Mapping[str, Value | None]) -> None:
        """It has ended; nothing happens if it did not begin here."""
        if name in self._begun:
            self._begun.remove(name)
            known = {key: value for key, value in outcome.items() if value is not None}
            self._each(lambda logger: logger.end(name, known))

    def full_run(self, name: str, network: ResNetSpec, recipe: TrainSpec) -> Callable[[EpochResult], None]:
        """The function to call after each epoch of a full run; the full run begins with its first epoch here."""

        def epoch_ended(result: EpochResult) -> None:
            if name not in self._begun:
                self.begin(name, network, recipe)
            self.epoch_ended(name, result)

        return epoch_ended

    def close(self) -> None:
        """No more calls follow."""
        self._each(lambda logger: logger.close())

    def _each(self, do: Callable[[Logger], None]) -> None:
        for name, logger in list(self._all.items()):
            self._attempt(name, partial(do, logger))

    def _attempt(self, name: str, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:
            self._all.pop(name, None)
            log.warning("warning: --log %s failed (%s): all else goes on without it", name, reason_of(error))
            log.debug("the logger's error", exc_info=True)


@contextmanager
def logging_to(names: Sequence[str], folder: RunFolder) -> Iterator[Loggers]:
    """The loggers of these names, closed at the end."""
    loggers = Loggers(names, folder)
    try:
        yield loggers
    finally:
        loggers.close()


class LoggedEvents:
    """Passes events on to others, and logs them."""

    def __init__(self, loggers: Loggers, events: Events) -> None:
        self.loggers = loggers
        self.events = events

    def trial_started(self, number: int, network: ResNetSpec, recipe: TrainSpec) -> None:
        """Pass it on, and log the trial's parameters."""
        self.events.trial_started(number, network, recipe)
        self.loggers.begin(trial_name(number), network, recipe)

    def epoch_ended(self, number: int, result: EpochResult) -> None:
        """Pass it on, and log the metrics."""
        self.events.epoch_ended(number, result)
        self.loggers.epoch_ended(trial_name(number), result)

    def trial_ended(self, trial: TrialRecord, finished: list[TrialRecord]) -> None:
        """Pass it on, and log the outcome."""
        self.events.trial_ended(trial, finished)
        self.loggers.end(
            trial_name(trial.number),
            {"outcome": trial.outcome, "reason": trial.reason, "validation": trial.score, "seconds": trial.seconds},
        )


def trial_name(number: int) -> str:
    """The name of a trial: that of its checkpoint."""
    return f"trial-{number:04d}"


def outcome_of(run: Promotion) -> dict[str, Value | None]:
    """The scores of a full run, as shares of 1."""
    return {
        "outcome": "diverged" if run.diverged else "finished",
        "reason": run.diverged,
        "validation": run.val_score,
        "test": run.test_score,
        "seconds": run.seconds,
    }


def metrics_of(result: EpochResult) -> dict[str, float]:
    """The metrics of an epoch: accuracies as shares of 1, losses in nats."""
    metrics = {
        "validation/accuracy": result.val_accuracy,
        "validation/loss": result.val_loss,
        "training/accuracy": result.train_accuracy,
        "training/loss": result.train_loss,
        "lr": result.lr,
    }
    return metrics if result.val_balanced is None else {**metrics, "validation/balanced": result.val_balanced}


def parameters_of(network: ResNetSpec, recipe: TrainSpec) -> dict[str, Value]:
    """Network and recipe as plain values."""
    values = {"network": str(network), "parameters": num_params(network), **recipe.model_dump()}
    return {key: value if isinstance(value, int | float | str) else str(value) for key, value in values.items()}
