"""The real thing: the commands as processes, on a few real digits, with a user's threads, killed and continued."""

import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import numpy as np
import optuna_dashboard
import pytest
import torch
from PIL import Image

from search.charts import ALL_CHARTS
from search.identity import open_study
from search.promotions import Promotion, finished
from search.results import read_results
from search.trials import finished_trials
from tests.support.browser import Browser
from tests.support.pages import DESKTOP, PHONE, check, check_plots, shown
from tests.support.processes import (
    ALWAYS_SAVES,
    SHORT,
    run_folder,
    search,
    serving,
    start,
    start_anew,
    wait_for,
    with_few,
)
from train_core import checkpoint

EPOCHS = 10
IMAGES = 200  # enough for each class to be drawn in the matrix of what is taken for what
# Where what is shown does not depend on the number of threads, OMP_NUM_THREADS is 1: beside other tests, two threads
# take several times as long.
FULL = f"promote --top 1 --epochs {EPOCHS}"
THREADS = r"CPU, \d+ threads?"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a short search of a few digits has run."""
    folder = with_few(tmp_path_factory.mktemp("searched"), IMAGES)
    process = start_anew(SHORT, folder, OMP_NUM_THREADS="1")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "3 of 3 trials: 3 complete, 0 pruned, 0 failed" in out
    return folder


@pytest.fixture
def copy(searched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched, tmp_path / "copy"))


def test_the_search_says_what_it_will_do_and_what_it_did(searched: Path) -> None:
    log = run_folder(searched).log.read_text()
    for said in (
        "new study",
        "160 training and 40 validation images, 32x32 grey, 10 classes, a test split that only `promote` reads",
        "budget   20,000 parameters",
        "smallest: 514 parameters",
        "trials   3 short runs of 2 epochs, first 1 baseline (lenet-sized)",
        "measured: ",
        "1/3  trial 0 (lenet-sized)",
        "3/3  trial 2",
        "next: search promote digits-20k   or: search dashboard digits-20k",
    ):
        assert said in log, said
    assert re.search(f"device   {THREADS}", log)
    # Beside other tests, one thread may well be faster.
    assert not [line for line in log.splitlines() if "warning" in line and "one thread trains" not in line]


def test_the_plan_warns_of_flips_where_a_mirror_image_is_of_another_class(tmp_path: Path) -> None:
    study = tmp_path / "flips.toml"
    study.write_text('data = "digits"\nbudget = 20_000\ntrials = 1\nepochs = 1\n')
    out = search(f"run {study} --no-portfolio", with_few(tmp_path), OMP_NUM_THREADS="1")
    assert "warning  the space flips images, but a mirror image of digits can be of another class" in out
    assert "1 of 1 trial: " in out


def test_the_run_folder_holds_what_is_needed_to_run_it_again(searched: Path) -> None:
    folder = run_folder(searched)
    facts = json.loads(folder.facts.read_text())
    assert facts["versions"]["torch"] == torch.__version__
    assert re.fullmatch(THREADS, facts["device"])
    assert facts["data"]["training_images"] == 160
    again = search(f"run {folder.study_file} --name digits-20k", searched)
    assert "continuing" in again
    assert "3 of 3 trials" in again


def test_every_trial_stayed_within_the_budget(searched: Path) -> None:
    trials = finished_trials(open_study(run_folder(searched)))
    assert len(trials) == 3
    assert all(trial.optuna.user_attrs["parameters"] <= 20_000 for trial in trials)


def test_the_same_seed_gives_the_same_study_in_another_process(searched: Path, tmp_path: Path) -> None:
    search(SHORT, with_few(tmp_path, IMAGES), OMP_NUM_THREADS="1")
    first, second = (open_study(run_folder(folder)).trials for folder in (searched, tmp_path))
    assert [trial.params for trial in first] == [trial.params for trial in second]
    assert [trial.intermediate_values for trial in first] == [trial.intermediate_values for trial in second]


def test_running_again_continues_to_a_larger_total(copy: Path) -> None:
    out = search(f"{SHORT} --trials 4", copy, OMP_NUM_THREADS="1")
    assert "trials   4 short runs of 2 epochs, 3 done\n         next 1 from the portfolio, which did best" in out
    assert "4 of 4 trials" in out
    assert len(finished_trials(open_study(run_folder(copy)))) == 4


def test_the_dashboard_opens_the_study(searched: Path) -> None:
    app = optuna_dashboard.wsgi(run_folder(searched).address.url)
    environ: dict[str, Any] = {"PATH_INFO": "/api/studies", "REQUEST_METHOD": "GET"}
    setup_testing_defaults(environ)
    statuses: list[str] = []
    body = b"".join(app(environ, lambda status, *_: statuses.append(status)))
    assert statuses == ["200 OK"]
    assert [study["study_name"] for study in json.loads(body)["study_summaries"]] == ["digits-20k"]


def result_of(folder: Path) -> Promotion:
    (result,) = finished(run_folder(folder))
    return result


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    (promotion,) = run_folder(folder).promotions()
    return checkpoint.load(promotion.checkpoint, torch.device("cpu")).model.state_dict()


@pytest.fixture(scope="module")
def promoted(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the searched folder in which the best trial has been promoted without interruption."""
    folder = Path(shutil.copytree(searched, tmp_path_factory.mktemp("promoted") / "copy"))
    out = search(FULL, folder, OMP_NUM_THREADS="1")
    assert "Full runs, the longest first, then the best on validation" in out
    assert "best on validation: trial" in out
    assert "next: search errors digits-20k   or: search export digits-20k" in out
    return folder


