"""A plugin that saves time: results that stay the same are computed once, and tests do not wait for the disk."""

import contextlib
import importlib
import os
import sqlite3
from collections.abc import Iterator
from functools import cache
from typing import Any

import optuna
import pytest
import sqlalchemy
import torch
from alembic.script import ScriptDirectory
from optuna import importance
from optuna.importance import get_param_importances


def read_migrations_once(patch: pytest.MonkeyPatch) -> None:
    """Optuna opens a storage in half the time: Alembic reads all migrations to find the newest only once."""
    newest: dict[str, str | None] = {}
    asked = ScriptDirectory.get_current_head

    def once(scripts: ScriptDirectory) -> str | None:
        if scripts.dir not in newest:
            newest[scripts.dir] = asked(scripts)
        return newest[scripts.dir]

    patch.setattr(ScriptDirectory, "get_current_head", once)


@pytest.fixture(scope="session", autouse=True)
def _migrations_are_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        read_migrations_once(patch)
        yield


def do_not_wait_for_the_disk(patch: pytest.MonkeyPatch) -> None:
    """SQLite and `os.fsync` leave the writing to the system: the waits are a third of a short search.

    What is written is kept when the process is killed, though not when the machine fails.
    """

    def leave_it(connection: object, record: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            with contextlib.suppress(sqlite3.DatabaseError):  # no database: the reader of the file reports that
                connection.execute("PRAGMA synchronous = OFF")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", leave_it)
    patch.setattr(os, "fsync", lambda file: None)


@pytest.fixture(scope="session", autouse=True)
def _nothing_waits_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        do_not_wait_for_the_disk(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def _importances_are_learnt_once() -> Iterator[None]:
    """Importances take half of the time of a report; from the same trials they are the same."""
    learnt: dict[str, dict[str, float]] = {}

    def once(study: optuna.Study, *, params: list[str], **options: Any) -> dict[str, float]:
        key = repr(([(trial.value, trial.params) for trial in study.trials], params))
        if key not in learnt:
            learnt[key] = get_param_importances(study, params=params, **options)
        return dict(learnt[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importance, "get_param_importances", once)
        yield


@pytest.fixture(scope="session", autouse=True)
def _operators_of_onnx_are_read_once() -> Iterator[None]:
    """Torch writes an ONNX file in two thirds of the time: it reads what each operator becomes for the first only."""
    export = torch.onnx.export
    with pytest.MonkeyPatch.context() as patch:

        def once(*arguments: Any, **options: Any) -> Any:
            with contextlib.suppress(ImportError, AttributeError):  # private names, which another torch may lack
                registry = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
                patch.setattr(registry, "from_torchlib", staticmethod(cache(registry.from_torchlib)))
            patch.setattr(torch.onnx, "export", export)
            return export(*arguments, **options)

        patch.setattr(torch.onnx, "export", once)
        yield
