"""The space: every draw a network within the budget, every published network a draw."""

import random
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from search.spec import load_study
from space import (
    BASE_STEP,
    WIDTH_STEP,
    RandomTrial,
    Range,
    Space,
    Task,
    _build,
    _fitted,
    as_parameters,
    dimensions_in_words,
    drawn_regularisers,
    least_changes,
    network,
    not_held,
    parameters,
    recipe,
    smallest,
    suggest,
    used,
)
from tests.support.networks import pyramidnet, wide_resnet
from train_core.blocks import BlockName
from train_core.limits import Limits
from train_core.optimizers import OPTIMIZERS
from train_core.specs import ResNetSpec, num_madds, num_params

TASK = Task()


class RecordingTrial(RandomTrial):
    """Keeps what was asked of it."""

    def __init__(self, seed: int) -> None:
        super().__init__(random.Random(seed), Space())
        self.weights, self.mostly = {}, {}
        self.asked: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked[name] = tuple(choices)
        return super().suggest_categorical(name, choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.asked[name] = (low, high, step, log)
        return super().suggest_int(name, low, high, step=step, log=log)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.asked[name] = (low, high, step, log)
        return super().suggest_float(name, low, high, step=step, log=log)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 10**6), budget=st.integers(770, 20_000_000))
def test_every_draw_fits_every_budget_from_the_smallest_network_up(seed: int, budget: int) -> None:
    drawn = suggest(RecordingTrial(seed), Space())
    found = network(drawn, Space(), budget, TASK)
    assert num_params(found) <= budget
    assert all(width % WIDTH_STEP == 0 for width in found.widths)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), budget=st.integers(770, 20_000_000), share=st.floats(0, 1))
def test_every_draw_fits_a_limit_on_multiply_adds_too(seed: int, budget: int, share: float) -> None:
    least = num_madds(smallest(Space(), TASK), (32, 32))
    limit = least + int(share * 500_000_000)
    found = network(suggest(RecordingTrial(seed), Space()), Space(), Limits(budget, madds=limit), TASK)
    assert num_params(found) <= budget
    assert num_madds(found, (32, 32)) <= limit


