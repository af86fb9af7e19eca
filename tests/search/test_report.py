"""The report says what the study's storage and the full runs' results say, at every stage, and loads nothing."""

import base64
import gzip
import itertools
import json
import random
import re
import shutil
import time
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import partial
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
import tomli_w
from optuna.trial import TrialState

from search import charts, parameter_charts, report
from search import results as results_room
from search.cautions import cautions
from search.data_shape import NAMED_SHAPES
from search.figures import Chart, ScoreAxis
from search.formatting import percent
from search.identity import open_study
from search.notes import trial_note
from search.promotions import best_run, winner
from search.report import write_report
from search.results import Results, headline, progress, read_results, remarks, thinned
from search.run_folder import RunFolder, write_text
from search.spec import StudySpec, load_study
from search.trials import TrialRecord, finished_trials
from tests.support.runs import (
    NEVER,
    SMALL_SPACE,
    distributions_of,
    ended,
    finished_trial,
    make_run,
    network_of,
    promoted,
    recipe_of,
    run_study,
    study_spec,
)
from tests.support.trainers import FakeTrainer, in_turn
from train_core.errors import DivergedError
from train_core.specs import ResNetSpec, TrainSpec, num_madds, num_params

pytestmark = pytest.mark.usefixtures("in_lines")


class Page(HTMLParser):
    """A page's words, the figures in it, and whatever it would load."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.figures: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []  # of all trials
        self._inside = ""
        self._words: list[str] = []
        self.html = write_report(folder).read_text(encoding="utf-8")
        self.feed(self.html)
        self.words = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        loads = (str(values[name]) for name in ("src", "href", "srcset", "data", "action") if name in values)
        self.loads += [each for each in loads if not each.startswith("#")]
        is_json = values.get("type") == "application/json"
        self._inside = (values.get("id") or "figure") if is_json else tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "figure":
            self.figures.append(json.loads(data))
        elif self._inside == "rows":
            self.rows = json.loads(data)["rows"]
        elif self._inside not in {"script", "style"}:
            self._words.append(data)


ALL_CHARTS = charts.ALL_CHARTS


def series(chart: Chart) -> dict[str, Any]:
    """A chart's series by name, those that show nothing left out."""
    assert chart.figure is not None
    return {trace["name"]: trace for trace in chart.figure.to_dict()["data"] if len(trace["x"])}


def test_history_shows_every_trial_by_its_verdict(mixed: RunFolder) -> None:
    shown = series(charts.history_chart(read_results(mixed)))
    trials = open_study(mixed).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED", "FAIL", "COMPLETE"]
    assert list(shown["complete"]["x"]) == [0, 1, 5]
    assert list(shown["complete"]["y"]) == [trials[i].value for i in (0, 1, 5)]
    assert list(shown["pruned"]["x"]) == [2]
    assert list(shown["pruned"]["y"]) == [trials[2].intermediate_values[1]]
    assert list(shown["failed or diverged"]["x"]) == [3, 4]
    low, _ = charts.history_chart(read_results(mixed)).figures[0].layout.yaxis.range
    assert set(shown["failed or diverged"]["y"]) == {low}, "no score: at the lower edge"
    assert list(shown["best so far"]["x"]) == [0, 5, 5]
    assert list(shown["best so far"]["y"]) == [trials[0].value, trials[5].value, trials[5].value]
    markers = [trace["marker"] for name, trace in shown.items() if name != "best so far"]
    assert len({marker["color"] for marker in markers}) == len({marker["symbol"] for marker in markers}) == 3


def test_hover_says_what_a_trial_was_and_came_to(mixed: RunFolder) -> None:
    shown = series(charts.history_chart(read_results(mixed)))
    trial = open_study(mixed).trials[0]
    lines = unescape(shown["complete"]["hovertext"][0]).split("<br>")
    assert lines == [
        "Trial 0",
        str(network_of(trial)),
        f"{num_params(network_of(trial)):,} parameters",
        str(recipe_of(trial)),
        "complete: 60.00 % on validation",
    ]
    assert shown["pruned"]["hovertext"][0].endswith("below the median of its kind at epoch 1")
    assert shown["failed or diverged"]["hovertext"][1].endswith("ValueError: no &lt;room&gt; left")


def test_interrupted_trials_are_left_out(mixed: RunFolder) -> None:
    study = open_study(mixed)
    trial = study.ask()
    trial.set_user_attr("reason", "interrupted")
    study.tell(trial, state=TrialState.FAIL)
    shown = series(charts.history_chart(read_results(mixed)))
    assert sorted(itertools.chain(*(trace["x"] for name, trace in shown.items() if name != "best so far"))) == [
        *range(6)
    ]
    assert "6 of 6 trials have ended (3 complete, 1 pruned, 2 failed or diverged)" in Page(mixed).words


PRINTED = "published, on the test split, chosen by it"


def test_size_chart_has_what_was_printed_of_networks_that_fit(mixed: RunFolder) -> None:
    results = read_results(mixed)
    assert PRINTED not in series(charts.size_chart(results))  # nothing of digits
    of_cifar = replace(results, spec=results.spec.model_copy(update={"data": "cifar10", "budget": 4_960_000}))
    drawn = series(charts.size_chart(of_cifar))[PRINTED]
    said = next(text for text in drawn["hovertext"] if "B2" in text)
    assert "4,918,602 parameters<br>95.67 % on the test split, as printed, after 50 epochs" in said
    assert max(drawn["x"]) <= 4_960_000


