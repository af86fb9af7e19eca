"""Exporting the model of a run, its card, and what is said of images with it."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given, settings
from PIL import Image
from rich.console import Console

from search import api
from search.card import Exported, _mixed
from search.data_shape import data_shape_of
from search.errors import CheckpointError, DataError, ModelError, RunError
from search.export import chosen, export_model
from search.first_screen import exported_files
from search.formatting import percent
from search.identity import open_study
from search.listing import Listing
from search.mistakes import mistakes_of
from search.predict import BATCH, Guess, Prediction
from search.promoter import Promoter
from search.promotions import Promotion, finished
from search.quantisation import Measured
from search.run_folder import RunFolder, RunRef
from search.session import test_of as reader_of_test
from search.spec import load_study
from search.trials import TrialRecord, records
from tests.support.commands import search
from tests.support.formats import installed
from tests.support.networks import described
from tests.support.predicted import drawn, store
from tests.support.runs import add_trial, make_run, study_spec
from tests.support.tiny import tiny_data
from tests.support.trainers import FakeTrainer
from tests.train_core.strategies import resnet_specs
from train_core import checkpoint
from train_core.data import Split, TrainingData, load_test, load_training
from train_core.deploy import deployed
from train_core.examples import FormatName, network_code
from train_core.formats import FORMATS, read
from train_core.model_files import RUNTIMES, suffix_of
from train_core.models import ResNet
from train_core.specs import ResNetSpec, TrainSpec

SPEC = load_study("digits", {"trials": 2})
NAME = "digits-20k"
WHOLE, SHORT = 2, 1  # epochs


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return load_training("digits", val_fraction=SPEC.val_fraction, seed=SPEC.seed, cache=Path())


@pytest.fixture(scope="module")
def promoted(data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one in it: two trials, the first trained with two seeds, the second not as long."""
    runs = tmp_path_factory.mktemp("promoted") / "runs"
    folder = make_run(runs / NAME, spec=SPEC, task=data_shape_of(data), trainer=FakeTrainer())
    study = open_study(folder)
    test = partial(load_test, "digits", fingerprint=data.fingerprint, cache=Path())
    promoter = Promoter(folder=folder, data=data, load_test=test, device_name="a test")
    for trial, epochs, seed in ((0, WHOLE, 0), (0, WHOLE, 1), (1, SHORT, 0)):
        promoter.train(records(study)[trial], epochs, seed, lambda result: None, tests=trial == 0)
    return runs


def card_of_winner(folder: RunFolder, data: TrainingData) -> str:
    run = chosen(folder, None)
    return export_model(folder, run, SPEC, data, "safetensors", trials=2).card.read_text()


@pytest.fixture
def folder(promoted: Path, tmp_path: Path) -> RunFolder:
    """A copy of that run in the current folder."""
    return RunFolder(Path(shutil.copytree(promoted, tmp_path / "runs")).relative_to(Path.cwd()) / NAME)


@pytest.fixture(scope="module")
def exported_as(promoted: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[FormatName], Exported]:
    """The model of another copy of that run, in each format that is asked for; it is written once."""
    runs = Path(shutil.copytree(promoted, tmp_path_factory.mktemp("exported") / "runs"))
    return cache(lambda fmt: api.export(RunRef(NAME, runs), fmt=fmt))


def refit(folder: RunFolder, data: TrainingData) -> Promotion:
    """The first trial, trained on the validation images, too."""
    test = partial(load_test, "digits", fingerprint=data.fingerprint, cache=Path())
    promoter = Promoter(folder=folder, data=data, load_test=test, device_name="a test")
    return promoter.train(records(open_study(folder))[0], WHOLE, 0, lambda result: None, refit=True)


def write_digit(data: TrainingData, name: str, index: int = 0) -> None:
    Image.fromarray(data.val.images[index, :, :, 0].numpy()).save(name)


# --------------------------------------------------------------------------------------------------- which model


def test_the_winners_best_seed_is_exported(folder: RunFolder) -> None:
    first, second = (run for run in finished(folder) if run.trial == 0)
    assert chosen(folder, None) == max(first, second, key=lambda run: run.val_accuracy or 0)