@pytest.fixture(scope="module")
def dashboard(promoted: Path) -> Iterator[str]:
    """Where the dashboard of that is served."""
    with serving("digits-20k --no-browser", promoted) as (url, _):
        yield url


def test_a_promotion_has_a_test_accuracy_and_a_report(promoted: Path) -> None:
    result = result_of(promoted)
    assert len(result.history) == EPOCHS
    assert result.test_images == 200
    assert result.test_accuracy is not None
    page = run_folder(promoted).report.read_text()
    assert f"{100 * result.test_accuracy:.2f} %" in page
    assert search("report", promoted).strip() == "runs/digits-20k/report.html"


def test_what_the_network_gets_wrong_is_what_was_measured(promoted: Path) -> None:
    result = result_of(promoted)
    for flag, accuracy in (("", result.val_accuracy), (" --test", result.test_accuracy)):
        found = json.loads(search(f"errors{flag} --json", promoted))
        assert found["accuracy"]["value"] == accuracy
        assert sum(map(sum, found["matrix"])) == found["images"]
        assert found["images"] - len(found["mistakes"]) == sum(row[i] for i, row in enumerate(found["matrix"]))
    page = run_folder(promoted).report.read_text()
    assert page.count("<img src=") >= 16  # of a batch, and of mistakes if there are any
    (folder,) = run_folder(promoted).promotions()
    before = folder.result.read_bytes()
    folder.predictions("val").unlink()  # as an earlier version left it
    search(FULL, promoted, OMP_NUM_THREADS="1")
    assert json.loads(search("errors --json", promoted))["accuracy"]["value"] == result.val_accuracy
    assert folder.result.read_bytes() == before


@pytest.mark.parametrize(("width", "dark"), [(PHONE, True), (DESKTOP, False)], ids=["phone", "desktop"])
def test_a_browser_shows_its_report_and_its_dashboard_light_and_dark(
    promoted: Path, dashboard: str, browser: Browser, width: int, dark: bool
) -> None:
    page = shown(browser, run_folder(promoted).report, width, dark=dark)
    results = read_results(run_folder(promoted))
    charts = sum(len(make(results).figures) for make in ALL_CHARTS) + 3  # what the full run gets wrong has three
    check(page, charts, width, dark=dark)
    if width == DESKTOP:  # its reader wants the other colours now
        page.turn(dark=not dark)
        check(page, charts, width, dark=not dark)
    page = browser.load(f"{dashboard}/dashboard/studies/1", width=width, dark=dark)
    check_plots(page, dark=dark)


def test_a_finished_promotion_is_not_done_again(promoted: Path) -> None:
    (folder,) = run_folder(promoted).promotions()
    before = folder.checkpoint.stat().st_mtime_ns
    pictures = sorted(path.name for path in run_folder(promoted).artifacts.iterdir())
    assert len(pictures) == 2
    search(FULL, promoted, OMP_NUM_THREADS="1")
    assert sorted(path.name for path in run_folder(promoted).artifacts.iterdir()) == pictures
    assert folder.checkpoint.stat().st_mtime_ns == before


def test_a_promotion_killed_at_random_instants_ends_with_the_weights_of_one_that_was_not(
    promoted: Path, copy: Path
) -> None:
    generator = random.Random(0)
    for _ in range(3):
        process = start(FULL, copy, first=ALWAYS_SAVES, OMP_NUM_THREADS="1")
        wait_for(run_folder(copy).log, f"the top 1 for {EPOCHS} epochs")
        time.sleep(generator.uniform(0.05, 0.5))
        process.kill()
        process.communicate()
        run_folder(copy).log.write_text("")
    search(FULL, copy, OMP_NUM_THREADS="1")
    whole, pieces = final_weights(promoted), final_weights(copy)
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)
    assert result_of(copy).test_accuracy == result_of(promoted).test_accuracy


