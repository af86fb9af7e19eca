"""The plugin that hides GPUs, on a machine that has two, and on one that has none."""

import pytest
import torch

LOOKING = """
import os
import pytest
import torch

def seen():
    return torch.cuda.is_available(), os.environ["CUDA_VISIBLE_DEVICES"]

@pytest.fixture(scope="session", autouse=True)
def made_for_all():
    assert seen() == (False, "")

def test_plain():
    assert seen() == (False, "")

@pytest.mark.cuda
def test_marked():
    assert seen() == (True, "0,1")

def test_plain_again():
    assert seen() == (False, "")
"""


@pytest.mark.parametrize("has_gpus", [True, False])
def test_only_tests_that_are_marked_see_a_gpu(
    has_gpus: bool, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpus)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    pytester.makepyfile(LOOKING)
    result = pytester.runpytest_inprocess("--strict-markers", "-p", "tests.support.gpus", "-rs")
    result.assert_outcomes(passed=3 if has_gpus else 2, skipped=0 if has_gpus else 1)
    assert has_gpus or "needs a CUDA device" in result.stdout.str()


def test_this_process_sees_no_gpu() -> None:
    assert not torch.cuda.is_available()