def test_its_refit_is_exported_where_there_is_one(folder: RunFolder, data: TrainingData) -> None:
    run = refit(folder, data)
    assert chosen(folder, None) == run
    assert chosen(folder, 0) == run


def test_another_trial_is_exported_by_its_number(folder: RunFolder) -> None:
    assert chosen(folder, 1).recipe.epochs == SHORT


def test_the_averaged_weights_are_exported_where_they_are_scored(
    folder: RunFolder, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = records(open_study(folder))[1].recipe.model_copy(update={"ema_decay": 0.9})
    monkeypatch.setattr(TrialRecord, "recipe", property(lambda trial: recipe))
    promoter = Promoter(folder=folder, data=data, load_test=lambda: None, device_name="a test")
    run = promoter.train(records(open_study(folder))[1], WHOLE, 0, lambda result: None, tests=False)
    exported = export_model(folder, run, SPEC, data, "safetensors", trials=2)
    state = checkpoint.load(folder.promotion(1, WHOLE, 0).checkpoint, torch.device("cpu"))
    assert state.ema_model is not None
    weights = read(exported.file).logits
    images = data.val.images[:20].permute(0, 3, 1, 2).float()
    model, averaged = (
        each.eval()((images / 255 - data.mean[0]) / data.std[0]).detach() for each in (state.model, state.ema_model)
    )
    torch.testing.assert_close(weights(images), averaged, rtol=0, atol=1e-5)
    assert not torch.allclose(averaged, model, atol=1e-2)
    assert "| weights | the average over the run (decay 0.9 a step) |" in exported.card.read_text()


# ------------------------------------------------------------------------------------------------------ the card


def python_of(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return str(code)


@pytest.mark.parametrize("fmt", installed())
def test_the_example_in_the_card_runs_without_this_package_and_says_what_predict_says(
    fmt: FormatName, exported_as: Callable[[FormatName], Exported], data: TrainingData
) -> None:
    exported = exported_as(fmt)
    assert exported.file.parts[-3:] == (NAME, "exported", f"{folder_name(exported.run)}{suffix_of(fmt)}")
    assert exported.difference <= 1e-5
    write_digit(data, "image.png")
    shutil.copy("image.png", exported.file.parent)
    code = "import sys\nfor name in ('search', 'space', 'train_core'): sys.modules[name] = None\n"
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + python_of(exported.card.read_text())],
        cwd=exported.file.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    (prediction,) = api.predict(exported.file, [Path("image.png")])
    said = [line.split() for line in answer.stdout.splitlines()]
    assert [name for name, _ in said] == [guess.name for guess in prediction.guesses]
    for (_, probability), guess in zip(said, prediction.guesses, strict=True):
        assert abs(float(probability) - guess.probability) < 1e-4


@settings(max_examples=25, deadline=None)
@given(spec=resnet_specs())
def test_the_network_in_a_card_is_any_of_the_family(spec: ResNetSpec) -> None:
    """The code in a card of safetensors is that of `train_core.models`, and needs nothing else of this package."""
    channels = spec.in_channels
    about = described(spec)
    network = ResNet(spec)
    images = torch.randint(0, 256, (4, channels, 9, 12)).float()
    network(images / 100)  # norms that have seen something
    Path("model.safetensors").write_bytes(FORMATS["safetensors"].write(deployed(network, about), about))
    names: dict[str, Any] = {}
    exec(network_code(Path("model.safetensors")), names)
    with torch.inference_mode():
        expected = deployed(network, about)(images)
        difference = (names["model"](images) - expected).abs().max()
    assert difference <= 1e-5 * max(1.0, expected.abs().max().item())


def folder_name(run: Promotion) -> str:
    return f"trial-{run.trial:04d}-epochs-{run.recipe.epochs}-seed-{run.seed}{'-refit' if run.refit else ''}"


def test_the_command_says_where_the_files_are(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = search("export --trial 1 --format safetensors", capsys, monkeypatch)
    file = f"runs/{NAME}/exported/trial-0001-epochs-1-seed-0.safetensors"
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert re.fullmatch(
        rf"{file}: [\d,]+ bytes, agrees with the checkpoint to \de-(0[5-9]|\d\d) on 100 validation images", first
    )
    assert second == f"{file}.md"
    assert {str(path) for path in Path(file).parent.iterdir()} == {file, second}


def test_a_report_that_was_written_before_names_the_files(folder: RunFolder) -> None:
    exported = api.export(RunRef(NAME), fmt="safetensors")
    assert not folder.report.exists()  # it is written by `search report`, not by an export
    api.report(RunRef(NAME))
    exported.file.unlink()
    api.report(RunRef(NAME))
    assert exported.file.name not in folder.report.read_text()
    api.export(RunRef(NAME), fmt="safetensors")
    assert exported.file.name in folder.report.read_text()


def test_the_numbers_in_the_card_are_those_of_the_run(folder: RunFolder, data: TrainingData) -> None:
    exported = api.export(RunRef(NAME, folder.root.parent), fmt="safetensors")
    card, best = exported.card.read_text(), exported.run
    seeds = [run for run in finished(folder) if run.trial == 0]
    assert best.val_accuracy is not None
    assert best.test_accuracy is not None
    for said in (
        f"# An image classifier of {best.parameters:,} parameters",
        f"| parameters | {best.parameters:,}, all trainable; the budget was 20,000 |",
        f"| multiply-adds | {best.multiply_adds:,} for an image |",
        f"| 287 validation images | {percent(best.val_accuracy)} | this model, after 2 epochs |",
        f"| 360 test images | {percent(best.test_accuracy)} | this model; read once, after training |",
        f"| 287 validation images | {percent(best.short_score)} | the short run of 6 epochs",
        "mean and standard deviation of 2 seeds |",
        "out of 2 short runs and 3 full runs",
        "The test images had no part in the choice.",
        "this one was the best on validation",
        f"| data | digits, fingerprint {data.fingerprint} |",
        "| trained on | 1,150 images; 287 validation images held out |",
        f"| recipe | {best.recipe} |",
        f"| network | {best.network} |",
        best.network.model_dump_json(),
        best.recipe.model_dump_json(),
        json.dumps(list(data.classes)),
        "CC BY 4.0",
        f"{exported.file.stat().st_size:,} bytes",
        f"differ from the checkpoint's by {exported.difference:.1e} at most, on 100 validation images",
    ):
        assert said in card, said
    assert len(seeds) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mix": "ricap"}, "ricap in 100% of the batches, shares from Beta(0.3, 0.3)"),
        (
            {"mix": "cutmix", "mix_alpha": 0.5, "mix_share": 0.5, "mix_off": 0.1},
            "cutmix in 50% of the batches, shares from Beta(0.5, 0.5), none in the last 10% of the run",
        ),
    ],
)
def test_a_card_says_how_images_were_mixed(changes: dict[str, Any], words: str) -> None:
    assert _mixed(TrainSpec(epochs=1, **changes)) == words


