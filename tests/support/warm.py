"""What the fork server reads and computes before it forks, so that its processes need not: the same in each of them.

`search` and what belongs to it are among it. A process that has to read these itself, because its environment or its
folder says otherwise, begins with `forget`.
"""

import gc
import importlib
import pkgutil
import sys

import optuna
import plotly.graph_objects as go
import pytest

import search
import train_core
from search.report import _packed_plotly
from tests.support.caches import do_not_wait_for_the_disk, read_migrations_once

OURS = {"search", "train_core", "space", "studies", "tests"}


def forget() -> None:
    """Forget the modules of this project: they are read again when they are imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]


for package in (search, train_core):
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
# What a search reads when it needs it first: for its optimizer, the notes of its trials and its data.
for name in ("torch._dynamo", "torch.onnx", "optuna_dashboard", "sklearn.datasets", "scipy.io"):
    importlib.import_module(name)
read_migrations_once(pytest.MonkeyPatch())
do_not_wait_for_the_disk(pytest.MonkeyPatch())
optuna.storages.RDBStorage("sqlite://").engine.dispose()
go.Figure(go.Scatter(x=[0]))  # reads what Plotly knows of its charts
_packed_plotly()
gc.collect()
gc.freeze()  # nobody has to look through it, or copy it, in order to find garbage