def test_a_limit_on_multiply_adds_makes_the_network_the_widest_within_it() -> None:
    drawn = {**suggest(RecordingTrial(1), Space()), "budget_fraction": 1.0}
    free = network(drawn, Space(), 5_000_000, TASK)
    madds = num_madds(free, (32, 32))
    assert network(drawn, Space(), Limits(5_000_000, madds=madds), TASK) == free
    limited = network(drawn, Space(), Limits(5_000_000, madds=madds // 2), TASK)
    assert num_params(limited) < num_params(free)
    assert 0.7 * (madds // 2) < num_madds(limited, (32, 32)) <= madds // 2
    with pytest.raises(ValueError, match="at most 5,000,000 parameters and 100 multiply-adds"):
        network(drawn, Space(), Limits(5_000_000, madds=100), TASK)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), budget=st.integers(10_000, 5_000_000))
def test_the_width_is_the_largest_that_fits(seed: int, budget: int) -> None:
    drawn = _fitted(suggest(RecordingTrial(seed), Space()), Space(), TASK.size)
    every = [num_params(_build(drawn, steps * BASE_STEP, TASK)) for steps in range(4 * WIDTH_STEP, 1000)]
    assert every == sorted(every)
    within = [count for count in every if count <= drawn["budget_fraction"] * budget]
    if within and within[-1] < every[-1]:
        assert num_params(network(drawn, Space(), budget, TASK)) == within[-1]


def test_the_narrowest_may_take_more_than_its_share_but_not_more_than_the_budget() -> None:
    drawn = {**suggest(RecordingTrial(0), Space()), "budget_fraction": 0.5}
    narrowest = _build(drawn, WIDTH_STEP, TASK)
    assert network(drawn, Space(), num_params(narrowest), TASK) == narrowest


def test_a_budget_is_used_almost_whole() -> None:
    for budget in (1_000_000, 5_000_000):
        draws = [suggest(RecordingTrial(seed), Space(budget_fraction=1.0)) for seed in range(200)]
        used = sorted(num_params(network(drawn, Space(budget_fraction=1.0), budget, TASK)) / budget for drawn in draws)
        assert used[len(used) // 2] > 0.94


def test_every_trial_suggests_the_same_parameters_with_the_same_ranges() -> None:
    trials = [RecordingTrial(seed) for seed in range(50)]
    for trial in trials:
        suggest(trial, Space())
    assert all(trial.asked == trials[0].asked for trial in trials)
    assert list(trials[0].asked) == parameters(Space())


def test_a_fixed_dimension_is_not_suggested() -> None:
    trial = RecordingTrial(0)
    drawn = suggest(trial, Space(optimizer="sgd", sgd_lr=0.2, blocks=2, growth=2.0, stages=3))
    assert drawn["optimizer"] == "sgd"
    assert drawn["sgd_lr"] == 0.2
    assert not {"optimizer", "sgd_lr", "stages", "blocks_1", "growth_2"} & set(trial.asked)


def test_choices_are_drawn_by_their_weights() -> None:
    space = Space.model_validate({"k1": {"choices": [3, 5], "weights": [9, 1]}, "k2": [3, 5]})
    trial = RandomTrial(random.Random(0), space)
    draws = [suggest(trial, space) for _ in range(1000)]
    assert 70 < sum(draw["k1"] == 5 for draw in draws) < 130
    assert 440 < sum(draw["k2"] == 5 for draw in draws) < 560
    assert {"k1", "k2"} <= set(parameters(space))
    assert not_held({"k1": 5}, space) is None
    assert not_held({"k1": 7}, space) == "k1"
    assert "k1 [3 90%, 5 10%]" in dimensions_in_words(space)[0]
    assert Space.model_validate(space.model_dump(mode="json")) == space


def test_a_range_is_drawn_mostly_where_it_says() -> None:
    blocks = {"low": 1, "high": 18, "mostly": [1, 5]}
    rate = {"low": 0.001, "high": 1.0, "log": True, "mostly": [0.03, 0.3]}
    space = Space.model_validate({"blocks": blocks, "sgd_lr": rate})
    trial = RandomTrial(random.Random(0), space)
    draws = [suggest(trial, space) for _ in range(1000)]
    assert 4 < sum(draw["blocks_1"] > 5 for draw in draws) < 32
    assert 4 < sum(not 0.03 <= draw["sgd_lr"] <= 0.3 for draw in draws) < 32
    assert "blocks 1 to 18, mostly 1 to 5" in dimensions_in_words(space)[0]
    for wrong in ([5, 1], [1, 19], [2, 2]):
        with pytest.raises(ValidationError, match="two different values of the range, the smaller first"):
            Space.model_validate({"blocks": {**blocks, "mostly": wrong}})


@pytest.mark.parametrize(
    ("weighted", "problem"),
    [
        ({"choices": [3, 5], "weights": [1]}, "weights one number for each"),
        ({"choices": [3], "weights": [1]}, "at least two values"),
        ({"choices": [3, 3], "weights": [1, 1]}, "listed twice"),
        ({"choices": [3, 5], "weights": [1, 0]}, "greater than 0, not 0"),
        ({"choices": [3, 4], "weights": [1, 1]}, "1, 3, 5 or 7"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weighted: Any, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Space.model_validate({"k1": weighted})


def is_textbook(spec: ResNetSpec) -> bool:
    """Whether an engineer would call it so: 3x3 kernels, 3 or 4 stages, of usual depth, width and growth."""
    usual_depth = 14 <= 2 * sum(spec.blocks) + 2 <= 42
    grows = spec.widths[0] >= 24 and spec.widths[-1] >= 2 * spec.widths[0]
    return (spec.k1, spec.k2) == (3, 3) and len(spec.blocks) <= 4 and usual_depth and grows


@pytest.mark.parametrize(("study", "least"), [(None, 0.9), ("cifar10", 0.9), ("cifar100", 0.9)])
def test_most_draws_are_networks_that_an_engineer_would_try(study: str | None, least: float) -> None:
    spec = load_study(study, {}) if study else None
    space, most = (spec.space, spec.max_madds) if spec else (Space(), None)
    trial = RandomTrial(random.Random(0), space)
    draws = [suggest(trial, space) for _ in range(400)]
    networks = [network(draw, space, Limits(5_000_000, madds=most), TASK) for draw in draws]
    assert sum(map(is_textbook, networks)) / len(networks) >= least
    costs = sorted(num_madds(each, 32) for each in networks)
    assert costs[380] < 6 * costs[20]  # of a hundred draws, the fifth dearest and the fifth cheapest
    first = draws[:50]
    for names in (("blocks_1", "blocks_2"), ("growth_2",), ("k1", "k2"), ("shortcut",), ("optimizer",)):
        assert len({tuple(draw[name] for name in names) for draw in first}) > 1, names


def test_a_parameter_is_used_only_where_it_has_an_effect() -> None:
    space = Space.model_validate({"block": ["basic", "preact", "inverted-residual"], "mix": ["none", "cutmix"]})
    drawn = {**suggest(RecordingTrial(0), space), "stages": 3, "block": "basic", "optimizer": "sgd", "mix": "none"}
    found = used(drawn, space)
    assert {"blocks_3", "growth_3", "sgd_lr", "k2", "mix"} <= found
    assert not {"blocks_4", "growth_4", "adam_lr", "final_norm"} & found
    assert {"blocks_4", "growth_4"} <= used({**drawn, "stages": 4}, space)
    assert "k2" not in used({**drawn, "block": "inverted-residual"}, space)
    assert found <= set(parameters(space))


def test_changes_count_in_parameters_that_are_used_and_numbers_by_their_ranges() -> None:
    drawn = {**suggest(RecordingTrial(0), Space()), "optimizer": "sgd", "sgd_lr": 0.1, "stages": 3, "k1": 3}
    unused = {"adam_lr": Range(low=1, high=2).low, "blocks_5": 8}
    near = {**drawn, **unused, "sgd_lr": 0.12}
    assert least_changes(drawn, [near], Space()) == 0
    assert least_changes(drawn, [{**near, "sgd_lr": 0.4}], Space()) == 1
    assert least_changes(drawn, [{**near, "sgd_lr": 0.4, "k1": 5}, near | {"k1": 7}], Space()) == 1
    assert least_changes(drawn, [{**near, "sgd_lr": 0.4, "k1": 5}], Space()) == 2
    assert least_changes(drawn, [{**near, "sgd_lr": 0.4, "k1": 5}], Space(), enough=1) == 1
    assert least_changes(drawn, [], Space()) == len(used(drawn, Space()))


@pytest.mark.parametrize("optimizer", ["sgd", ["sgd", "adam", "adamw"], ("adamw",)])
def test_an_optimizer_that_is_not_named_has_one_rate_and_adds_no_parameter(optimizer: Any) -> None:
    space = Space.model_validate({"optimizer": optimizer})
    named = [optimizer] if isinstance(optimizer, str) else list(optimizer)
    assert [name for name in parameters(space) if name.endswith("_lr")] == [f"{name}_lr" for name in named]
    for name, kind in OPTIMIZERS.items():
        dimension = getattr(space, f"{name}_lr")
        low, high = kind.lr
        assert dimension == Range(low=low, high=high, log=True) or low < dimension < high


@pytest.mark.parametrize("optimizer", ["lion", ["sgd", "lion"]])
def test_the_rate_of_an_optimizer_that_is_named_is_drawn_unless_it_is_given(optimizer: Any) -> None:
    low, high = OPTIMIZERS["lion"].lr
    space = Space.model_validate({"optimizer": optimizer})
    assert space.lion_lr == Range(low=low, high=high, log=True)
    assert set(parameters(space)) - set(parameters(Space())) == {"lion_lr"}
    assert Space.model_validate(space.model_dump(mode="json")) == space
    given = Space.model_validate({"optimizer": optimizer, "lion_lr": 0.0004})
    assert given.lion_lr == 0.0004
    assert "lion_lr" not in parameters(given)
    drawn = {**suggest(RecordingTrial(0), space), "optimizer": "lion"}
    made = recipe(drawn, epochs=1, seed=0, precision="fp32")
    assert low <= made.lr <= high
    assert (made.optimizer, made.weight_decay) == ("lion", OPTIMIZERS["lion"].weight_decay)


@pytest.mark.parametrize("optimizer", [None, 3, {"low": 1}, [["sgd"]], [], "lions"])
def test_a_choice_of_optimizers_that_is_none_is_refused(optimizer: Any) -> None:
    with pytest.raises(ValidationError):
        Space.model_validate({"optimizer": optimizer})


def test_the_regularisers_are_held_by_default() -> None:
    assert not set(parameters(Space())) & {
        "label_smoothing",
        "block_dropout",
        "head_dropout",
        "crop_padding",
        "flip",
        "cutout",
        "sgd_weight_decay",
        "adamw_weight_decay",
    }


def test_shrinking_takes_blocks_from_the_deepest_stage_first() -> None:
    space = Space(
        stages=3, growth=2.0, k1=3, k2=3, shortcut_kernel=1, stem_kernel=3, block="basic", budget_fraction=1.0
    )
    drawn = {
        **suggest(RecordingTrial(0), space),
        "blocks_1": 2,
        "blocks_2": 8,
        "blocks_3": 2,
        "se_reduction": 0,
    }
    whole = network(drawn, space, 10**7, TASK)
    assert whole.blocks == (2, 8, 2)
    narrowest = num_params(whole.model_copy(update={"widths": (8, 16, 32)}))
    assert network(drawn, space, narrowest, TASK).blocks == (2, 8, 2)
    assert network(drawn, space, narrowest - 1, TASK).blocks == (2, 7, 2)


@pytest.mark.parametrize(
    ("changes", "stages", "blocks"),
    [
        ({"stages": [3, 5], "blocks": [2, 4], "final_norm": True, "block": "preact"}, {3, 5}, {2, 4}),
        ({"blocks": {"low": 1, "high": 7, "step": 3}, "se_reduction": [4, 16], "k1": [3, 5]}, {3, 4, 5}, {1, 4, 7}),
        (
            {"se_reduction": [4, 16], "shortcut_norm": ["after", "none"], "norm": ["batch", "none"]},
            {3, 4, 5},
            set(range(9)),
        ),
        (
            {
                "block": ["bottleneck", "preact-bottleneck", "pyramid-bottleneck", "inverted-residual", "pyramid"],
                "widening": ["stages", "blocks"],
                "expansion": [2, 4, 6],
                "groups": [1, 8],
                "shortcut": ["pad", "conv", "none"],
                "stem_width": [0, 16],
            },
            {3, 4, 5},
            set(range(9)),
        ),
    ],
)
def test_shrinking_never_leaves_the_space(changes: dict[str, Any], stages: set[int], blocks: set[int]) -> None:
    space = Space.model_validate(changes)
    least = num_params(smallest(space, TASK))
    for seed in range(200):
        budget = least + 37 * seed
        found = network(suggest(RecordingTrial(seed), space), space, budget, TASK)
        assert num_params(found) <= budget
        assert len(found.blocks) in stages
        assert set(found.blocks) <= blocks
        assert found.final_norm or "final_norm" not in changes
        assert found.shortcut in changes.get("shortcut", ["conv", "max-pool"])
        assert found.se_reduction in changes.get("se_reduction", [0, 16])


def test_a_budget_below_the_smallest_network_has_none() -> None:
    least = num_params(smallest(Space(), TASK))
    drawn = suggest(RecordingTrial(0), Space())
    assert num_params(network(drawn, Space(), least, TASK)) == least
    with pytest.raises(ValueError, match="at most"):
        network(drawn, Space(), least - 1, TASK)


def test_no_draw_is_smaller_than_the_smallest() -> None:
    space = Space(stages=Range(low=2, high=3), blocks=Range(low=1, high=2), shortcut_norm=("after", "none"))
    least = num_params(smallest(space, TASK))
    draws = (suggest(RecordingTrial(seed), space) for seed in range(300))
    assert all(num_params(network(drawn, space, least, TASK)) == least for drawn in draws)


@pytest.mark.parametrize("name", list(load_study("cifar10", {}).baselines))
def test_every_published_network_comes_back_from_its_parameters(name: str) -> None:
    spec = load_study("cifar10", {})
    wanted = spec.baselines[name]
    found = as_parameters(wanted, spec.baseline_recipe, spec.space, spec.budget)
    assert found is not None
    assert (
        {"budget_fraction", "stages", "blocks_1", "growth_2", "optimizer", "sgd_lr"}
        <= set(found)
        <= set(parameters(spec.space))
    )
    for seed in range(5):  # whatever is drawn for the rest
        drawn = {**suggest(RecordingTrial(seed), spec.space), **found}
        assert network(drawn, spec.space, spec.budget, TASK) == wanted
    made = recipe(drawn, epochs=30, seed=0, precision="fp32")
    assert (made.optimizer, made.lr, made.schedule, made.batch_size) == ("sgd", 0.1, "cosine", 128)


@pytest.mark.parametrize(
    ("wanted", "budget"),
    [
        (pyramidnet(110, 64, bottleneck=True), 3_000_000),
        (pyramidnet(110, 84, bottleneck=False), 5_000_000),
        (ResNetSpec(widths=(64, 128, 256), blocks=(3, 5, 3)), 5_000_000),
        (ResNetSpec(widths=(128, 256), blocks=(3, 3), block="bottleneck", expansion=2, groups=8), 500_000),
    ],
    ids=str,
)
def test_networks_of_all_kinds_come_back_from_their_parameters(wanted: ResNetSpec, budget: int) -> None:
    space = Space.model_validate(
        {
            "stages": [2, 3],
            "blocks": {"low": 1, "high": 18},
            "block": ["basic", "bottleneck", "pyramid", "pyramid-bottleneck"],
            "widening": ["stages", "blocks"],
            "expansion": [2, 4],
            "groups": [1, 8],
            "shortcut": ["conv", "pad"],
            "stem_width": [0, 16],
            "stem_end": ["norm-relu", "norm"],
        }
    )
    found = as_parameters(wanted, {}, space, budget)
    assert found is not None
    for seed in range(5):  # whatever is drawn for the rest
        assert network({**suggest(RecordingTrial(seed), space), **found}, space, budget, TASK) == wanted


def test_a_network_comes_back_where_the_space_holds_another_value_of_what_it_does_not_use() -> None:
    space = Space(block=("bottleneck", "basic"), k2=5, shortcut_kernel=3, shortcut=("pad", "conv"), final_norm=True)
    wanted = ResNetSpec(widths=(64, 128, 256), blocks=(2, 2, 2), block="bottleneck", shortcut="pad")
    found = as_parameters(wanted, {}, space, 200_000)
    assert found is not None
    assert network({**suggest(RecordingTrial(0), space), **found}, space, 200_000, TASK) == wanted


@pytest.mark.parametrize("block", ["pyramid", "pyramid-bottleneck"])
@pytest.mark.parametrize("stem", [0, 16, 1024])
def test_no_block_is_narrower_than_the_one_before_it(block: BlockName, stem: int) -> None:
    space = Space(widening="blocks", block=block, shortcut="pad", stem_width=stem, stages=3)
    for seed in range(50):
        found = network(suggest(RecordingTrial(seed), space), space, 300_000, TASK)
        assert list(found.widths) == sorted(found.widths)


def test_a_network_outside_the_space_or_the_budget_has_no_parameters() -> None:
    spec = load_study("li-huang", {"budget": 5_000_000})
    a1 = spec.baselines["A1"]
    assert as_parameters(a1, {}, spec.space, 4_000_000) is None
    assert as_parameters(a1.model_copy(update={"blocks": (19, 6, 4, 3)}), {}, spec.space, 20_000_000) is None
    assert as_parameters(a1.model_copy(update={"stem_stride": 2}), {}, spec.space, spec.budget) is None
    assert as_parameters(a1, {"sgd_lr": 3.0}, spec.space, spec.budget) is None
    assert as_parameters(a1, {"batch_size": 48}, spec.space, spec.budget) is None
    madds = num_madds(a1, (32, 32))
    assert as_parameters(a1, {}, spec.space, Limits(spec.budget, madds=madds - 1)) is None
    for limit in (madds, 3 * madds):
        found = as_parameters(a1, {}, spec.space, Limits(spec.budget, madds=limit))
        assert found is not None
        drawn = {**suggest(RecordingTrial(0), spec.space), **found}
        assert network(drawn, spec.space, Limits(spec.budget, madds=limit), TASK) == a1


def test_each_optimizer_has_its_own_rate_and_decay() -> None:
    space = Space(sgd_lr=0.3, adamw_lr=0.004)
    for optimizer, lr, decay in (("sgd", 0.3, 5e-4), ("adamw", 0.004, 0.05)):
        drawn = {**suggest(RecordingTrial(0), space), "optimizer": optimizer}
        made = recipe(drawn, epochs=7, seed=3, precision="bf16")
        assert (made.lr, made.weight_decay) == (lr, decay)
        assert (made.epochs, made.seed, made.precision, made.augment.cutout) == (7, 3, "bf16", 8)


def test_mixed_images_are_drawn_and_their_settings_have_no_effect_without_them() -> None:
    space = Space(mix=("none", "cutmix"), mix_share=(0.5, 1.0), mix_off={"low": 0.1, "high": 0.3})
    assert {"mix", "mix_share", "mix_off"} <= set(drawn_regularisers(space))
    drawn = {**suggest(RecordingTrial(0), space), "mix_share": 0.5}
    mixed, single = (recipe({**drawn, "mix": mix}, epochs=7, seed=3, precision="fp32") for mix in ("cutmix", "none"))
    assert (mixed.mix, mixed.mix_share, mixed.mix_off) == ("cutmix", 0.5, drawn["mix_off"])
    plain = {**suggest(RecordingTrial(0), Space()), **{name: drawn[name] for name in parameters(Space())}}
    assert single == recipe(plain, epochs=7, seed=3, precision="fp32")


def test_policy_erasing_and_the_order_of_flips_are_drawn() -> None:
    space = Space(policy=("none", "trivial-augment"), erasing=(0.0, 0.25), flip_order=("random", "alternating"))
    found = {
        (made.policy, made.erasing, made.flip_order)
        for seed in range(40)
        for made in [recipe(suggest(RecordingTrial(seed), space), epochs=1, seed=0, precision="fp32").augment]
    }
    assert len(found) == 8
    assert set(drawn_regularisers(space)) == {"policy", "erasing", "flip_order"}


def test_the_default_space_mixes_no_images_and_has_no_policy() -> None:
    made = recipe(suggest(RecordingTrial(0), Space()), epochs=1, seed=0, precision="fp32")
    assert (made.mix, made.mix_share, made.mix_off) == ("none", 1.0, 0.0)
    assert (made.augment.policy, made.augment.erasing, made.augment.flip_order) == ("none", 0.0, "random")


@pytest.mark.parametrize(
    "wrong",
    [
        {"stages": {"low": 1, "high": 3}},
        {"stages": {"low": 3, "high": 2}},
        {"stages": {"lo": 2, "high": 3}},
        {"sgd_lr": {"low": 0.0, "high": 1.0, "log": True}},
        {"sgd_lr": {"low": 0.1, "high": 1.0, "log": True, "step": 0.1}},
        {"block": "no-such-block"},
        {"block": []},
        {"block": {"low": 1, "high": 2}},
        {"optimiser": "sgd"},
        {"shortcut_norm": "no-such-place"},
        {"se_reduction": -1},
        {"rotation": 200},
    ],
)
def test_an_impossible_space_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Space.model_validate(wrong)


def test_a_space_survives_json() -> None:
    assert Space.model_validate(Space().model_dump(mode="json")) == Space()


def test_a_wide_residual_network_is_drawn_where_the_block_allows_it() -> None:
    space = Space(
        stages=3,
        stem_width=16,
        stem_end=("norm-relu", "none"),
        shortcut_input=("block", "activated"),
        shortcut_norm="none",
        se_reduction=0,
    )
    wanted = wide_resnet(16, 4)
    values = as_parameters(wanted, {}, space, 3_000_000)
    assert values is not None
    drawn = {**suggest(RecordingTrial(0), space), **values}
    assert network(drawn, space, 3_000_000, TASK) == wanted
    basic = network({**drawn, "block": "basic"}, space, 3_000_000, TASK)
    assert (basic.stem_end, basic.shortcut_input, basic.final_norm) == ("norm-relu", "block", False)


@pytest.mark.parametrize(
    ("size", "stem", "first_map", "crop_padding", "cutout"),
    [
        ((28, 28), (1, False), 28, 4, 8),
        ((32, 32), (1, False), 32, 4, 8),
        ((48, 40), (1, False), 48, 4, 8),
        ((64, 64), (2, False), 32, 8, 16),
        ((64, 96), (2, False), 48, 12, 24),
        ((112, 112), (2, False), 56, 14, 28),
        ((128, 128), (2, True), 32, 16, 32),
        ((224, 224), (2, True), 56, 28, 56),
    ],
)
def test_the_space_follows_the_size_of_the_images(
    size: tuple[int, int], stem: tuple[int, bool], first_map: int, crop_padding: int, cutout: int
) -> None:
    space = Space().for_size(size)
    assert (space.stem_stride, space.stem_pool) == stem
    assert (space.crop_padding, space.cutout) == (crop_padding, cutout)
    assert max(size) // (stem[0] * (1 + stem[1])) == first_map
    assert space.for_size(size) == space


def test_what_a_study_says_of_the_stem_does_not_follow_the_size() -> None:
    space = Space(stem_stride=(1, 2), cutout=0).for_size((224, 224))
    assert (space.stem_stride, space.stem_pool, space.cutout, space.crop_padding) == ((1, 2), False, 0, 28)


def test_photos_cost_what_they_should_and_not_49_times_as_much() -> None:
    """The largest that a budget allows, for 224 pixels and for 32: in the mean of some draws."""

    def cost(side: int) -> float:
        task, space = Task(3, 10, (side, side)), Space().for_size((side, side))
        generator = random.Random(0)
        drawn = [network(suggest(RandomTrial(generator, space), space), space, 300_000, task) for _ in range(20)]
        return fmean(num_madds(each, task.size) for each in drawn)

    whole = cost(32)
    assert cost(96) < 3 * whole
    assert cost(224) < 4 * whole
