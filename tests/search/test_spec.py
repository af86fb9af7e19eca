import tomllib
from pathlib import Path
from typing import Any

import pytest

from search.errors import SpecError
from search.spec import StudySpec, known_results, load_study, parse_budget
from space import Range, Space, as_parameters
from train_core.limits import short_count

SHIPPED = ("cifar10", "cifar100", "cifar10-small", "digits")


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("5e6", 5_000_000),
        ("5E6", 5_000_000),
        ("5e+6", 5_000_000),
        ("5M", 5_000_000),
        ("5_000_000", 5_000_000),
        ("5000000", 5_000_000),
        ("4.976M", 4_976_000),
        ("200k", 200_000),
        (" 1.5K ", 1_500),
        ("0.5M", 500_000),
    ],
)
def test_budgets_are_read_as_people_write_them(text: str, budget: int) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text", ["", "many", "-5e6", "0", "0M", "1.5", "5e6.5", "5MM", "inf", "nan", "1e999", "5e-3", "0x10", "5,000"]
)
def test_what_is_no_budget_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(SpecError, match="is not a positive whole number: write it as 5e6") as caught:
        parse_budget(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("count", "short"),
    [(5_000_000, "5M"), (2_500_000, "2.5M"), (200_000, "200k"), (1_500, "1.5k"), (770, "770"), (4_976_426, "4976426")],
)
def test_short_counts(count: int, short: str) -> None:
    assert short_count(count) == short


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_studies_are_valid(name: str) -> None:
    assert load_study(name, {}).budget > 0


def test_the_default_studies_begin_with_known_networks_of_different_shapes() -> None:
    spec = load_study("cifar10", {})
    shapes = {(network.widths, network.blocks) for network in spec.baselines.values()}
    assert len(shapes) == len(spec.baselines) == 12
    for name, network in spec.baselines.items():
        drawn = as_parameters(network, spec.baseline_recipe, spec.space, spec.limits)
        assert drawn is not None, name


def test_cifar100_differs_from_cifar10_in_its_data_alone() -> None:
    ten, hundred = load_study("cifar10", {}), load_study("cifar100", {})
    assert hundred == ten.model_copy(update={"data": "cifar100"})


def test_a_budget_in_a_file_is_read_as_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('data = "digits"\nbudget = "5M"')
    assert load_study(str(file), {}).budget == 5_000_000


def test_a_file_is_over_the_defaults_and_flags_are_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'data = "digits"\nbudget = 10000\ntrials = 7\n[space]\nsgd_lr = {low = 0.1, high = 1.0, log = true}\n'
    )
    spec = load_study(str(file), {"trials": 3})
    assert (spec.data, spec.budget, spec.trials, spec.epochs) == ("digits", 10_000, 3, 30)
    assert spec.space.sgd_lr == Range(low=0.1, high=1.0, log=True)