def test_size_chart_has_trials_front_budget_and_full_runs(mixed: RunFolder) -> None:
    full = promoted(mixed, 5)
    promoted(mixed, 0, val_accuracy=None, test_accuracy=None, diverged="the loss was nan")
    chart = charts.size_chart(read_results(mixed))
    shown = series(chart)
    complete = [open_study(mixed).trials[i] for i in (0, 1, 5)]
    assert set(zip(shown["short run"]["x"], shown["short run"]["y"], strict=True)) == {
        (num_params(network_of(trial)), trial.value) for trial in complete
    }
    assert list(shown["full run of 5 epochs"]["x"]) == [full.parameters]
    assert list(shown["full run of 5 epochs"]["y"]) == [full.val_accuracy]
    front = shown["best short run of its size or less (Pareto front)"]
    points = list(zip(front["x"], front["y"], strict=True))
    assert points == sorted(points)
    assert points[-1][1] == complete[-1].value
    for trial in complete:
        assert any(x <= num_params(network_of(trial)) and y >= (trial.value or 0) for x, y in points)
    assert chart.figure is not None
    assert chart.figure.layout.shapes[0].x0 == 20_000


def test_short_curves_are_the_reported_epochs(mixed: RunFolder) -> None:
    shown = series(charts.short_curves_chart(read_results(mixed)))
    trials = open_study(mixed).trials
    assert list(shown["best"]["x"]) == [1, 2, 3, None]
    assert list(shown["best"]["y"]) == [*trials[5].intermediate_values.values(), None]
    assert list(shown["complete"]["y"]) == [
        *trials[0].intermediate_values.values(),
        None,
        *trials[1].intermediate_values.values(),
        None,
    ]
    assert list(shown["ended early"]["x"]) == [1, None] * 3
    assert shown["ended early"]["opacity"] < 0.5


def test_full_curves_and_losses_are_the_histories(mixed: RunFolder) -> None:
    first, second = promoted(mixed, 5), promoted(mixed, 0, seed=1, val_accuracy=0.5)
    made = read_results(mixed)
    for chart, solid, dashed in (
        (charts.full_curves_chart(made), "val_accuracy", "train_accuracy"),
        (charts.full_losses_chart(made), "val_loss", "train_loss"),
    ):
        (figure,) = chart.figures
        traces = [trace for trace in figure.data if trace.x]
        assert [trace.showlegend for trace in traces] == [True, False] * 2
        for i, run in enumerate((first, second)):
            assert traces[2 * i].name == f"trial {run.trial}, seed {run.seed}, 5 epochs"
            for trace, field, dash in zip(traces[2 * i :], (solid, dashed), ("solid", "dash"), strict=False):
                assert list(trace.x) == [epoch.epoch for epoch in run.history]
                assert list(trace.y) == [getattr(epoch, field) for epoch in run.history]
                assert trace.line.dash == dash
            assert traces[2 * i].line.color == traces[2 * i + 1].line.color


def test_rungs_are_told_apart(mixed: RunFolder) -> None:
    promoted(mixed, 5, epochs=5, val_accuracy=0.9)
    promoted(mixed, 5, epochs=4, val_accuracy=0.85)
    promoted(mixed, 0, epochs=4, val_accuracy=0.8)
    made = read_results(mixed)
    sizes, curves = series(charts.size_chart(made)), series(charts.full_curves_chart(made))
    long, short = (sizes[f"full run of {epochs} epochs"] for epochs in (5, 4))
    assert (list(long["y"]), sorted(short["y"])) == ([0.9], [0.8, 0.85])
    assert long["marker"]["symbol"] != short["marker"]["symbol"]
    assert list(curves) == ["trial 5, 5 epochs", "trial 5, 4 epochs", "trial 0, 4 epochs"]


def test_no_two_named_curves_look_the_same_and_the_others_are_faint(mixed: RunFolder) -> None:
    for seed in range(8):
        promoted(mixed, 5, seed=seed, epochs=2)
    (figure,) = charts.full_curves_chart(read_results(mixed)).figures
    others, *named = figure.data
    assert list(others.x) == [1, 2, None] * 2
    assert len({(trace.line.color, trace.line.dash) for trace in named}) == len(named) == 12
    assert others.line.color not in {trace.line.color for trace in named}


def test_full_runs_with_several_seeds_are_points_with_their_range(mixed: RunFolder) -> None:
    for seed, accuracy in enumerate((0.80, 0.84, 0.85)):
        promoted(mixed, 5, seed=seed, val_accuracy=accuracy)
    chart = charts.size_chart(read_results(mixed))
    (point,) = [series(chart)["full run of 5 epochs"]]
    assert point["y"] == pytest.approx([0.83])
    assert point["error_y"]["array"] == pytest.approx([0.02])
    assert point["error_y"]["arrayminus"] == pytest.approx([0.03])
    assert point["hovertext"][0].endswith("3 seeds, mean and standard deviation: 83.00 ± 2.65 %")
    assert "Bars: from the lowest to the highest of several seeds." in chart.words


def panels(chart: Chart) -> dict[str, Any]:
    """A chart's small figures by their titles."""
    return {panel.layout.title.text: panel for panel in chart.panels}