def test_the_card_of_a_refit_says_what_it_was_trained_on(folder: RunFolder, data: TrainingData) -> None:
    run = refit(folder, data)
    exported = api.export(RunRef(NAME, folder.root.parent), fmt="safetensors")
    card = exported.card.read_text()
    assert exported.about.mean == data.with_validation_in_training().mean != data.mean
    assert "| trained on | 1,437 images, training and validation together |" in card
    assert f"| 360 test images | {percent(run.test_accuracy or 0)} | this model; read once, after training |" in card
    assert "also on the validation images" in card
    assert "mean and standard deviation of 2 seeds, trained without the validation images |" in card


def test_the_card_has_each_class_the_temperature_and_the_thresholds(folder: RunFolder, data: TrainingData) -> None:
    found = mistakes_of(folder, test=True)
    card = card_of_winner(folder, data)
    for each in found.classes:
        assert each.recall is not None
        assert (
            f"| {each.name} | {each.images} | {100 * each.recall.value:.1f} % ({100 * each.recall.low:.1f} to " in card
        )
    assert found.calibrated is not None
    assert f"in 15 bins: {100 * found.calibration.error:.2f} points; {100 * found.calibrated.error:.2f} if" in card
    assert f"the temperature {found.temperature:.3f}, which was fitted on the validation images" in card
    for threshold in found.thresholds:
        assert f"| {threshold.threshold:.4f} | {percent(threshold.answered)} |" in card
    assert "was not measured.\n- Data" in card


