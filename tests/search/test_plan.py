"""What a study will do, and how long it takes, worked out before it starts."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from search import plan
from search.data_shape import data_shape_of
from search.errors import SpecError
from search.plan import (
    Pace,
    Survey,
    _seconds_an_image,
    estimate,
    fastest_precision,
    mean_cost,
    survey,
    time_evaluation,
    time_steps,
)
from tests.support.runs import study_spec
from tests.support.tiny import NETWORK, tiny_data
from train_core.data import TrainingData
from train_core.specs import Precision, ResNetSpec, num_madds

DATA = tiny_data()
FOUND = Survey(smallest=NETWORK, largest=NETWORK, typical=NETWORK, mean_madds=1.0, batch_sizes=(8, 16, 16, 32))


class OnCuda:
    """Training data that seem to lie on a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, bf16: bool = True) -> None:
        monkeypatch.setattr(plan, "pick_precision", lambda device: "bf16" if bf16 else "fp16")

        class Images:
            device = torch.device("cuda", 0)

        class Split:
            images = Images()

            def __len__(self) -> int:
                return 1000

        self.train, self.val, self.size = Split(), DATA.val, DATA.size


def test_the_batch_sizes_of_a_survey_are_those_that_the_space_draws() -> None:
    spec = study_spec(space={"stages": 2, "batch_size": [16, 64]})
    assert set(survey(spec, data_shape_of(DATA)).batch_sizes) == {16, 64}


@pytest.mark.parametrize("mix", ["cutmix", ["none", "mixup", "ricap"]])
def test_a_space_does_not_cut_images_of_a_single_pixel(mix: object) -> None:
    shape = replace(data_shape_of(DATA), size=(1, 8))
    with pytest.raises(
        SpecError, match=r"^space\.mix: mix = '(cutmix|ricap)' cuts images, and these have only 1x8 pix"
    ):
        survey(study_spec(space={"stages": 2, "mix": mix}), shape)
    assert survey(study_spec(space={"stages": 2, "mix": ["none", "mixup"]}), shape).largest


def test_steps_are_timed_for_real() -> None:
    pace = time_steps(NETWORK, DATA, "fp32", 16)
    assert 0 < pace.step_s < 5
    assert pace.start_up_s >= 0


def test_seconds_an_image_are_a_cost_by_the_step_and_one_by_the_image() -> None:
    step_s = {64: 0.001 + 64e-5, 256: 0.001 + 256e-5}
    for batch in (32, 64, 128, 512):
        assert _seconds_an_image(batch, step_s) == pytest.approx(1e-5 + 0.001 / batch)
    assert _seconds_an_image(128, {64: 0.32}) == pytest.approx(0.005)
    assert _seconds_an_image(128, {64: 0.3, 256: 0.2}) > 0  # a noisy machine