def test_slices_have_a_panel_for_each_parameter_with_the_trials_that_use_it(tmp_path: Path) -> None:
    drawn = {**SMALL_SPACE, "adamw_lr": {"low": 1e-4, "high": 1e-1, "log": True}}
    spec = study_spec(space=drawn, trials=24, pruner=NEVER, portfolio=False)
    results = read_results(make_run(tmp_path / "run", spec=spec, trainer=FakeTrainer()))
    shown = panels(parameter_charts.slices_chart(results))
    assert len(shown) == 12
    by_number = {trial.number: trial for trial in results.trials}
    for name, panel in shown.items():
        others, best = panel.data
        assert list(best.y) == [results.complete[0].score]
        points = [*zip([*best.x, *others.x], [*best.hovertext, *others.hovertext], strict=True)]
        for x, said in points:
            trial = by_number[int(re.findall(r"trial (\d+):", said)[0])]
            assert name in results.used_by(trial)
            if panel.layout.xaxis.ticktext and panel.layout.xaxis.type != "log":  # strips
                label = panel.layout.xaxis.ticktext[round(x)]
                value = trial.draw[name]
                assert label == parameter_charts._in_words(value)
                assert abs(x - round(x)) < 0.301
            else:
                assert x == trial.draw[name]


def test_rates_of_other_optimizers_are_no_points(tmp_path: Path) -> None:
    rates = {"low": 1e-4, "high": 1e-1, "log": True}
    space = {**SMALL_SPACE, "adamw_lr": rates, "sgd_lr": rates, "blocks": 1, "growth": 2.0, "k1": 3}
    spec = study_spec(space=space, trials=24, pruner=NEVER, portfolio=False)
    results = read_results(make_run(tmp_path / "run", spec=spec, trainer=FakeTrainer()))
    shown = panels(parameter_charts.slices_chart(results))
    for optimizer in ("sgd", "adamw"):
        panel = shown[f"{optimizer}_lr"]
        of_its_own = [
            trial.draw[f"{optimizer}_lr"] for trial in results.complete if trial.recipe.optimizer == optimizer
        ]
        assert sorted(x for trace in panel.data for x in trace.x) == sorted(of_its_own)
        assert panel.layout.xaxis.type == "log"
        assert 2 <= len(panel.layout.xaxis.tickvals) <= 5
        low, high = panel.layout.xaxis.range
        assert 10**low < min(of_its_own)
        assert max(of_its_own) < 10**high


def test_the_panels_that_are_drawn_are_the_most_important(mixed: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameter_charts, "MAX_PANELS", 2)
    monkeypatch.setattr(results_room, "PER_PARAMETER", 0)
    made = read_results(mixed)
    chart = parameter_charts.slices_chart(made)
    assert list(panels(chart)) == [name for name in made.importances if name in panels(chart)]
    assert re.search(r"Drawn: 2 of \d+ parameters, the most important\.", chart.words)