def test_the_card_of_a_run_of_an_earlier_version_says_that_it_was_not_measured(
    folder: RunFolder, data: TrainingData
) -> None:
    for each in folder.promotions():
        for split in ("val", "test"):
            each.predictions(split).unlink(missing_ok=True)
    card = card_of_winner(folder, data)
    assert "By class" not in card
    assert "## Its probabilities" not in card
    assert "Its probabilities rank classes; how often they are right was not measured." in card


def test_of_many_classes_the_card_has_the_worst(folder: RunFolder, data: TrainingData) -> None:
    run = chosen(folder, None)
    made = drawn(600, 30, margin=2.0)
    store(folder, run, made)
    store(folder, run, made, "test")
    card = card_of_winner(folder, data)
    assert "The 10 classes of 30 with the lowest recall:" in card
    assert card.count(" | 20 | ") == 10


def test_the_card_of_a_refit_without_a_test_split_says_that_it_has_no_number(
    folder: RunFolder, data: TrainingData
) -> None:
    promoter = Promoter(folder=folder, data=data, load_test=lambda: None, device_name="a test")
    promoter.train(records(open_study(folder))[1], SHORT, 0, lambda result: None, refit=True)
    card = api.export(RunRef(NAME, folder.root.parent), trial=1, fmt="safetensors").card.read_text()
    assert "it has no number of its own" in card
    assert "| the same network, trained without the validation images |" in card


def test_the_card_of_a_run_that_was_not_tested_says_so(folder: RunFolder) -> None:
    card = api.export(RunRef(NAME, folder.root.parent), trial=1, fmt="safetensors").card.read_text()
    assert "test images |" not in card
    assert "Its test images are not read yet." in card
    assert "not the one that the validation images choose out of 2 short runs and 3 full runs" in card


def test_the_card_holds_no_path_of_this_machine(folder: RunFolder) -> None:
    exported = api.export(RunRef(NAME, folder.root.parent.absolute()), fmt="safetensors")
    assert str(Path.cwd()) not in exported.card.read_text()
    assert str(Path.cwd()).encode() not in exported.file.read_bytes()


def test_photos_with_named_classes(tmp_path: Path) -> None:
    data, study = tiny_data(), optuna.create_study()
    add_trial(study, 0.5, "sgd")
    folder = RunFolder(tmp_path / "photos")
    promoter = Promoter(folder=folder, data=data, load_test=lambda: None, device_name="a test")
    run = promoter.train(records(study)[0], 4, 0, lambda result: None)
    exported = export_model(folder, run, study_spec(data="/home/anna/photos"), data, "safetensors", trials=1)
    card = exported.card.read_text()
    assert "It tells 3 classes of 8x8 RGB images apart." in card
    assert '["red", "green", "blue"]' in card
    assert "This data has no test split, so every number here was used for model selection." in card
    assert "The licence of the images that it was trained on may bind the model too" in card
    assert "anna" not in card
    Image.fromarray(data.val.images[0].numpy()).save("colour.png")
    Image.fromarray(data.val.images[0, :, :, 0].numpy()).save("grey.png")
    colour, grey = api.predict(exported.file, [Path("colour.png"), Path("grey.png")])
    assert {guess.name for guess in colour.guesses} == {guess.name for guess in grey.guesses} == set(data.classes)
    same = data.val.images[:1, :, :, :1].expand(-1, -1, -1, 3)
    for prediction, images in ((colour, data.val.images[:1]), (grey, same)):
        expected = read(exported.file).probabilities(images).max().item()
        assert prediction.guesses[0].probability == pytest.approx(expected, abs=1e-5)


# ---------------------------------------------------------------------------------------------- what goes wrong