HEAD = 'budget = 10\ndata = "digits"\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('budget = 10\ndata = "digits"\ntrails = 5', "unknown key 'trails' (did you mean 'trials'?)"),
        (
            'budget = 10\ndata = "digits"\n[space]\noptimiser = "sgd"',
            "unknown key 'space.optimiser' (did you mean 'opt",
        ),
        (HEAD + "[space.sgd_lr]\nlo = 1\nhigh = 2", "'space.sgd_lr.lo' (did you mean 'lo"),
        (HEAD + '[space]\noptimizer = "adamv"', "not 'adamv' (did you mean 'adam"),
        (
            'budget = 10\ndata = "digits"\n[space]\noptimizer = ["sgd", "no-such-optimizer"]',
            "space.optimizer.1: should be 'sgd', 'ad",
        ),
        (HEAD + "[space]\nblock = {low = 1, high = 2}", "space.block cannot be a range"),
        (HEAD + "[space]\nstages = {low = 3, high = 2}", "space.stages: low must be less than"),
        (HEAD + "[space]\nstages = {low = 3}", "space.stages.high is missing"),
        ('budget = 10\ndata = "digits"\ntrials = 0', "trials: should be greater than or equal to 1, not 0"),
        ('budget = 10\ndata = "digits"\nepochs = "x"', "epochs: should be a valid integer"),
        (
            'budget = 10\ndata = "digits"\n[baselines.x]\nwidths = [8, 8]\nblocks = [1]',
            "x.blocks: should have at least 2 items",
        ),
        ("budget = 10", "data is missing"),
        ('data = "digits"', "budget is missing"),
        (HEAD + "[promote]\nepoch = 3", "'promote.epoch' (did you mean 'epochs'?)"),
        (HEAD + "[promote]\nasam = -1", "promote.asam: should be greater than or equal to 0"),
        (
            HEAD + 'precision = "fp16"\n[promote]\nasam = 0.5',
            "promote.asam does not work in fp16: set precision to auto, bf16 or fp32",
        ),
        (HEAD + "[baselines.x]\nwidth = [8, 8]", "'baselines.x.width' (did you mean 'widths'?)"),
        (
            'budget = 10\ndata = "digits"\n[baselines.x]\nwidths = [8, 8]\nblocks = [1, 1, 1]',
            "baselines.x: widths, blocks and strides must name the same number of stages",
        ),
        (
            'budget = 10\ndata = "digits"\n[space]\nschedule = "constant"',
            "'constant' does not reach zero within a short",
        ),
        (
            'budget = 10\ndata = "digits"\n[baseline_recipe]\nsgd_lrr = 1',
            "'baseline_recipe.sgd_lrr' (did you mean 'sgd_lr'?)",
        ),
        (
            'budget = 10\ndata = "digits"\n[space]\nblocks = {low = 1, high = 8, step = 0.5}',
            "space.blocks: step must be",
        ),
        (
            'budget = 10\ndata = "digits"\n[space]\ngrowth = {low = 1.0, high = 2.5, step = 0.4}',
            "a whole number of steps",
        ),
        (HEAD + "[space]\nsgd_lr = {low = 0.1, high = inf}", "should be a finite number"),
        (HEAD + '[space]\nblock = ["basic", "basic"]', "a choice is listed twice"),
        (HEAD + "[space]\ncrop_padding = 1000000", "less than or equal to 1024"),
        (HEAD + "[baselines.x]\nwidths = 8\nblocks = [1, 1]", "baselines.x.widths: should be"),
        ('budget = "lots"\ndata = "digits"', "budget 'lots' is not a positive whole number"),
        (
            HEAD + '[promote]\nladder = "8x60,9x200"',
            "promote.ladder: ladder '8x60,9x200': 9x200 after 8x60 must have more",
        ),
        (HEAD + 'score = "balance"', "score: should be 'auto', 'accuracy' or 'balanced', not 'balance' (did you mean"),
        (HEAD + '[space]\nclass_weights = "equal"', "space.class_weights: should be 'none' or 'balanced', not 'equal'"),
        (HEAD + '[promote]\nfamily = "optimiser"', "unknown family 'optimiser' (did you mean 'optimizer'?)"),
        (HEAD + '[pruner]\nlike = ["optimiser"]', "'pruner.like: optimiser' (did you mean 'optimizer'?)"),
        (HEAD + "[phases]\narchitecture = 0.5", "two phases need a [baseline_recipe]"),
        (
            HEAD + "[phases]\narchitecture = 0.5\n[baseline_recipe]\nsgd_lr = 99.0",
            "space.sgd_lr does not hold the baseline recipe's: widen it, or change that",
        ),
        ("budget = = 10", "is not TOML"),
    ],
)
def test_a_wrong_study_file_is_answered_in_one_line(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(SpecError) as caught:
        load_study(str(file), {})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_a_schedule_that_never_reaches_zero_is_allowed_with_averaged_weights(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(HEAD + '[space]\nschedule = "constant"\nema_decay = 0.99')
    assert load_study(str(file), {}).space.ema_decay == 0.99
    file.write_text(HEAD + '[space]\nschedule = "constant"\nema_decay = [0.0, 0.99]')
    with pytest.raises(SpecError, match="does not reach zero"):
        load_study(str(file), {})


def test_what_is_known_of_data_is_the_best_row_of_each_network_that_fits() -> None:
    known = {each.row: each for each in known_results("cifar10", 4_960_000)}
    assert {"A5-200", "A1", "A7", "B1"} & set(known) == set()
    assert (known["B2"].accuracy, known["B2"].epochs, known["B2"].parameters) == (0.9567, 50, 4_918_602)
    assert known_results("cifar10", 1_000_000) == known_results("cifar100", 1_000_000) == []
    assert [each.row for each in known_results("cifar100", 12_000_000)] == [
        *("D8", "D4", "D5", "D6"),
        *("WRN-40-2-TA", "PyramidNet-110-a64-CutMix"),
    ]
    assert not {"WRN-16-4", "WRN-28-2", "MobileNetV2-like"} & set(known)  # of which nothing was printed
    assert known["WRN-40-2-TA"].title.startswith("Müller & Hutter 2021")
    assert "A5-200" in {each.row for each in known_results("cifar10", 5_000_000)}


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ("cifar01", "unknown study 'cifar01' (did you mean 'cifar10"),
        ("photos", "give one of cifar10, cifar10-small, cifar10-wide, cifar100, digits, ganz-adya, keller, "),
        ("missing.toml", "study file missing.toml cannot be read"),
    ],
)
def test_an_unknown_study_is_answered_with_those_there_are(study: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_study(study, {})
    assert said in str(caught.value)


def test_a_study_file_is_data_and_cannot_run_code(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("!!python/object/apply:os.system ['touch owned']\n")
    with pytest.raises(SpecError, match="is not TOML"):
        load_study(str(file), {})
    assert not Path("owned").exists()


def _every_key(values: dict[str, Any]) -> set[str]:
    return set(values) | {key for value in values.values() if isinstance(value, dict) for key in _every_key(value)}


def test_the_spec_as_run_reads_back_as_the_same_spec(tmp_path: Path) -> None:
    for name in SHIPPED:
        spec = load_study(name, {})
        (tmp_path / "study.toml").write_text(spec.as_toml())
        assert load_study(str(tmp_path / "study.toml"), {}) == spec
        assert {"low", "high", "widths"} <= _every_key(tomllib.loads(spec.as_toml()))


@pytest.mark.parametrize(
    ("space", "images", "part"),
    [
        ({}, "auto", 1.0),
        ({"cutout": [0, 8]}, "auto", 0.15),
        ({"sgd_weight_decay": {"low": 1e-4, "high": 1e-2, "log": True}}, "auto", 0.15),
        ({"cutout": [0, 8]}, "all", 1.0),
        ({}, "subset", 0.15),
    ],
)
def test_short_runs_train_on_a_part_where_the_space_draws_regularisers(
    space: dict[str, Any], images: str, part: float
) -> None:
    values = {"data": "cifar10", "budget": 10**6, "epochs": 30, "promote": {"epochs": 200}}
    assert StudySpec.model_validate({**values, "space": space, "short_run_images": images}).data_fraction == part
    longer = {**values, "epochs": 300}
    assert StudySpec.model_validate({**longer, "space": space, "short_run_images": images}).data_fraction == 1.0


@pytest.mark.parametrize(
    "text",
    [
        'data = "digits"\nbudget = 20000\ntrials = !!python/object/apply:os.mkdir ["trace"]\n',
        "data = \"digits\"\nbudget = \"__import__('os').mkdir('trace')\"\n",
        'data = "digits"\nbudget = 20000\nname = "{0.__class__.__init__.__globals__}"\n',
        'data = "digits; mkdir trace"\nbudget = 20000\n[space]\nk1 = "$(mkdir trace)"\n',
    ],
)
def test_a_malicious_study_file_is_refused_and_not_executed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(SpecError):
        load_study(str(path), {})
    assert not (tmp_path / "trace").exists()


def test_baselines_get_the_stem_of_the_space_for_larger_images() -> None:
    spec = load_study("cifar10", {"data": "photos"})
    large = spec.for_size((224, 224))
    assert {(each.stem_stride, each.stem_pool) for each in large.baselines.values()} == {(2, True)}
    assert spec.for_size((32, 32)) == spec
    again = large.for_size((224, 224))
    assert again == large
    keller = load_study("keller", {})
    assert keller.for_size((224, 224)).baselines == keller.baselines  # it says what its stem is


def test_by_balanced_accuracy_the_classes_count_the_same_in_training_unless_the_study_says_otherwise() -> None:
    spec = load_study("digits", {})
    assert spec.for_score("balanced").space.class_weights == "balanced"
    assert spec.for_score("accuracy") == spec.model_copy(update={"score": "accuracy"})
    says = spec.model_copy(update={"space": Space(class_weights="none")})
    assert says.for_score("balanced").space.class_weights == "none"
