import math
from dataclasses import replace

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.trial import TrialState
from scipy.stats import kendalltau, spearmanr

from search.console import fidelity_table
from search.fidelity import (
    Agreement,
    Fidelity,
    Pair,
    advice,
    agreement,
    measure,
    optimism,
    pick,
    shows_nothing,
    spearman_interval,
    standard_error,
)
from search.formatting import Interval, interval
from search.promotions import Promotion
from search.trials import records
from tests.support.runs import add_trial, network_of, recipe_of
from tests.support.trainers import epoch_result

SCORES = np.random.default_rng(3).uniform(0.4, 0.9, 12).round(3).tolist()
OPTIMIZERS = ["sgd", "adam", "adamw", "adam"] * 3


@pytest.fixture
def study() -> optuna.Study:
    made = optuna.create_study(direction="maximize")
    for score, optimizer in zip(SCORES, OPTIMIZERS, strict=True):
        add_trial(made, score, optimizer)
    add_trial(made, 0.99, "sgd", TrialState.PRUNED)
    return made


def longer(study: optuna.Study, number: int, accuracy: float | None, epochs: int = 40, seed: int = 0) -> Promotion:
    trial = study.trials[number]
    return Promotion(
        trial=number,
        seed=seed,
        network=network_of(trial),
        recipe=recipe_of(trial).model_copy(update={"epochs": epochs, "seed": seed}),
        parameters=1,
        multiply_adds=1,
        short_score=trial.value or 0,
        val_accuracy=accuracy,
        test_accuracy=None,
        test_images=0,
        seconds=1,
        device="",
        history=(epoch_result(1, 0.5),),
    )


def found(study: optuna.Study, promotions: list[Promotion], family: str | None = "optimizer") -> Fidelity | None:
    return measure(records(study), promotions, epochs=6, family=family, validation_images=1000)


def pairs(short: list[float], long: list[float]) -> list[Pair]:
    return [Pair(trial=i, family="all", short=a, long=b) for i, (a, b) in enumerate(zip(short, long, strict=True))]


def test_the_trials_picked_cover_all_scores_and_all_families(study: optuna.Study) -> None:
    picked = pick(records(study), 6, "optimizer")
    ranked = sorted(range(12), key=lambda number: SCORES[number])
    strata = [set(ranked[i : i + 2]) for i in range(0, 12, 2)]
    assert [trial.number in stratum for trial, stratum in zip(picked, strata, strict=True)] == [True] * 6
    assert {trial.recipe.optimizer for trial in picked} == {"sgd", "adam", "adamw"}
    assert len(pick(records(study), 20, None)) == 12


def test_correlations_are_those_of_scipy_and_spearmans_is_within_its_interval() -> None:
    long = [score + noise for score, noise in zip(SCORES, np.random.default_rng(0).normal(0, 0.1, 12), strict=True)]
    known = agreement(6, pairs(SCORES, long))
    assert known.spearman.value == pytest.approx(spearmanr(SCORES, long).statistic)
    assert known.kendall == pytest.approx(kendalltau(SCORES, long).statistic)
    assert -1 <= known.spearman.low < known.spearman.value < known.spearman.high <= 1


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("number", [4, 6, 12])
def test_the_interval_of_a_correlation_contains_it_in_93_of_100_cases_or_more(number: int, correlation: float) -> None:
    generator = np.random.default_rng(0)
    short, noise = generator.normal(size=(2, 1000, number))
    long = correlation * short + math.sqrt(1 - correlation**2) * noise
    true = 6 / math.pi * math.asin(correlation / 2)  # Spearman's, of normal values with this correlation
    ranks = (values.argsort(axis=1).argsort(axis=1) for values in (short, long))
    measured = 1 - 6 * np.square(np.subtract(*ranks)).sum(axis=1) / (number * (number**2 - 1))
    found = [spearman_interval(value, number) for value in measured]
    assert np.mean([each.low <= true <= each.high for each in found]) >= 0.93
    assert np.mean([each.low > true for each in found]) <= 0.03  # too sure that short runs rank


