"""Training ends no process, whatever the images' size, the batch and the number of threads."""

import os
import sys
from collections import Counter

import pytest

from benchmarks.crashes import BATCHES, ROOT, SIDES, Case, cases, run
from tests.support.forked import Forked

# Each of these ended in a signal, before 1x1 convolutions of stride 2 were computed otherwise in training.
DEADLY = """
import torch
from train_core.models import ResNet
from train_core.specs import ResNetSpec

SMALL, STEM = {"widths": (8, 16), "blocks": (1, 1)}, {"stem_kernel": 1, "stem_stride": 2}
for threads, batch, side, dtype, network in (
    (2, 33, 32, None, SMALL),
    (3, 241, 16, None, SMALL),
    (1, 2, 64, None, SMALL),
    (1, 33, 96, torch.bfloat16, SMALL),
    (2, 3, 32, None, SMALL | STEM),
    (2, 3, 224, None, SMALL | STEM),
):
    torch.set_num_threads(threads)
    model = ResNet(ResNetSpec(**network)).to(memory_format=torch.channels_last).train()
    images = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
    for _ in range(2):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = model(images).square().sum()
        loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
print("all done")
"""


@pytest.mark.parametrize("isa", ["", "AVX2"])
def test_what_once_ended_the_process_does_so_no_more(isa: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | ({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})
    process = Forked([], DEADLY, ROOT, environment, module=None)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "all done\n"), err


@pytest.mark.long
def test_a_group_of_drawn_networks_ends_well_and_what_does_not_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(study="digits", side=32, channels=1, batch=241, precision="fp32", threads=2, isa="", seed=1, draws=1)
    assert run(case)["end"] == "ok"
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert run(case)["end"] == "exit code 1"


def test_the_soak_draws_every_kind_of_case_and_the_same_ones_again() -> None:
    drawn = list(cases(["a", "b"], 200, seed=0))
    assert drawn == list(cases(["a", "b"], 200, seed=0))
    assert drawn[:50] == list(cases(["a", "b"], 50, seed=0))
    for field, values in {"side": SIDES, "batch": BATCHES, "channels": (1, 3), "threads": (1, 2, 3)}.items():
        counted = Counter(getattr(case, field) for case in drawn)
        assert set(counted) == set(values)
    assert {(case.precision, case.isa) for case in drawn} == {
        ("fp32", ""),
        ("fp32", "AVX2"),
        ("bf16", ""),
        ("bf16", "AVX2"),
    }
