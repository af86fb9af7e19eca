from collections.abc import Sequence

import optuna
import pytest
from optuna.trial import TrialState

from search.errors import RunError, SpecError
from search.ladder import FAMILIES, Rung, choose, climb, family_of, parse_ladder
from search.trials import TrialRecord, records
from tests.support.runs import add_trial, recipe_of


@pytest.fixture
def study() -> optuna.Study:
    made = optuna.create_study(direction="maximize", study_name="here")
    for score, optimizer in ((0.70, "sgd"), (0.90, "adam"), (0.88, "adam"), (0.60, "adamw"), (0.72, "sgd")):
        add_trial(made, score, optimizer)
    add_trial(made, 0.99, "sgd", TrialState.PRUNED)
    add_trial(made, 0.99, "sgd", TrialState.FAIL)
    return made


def scored(study: optuna.Study) -> list[tuple[TrialRecord, float]]:
    return [(TrialRecord(trial), trial.value or 0.0) for trial in study.trials[:5]]


@pytest.mark.parametrize(
    ("top", "family", "chosen"),
    [
        (1, "optimizer", [1]),
        (3, "optimizer", [1, 4, 3]),
        (4, "optimizer", [1, 4, 3, 2]),
        (5, "optimizer", [1, 4, 3, 2, 0]),
        (3, None, [1, 2, 4]),
        (2, "block", [1, 2]),  # all of one kind
    ],
)
def test_the_best_of_each_family_comes_first_then_the_score_decides(
    study: optuna.Study, top: int, family: str | None, chosen: list[int]
) -> None:
    assert [trial.number for trial in choose(scored(study), top, family)] == chosen


def test_asking_for_more_than_there_are_names_how_many_there_are(study: optuna.Study) -> None:
    with pytest.raises(RunError, match=r"^6 trials are wanted, but 5 are complete: ask for fewer$"):
        choose(scored(study), 6, None)
    with pytest.raises(RunError, match=r"^2 trials are wanted, but 1 is complete: ask for fewer$"):
        choose(scored(study)[:1], 2, None)
    with pytest.raises(RunError, match=r"^1 trial is wanted, but 0 are complete: ask for fewer$"):
        choose([], 1, None)


def test_every_family_key_can_be_read_from_a_trial(study: optuna.Study) -> None:
    values = [family_of(TrialRecord(study.trials[0]), key) for key in ("optimizer", "block", "flip")]
    assert values == ["sgd", "basic", str(recipe_of(study.trials[0]).augment.flip)]
    assert all(isinstance(family_of(TrialRecord(study.trials[0]), key), str) for key in FAMILIES)


def test_a_ladder_is_read_as_it_is_written() -> None:
    assert parse_ladder("8x60, 3x200") == (Rung(top=8, epochs=60), Rung(top=3, epochs=200))
    assert str(Rung(top=8, epochs=60)) == "8x60"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8", r"^ladder '8': '8' is no rung: write trials x epochs, as in 8x60,3x200$"),
        ("0x60", "'0x60' is no rung"),
        ("8x60,", "'' is no rung"),
        ("8x60,9x200", r"^ladder '8x60,9x200': 9x200 after 8x60 must have more epochs, and no more trials$"),
        ("8x60,3x60", "3x60 after 8x60 must have more epochs"),
    ],
)
def test_what_is_no_ladder_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_ladder(text)


def climbed(study: optuna.Study, ladder: str, later: dict[int, float], family: str | None = "optimizer") -> list[int]:
    """The trials of the last rung, and the check that each rung trained what the one below gave it."""

    def train(trials: Sequence[TrialRecord], epochs: int) -> list[float]:
        return [later[trial.number] + epochs / 1e4 for trial in trials]

    return [trial.number for trial in climb(records(study), parse_ladder(ladder), family, train)]


def test_a_ladder_of_one_rung_keeps_each_family_s_best(study: optuna.Study) -> None:
    assert climbed(study, "3x200", {}) == [1, 4, 3]


def test_the_last_of_several_rungs_goes_by_score_alone(study: optuna.Study) -> None:
    later = {1: 0.80, 4: 0.95, 3: 0.70, 2: 0.90}
    assert climbed(study, "4x60,2x200", later) == [4, 2]


def test_a_rung_between_keeps_each_family_s_best(study: optuna.Study) -> None:
    later = {1: 0.80, 4: 0.95, 3: 0.10, 2: 0.90, 0: 0.94}
    assert climbed(study, "5x30,3x60,1x200", later) == [4]
    trained: list[tuple[int, int]] = []

    def train(trials: Sequence[TrialRecord], epochs: int) -> list[float]:
        trained.extend((trial.number, epochs) for trial in trials)
        return [later[trial.number] for trial in trials]

    climb(records(study), parse_ladder("5x30,3x60,1x200"), "optimizer", train)
    assert trained == [(number, 30) for number in (1, 4, 3, 2, 0)] + [(number, 60) for number in (4, 2, 3)]
