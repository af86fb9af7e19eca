import random
from pathlib import Path

import pytest
import torch

from search.identity import claim, open_study
from search.run_folder import RunFolder
from search.spec import StudySpec
from search.timing import NETWORKS, measured, with_timing
from tests.support.runs import TASK, study_spec
from train_core.latency import LatencyModel
from train_core.specs import ResNetSpec, num_madds

CPU = torch.device("cpu")


def limited(milliseconds: float, **changes: object) -> StudySpec:
    return study_spec(max_latency=f"{milliseconds}ms", **changes)


def by_madds(network: ResNetSpec) -> float:
    return 1e-4 + num_madds(network, TASK.size) * 1e-9


def test_without_a_limit_nothing_is_timed(tmp_path: Path) -> None:
    spec, said = study_spec(), list[str]()
    assert with_timing(spec, RunFolder(tmp_path / "x"), TASK, CPU, said.append) is spec
    assert not said


def test_the_model_is_of_networks_of_all_sizes() -> None:
    timed: list[ResNetSpec] = []

    def time(network: ResNetSpec) -> float:
        timed.append(network)
        return by_madds(network)

    model = measured(limited(20), TASK, CPU, time)
    assert model.networks == NETWORKS == len(timed) / 2
    assert model.error < 0.25
    sizes = sorted(num_madds(network, TASK.size) for network in timed)
    assert sizes[-1] > 5 * sizes[0]


def test_networks_far_beyond_the_limit_are_not_timed() -> None:
    slow: list[float] = []

    def time(network: ResNetSpec) -> float:
        slow.append(1e-6 * num_madds(network, TASK.size))
        return slow[-1]

    measured(limited(100, budget=5_000_000), TASK, CPU, time)
    assert sum(each > 5 for each in slow) < len(slow) / 4


def test_one_slow_moment_does_not_count() -> None:
    generator = random.Random(0)

    def time(network: ResNetSpec) -> float:
        return by_madds(network) * (10 if generator.random() < 0.05 else 1)

    assert measured(limited(20), TASK, CPU, time).error < 0.3


def test_a_study_keeps_the_model_that_it_began_with(tmp_path: Path) -> None:
    folder, said = RunFolder(tmp_path / "digits"), list[str]()
    folder.create()
    first = with_timing(limited(50), folder, TASK, CPU, said.append)
    assert isinstance(first.timed, LatencyModel)
    assert said[0].startswith("timing 48 networks on CPU")
    claim(open_study(folder, create=True), first, TASK, folder)
    said.clear()
    assert with_timing(limited(50), folder, TASK, CPU, said.append) == first
    assert not said


@pytest.mark.parametrize("busy", [False, True])
def test_a_busy_machine_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: bool) -> None:
    model = LatencyModel(machine="a test", networks=48, error=1.5 if busy else 0.1, seconds=(1e-5,) * 11)
    monkeypatch.setattr("search.timing.measured", lambda *_: model)
    said: list[str] = []
    with_timing(limited(50), RunFolder(tmp_path / "x"), TASK, CPU, said.append)
    assert any("the times vary much" in line for line in said) == busy
