import random
from importlib.util import find_spec

import pytest

from benchmarks.file_sizes import drawn, exported
from search.spec import StudySpec
from space import RandomTrial, Space, Task, network, suggest
from train_core.examples import FormatName
from train_core.footprint import FILE_ERROR, FOOTPRINTS, TENSORFLOW_LITE, file_size, memory, peak_activations
from train_core.formats import FORMATS
from train_core.latency import WORKLOAD, LatencyModel, fitted, workload
from train_core.limits import LIMITS, Limits
from train_core.specs import ResNetSpec, num_madds, num_params

TASK = Task()
TIMED = LatencyModel(machine="a test", networks=40, error=0.1, seconds=(1e-5, 1e-9, 1e-9) * 3 + (1e-5, 1e-9))
TIGHT = {
    "parameters": Limits(200_000),
    "madds": Limits(5_000_000, madds=10_000_000),
    "memory": Limits(5_000_000, memory=150_000, format="tflite-int8"),
    "file": Limits(5_000_000, file=250_000),
    "latency": Limits(5_000_000, latency=0.02, timed=TIMED),
}


def test_every_limit_is_a_key_of_study_files_and_a_field() -> None:
    assert list(LIMITS) == list(Limits._fields)[: len(LIMITS)] == list(TIGHT)
    assert {limit.key for limit in LIMITS.values()} <= set(StudySpec.model_fields)


@pytest.mark.parametrize("name", TIGHT)
def test_every_draw_is_within_every_limit_and_no_wider_network_is(name: str) -> None:
    generator, space, limits = random.Random(0), Space(), TIGHT[name]
    used = []
    for _ in range(30):
        draw = {**suggest(RandomTrial(generator, space), space), "budget_fraction": 1.0}
        found = network(draw, space, limits, TASK)
        assert limits.fits(found, TASK.size)
        shares = [cost / most for _, cost, most in limits.costs(found, TASK.size)]
        used.append(max(shares))
        wide = found.model_copy(update={"widths": tuple(width + 8 for width in found.widths)})
        if found.stem_width is None:
            assert not limits.fits(wide, TASK.size)
    assert sorted(used)[15] > 0.75, "the median draw uses most of what it may"


def test_all_limits_hold_at_once() -> None:
    all_of_them = Limits(1_000_000, 40_000_000, 200_000, 400_000, 0.05, "tflite-int8", TIMED)
    generator, space = random.Random(1), Space()
    for _ in range(20):
        assert all_of_them.fits(
            network(suggest(RandomTrial(generator, space), space), space, all_of_them, TASK), (32, 32)
        )


def test_memory_does_not_cost_depth() -> None:
    space, generator = Space(), random.Random(2)
    free, tight = Limits(500_000), Limits(500_000, memory=75_000, format="tflite-int8")
    draws = [suggest(RandomTrial(generator, space), space) for _ in range(20)]
    deep = [sum(network(draw, space, free, TASK).blocks) for draw in draws]
    assert [sum(network(draw, space, tight, TASK).blocks) for draw in draws] == deep


def test_int8_has_a_quarter_of_the_activations() -> None:
    spec = ResNetSpec(widths=(16, 32), blocks=(1, 1))
    (_, floats, _), (_, int8, _) = (
        list(Limits(10**6, memory=10**9, format=fmt).costs(spec, (32, 32)))[1] for fmt in ("tflite", "tflite-int8")
    )
    assert 4 * int8 > floats == 1.5 * 4 * peak_activations(spec, 32, TENSORFLOW_LITE), "int8: and its records"


def test_what_a_runtime_does_not_overwrite_takes_more() -> None:
    for spec in made_up(6, 20):
        assert peak_activations(spec, 32, TENSORFLOW_LITE) >= peak_activations(spec, 32)


def test_of_a_format_whose_runtime_was_not_measured_no_memory_is_said() -> None:
    with pytest.raises(ValueError, match="how much memory a pt2 file takes is not known"):
        memory(ResNetSpec(widths=(16, 32), blocks=(1, 1)), 32, "pt2")