def test_perfect_and_reversed_ranks() -> None:
    up, down = agreement(6, pairs(SCORES, SCORES)), agreement(6, pairs(SCORES, [-score for score in SCORES]))
    assert [up.spearman.value, down.spearman.value] == pytest.approx([1, -1])
    assert list(up.regret.values()) == [0, 0, 0]
    assert down.regret[1] == pytest.approx(max(SCORES) - min(SCORES))
    assert (round(up.spearman.low, 2), up.spearman.high) == (0.97, 1)
    assert (down.spearman.low, round(down.spearman.high, 2)) == (-1, -0.97)


def test_four_trials_in_the_same_order_show_nothing() -> None:
    known = agreement(6, pairs(SCORES[:4], SCORES[:4])).spearman
    assert known.value == pytest.approx(1)
    assert known.high == 1
    assert known.low < -0.8


def test_regret_is_what_promoting_the_best_few_alone_loses() -> None:
    known = agreement(6, pairs([0.9, 0.8, 0.7, 0.6, 0.5], [0.70, 0.72, 0.71, 0.75, 0.60]))
    assert {top: round(regret, 3) for top, regret in known.regret.items()} == {1: 0.05, 3: 0.03}


def test_equal_scores_have_no_correlation() -> None:
    assert math.isnan(agreement(6, pairs([0.5] * 5, SCORES[:5])).spearman.value)


def test_it_answers_from_the_longest_runs_that_enough_trials_have(study: optuna.Study) -> None:
    promotions = [longer(study, number, SCORES[number] + 0.05) for number in range(8)]
    promotions += [longer(study, number, 0.9, epochs=200) for number in range(3)]
    known = found(study, promotions)
    assert known is not None
    assert (known.epochs, [each.epochs for each in known.lengths]) == (40, [6])
    assert known.short.spearman.value == pytest.approx(1)
    assert list(known.families) == ["adam"]  # four of them; two of each other
    assert not known.best_only


def test_rungs_in_between_are_compared_too(study: optuna.Study) -> None:
    promotions = [longer(study, number, 1 - SCORES[number], epochs=20) for number in range(12)]
    promotions += [longer(study, number, 1 - SCORES[number]) for number in range(12)]
    known = found(study, promotions)
    assert known is not None
    assert {each.epochs: round(each.spearman.value) for each in known.lengths} == {6: -1, 20: 1}
    assert (
        "do not rank this space (the rank correlation can be -1.00 to -0.97), 20 do: give --epochs 20 (and another "
        "--name), or promote more than the best 5" in advice(known)
    )
    assert fidelity_table(known).row_count == 3


def test_seeds_are_averaged_and_what_diverged_or_was_refitted_is_left_out(study: optuna.Study) -> None:
    promotions = [longer(study, number, SCORES[number]) for number in range(5)]
    promotions += [longer(study, 0, SCORES[0] + 0.02, seed=1), longer(study, 6, None)]
    known = found(study, promotions)
    assert known is not None
    assert [pair.trial for pair in known.short.pairs] == [0, 1, 2, 3, 4]
    assert known.short.pairs[0].long == pytest.approx(SCORES[0] + 0.01)


def test_the_best_alone_are_said_to_be_so(study: optuna.Study) -> None:
    best = sorted(range(12), key=lambda number: SCORES[number])[-5:]
    known = found(study, [longer(study, number, SCORES[number]) for number in best])
    assert known is not None
    assert advice(known).endswith(
        "these were the best by score alone, among which any short run ranks worse than over the whole range."
    )


def test_too_few_runs_give_no_answer(study: optuna.Study) -> None:
    assert found(study, [longer(study, number, 0.5) for number in range(3)]) is None