def test_an_estimate_counts_all_images_the_batches_drawn_and_each_trials_start(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = []

    def pace(network: object, data: object, precision: object, batch_size: int) -> Pace:
        timed.append(batch_size)
        return Pace(step_s=0.001 + 1e-5 * batch_size, start_up_s=2.0)

    monkeypatch.setattr(plan, "time_steps", pace)
    monkeypatch.setattr(plan, "time_evaluation", lambda *_: 0.1)
    spec = study_spec(trials=10, epochs=3)
    found = estimate(spec, FOUND, cast(TrainingData, OnCuda(monkeypatch)), "bf16")
    assert sorted(timed) == [8, 16, 16, 32]
    image_s = 1e-5 + 0.001 * (1 / 8 + 2 / 16 + 1 / 32) / 4
    assert found.images_per_second == pytest.approx(1 / image_s)
    epoch_s = (1000 * image_s + 0.1) / num_madds(NETWORK, DATA.size)
    assert found.trial_s == pytest.approx(2 + plan.DRAW_S + 1.01 * 3 * epoch_s)
    timed.clear()
    monkeypatch.setattr(plan, "PATIENCE_S", 0.0)
    estimate(spec, FOUND, DATA, "fp32")
    assert timed == [16, 16]


def test_what_a_process_loads_once_is_not_counted_for_each_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in a trial's time nor in the patience with which others are timed."""
    spec = study_spec(trials=10, epochs=2, space={"stages": {"low": 2, "high": 3}, "batch_size": 16})
    now, timed = 0.0, 0

    def pace(*_: object) -> Pace:
        nonlocal now, timed
        timed += 1
        took = 2 * plan.PATIENCE_S if timed == 1 else 0.1
        now += took
        return Pace(step_s=1e-9, start_up_s=took)

    monkeypatch.setattr(plan, "time_steps", pace)
    monkeypatch.setattr(plan, "time_evaluation", lambda *_: 0.0)
    monkeypatch.setattr(plan, "time", SimpleNamespace(perf_counter=lambda: now))
    found = survey(spec, data_shape_of(DATA))
    assert estimate(spec, found, DATA, "fp32").trial_s == pytest.approx(0.1 + plan.DRAW_S, abs=1e-3)
    assert timed == 6


def test_an_estimate_says_how_much_faster_one_thread_is(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = 2

    def set_threads(number: int) -> None:
        nonlocal threads
        threads = number

    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "set_num_threads", set_threads)
    monkeypatch.setattr(plan, "time_steps", lambda *_: Pace(step_s=0.3 if threads == 2 else 0.1, start_up_s=0.0))
    monkeypatch.setattr(plan, "time_evaluation", lambda *_: 0.0)
    spec = study_spec(trials=10, epochs=2)
    assert estimate(spec, FOUND, DATA, "fp32").one_thread == pytest.approx(3)
    assert threads == 2
    threads = 1
    assert estimate(spec, FOUND, DATA, "fp32").one_thread == 1


def test_an_estimate_times_some_of_the_draws_with_their_own_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the time of a step follows from the network alone, the estimate is the mean over the draws."""
    spec = study_spec(trials=10, epochs=2, space={"stages": {"low": 2, "high": 3}, "batch_size": 16})
    found = survey(spec, data_shape_of(DATA))
    recipes = []

    def pace(network: ResNetSpec, data: object, precision: object, batch_size: int, recipe: object = None) -> Pace:
        recipes.append(recipe)
        return Pace(step_s=1e-9 * num_madds(network, DATA.size), start_up_s=0.0)

    monkeypatch.setattr(plan, "time_steps", pace)
    monkeypatch.setattr(plan, "time_evaluation", lambda *_: 0.0)
    monkeypatch.setattr(plan, "PATIENCE_S", 60.0)
    expected = len(DATA.train) * 2 * 1e-9 * found.mean_madds / 16
    assert estimate(spec, found, DATA, "fp32").trial_s == pytest.approx(plan.DRAW_S + 1.01 * expected, rel=1e-6)
    assert len(recipes) == 6
    assert [recipe in [drawn for _, drawn in found.draws] for recipe in recipes] == [False, False, *[True] * 4]


def test_the_cost_grows_in_proportion_beyond_what_was_timed() -> None:
    assert mean_cost({100: 1.0, 200: 3.0}, [50, 100, 150, 200, 400]) == pytest.approx((0.5 + 1 + 2 + 3 + 6) / 5)


def test_an_evaluation_is_timed_for_real() -> None:
    assert 0 < time_evaluation(NETWORK, DATA, "fp32") < 5


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [({"bf16": 1.0, "fp16": 2.0}, "bf16"), ({"bf16": 1.04, "fp16": 1.0}, "bf16"), ({"bf16": 1.2, "fp16": 1.0}, "fp16")],
)
def test_on_cuda_the_faster_half_precision_is_measured(
    seconds: dict[Precision, float], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pace(network: object, data: object, precision: Precision, batch_size: int) -> Pace:
        assert batch_size == 16
        return Pace(step_s=seconds[precision], start_up_s=0.0)

    assert fastest_precision(FOUND, cast(Any, OnCuda(monkeypatch)), pace) == (expected, seconds)


def test_elsewhere_the_instructions_decide_and_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def pace(*_: object) -> Pace:
        raise AssertionError("timed")

    assert fastest_precision(FOUND, DATA, pace)[1] == {}
    assert fastest_precision(FOUND, cast(Any, OnCuda(monkeypatch, bf16=False)), pace) == ("fp16", {})