def test_few_trials_are_not_thinned_and_many_are(mixed: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def points() -> set[int]:
        drawn = parameter_charts.slices_chart(read_results(mixed)).panels
        return {sum(len(trace.x) for trace in panel.data) for panel in drawn}

    assert points() == {3}
    monkeypatch.setattr(parameter_charts, "MAX_IN_PANEL", 2)
    monkeypatch.setattr(parameter_charts, "FEWEST", 2)
    assert points() == {2}


def test_an_axis_of_scores_shows_the_top() -> None:
    many = [0.1, 0.2, *(0.9 + i / 1000 for i in range(98))]
    axis = ScoreAxis.of(many)
    assert 0.89 < axis.low < 0.91
    assert max(many) < axis.high < 1.01
    assert axis.below == sum(value < axis.low for value in many)
    assert axis.words == f" Of 100 values, {axis.below} lie below the axis: a double-click shows all."
    few = ScoreAxis.of([0.1, 0.9])
    assert few.low < 0.1
    assert few.words == ""
    assert ScoreAxis.of([0.2, 0.9], fit=[0.9]).low > 0.2
    assert ScoreAxis.of([0.2, 0.9], fit=[]).low < 0.2


@pytest.mark.parametrize(
    ("seconds", "unit", "longest"),
    [(50, "Seconds", 50), (1200, "Minutes", 20), (7200, "Hours", 2), (864_000, "Days", 10)],
)
def test_times_have_the_unit_that_fits(mixed: RunFolder, seconds: float, unit: str, longest: float) -> None:
    promoted(mixed, 5, seconds=seconds)
    (figure,) = charts.time_chart(read_results(mixed)).figures
    assert figure.layout.xaxis.title.text == unit
    assert figure.data[0].x[-1] == longest


def test_time_is_told_by_what_it_was_spent_on(mixed: RunFolder) -> None:
    promoted(mixed, 5, seconds=3600)
    chart = charts.time_chart(read_results(mixed))
    assert chart.figure is not None
    bars = chart.figure.data[0]
    assert list(bars.y) == [
        "3 short runs, complete",
        "1 short run, pruned",
        "2 short runs, failed or diverged",
        "1 full run of 5 epochs",
    ]
    assert bars.x[-1] == 60
    assert chart.figure.layout.xaxis.title.text == "Minutes"
    short = sum(trial.seconds or 0 for trial in finished_trials(open_study(mixed)))
    assert sum(bars.x) == pytest.approx(60 + short / 60)


def test_the_page_says_how_to_get_the_same_again(mixed: RunFolder) -> None:
    write_text(
        mixed.facts,
        json.dumps({"promoted": ["search promote mixed --ladder 3x200"], "data": {"fingerprint": "abc123"}}),
    )
    words = Page(mixed).words
    assert "search run study.toml --name mixed search promote mixed --ladder 3x200" in words
    assert "data fingerprint abc123" in words
    assert "seed of split, sampler and training 0" in words
    write_text(
        mixed.facts, json.dumps({"promoted": ["search promote mixed --top 2", "search promote mixed --ladder 3x200"]})
    )
    said = "search run study.toml --name mixed search promote mixed --top 2 search promote mixed --ladder 3x200"
    assert said in Page(mixed).words


@pytest.fixture
def many(tmp_path: Path) -> Results:
    """A study of two optimizers with enough trials to learn from."""
    space = {**SMALL_SPACE, "optimizer": ["sgd", "adamw"], "adamw_lr": {"low": 1e-4, "high": 1e-1, "log": True}}
    space |= {"blocks": 1, "growth": 2.0, "k1": 3, "schedule": "cosine", "stages": 2}
    spec = study_spec(space=space, trials=40, pruner=NEVER, portfolio=False)

    def score(network: ResNetSpec, recipe: TrainSpec) -> float:
        return 0.5 + min(num_params(network), 20_000) / 50_000

    return read_results(make_run(tmp_path / "many", spec=spec, trainer=FakeTrainer(score=score)))


def test_importances_have_a_spread_and_leave_out_what_most_trials_do_not_use(many: Results) -> None:
    started = time.process_time()
    shares = many.importances
    assert time.process_time() - started < 5  # one, on a machine that does nothing else
    assert next(iter(shares)) == "budget_fraction"
    assert all(0 <= share.low <= share.value <= share.high <= 1 for share in shares.values())
    assert shares["budget_fraction"].low < shares["budget_fraction"].high
    using = {name: sum(name in many.used_by(trial) for trial in many.complete) / 40 for name in many.usage}
    assert {name for name, share in using.items() if share >= 0.5} == set(shares)
    assert set(many.usage) - set(shares) == {name for name in ("sgd_lr", "adamw_lr") if using[name] < 0.5}
    chart = parameter_charts.importance_chart(many)
    (figure,) = chart.figures
    (bars,) = figure.data
    assert dict(zip(bars.y, bars.x, strict=True)) == {name: share.value for name, share in shares.items()}
    assert list(bars.error_x.array) == [share.high - share.value for share in shares.values()]
    assert "the mean over 8 resamples of 40 trials each, of 40 complete ones." in chart.words


def test_importances_of_few_trials_are_not_drawn(mixed: RunFolder) -> None:
    chart = parameter_charts.importance_chart(read_results(mixed))
    assert not chart.figures
    assert re.fullmatch(
        r"Not known: 3 complete trials are too few for \d+ parameters\. It takes 5 for each, \d+ in all\.", chart.words
    )


@pytest.mark.parametrize("scores", [[0.5], [0.5, 0.5, 0.5]], ids=["one trial", "equal scores"])
def test_importances_are_not_known(tmp_path: Path, scores: list[float | Exception]) -> None:
    chart = parameter_charts.importance_chart(read_results(make_run(tmp_path / "run", scores)))
    assert chart.figure is None
    assert chart.words.startswith("Not known: it takes complete trials of different scores")


def test_the_winner_is_chosen_on_validation_and_its_test_accuracy_told_apart(mixed: RunFolder) -> None:
    promoted(mixed, 0, val_accuracy=0.91, test_accuracy=0.88)
    promoted(mixed, 1, val_accuracy=0.90, test_accuracy=0.99)
    words = Page(mixed).words
    network = network_of(open_study(mixed).trials[0])
    size = num_params(network)
    assert (
        f"The best network found for digits within 20,000 parameters is {network}. Trained for 5 epochs, it reaches "
        "91.00 % on validation, by which it was chosen; 88.00 % on the 360 test images, which had no part in the "
        "choice." in words
    )
    assert f"Parameters {size:,} {percent(size / 20_000)} of 20,000" in words
    row = f"0 {network} {size:,} {recipe_of(open_study(mixed).trials[0]).optimizer} 0 5 60.00 % 91.00 % 88.00 % 12"
    assert row in words


def test_the_report_of_a_search_that_draws_mixed_images_names_what_the_best_trial_has(
    tmp_path: Path, in_lines: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {**SMALL_SPACE, "mix": ["cutmix", "ricap"], "policy": ["none", "trivial-augment"]}
    folder = make_run(tmp_path / "run", [0.5, 0.6, 0.7, 0.4], spec=study_spec(space=drawn))
    best = recipe_of(open_study(folder).trials[2])
    assert best.mix in best.method
    assert f"mixed images {best.mix}, alpha " in Page(folder).words
    monkeypatch.setattr(parameter_charts, "MAX_PANELS", 100)
    assert "mix" in panels(parameter_charts.slices_chart(read_results(folder)))


def test_the_report_and_the_notes_name_sharpness_aware_steps(mixed: RunFolder) -> None:
    run = promoted(mixed, 0, asam=0.5)
    words = Page(mixed).words
    assert "Trained for 5 epochs with asam 0.5, it reaches 90.00 % on validation" in words
    assert "They took sharpness-aware steps (asam 0.5)." in words
    note = trial_note(TrialRecord(open_study(mixed).trials[0]), 20_000, full_runs=[run])
    assert "5 epochs, seed 0, asam 0.5: 90.00 % on validation" in note
    promoted(mixed, 0)
    words = Page(mixed).words
    assert "Trained for 5 epochs, it reaches" in words
    assert "sharpness" not in words


def test_the_winner_is_the_best_over_its_seeds_among_the_longest_runs(mixed: RunFolder) -> None:
    promoted(mixed, 0, seed=0, val_accuracy=0.9, test_accuracy=0.8)
    promoted(mixed, 0, seed=1, val_accuracy=0.5, test_accuracy=0.4)
    promoted(mixed, 1, seed=0, val_accuracy=0.8, test_accuracy=0.6)
    promoted(mixed, 1, seed=1, val_accuracy=0.8, test_accuracy=0.7)
    promoted(mixed, 5, epochs=4, val_accuracy=0.99)
    made = read_results(mixed)
    assert [(each.trial, each.seed) for each in winner(made.promotions)] == [(1, 0), (1, 1)]
    assert "it reaches 80.00 ± 0.00 % (mean and standard deviation of 2 seeds) on validation" in headline(made)
    assert "by which it was chosen; 65.00 ± 7.07 % on the 360 test images" in headline(made)


def test_the_models_that_read_the_test_split_are_counted(mixed: RunFolder) -> None:
    said = "The test split was read for"
    promoted(mixed, 0, epochs=4, tested=False, test_accuracy=None, test_images=0)
    assert said not in Page(mixed).words
    promoted(mixed, 1, test_accuracy=None, test_images=0)  # tested, but the data has no test split
    assert said not in Page(mixed).words
    run = promoted(mixed, 5, seed=0)
    assert f"{said} 1 model; the more" in Page(mixed).words
    promoted(mixed, 5, seed=1, mirrored_test_accuracy=0.82)
    refit = run.model_copy(update={"refit": True, "val_accuracy": None})
    write_text(mixed.promotion(5, 5, 0, refit=True).result, refit.model_dump_json())
    assert f"{said} 3 models; the more are read, the less the best of them means." in Page(mixed).words


def with_validation_images(folder: RunFolder, number: int) -> RunFolder:
    """The run, whose `run.json` says that it has so many validation images."""
    write_text(folder.facts, json.dumps({"data": {"validation_images": number}}))
    return folder


def test_a_second_that_the_validation_images_do_not_tell_apart_is_named(mixed: RunFolder) -> None:
    promoted(mixed, 0, val_accuracy=0.9)
    promoted(mixed, 1, val_accuracy=0.893)
    promoted(mixed, 5, epochs=4, val_accuracy=0.9)
    # One standard error is 0.43 points with 5,000 images, and 0.30 with 10,000.
    said = "Trial 1 is within 0.70 points of it on validation: 5,000 images do not tell the two apart."
    assert Page(with_validation_images(mixed, 5_000)).words.count(said) == 1
    assert "tell the two apart" not in "".join(remarks(read_results(with_validation_images(mixed, 10_000))))


def test_with_few_validation_images_noise_and_flattery_are_said(mixed: RunFolder) -> None:
    few, enough = (partial(with_validation_images, mixed, number) for number in (287, 500))
    said = (
        "287 validation images: differences under 5 points are noise. The validation accuracy of the best of 3 is "
        "likely up to 1.7 points too high."
    )
    assert said in Page(few()).words  # 70 % of the short run, of three that are complete
    assert "noise" not in "".join(cautions(read_results(enough())))
    promoted(mixed, 0, val_accuracy=0.9)
    assert "too high" not in cautions(read_results(few()))[0]  # a choice from one
    promoted(mixed, 1, val_accuracy=0.8)
    said = (
        "differences under 4 points are noise. The validation accuracy of the best of 2 is likely up to 0.7 points too"
    )
    assert said in Page(few()).words
    assert "noise" not in "".join(cautions(read_results(enough())))
    promoted(mixed, 0, val_accuracy=1.0)
    assert cautions(read_results(few()))[0].endswith("differences under 1 point are noise.")


def test_one_finalist_is_never_tied(mixed: RunFolder) -> None:
    promoted(mixed, 0, seed=0, val_accuracy=0.9)
    promoted(mixed, 0, seed=1, val_accuracy=0.9)
    promoted(mixed, 1, val_accuracy=None, test_accuracy=None, diverged="the loss was nan")
    assert "tell the two apart" not in "".join(remarks(read_results(with_validation_images(mixed, 100))))


def test_a_diverged_seed_counts_nothing_in_the_choice_and_is_told(mixed: RunFolder) -> None:
    untested: dict[str, Any] = {"tested": False, "test_accuracy": None, "test_images": 0}
    for seed, accuracy in enumerate((0.9, 0.92)):
        promoted(mixed, 0, seed=seed, val_accuracy=accuracy)
        promoted(mixed, 1, seed=seed, val_accuracy=accuracy + 0.01)
    promoted(mixed, 0, seed=2, val_accuracy=0.9)
    promoted(mixed, 1, seed=2, val_accuracy=None, diverged="the loss was nan", **untested)
    promoted(mixed, 5, val_accuracy=0.99, **untested)
    made = read_results(mixed)
    assert {run.trial for run in winner(made.promotions)} == {0}
    assert "diverged" not in " ".join(remarks(made))
    made = replace(made, promotions=[run for run in made.promotions if run.trial == 1])
    assert "1 of 3 seeds diverged, and is not in these numbers." in remarks(made)
    promoted(mixed, 1, seed=3, val_accuracy=None, diverged="the loss was nan", **untested)
    both = [run for run in read_results(mixed).promotions if run.trial == 1]
    assert "2 of 4 seeds diverged, and are not in these numbers." in remarks(replace(made, promotions=both))


def test_a_limit_on_multiply_adds_is_told_beside_the_budget(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.5], max_madds=900_000)
    network = network_of(open_study(folder).trials[0])
    size, madds = num_params(network), num_madds(network, 32)
    words = Page(folder).words
    assert "found for digits within 20,000 parameters and 900,000 multiply-adds is" in words
    assert f"Multiply-adds {madds:,} {percent(madds / 900_000)} of 900,000" in words
    run = promoted(folder, 0)
    words = Page(folder).words
    assert "Parameters Multiply-adds Optimizer" in words
    assert f"{network} {size:,} {run.multiply_adds:,} {run.recipe.optimizer}" in words


def test_progress_counts_short_and_longer_runs(mixed: RunFolder) -> None:
    promoted(mixed, 0, seconds=3600)
    promoted(mixed, 1, seconds=7200)
    said = progress(read_results(mixed))
    assert said.endswith(" s of training. 2 full runs are done, after 3.0 h of training: 3.0 h in all.")


def test_numbers_are_promised_to_the_last_bit_only_where_they_are(mixed: RunFolder) -> None:
    write_text(mixed.facts, json.dumps({"device": "CPU, 1 thread"}))
    assert "these commands give the same numbers again, to the last bit: search run" in Page(mixed).words
    promoted(mixed, 0, device="CPU, 2 threads")
    assert "not the same numbers: parts of it were made on CPU, 1 thread and CPU, 2 threads." in Page(mixed).words
    promoted(mixed, 0, device="NVIDIA H100")
    said = "not the same numbers: on CPU, 1 thread and NVIDIA H100, sums are not the same to the last bit each time."
    assert said in Page(mixed).words


def test_trials_that_were_trained_side_by_side_are_not_drawn_again(mixed: RunFolder) -> None:
    results = read_results(mixed)
    assert not report._overlapping(results.trials)
    first, second = results.trials[:2]
    first.optuna.datetime_complete = second.optuna.datetime_complete
    assert report._overlapping(results.trials)
    write_text(mixed.facts, json.dumps({"device": "CPU, 1 thread"}))
    assert "several workers searched at once" in write_report(mixed, results).read_text()


def test_data_without_a_test_split_says_so(mixed: RunFolder) -> None:
    promoted(mixed, 0, test_accuracy=None, test_images=0)
    page = Page(mixed)
    assert "was never tested: this data has no test split" in page.words
    assert "90.00 % no test split" in page.words


def test_only_diverged_full_runs_leave_the_short_score(mixed: RunFolder) -> None:
    promoted(mixed, 5, val_accuracy=None, test_accuracy=None, diverged="the loss was nan")
    words = Page(mixed).words
    assert "Its short run of 3 epochs reached 70.00 % on validation." in words
    assert "Every full run so far diverged. Short runs find the good third" in words
    assert "70.00 % diverged diverged" in words


def test_before_any_trial(tmp_path: Path) -> None:
    page = Page(make_run(tmp_path / "run", []))
    assert "No trial has ended yet: for digits within 20,000 parameters, no network is known so far." in page.words
    assert "0 of 1 trial has ended" in page.words
    assert page.figures == []
    for words in (
        "No trial is complete yet.",
        "No trial has finished an epoch yet.",
        "No full run is done yet",
        "Not known: it takes complete trials of different scores, and there are 0 complete trials",
    ):
        assert words in page.words


def test_one_trial(tmp_path: Path) -> None:
    page = Page(make_run(tmp_path / "run", [0.5]))
    assert "Its short run of 3 epochs reached 50.00 % on validation" in page.words
    assert "(1 complete, 0 pruned, 0 failed or diverged)" in page.words
    assert len(page.figures) == 4


def test_only_failed_trials(tmp_path: Path) -> None:
    page = Page(make_run(tmp_path / "run", [DivergedError("nan"), ValueError("<out> of memory")]))
    assert "No trial is complete yet: for digits" in page.words
    assert "All of them failed or diverged, the last with: ValueError: <out> of memory." in page.words
    assert len(page.figures) == 3


def test_a_baseline_is_named_and_escaped(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [])
    study = open_study(folder)
    spec = StudySpec(data="digits", budget=20_000, trials=1, epochs=3)
    study.enqueue_trial({}, user_attrs={"baseline": "</script><b>lenet"})
    run_study(folder, spec, FakeTrainer(in_turn([0.5])))
    page = Page(folder)
    known = page.figures[0]["data"][1]
    assert known["hovertext"][0].startswith("Trial 0, the baseline &lt;/script&gt;&lt;b&gt;lenet<br>")
    assert known["text"] == ["&lt;/script&gt;&lt;b&gt;lenet"]


def test_known_networks_have_labels_where_there_is_room_and_the_lost_are_counted(mixed: RunFolder) -> None:
    results = read_results(mixed)
    for trial in results.trials:
        trial.optuna.user_attrs["baseline"] = f"net-{trial.number}"
    best, close = results.complete[:2]
    close.optuna.user_attrs["parameters"], close.optuna.value = best.parameters, (best.score or 0) - 0.001
    chart = charts.size_chart(results)
    assert list(series(chart)["short run of a baseline"]["text"]) == ["net-5", "", "net-1"]
    assert "Baselines have their names where there is room; hover over the others." in chart.words
    assert "Of 6 baselines, not drawn: 1 pruned, 2 failed or diverged." in chart.words


def test_the_answer_names_the_data_and_not_where_it_lies(tmp_path: Path) -> None:
    page = Page(make_run(tmp_path / "run", [0.5], data="/home/someone/photos"))
    assert "The best network found for photos within 20,000 parameters" in page.words


def test_what_users_name_is_escaped(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a <b> run", [0.5], data="<img src=x onerror=alert(1)>.npz")
    write_text(
        folder.facts,
        json.dumps({"data": {"classes": ["<script>cat", "dog & co"], "test_split": False}, "commit": None}),
    )
    page = Page(folder)
    assert page.loads == []
    assert "<script>cat, dog & co" in page.words
    assert "data test split no" in page.words
    assert "search run study.toml --name 'a <b> run'" in page.words


def test_the_scatter_has_each_trial_short_and_long_and_says_what_it_means(measured: RunFolder) -> None:
    made = read_results(measured)
    chart = charts.fidelity_chart(made)
    points = sorted((x, y) for trace in series(chart).values() for x, y in zip(trace["x"], trace["y"], strict=True))
    trials = made.study.trials
    assert points == sorted([(trials[0].value, 0.8), (trials[1].value, 0.85), (trials[5].value, 0.9)])
    assert "3 trials, each short and long: Spearman's rank correlation is 0.50 (" in chart.words
    assert "Short runs of 3 epochs may rank this space or not: 3 trials cannot show it" in chart.words
    assert chart.words.endswith("because the number of validation images is not known).")  # there is no run.json


def test_without_longer_runs_the_report_says_how_to_measure(mixed: RunFolder) -> None:
    chart = charts.fidelity_chart(read_results(mixed))
    assert chart.figure is None
    assert "`search fidelity`" in chart.words


def test_a_refit_has_a_row_and_a_number_of_its_own_and_no_curve(mixed: RunFolder) -> None:
    run = promoted(mixed, 5)
    refit = run.model_copy(update={"refit": True, "val_accuracy": None, "test_accuracy": 0.83})
    write_text(mixed.promotion(5, 5, 0, refit=True).result, refit.model_dump_json())
    page = Page(mixed)
    assert "Trained once more, also on the validation images, it reaches 83.00 % on test." in page.words
    assert "trained on 83.00 %" in page.words
    assert "without the validation images, except those marked as trained on them." in page.words
    assert list(series(charts.full_curves_chart(read_results(mixed)))) == ["trial 5, 5 epochs"]


def test_seeds_come_with_their_deviation_and_rungs_are_not_tested(mixed: RunFolder) -> None:
    for seed, accuracy in enumerate((0.80, 0.84)):
        promoted(mixed, 5, seed=seed, test_accuracy=accuracy)
    promoted(mixed, 0, epochs=4, tested=False, test_accuracy=None)
    words = Page(mixed).words
    assert "90.00 ± 0.00 % (mean and standard deviation of 2 seeds) on validation" in words
    assert "by which it was chosen; 82.00 ± 2.83 % on the 360 test images" in words
    assert "not read" in words


def test_a_best_run_that_is_not_tested_yet_is_said_to_be_so(mixed: RunFolder) -> None:
    promoted(mixed, 0, tested=False, test_accuracy=None, test_images=0)
    assert "is not tested yet: search promote reads the test split" in Page(mixed).words


def test_full_runs_that_are_not_tested_never_hide_a_network_that_is(mixed: RunFolder) -> None:
    untested: dict[str, Any] = {"tested": False, "test_accuracy": None, "test_images": 0}
    promoted(mixed, 1, epochs=6, val_accuracy=0.95, **untested)  # by `search fidelity`
    assert [run.trial for run in winner(read_results(mixed).promotions)] == [1]
    run = promoted(mixed, 5)
    promoted(mixed, 0, val_accuracy=0.99, **untested)
    made = read_results(mixed)
    assert winner(made.promotions) == [run]
    assert best_run(made.promotions) == run
    said = "1 longer full run is not tested and not compared with it: `search promote` tests the runs of its last rung."
    assert said in remarks(made)
    tested = promoted(mixed, 1, epochs=6, val_accuracy=0.95)
    made = read_results(mixed)
    assert winner(made.promotions) == [tested]
    assert "not compared" not in "".join(remarks(made))


def test_a_control_that_lies_beside_is_compared_and_one_of_other_data_is_not(mixed: RunFolder) -> None:
    assert "Compared with simpler searches" not in Page(mixed).words
    control = make_run(mixed.root.parent / "mixed-random", [0.55, 0.5], sampler="random")
    promoted(mixed, 5, val_accuracy=0.9, test_accuracy=0.88)
    promoted(mixed, 5, seed=1, val_accuracy=0.92, test_accuracy=0.88)
    make_run(mixed.root.parent / "mixed-one-epoch", [0.3], budget=10_000, epochs=1)
    words = Page(mixed).words
    complete = sum(len(trial.intermediate_values) for trial in ended(open_study(mixed)))
    assert "Compared with simpler searches" in words
    assert f"this search 6 {complete + 10} 70.00 % 91.00 ± 1.41 % 88.00 ± 0.00 %" in words
    assert "random (sampler random, portfolio false) 2 6 55.00 % not promoted yet none" in words
    assert "one-epoch" not in words
    shutil.rmtree(control.root)


def test_a_study_that_lets_short_runs_choose_regularisers_is_warned_of(tmp_path: Path, mixed: RunFolder) -> None:
    space = {"cutout": [0, 8], "label_smoothing": [0.0, 0.1]}
    folder = make_run(tmp_path / "all", [0.5], space=space, short_run_images="all")
    assert "Short runs choose label_smoothing, cutout here: on all images they prefer less" in Page(folder).words
    on_part = make_run(tmp_path / "part", [0.5], space=space)
    assert "Short runs choose" not in Page(on_part).words
    assert "after 3 epochs on 2% of the images, each seen 200 times" in Page(on_part).words
    assert "Short runs choose" not in Page(mixed).words


def test_a_study_that_flips_digits_is_warned_of(tmp_path: Path) -> None:
    said = "The space flips images, but a mirror image of digits can be of another class"
    assert said in Page(make_run(tmp_path / "flips", [0.5])).words
    assert said in Page(make_run(tmp_path / "may-flip", [0.5], space={"flip": [False, True]})).words
    assert "flips images" not in Page(make_run(tmp_path / "never", [0.5], space={"flip": False})).words
    assert "flips images" not in Page(make_run(tmp_path / "other", [0.5], data="stl10")).words


def test_the_page_is_whole_by_itself(measured: RunFolder) -> None:
    page = Page(measured)
    assert page.loads == []
    assert len(page.figures) == sum(len(make(read_results(measured)).figures) for make in ALL_CHARTS)
    packed = re.search(r"id=plotly>([^<]+)<", page.html)
    assert packed
    assert gzip.decompress(base64.b64decode(packed[1])).decode().count("plotly.js v") == 1
    assert len(page.html) < 2.5e6
    assert not re.search(r"@import|url\(", page.html.split("</style>")[0])


def test_figures_in_the_page_are_the_charts(mixed: RunFolder) -> None:
    made = read_results(mixed)
    drawn = [figure for make in ALL_CHARTS for figure in make(made).figures]
    assert Page(mixed).figures == [json.loads(figure.to_json()) for figure in drawn]


@pytest.mark.parametrize("content", [None, "{ broken"], ids=["missing", "damaged"])
def test_facts_that_cannot_be_read_are_said_to_be_so(tmp_path: Path, content: str | None) -> None:
    folder = make_run(tmp_path / "run", [0.5])
    if content is not None:
        write_text(folder.facts, content)
    words = Page(folder).words
    assert "run.json missing, or cannot be read" in words
    assert "Not drawn: the size of the images is not known." in words


@pytest.mark.parametrize("make", charts.CHARTS, ids=lambda make: make.__name__)
def test_long_studies_are_thinned_and_say_so(
    make: Callable[[Results], Chart], measured: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "MAX_POINTS", 2)
    for name in ("MAX_BARS", "MAX_PANELS"):
        monkeypatch.setattr(parameter_charts, name, 4)
    monkeypatch.setattr(results_room, "PER_PARAMETER", 0)
    made = read_results(measured)
    chart = make(made)
    assert re.search(r"Drawn: \d of \d+ ", chart.words)
    assert chart.figures
    assert [trial.number for trial in ended(made.study)] == [trial.number for trial in made.trials]


def test_ten_thousand_trials_of_the_default_space_fit_into_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of a hundred; `python -m benchmarks.overhead report` has them in a database, and learns from more."""
    monkeypatch.setattr(results_room, "MAX_LEARNT", 30)
    monkeypatch.setattr(parameter_charts, "MAX_LEARNT", 30)
    spec, generator = load_study("cifar10", {"trials": 10_000}), random.Random(0)
    study = optuna.create_study()
    distributions = distributions_of(study, spec)
    study.add_trials([finished_trial(generator, distributions, spec, NAMED_SHAPES["cifar10"]) for _ in range(100)])
    trials = [copy(trial) for trial in study.get_trials(states=[TrialState.COMPLETE]) for _ in range(100)]
    for i, trial in enumerate(trials):
        trial.number, trial.value = i, generator.uniform(0.5, 0.9)
    folder = RunFolder(tmp_path / "cifar10-5M")
    write_text(folder.study_file, tomli_w.dumps(spec.model_dump(mode="json", exclude_none=True)))
    results = Results(
        name="cifar10-5M", spec=spec, study=study, trials=[TrialRecord(trial) for trial in trials], promotions=[]
    )
    started = time.process_time()
    page = write_report(folder, results)
    assert time.process_time() - started < 15  # three, on a machine that does nothing else
    assert page.stat().st_size < 5e6
    words = page.read_text(encoding="utf-8")
    assert "10,000 of 10,000 trials have ended (10,000 complete" in words
    assert "the mean over 8 resamples of 30 trials each, of 10,000 complete ones." in words
    assert "10,000" in words


def test_thinned_keeps_the_ends() -> None:
    assert thinned(range(5), 5) == [0, 1, 2, 3, 4]
    assert thinned(range(1000), 3)[0::2] == [0, 999]
    assert len(thinned(range(3001), 2000)) == len(set(thinned(range(3001), 2000))) == 2000
    assert thinned(range(9), 1) == [0, 8]
    assert thinned([], 1) == []


def test_a_report_is_replaced(mixed: RunFolder) -> None:
    write_text(mixed.report, "old")
    assert write_report(mixed) == mixed.report
    assert mixed.report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not [path for path in mixed.root.iterdir() if path.name.startswith(".report")]
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR


def test_a_search_that_draws_mixed_images_and_a_policy_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameter_charts, "MAX_PANELS", 100)
    drawn: dict[str, Any] = {"mix": ["none", "cutmix"], "policy": ["none", "trivial-augment"], "mix_share": [0.5, 1.0]}
    drawn |= {"stages": 2, "block": "basic", "k1": 3, "k2": 3, "optimizer": "sgd"}  # so that an axis is left for each
    spec = StudySpec.model_validate(
        {"data": "digits", "budget": 20_000, "trials": 24, "epochs": 2, "seed": 1, "space": drawn}
    )
    folder = make_run(tmp_path / "run", spec=spec, trainer=FakeTrainer())
    results = read_results(folder)
    page = Page(folder)
    recipes = [str(trial.recipe) for trial in results.complete]
    for words in (" epochs on 1% of the images, cutmix", ", cutmix, trivial-augment", " images, trivial-augment"):
        assert any(recipe.endswith(words) for recipe in recipes), words
    hovers = json.dumps(page.figures)
    assert all(recipe in hovers for recipe in recipes)
    assert panels(parameter_charts.slices_chart(results))["mix"].layout.xaxis.ticktext == ("cutmix", "none")
    assert "on 1% of the images" in headline(results)  # regularisers are drawn