def test_a_file_that_would_say_something_else_is_not_written(
    folder: RunFolder, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(FORMATS["safetensors"], load_elsewhere=lambda written: lambda images: torch.zeros(len(images), 10))
    monkeypatch.setitem(FORMATS, "safetensors", wrong)
    with pytest.raises(ModelError, match=r"the safetensors file would give other logits than the checkpoint \(by "):
        export_model(folder, chosen(folder, None), SPEC, data, "safetensors", trials=2)
    assert not (folder.root / "exported").exists()


def test_a_file_whose_example_prints_something_else_is_not_written(
    folder: RunFolder, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(FORMATS["safetensors"], example='print("no-such-class 0.5")')
    monkeypatch.setitem(FORMATS, "safetensors", wrong)
    with pytest.raises(ModelError, match=r"example of a safetensors file prints 'no-such-class 0\.5' where"):
        export_model(folder, chosen(folder, None), SPEC, data, "safetensors", trials=2)
    assert not (folder.root / "exported").exists()


def test_a_checkpoint_that_is_gone_or_of_another_run_is_named(folder: RunFolder, data: TrainingData) -> None:
    run = chosen(folder, 1)
    ours, other = folder.promotion(1, SHORT, 0).checkpoint, folder.promotion(0, WHOLE, 0).checkpoint
    ours.unlink()
    with pytest.raises(RunError, match=r"checkpoint\.pt is gone, and with it the trained network: delete "):
        export_model(folder, run, SPEC, data, "safetensors", trials=2)
    shutil.copy(other, ours)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is not of the run in result\.json: delete "):
        export_model(folder, run, SPEC, data, "safetensors", trials=2)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("export --trial 7", "trial 7 of run 'digits-20k' has no finished full run: give one of 0, 1"),
        ("export elsewhere", "no run 'elsewhere' in runs: there are digits-20k"),
        ("export --format no-such-format", "--format 'no-such-format' is unknown: give one of onnx, "),
        (
            "export --calibration 500",
            "--calibration does not belong to --format onnx: leave it out, or take --format onnx-int8",
        ),
    ],
)
def test_mistakes_about_exporting(
    command: str,
    said: str,
    folder: RunFolder,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, out, err = search(command, capsys, monkeypatch)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_exporting_before_anything_is_promoted(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(folder.root / "promoted")
    for command, said in (
        ("export", "only short ones: train its best with `search promote digits-20k`"),
        ("export --trial 0", "trial 0 of run 'digits-20k' has no finished full run: start one with `search promote`"),
    ):
        code, _, err = search(command, capsys, monkeypatch)
        assert (code, err.count("\n")) == (2, 1)
        assert said in err


def test_without_its_package_onnx_says_what_to_install(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for command in ("export", "predict model.onnx 1.png"):
        code, _, err = search(command, capsys, monkeypatch)
        assert (code, err) == (2, "search: onnx files need onnxruntime: pip install '.[onnx]' in the checkout\n")
    code, _, err = search("export --format onnx-int8", capsys, monkeypatch)
    assert (code, err) == (2, "search: onnx-int8 files need onnxruntime: pip install '.[int8]' in the checkout\n")


# ---------------------------------------------------------------------------------------------------------- int8


def test_an_int8_file_stands_beside_the_float_file_and_both_are_measured(
    folder: RunFolder, data: TrainingData, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    floats = api.export(RunRef(NAME, folder.root.parent), trial=0, fmt="onnx").file
    code, out, err = search("export --trial 0 --format onnx-int8 --calibration 200", capsys, monkeypatch)
    file = floats.with_suffix(".int8.onnx")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert second == f"{file}.md"
    right = [
        (read(each).probabilities(data.val.images).argmax(1) == data.val.labels).double().mean().item()
        for each in (floats, file)
    ]
    assert min(right) > 0.15
    sizes = [each.stat().st_size for each in (floats, file)]
    assert sizes[1] < sizes[0] / 2
    assert first == (
        f"{file}: {sizes[1]:,} bytes (float: {sizes[0]:,}), {percent(right[1])} right on 287 validation images "
        f"(float: {percent(right[0])})"
    )
    card = Path(second).read_text()
    assert re.search(rf"\| float32 \| {sizes[0]:,} bytes \| {percent(right[0])} \| \d+\.\d{{3}} ms \|", card)
    assert re.search(rf"\| int8, this file \| {sizes[1]:,} bytes \| {percent(right[1])} \| \d+\.\d{{3}} ms \|", card)
    assert f"The int8 file loses {100 * (right[0] - right[1]):.2f} points on validation. On " in card
    test = reader_of_test(load_study(str(folder.study_file), {}), data)()
    assert test is not None
    on_test = [
        (read(each).probabilities(test.images).argmax(1) == test.labels).double().mean().item()
        for each in (floats, file)
    ]
    assert (
        f"On {len(test)} test images, the int8 file is right on {percent(on_test[1])}, the float32 file on "
        f"{percent(on_test[0])}: measured once more at export" in card
    )
    assert re.search(r"with ranges from (19\d|20\d) training images", card)
    assert "before it was quantised, its logits differ" in card
    listed = {each.name: each.card for each in exported_files(folder, folder.promotion(0, WHOLE, 0))}
    listed |= {each.name: each.card for each in exported_files(folder, folder.promotion(0, WHOLE, 1))}
    assert listed == {each.name: f"exported/{each.name}.md" for each in (floats, file)}


def test_the_test_images_of_a_model_that_has_not_read_them_stay_unread(folder: RunFolder, data: TrainingData) -> None:
    run = chosen(folder, 0).model_copy(update={"test_accuracy": None, "test_balanced": None})
    assert run.test_score is None

    def load_test() -> Split:
        raise AssertionError("the test images are not for this model")

    exported = export_model(folder, run, SPEC, data, "onnx-int8", trials=2, load_test=load_test)
    assert "points on validation; on test it was not measured." in exported.card.read_text()


def test_a_loss_that_is_too_large_is_warned_of_where_the_file_is_written(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.quantisation.ACCEPTED", -1.0)
    code, out, err = search("export --trial 1 --format onnx-int8", capsys, monkeypatch)
    assert code == 0
    (warning,) = [line for line in (out + err).splitlines() if "warning: " in line]
    assert "(--calibration 1000)" in warning
    assert (folder.root / "exported" / "trial-0001-epochs-1-seed-0.int8.onnx").exists()


def test_of_an_int8_file_that_answers_nonsense_nothing_is_left(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter(Measured(size=1, accuracy=each, latency=0.001) for each in (0.8, 0.3))  # the float file's first
    monkeypatch.setattr("search.quantisation.measured", lambda *_: next(found))
    code, out, err = search("export --trial 1 --format onnx-int8", capsys, monkeypatch)
    assert (code, out) == (2, "")
    assert err == (
        "search: the int8 file would be right on 30.00 % of the validation images, the float file is on 80.00 %; it "
        "was not written: take --format onnx, or another --trial\n"
    )
    assert not (folder.root / "exported").exists()


def test_an_int8_file_needs_the_images(folder: RunFolder, data: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"^onnx-int8 files are calibrated on training images: say where they are"):
        export_model(folder, chosen(folder, None), SPEC, Listing.of(data), "onnx-int8", trials=2)
    monkeypatch.setattr(api, "_images_of", lambda *args: (_ for _ in ()).throw(DataError("the images are gone")))
    with pytest.raises(DataError, match="the images are gone"):
        api.export(RunRef(NAME, folder.root.parent), fmt="onnx-int8")


# ------------------------------------------------------------------------------------------------------- predict


@pytest.fixture(scope="module")
def model(exported_as: Callable[[FormatName], Exported]) -> Path:
    """An exported model of grey images."""
    return exported_as("safetensors").file


def test_predict_prints_the_classes_of_each_image_and_says_where_it_was_resized(
    model: Path, data: TrainingData, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digit(data, "a.png", 0)
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save("b.jpg")
    code, out, err = search(f"predict {model} a.png b.jpg --top 2", capsys, monkeypatch)
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    probabilities = read(model).probabilities(data.val.images[:1])[0]
    top = probabilities.argmax()
    assert first.startswith(f"a.png  {top}  {100 * probabilities[top]:.1f} %  ".replace(f"{top}  ", f"{top} ", 1))
    assert first.count("%") == 2
    assert "resized" not in first
    assert second.startswith("b.jpg  ")
    assert second.endswith("  (resized from 30x20)")


def test_a_name_cannot_move_the_cursor() -> None:
    guesses = (Guess(name="\x1b[2Jcat", probability=0.9), Guess(name="grün", probability=0.1))
    assert (
        str(Prediction(image="a.png", guesses=guesses, resized_from=None)) == r"a.png  \x1b[2Jcat 90.0 %  grün 10.0 %"
    )


def test_predict_as_json(
    model: Path, data: TrainingData, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digit(data, "a.png")
    code, out, _ = search(f"predict {model} a.png --json --top 99", capsys, monkeypatch)
    (prediction,) = json.loads(out)
    assert code == 0
    assert (prediction["image"], prediction["resized_from"], len(prediction["guesses"])) == ("a.png", None, 10)
    assert sum(guess["probability"] for guess in prediction["guesses"]) == pytest.approx(1, abs=1e-5)


def test_more_images_than_a_batch_are_told_in_order(model: Path, data: TrainingData) -> None:
    paths = [Path(f"{i}.png") for i in range(120)]
    for i, path in enumerate(paths):
        write_digit(data, str(path), i)
    answers = list(api.predict(model, paths, top=1))
    best = read(model).probabilities(data.val.images[:120]).argmax(1).tolist()
    assert [answer.image for answer in answers] == [str(path) for path in paths]
    assert [answer.guesses[0].name for answer in answers] == [data.classes[label] for label in best]


def write_odd_images() -> None:
    """Files in the current folder that are no images, or images that cannot be read."""
    Path("folder").mkdir()
    Path("text.png").write_text("no image")
    Path("none.png").touch()
    Image.fromarray(np.zeros((32, 32), np.float32)).save("float.tif")
    Image.new("1", (20_000, 10_000)).save("scan.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save("cut.png")
    Path("cut.png").write_bytes(Path("cut.png").read_bytes()[:4000])
    Path("broken.png").write_bytes(Path("a.png").read_bytes().replace(b"IDAT", b"IDAT\0\0\0\0", 1))


ODD = {
    "gone.png": "(No such file or directory): check the path",
    "folder": "(no images in this folder): check the path",
    "'gone/*.png'": "(no file matches this pattern): check the path",
    "text.png": "(not an image, or of a format that Pillow does not know): convert it, or leave it out",
    "none.png": "(the file is empty): copy it again",
    "float.tif": "(floating-point pixels): convert it to 8 bits for each channel",
    "scan.png": "(200 megapixels, more than Pillow reads safely): make it smaller",
    "cut.png": "(truncated): copy it again",
    "broken.png": "(damaged: ",
}


def test_an_image_that_cannot_be_read_is_named_with_its_reason_and_the_others_are_answered(
    model: Path, data: TrainingData, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digit(data, "a.png", 0)
    write_digit(data, "b.png", 1)
    write_odd_images()
    code, out, err = search(f"predict {model} a.png {' '.join(ODD)} b.png", capsys, monkeypatch)
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == ["a.png", "b.png"]
    lines = err.splitlines()
    assert len(lines) == len(ODD)
    for line, (image, said) in zip(lines, ODD.items(), strict=True):
        assert line.startswith(f"search: cannot read {image.strip(chr(39))} {said}")


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("", "Missing argument"),
        ("a.png --top 0", "Invalid value for '--top'"),
        ("-", "standard input names no images: write one path in a line"),
        ("a.png --csv --json", "--json and --csv are two forms of one output: give one of them"),
    ],
)
def test_mistakes_about_images(
    images: str, said: str, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"\n\n")))
    code, out, err = search(f"predict {model} {images}", capsys, monkeypatch)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_folders_patterns_and_a_list_name_images_in_the_order_given(
    model: Path, data: TrainingData, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("z.png", "photos/b/2.png", "photos/b/10.png", "photos/a.JPG", "photos/.hidden.png", "photos/.x/1.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        write_digit(data, name)
    Path("photos/notes.txt").touch()
    write_digit(data, "photos/[1].png")  # a name that looks like a pattern
    inside = ["photos/[1].png", "photos/a.JPG", "photos/b/10.png", "photos/b/2.png"]
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"z.png\r\n\nphotos/b\n")))
    for images, found in (
        ("z.png photos", ["z.png", *inside]),
        ("photos z.png", [*inside, "z.png"]),
        ("'photos/*/*.png' z.png", ["photos/b/10.png", "photos/b/2.png", "z.png"]),
        ("'photos/[1].png'", ["photos/[1].png"]),
        ("'photos/**/*.png'", ["photos/[1].png", "photos/b/10.png", "photos/b/2.png"]),
        ("-", ["z.png", "photos/b/10.png", "photos/b/2.png"]),
    ):
        code, out, err = search(f"predict {model} {images} --csv --top 1", capsys, monkeypatch)
        assert (images, code, err) == (images, 0, "")
        assert [row["image"] for row in csv.DictReader(StringIO(out))] == found, images


def test_a_table_has_a_row_for_each_image_and_json_says_the_same(
    model: Path, data: TrainingData, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digit(data, "a, b.png")
    command = f"predict {model} 'a, b.png' gone.png --top 2"
    code, out, err = search(f"{command} --csv", capsys, monkeypatch)
    assert (code, err.count("\n")) == (1, 1)
    assert out.splitlines()[0] == "image,class,probability,class_2,probability_2,error"
    row, gone = csv.DictReader(StringIO(out))
    code, out, err = search(f"{command} --json", capsys, monkeypatch)
    assert (code, err.count("\n")) == (1, 1)
    prediction, other = json.loads(out)
    first, second = prediction["guesses"]
    assert (row["image"], row["class"], row["class_2"], row["error"]) == (
        "a, b.png",
        first["name"],
        second["name"],
        "",
    )
    assert [float(row[name]) for name in ("probability", "probability_2")] == [
        guess["probability"] for guess in (first, second)
    ]
    assert gone["error"] == other["error"] == "No such file or directory"
    assert (gone["class"], gone["probability_2"], other["guesses"]) == ("", "", [])


def test_images_are_answered_while_the_next_ones_are_not_read(model: Path, data: TrainingData) -> None:
    """So no more than a batch is in memory."""
    for i in range(BATCH + 1):
        write_digit(data, f"{i}.png")
    answers = api.predict(model, [f"{i}.png" for i in range(BATCH + 1)], top=1)
    assert len(answers) == BATCH + 1
    Path(f"{BATCH}.png").rename("later.png")
    each = iter(answers)
    assert next(each).error is None
    Path("later.png").rename(f"{BATCH}.png")
    assert [answer.error for answer in each] == [None] * BATCH


def test_a_bar_is_drawn_on_standard_error_where_the_answers_do_not_show_up(
    model: Path, data: TrainingData, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digit(data, "a.png")
    monkeypatch.setattr(Console, "is_terminal", property(lambda console: console.stderr))
    code, out, err = search(f"predict {model} a.png gone.png a.png", capsys, monkeypatch)
    assert (code, out.count("a.png")) == (1, 2)
    assert "images" in err
    assert "0/3" in err
    assert "search: cannot read gone.png (No such file or directory): check the path" in err


def test_a_run_whose_data_has_changed_is_not_exported(folder: RunFolder) -> None:
    changed = folder.study_file.read_text().replace("val_fraction = 0.2", "val_fraction = 0.3")
    folder.study_file.write_text(changed)
    with pytest.raises(RunError, match="was made with"):
        api.export(RunRef(NAME, folder.root.parent), fmt="safetensors")


@pytest.mark.parametrize("fmt", installed(RUNTIMES))
def test_a_model_answers_without_torch_as_with_it(
    fmt: FormatName, exported_as: Callable[[FormatName], Exported], data: TrainingData
) -> None:
    file = exported_as(fmt).file
    write_digit(data, "a.png", 0)
    arguments = ["predict", str(file), "a.png", "--json"]
    code = f"import sys; from search.cli import app; app({arguments!r}, standalone_mode=False); "
    code += "assert not {'torch', 'optuna'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    guesses = json.loads(done.stdout)[0]["guesses"]
    expected = read(file).probabilities(data.val.images[:1])[0].topk(3)
    assert [int(guess["name"]) for guess in guesses] == expected.indices.tolist()
    assert [guess["probability"] for guess in guesses] == pytest.approx(expected.values.tolist(), abs=1e-5)