def test_what_is_over_is_named() -> None:
    spec = ResNetSpec(widths=(16, 32), blocks=(1, 1))
    assert Limits(num_params(spec)).over(spec, (32, 32)) is None
    assert Limits(num_params(spec), madds=num_madds(spec, 32) - 1).over(spec, (32, 32)) is LIMITS["madds"]
    assert Limits(1).over(spec, (32, 32)) is LIMITS["parameters"]


def test_limits_in_words() -> None:
    assert str(Limits(5_000_000)) == "5,000,000 parameters"
    assert str(Limits(1000, memory=100_000)) == "1,000 parameters and 100 kB of memory"
    words = "1,000 parameters, 2,000 multiply-adds, 65,536 bytes of memory, 1.5 MB of model file and 20 ms an image"
    assert str(Limits(1000, 2000, 65_536, 1_500_000, 0.02)) == words


def test_a_file_counts_with_its_error() -> None:
    spec = ResNetSpec(widths=(16, 32), blocks=(1, 1))
    (_, cost, _) = list(Limits(10**6, file=10**9).costs(spec, (32, 32)))[1]
    assert cost == (1 + FILE_ERROR) * file_size(spec, "onnx")


def test_latency_without_a_model_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="needs a model of this machine's latency"):
        Limits(10**6, latency=0.01).fits(ResNetSpec(widths=(16, 32), blocks=(1, 1)), (32, 32))


def made_up(seed: int, number: int) -> list[ResNetSpec]:
    generator, space = random.Random(seed), Space()
    budgets = [round(10 ** generator.uniform(4.5, 6.5)) for _ in range(number)]
    return [network(suggest(RandomTrial(generator, space), space), space, budget, TASK) for budget in budgets]


def test_a_latency_model_finds_what_the_times_were_made_of() -> None:
    seen, unseen = made_up(0, 48), made_up(1, 20)
    model = fitted(seen, [TIMED.predict(spec, 32) for spec in seen], 32, "a test")
    assert model.error == pytest.approx(0, abs=1e-6)
    for spec in unseen:
        assert model.predict(spec, 32) == pytest.approx(TIMED.predict(spec, 32), rel=1e-6)


def test_the_error_covers_networks_that_were_not_timed() -> None:
    generator = random.Random(3)

    def noisy(specs: list[ResNetSpec]) -> list[float]:
        return [TIMED.predict(spec, 32) * generator.lognormvariate(0, 0.1) for spec in specs]

    within = []
    for seed in range(20):
        seen, unseen = made_up(seed, 48), made_up(100 + seed, 10)
        model = fitted(seen, noisy(seen), 32, "a test")
        within += [took <= model.at_most(spec, 32) for spec, took in zip(unseen, noisy(unseen), strict=True)]
    assert sum(within) / len(within) > 0.9


def test_too_few_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="2 networks are too few"):
        fitted(made_up(0, 2), [0.1, 0.2], 32, "a test")


def test_workload_counts_all_multiply_adds_of_convolutions() -> None:
    for spec in made_up(5, 10):
        counted = dict(zip(WORKLOAD, workload(spec, 32), strict=True))
        madds = sum(number for name, number in counted.items() if name.endswith("madds"))
        head = spec.widths[-1] * spec.num_classes
        plain = spec.model_copy(update={"se_reduction": 0})
        assert madds == num_madds(plain, 32) - head


def test_a_wider_network_never_takes_less() -> None:
    spec = ResNetSpec(widths=(16, 32), blocks=(2, 2))
    assert TIMED.predict(spec, 32) < TIMED.predict(spec.model_copy(update={"widths": (24, 32)}), 32)


KNOWN = [fmt for fmt, each in FOOTPRINTS.items() if each.file is not None]


@pytest.mark.parametrize("fmt", KNOWN)
@pytest.mark.parametrize("seed", [100, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(101, 110))])
def test_files_are_as_large_as_the_closed_form_says(fmt: FormatName, seed: int) -> None:
    form = FORMATS[fmt]
    if missing := [name for name in form.packages_to_write if find_spec(name) is None]:
        pytest.skip(f"{missing[0]} is not installed: the extra {form.extra}")
    spec, side = drawn(seed)
    assert form.runtime is not None
    stored = form.runtime.stored(exported(spec, side, fmt))
    assert len(stored) == pytest.approx(file_size(spec, fmt), rel=FILE_ERROR)
