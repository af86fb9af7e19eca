"""The reports that ship: their networks, recipes and rows."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import space
from search.completion import complete_report, shipped_studies
from search.data_shape import NAMED_SHAPES, data_shape_of, with_data_shape
from search.errors import RunError, SpecError
from search.identity import check, join
from search.published import Published
from search.run_folder import RunFolder
from search.spec import StudySpec, load_study
from train_core.data import Split, TrainingData, load_training
from train_core.loop import train
from train_core.specs import CopySpec, ResNetSpec, TrainSpec, num_params
from train_core.state import TrainState

KNOWN = ["known-cifar10", "known-cifar100"]  # of several sources
REPORTS = ["ganz-adya", "keller", *KNOWN, "kunkolienker-upadhyay", "li-huang", "liu-douglas-ji"]


def report(name: str) -> tuple[StudySpec, Published]:
    spec = load_study(name, {})
    assert spec.published is not None
    return spec, spec.published


def test_the_reports_are_the_studies_with_rows() -> None:
    assert [name for name in shipped_studies() if load_study(name, {}).published] == REPORTS
    assert complete_report("") == REPORTS
    assert complete_report("k") == ["keller", *KNOWN, "kunkolienker-upadhyay"]


@pytest.mark.parametrize("name", REPORTS)
def test_the_search_around_a_report_holds_every_network_of_it(name: str) -> None:
    spec, _ = report(name)
    for known, network in spec.baselines.items():
        wanted = with_data_shape(network, NAMED_SHAPES[spec.data])
        assert space.as_parameters(wanted, spec.baseline_recipe, spec.space, spec.budget) is not None, known


@pytest.mark.parametrize("name", REPORTS)
def test_every_row_has_as_many_parameters_as_were_printed(name: str) -> None:
    spec, published = report(name)
    for row in published.rows.values():
        assert num_params(with_data_shape(spec.baselines[row.network], NAMED_SHAPES[spec.data])) == row.parameters


def test_the_best_rows_are_those_that_the_reports_are_known_for() -> None:
    best = {name: report(name)[1].best() for name in REPORTS}
    assert best == {
        "ganz-adya": "B2",
        "keller": "D8",
        "known-cifar10": "wide-3-5-3",
        "known-cifar100": "PyramidNet-110-a64-CutMix",
        "kunkolienker-upadhyay": "E",
        "li-huang": "A5-200",
        "liu-douglas-ji": "C2",
    }


def test_a_row_changes_what_it_names_of_the_reports_recipe() -> None:
    _, published = report("li-huang")
    plain, other = published.recipe_of("A5"), published.recipe_of("A5-adam-perspective", epochs=2, seed=7)
    assert (plain.optimizer, plain.lr, plain.momentum, plain.epochs, plain.schedule) == (
        "sgd",
        0.1,
        0.0,
        30,
        "constant",
    )
    assert (other.optimizer, other.lr, other.epochs, other.seed) == ("adam", 1e-3, 2, 7)
    assert (other.batch_size, other.augment.perspective, other.augment.flip) == (128, 0.3, True)


def test_ganz_and_adya_train_on_six_copies_and_lower_the_rate_where_they_say() -> None:
    recipe = report("ganz-adya")[1].recipe_of("B2")
    assert len(recipe.copies) == 6
    assert [epoch for epoch in range(50) if any(epoch == 50 * each for each in recipe.milestones)] == [15, 25, 35, 45]


def test_patterns_choose_rows_in_the_reports_order() -> None:
    _, published = report("li-huang")
    assert published.chosen(["A7", "A3*"]) == ["A3-conv", "A3", "A7"]
    assert published.chosen([]) == list(published.rows)
    with pytest.raises(SpecError, match=r"no row 'B\*' in this report: there are A1, A2, "):
        published.chosen(["B*"])


HEAD = 'data = "digits"\nbudget = 20000\n[baselines.X]\nwidths = [8, 8]\nblocks = [1, 1]\n[published]\ntitle = "x"\n'
ROW = "[published.rows.X1]\nparameters = 1\naccuracy = 90\nepochs = 3\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + ROW + 'network = "Y"\n', "published.rows.X1: its network is none of the baselines: add it to them"),
        (HEAD + ROW + 'network = "X"\nrecipe = { lr = -1 }\n', "the recipe of row X1: lr: input should be greater"),
        (HEAD + ROW + 'network = "X"\nrecipe = { rate = 1 }\n', "the recipe of row X1: rate: extra inputs are not"),
        (HEAD + "rows.X1.network = 'X'\n", "published.rows.X1.parameters is missing"),
        (
            HEAD + "recipe.mix_share = 0.5\n" + ROW + 'network = "X"\n',
            "published: the recipe of row X1: mix_share has no effect without mixed images: set mix, or",
        ),
        ('baselines_from = ["li-hang"]\n' + HEAD, "no shipped study 'li-hang' (did you mean 'li-huang'?)"),
        ('baselines_from = ["li-huang/A44"]\n' + HEAD, "li-huang has no 'A44' (did you mean 'A4'?)"),
        ('baselines_from = "li-huang"\n' + HEAD, "baselines_from: should be a valid tuple"),
    ],
)
def test_a_mistake_in_a_report_is_answered_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(SpecError) as error:
        load_study(str(path), {})
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_correction_to_what_was_printed_does_not_end_a_search(tmp_path: Path) -> None:
    spec, published = report("kunkolienker-upadhyay")
    folder, task = RunFolder(tmp_path / "run"), NAMED_SHAPES["cifar10"]
    folder.create()
    study, *_ = join(folder, spec, task)
    corrected = spec.model_copy(update={"published": published.model_copy(update={"title": "another"})})
    check(study, corrected, task, folder)
    with pytest.raises(RunError, match="made with epochs 30, not 31"):
        check(study, spec.model_copy(update={"epochs": 31}), task, folder)


def test_the_main_studies_take_the_networks_of_all_reports_within_five_million() -> None:
    spec = load_study("cifar10", {})
    assert spec.baselines_from == ()  # they are here now, for the run's own study file
    assert {"A4", "A7", "B4", "E", "wide-3-5-3"} <= set(spec.baselines)
    assert list(spec.baselines)[:8] == list(report("known-cifar10")[0].baselines)  # the first in line
    assert not any(name.startswith("D") for name in spec.baselines)


# Every row, for a few steps. SEARCH_CIFAR is a folder with cifar10.npz and cifar100.npz; without it, the middles of
# digits stand in, which take a quarter of the time.

IMAGES, STEPS, MIDDLE = 8, 3, slice(8, 24)


@pytest.fixture(scope="module", params=REPORTS)
def few_images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, TrainingData]:
    spec, _ = report(request.param)
    real = Path(os.environ["SEARCH_CIFAR"]) / f"{spec.data}.npz" if "SEARCH_CIFAR" in os.environ else None
    data = load_training(str(real or "digits"), val_fraction=0.1, seed=0, cache=tmp_path_factory.mktemp("cache"))
    few = [Split(each.images[:n], each.labels[:n]) for each, n in ((data.train, IMAGES), (data.val, 1))]
    if real is None:
        few = [Split(each.images[:, MIDDLE, MIDDLE].repeat(1, 1, 1, 3), each.labels) for each in few]
        data = replace(data, mean=data.mean * 3, std=data.std * 3)
    return request.param, replace(data, train=few[0], val=few[1])


@pytest.mark.long
def test_every_row_learns_from_its_first_steps(few_images: tuple[str, TrainingData]) -> None:
    name, data = few_images
    spec, published = report(name)
    tried: list[tuple[ResNetSpec, TrainSpec]] = []
    for row in published.rows:
        recipe = published.recipe_of(row)
        # The learning rate is in proportion to the batch (Goyal et al. 2017, arXiv:1706.02677). The images stay as they
        # are: of so few, other crops are other images.
        few = {"batch_size": IMAGES, "lr": recipe.lr * IMAGES / recipe.batch_size, "epochs": STEPS, "start": "random"}
        plain = {"copies": (), "augment": CopySpec(), "mix": "none", "mix_share": 1.0}
        recipe = recipe.model_copy(update={**few, **plain})
        network = with_data_shape(
            spec.baselines[published.rows[row].network], replace(data_shape_of(data), num_classes=100)
        )
        if (network, recipe) in tried:
            continue  # of another batch size, or augmented otherwise
        tried.append((network, recipe))
        losses = (result.train_loss for result in train(TrainState.new(network, recipe, torch.device("cpu")), data))
        first = next(losses)
        assert any(loss < first for loss in losses), row  # mostly the second: the third step is then not taken