@pytest.mark.long
def test_candidates_are_promoted_several_at_a_time_as_they_would_be_one_by_one(copy: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(copy, tmp_path / "alone"))
    process = start(FULL.replace("--top 1", "--top 2 --workers 2"), copy)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert re.search(f"the top 2 for {EPOCHS} epochs, once each, on {THREADS}, 2 at a time", " ".join(out.split()))
    log = run_folder(copy).log.read_text()
    trainers = {line.split()[2] for line in log.splitlines() if f"epoch {EPOCHS}/{EPOCHS}" in line}
    assert len(trainers) == 2  # processes
    ours = {result.trial: result for result in finished(run_folder(copy))}
    assert len(ours) == 2
    assert all(result.test_accuracy is not None for result in ours.values())
    # Each of the two had half of the processors.
    search(FULL, alone, OMP_NUM_THREADS=str(max(1, len(os.sched_getaffinity(0)) // 2)))
    expected = result_of(alone)
    assert [result.val_loss for result in ours[expected.trial].history] == [
        result.val_loss for result in expected.history
    ]


def test_fidelity_trains_trials_at_length_and_answers_from_ladders_at_no_cost(tmp_path: Path) -> None:
    few = with_few(tmp_path)
    search(f"{SHORT} --trials 4 --epochs 1", few, OMP_NUM_THREADS="1")
    said = search("fidelity --trials 4 --epochs 4", few, OMP_NUM_THREADS="1")
    assert "4 trials of every score for 4 epochs" in said
    assert re.search(r"1 epoch +4 +(-?\d?\.\d\d|nan) ", said), said
    assert "Short runs of 1 epoch " in said
    runs = finished(run_folder(few))
    assert len(runs) == 4
    assert not any(run.tested for run in runs)
    again = search("fidelity --trials 0", few, OMP_NUM_THREADS="1")
    assert again.splitlines()[-6:-1] == said.splitlines()[-6:-1]
    assert "Can the short runs be trusted?" in run_folder(few).report.read_text()
    said = search("promote --ladder 2x4,1x5 --seeds 2 --refit", few, OMP_NUM_THREADS="1")
    assert "the top 2 for 4 epochs, the best 1 of those for 5, with 2 seeds each, then the winner" in said
    assert "2 seeds, mean and standard deviation: validation" in said
    assert "trained once more, also on the validation images: test" in said
    runs = finished(run_folder(few))
    assert {(run.recipe.epochs, run.tested) for run in runs} == {(4, False), (5, True)}


def test_a_signal_ends_a_promotion_after_the_epoch_and_it_ends_with_the_same_weights(
    promoted: Path, copy: Path
) -> None:
    process = start(FULL, copy, OMP_NUM_THREADS="1")
    wait_for(run_folder(copy).log, f"the top 1 for {EPOCHS} epochs")
    wait_for(run_folder(copy).log, f"epoch 1/{EPOCHS}")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    (folder,) = run_folder(copy).promotions()
    assert folder.checkpoint.exists()
    assert not folder.result.exists()
    search(FULL, copy, OMP_NUM_THREADS="1")
    whole, pieces = final_weights(promoted), final_weights(copy)
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


PHOTOS = """
data = "photos"
budget = 10_000
trials = 2
epochs = 1

[space]
stages = 3
blocks = 1
block = ["basic", "preact"]
k1 = 1
k2 = 3
shortcut = "conv"
shortcut_kernel = 1
stem_kernel = 1
stem_stride = 2
batch_size = 15
"""
"""A study of networks with 1x1 convolutions of stride 2; oneDNN's backward pass of these can end the process."""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a study of `photos`, JPEG files of two classes, of which the second is brighter."""
    generator = np.random.default_rng(0)
    for split, images in (("train", 25), ("test", 4)):
        for darkest, label in ((0, "night"), (100, "noon")):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for i in range(images):
                pixels = generator.integers(darkest, darkest + 150, size=(48, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    (tmp_path / "photos.toml").write_text(PHOTOS)
    return tmp_path


def test_photos_are_searched_and_promoted_in_odd_batches_with_the_threads_that_a_user_has(photos: Path) -> None:
    for command in ("run photos.toml --name digits-20k", "promote --top 1 --epochs 2"):
        process = start(command, photos)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, (command, process.returncode, err)
        assert bool(re.search(r"CPU, 1 thread\b", out)) == (len(os.sched_getaffinity(0)) == 1)
    assert [trial.outcome for trial in finished_trials(open_study(run_folder(photos)))] == ["complete"] * 2
    result = result_of(photos)
    assert result.recipe.batch_size == 15
    assert (result.network.stem_kernel, result.network.stem_stride, result.network.shortcut_kernel) == (1, 2, 1)
    assert result.test_images == 8
    assert all(0 < epoch.train_loss < 10 for epoch in result.history)