@pytest.mark.parametrize(
    ("spearman", "regrets", "words"),
    [
        ((0.8, 0.6, 0.9), {1: 0.001, 3: 0}, "rank this space well enough: promote the best 2."),
        (
            (0.7, 0.1, 0.9),
            {1: 0.1, 3: 0.001},
            "rank this space, but how well is uncertain (the rank correlation can be 0.10 to 0.90): promote the best "
            "6.",
        ),
        (
            (0.5, 0.1, 0.9),
            {1: 0.1, 3: 0.001},
            "rank this space in part only (the rank correlation can be 0.10 to 0.90): give --epochs 12 (and another "
            "--name), or promote the best 6.",
        ),
        (
            (0.3, -0.1, 0.59),
            {1: 0.1, 3: 0.05},
            "do not rank this space (the rank correlation can be -0.10 to 0.59): give --epochs 12 (and another "
            "--name), or promote more than the best 7.",
        ),
        (
            (0.8, -0.09, 1.0),
            {1: 0.1, 3: 0.001},
            "may rank this space or not: 12 trials cannot show it (the rank correlation can be -0.09 to 1.00); measure "
            "more (--trials 24), or promote the best 6.",
        ),
        (
            (math.nan, math.nan, math.nan),
            {1: 0.1, 3: 0.001},
            "may rank this space or not: 12 trials cannot show it (the rank correlation can be anything); measure more "
            "(--trials 24), or promote the best 6.",
        ),
    ],
)
def test_advice_says_what_the_interval_permits(
    spearman: tuple[float, float, float], regrets: dict[int, float], words: str
) -> None:
    known = Agreement(
        epochs=6,
        pairs=tuple(pairs(SCORES, SCORES)),
        spearman=Interval(*spearman),
        kendall=0.0,
        regret=regrets,
    )
    fidelity = Fidelity(epochs=40, lengths=(known,), families={}, best_only=False, complete=24, tolerance=0.01)
    assert advice(fidelity) == f"Short runs of 6 epochs {words}"
    assert shows_nothing(fidelity) == (not spearman[1] > 0)
    all_of_them = replace(fidelity, complete=12)
    assert ("search more trials and measure" in advice(all_of_them)) == ("measure more" in words)


def test_without_the_number_of_validation_images_no_number_to_promote_is_given(study: optuna.Study) -> None:
    promotions = [longer(study, number, SCORES[number]) for number in range(8)]
    known = measure(records(study), promotions, epochs=6, family=None, validation_images=None)
    assert known is not None
    assert known.tolerance is None
    assert "how many is not known, because the number of validation images is not known" in advice(known)


def accuracies(error: float, images: int, number: int) -> NDArray[np.float64]:
    """Measured accuracies of `number` networks with this error, in 20,000 simulated splits: [20000, number].

    Easy images are right for all networks. On hard ones, networks that were trained independently guess, each for
    itself, so that the errors of two have a correlation of 1/2.
    """
    generator, hard = np.random.default_rng(0), (1 + error) / 2
    counts = generator.binomial(images, error / hard, size=(20_000, 1))
    measured: NDArray[np.float64] = 1 - generator.binomial(counts, hard, size=(20_000, number)) / images
    return measured


@pytest.mark.parametrize(
    ("number", "images", "error"), [(2, 287, 0.1), (3, 287, 0.05), (3, 450, 0.02), (10, 100, 0.2), (200, 400, 0.3)]
)
def test_the_optimism_is_that_of_simulated_networks_of_equal_accuracy(number: int, images: int, error: float) -> None:
    mean_optimism = accuracies(error, images, number).max(axis=1).mean() - (1 - error)
    assert optimism(1 - error, images, number) == pytest.approx(mean_optimism, rel=0.1)


@pytest.mark.parametrize("error", [0.02, 0.1, 0.4])
def test_two_networks_differ_by_chance_as_much_as_the_standard_error_says(error: float) -> None:
    one, other = accuracies(error, 400, 2).T
    assert standard_error(1 - error, 400) == pytest.approx(one.std(), rel=0.03)
    assert standard_error(1 - error, 400) == pytest.approx((one - other).std(), rel=0.03)


def test_one_network_that_nothing_was_chosen_from_is_not_too_high() -> None:
    assert optimism(0.9, 100, 1) == 0


def test_an_interval_is_written_as_in_papers() -> None:
    assert interval(Interval(0.62, -0.1, 0.881)) == "0.62 (-0.10 to 0.88)"
