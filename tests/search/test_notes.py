"""Notes and pictures for the dashboard: what they say, when they are written, and that nothing depends on them."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import optuna_dashboard
import pytest
from optuna.trial import TrialState

from search import notes
from search.formatting import percent
from search.identity import open_study
from search.notes import OURS, NotedEvents, publish, study_note
from search.optuna_access import fail
from search.results import headline, read_results
from search.run_folder import RunFolder, write_text
from tests.support.runs import SOON, make_run, network_of, promoted, raising, recipe_of, run_study, study_spec
from tests.support.trainers import FakeTrainer, Recorder
from train_core.errors import DivergedError
from train_core.specs import num_madds, num_params

SIZE = (32, 32)


def _everything(study: optuna.Study) -> notes._Storage:
    return notes._Storage(study, study._storage.get_study_system_attrs(study._study_id))


def notes_of(study: optuna.Study) -> dict[int, str]:
    """The notes of trials, without what says whose they are; those that have one."""
    storage = _everything(study)
    found = {
        trial.number: optuna_dashboard.get_note(notes._Trial(storage, study, trial._trial_id)) for trial in study.trials
    }
    return {number: note.removeprefix(OURS).strip() for number, note in found.items() if note}


def artifacts_of(folder: RunFolder, number: int) -> dict[str, str]:
    """The artifacts of a trial as the dashboard lists them: ids by file name."""
    from optuna_dashboard.artifact._backend import list_trial_artifacts

    study = open_study(folder)
    attributes = study._storage.get_study_system_attrs(study._study_id)
    found = list_trial_artifacts(attributes, {}, study.trials[number])
    assert all(each["mimetype"] == "image/svg+xml" for each in found)
    return {each["filename"]: each["artifact_id"] for each in found}


def noted_run(folder: RunFolder, trainer: FakeTrainer, **changes: Any) -> tuple[optuna.Study, Recorder]:
    folder.create()
    study, recorder = open_study(folder, create=True), Recorder()
    spec = study_spec(**changes)
    run_study(folder, spec, trainer, events=NotedEvents(study, spec.budget, recorder))
    return study, recorder


def test_each_trial_has_a_note_when_it_has_its_verdict(tmp_path: Path) -> None:
    def misbehave(run: int, epoch: int) -> None:
        raising(DivergedError("the loss was nan"), run=2)(run, epoch)
        raising(ValueError("no `<b>` *room*"), run=3, epoch=2)(run, epoch)

    trainer = FakeTrainer(lambda *_: 0.1 if len(trainer.runs) == 6 else 0.6, misbehave)
    study, recorder = noted_run(RunFolder(tmp_path / "run"), trainer, pruner=SOON)
    written = notes_of(study)
    assert list(written) == [trial.number for trial in recorder.ended] == [*range(6)]
    first = study.trials[0]
    assert written[0].splitlines()[:8] == [
        f"**{network_of(first)}**",
        "",
        str(recipe_of(first)),
        "",
        f"- verdict: complete, {percent(first.value or 0)} on validation",
        f"- parameters: {num_params(network_of(first)):,}, {percent(num_params(network_of(first)) / 20_000)} of the "
        "budget of 20,000",
        f"- multiply-adds for an image: {num_madds(network_of(first), SIZE):,}",
        "- training: 0 s, 4 epochs",
    ]
    assert "- verdict: failed or diverged: `diverged: the loss was nan`" in written[1]
    assert "- verdict: failed or diverged: `ValueError: no '<b>' *room*`" in written[2]
    assert study.trials[5].state == TrialState.PRUNED
    assert "- verdict: pruned, 2.50 % on validation: `below the median of its kind at epoch 1`" in written[5]


def test_a_note_that_cannot_be_written_ends_nothing_and_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    folder = make_run(tmp_path / "run", [])
    with monkeypatch.context() as broken, caplog.at_level(logging.WARNING):
        broken.setattr(optuna_dashboard, "save_note", fail)
        study, recorder = noted_run(folder, FakeTrainer(), trials=3)
        publish(folder, read_results(folder), SIZE)
    assert len(recorder.ended) == 3
    assert notes_of(study) == {}
    assert [record.message for record in caplog.records] == [
        "a trial's note could not be written (No space left on device): all else goes on",
        "the dashboard's notes and pictures could not be written (No space left on device): all else goes on",
    ]
    publish(folder, read_results(folder), SIZE)
    assert list(notes_of(study)) == [0, 1, 2]


def test_late_trials_have_no_note_but_for_those_promoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "MAX_NOTES", 1)
    folder = make_run(tmp_path / "run", [0.5, 0.6, 0.7])
    promoted(folder, 2)
    publish(folder, read_results(folder), SIZE)
    assert list(notes_of(open_study(folder))) == [0, 2]


def test_the_studys_note_has_answer_progress_and_what_comes_next(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "my_run", [0.5, 0.6])
    publish(folder, read_results(folder), SIZE)
    results = read_results(folder)
    note = optuna_dashboard.get_note(results.study)
    assert note == f"{OURS}\n\n{study_note(folder, results)}"
    assert f"**{headline(results).replace('[', chr(92) + '[')}**" in note
    assert "2 of 2 trials have ended (2 complete, 0 pruned, 0 failed or diverged)" in note
    assert "Next: `search promote my_run`." in note
    more = replace(results, spec=results.spec.model_copy(update={"trials": 3}))
    assert f"Next: `search run {folder.study_file} --name my_run`." in study_note(folder, more)
    promoted(folder, 1)
    assert "Next: `search export my_run`." in study_note(folder, read_results(folder))


def test_the_studys_note_says_why_optunas_best_trial_is_another_one(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.5, 0.6])
    promoted(folder, 1)
    assert "Optuna" not in study_note(folder, read_results(folder))
    promoted(folder, 0, val_accuracy=0.95)
    said = "Optuna's best trial is trial 1: it has the best short run (60.00 %). The full runs put trial 0 first, and"
    assert said in study_note(folder, read_results(folder))


def test_attempts_that_were_cut_off_say_as_which_trial_they_continue(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    study, spec = open_study(folder, create=True), study_spec(trials=2, epochs=3)
    events = NotedEvents(study, spec.budget, Recorder())
    with pytest.raises(KeyboardInterrupt):
        run_study(folder, spec, FakeTrainer(misbehave=raising(KeyboardInterrupt(), run=1, epoch=3)), events=events)
    write_text(folder.study_file, spec.as_toml())
    publish(folder, read_results(folder), SIZE)
    failed = "Optuna shows it as failed; it does not count, and says nothing about its network."
    cut_off = "This attempt was cut off after 2 epochs: `interrupted`;"
    assert notes_of(study) == {0: f"{cut_off} `search run` runs it again. {failed}"}
    optuna_dashboard.save_note(notes._Trial(_everything(study), study, study.trials[0]._trial_id), "Mine.")
    run_study(folder, spec, FakeTrainer(), events=events)
    written = notes_of(study)
    assert written[0] == f"Mine.\n\n{OURS}\n\n{cut_off} it is continued as trial 1. {failed}"
    assert "- continues trial 0, which was cut off" in written[1]
    assert "cut off" not in written[2]
    publish(folder, read_results(folder), SIZE)
    before = study._storage.get_study_system_attrs(study._study_id)
    publish(folder, read_results(folder), SIZE)
    assert study._storage.get_study_system_attrs(study._study_id) == before


def test_a_trial_that_was_not_trained_says_why(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.5])
    study = open_study(folder)
    again = study.ask()
    fail(study, again._trial_id, "the same as trial 0")
    publish(folder, read_results(folder), SIZE)
    assert notes_of(study)[1].startswith("This trial was not trained: `the same as trial 0`. Optuna shows it as failed")


def test_promoted_trials_have_curves_and_networks_once(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.5, 0.6])
    promoted(folder, 1)
    promoted(folder, 1, seed=1, val_accuracy=None, diverged="the loss was nan", history=())
    refit = promoted(folder, 1).model_copy(update={"refit": True, "val_accuracy": None, "test_accuracy": 0.83})
    write_text(folder.promotion(1, 5, 0, refit=True).result, refit.model_dump_json())
    publish(folder, read_results(folder), SIZE)
    made = artifacts_of(folder, 1)
    assert sorted(made) == ["trial-1-epochs-5-seed-0-learning-curve.svg", "trial-1-network.svg"]
    assert {path.name for path in folder.artifacts.iterdir()} == set(made.values())
    curve = made["trial-1-epochs-5-seed-0-learning-curve.svg"]
    assert "Trial 1, seed 0, 5 epochs" in (folder.artifacts / curve).read_text()
    assert artifacts_of(folder, 0) == {}
    study = open_study(folder)
    note = notes_of(study)[1]
    for said in (
        "- 5 epochs, seed 0: 90.00 % on validation, 80.00 % on test; 12 s of training",
        "- 5 epochs, seed 1: diverged, 80.00 % on test; 12 s of training",
        "- 5 epochs, seed 0: trained also on the validation images, 83.00 % on test; 12 s of training",
        *(f"![{name}](/artifacts/{study._study_id}/2/{artifact})" for name, artifact in made.items()),
    ):
        assert said in note, said
    before = (
        study._storage.get_study_system_attrs(study._study_id),
        {path: path.stat().st_mtime_ns for path in folder.artifacts.iterdir()},
    )
    publish(folder, read_results(folder), SIZE)
    after = (
        study._storage.get_study_system_attrs(study._study_id),
        {path: path.stat().st_mtime_ns for path in folder.artifacts.iterdir()},
    )
    assert after == before


def test_lost_pictures_come_back_and_deleted_ones_do_not(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.5])
    promoted(folder, 0)
    publish(folder, read_results(folder), SIZE)
    curve, network = (artifacts_of(folder, 0)[name] for name in sorted(artifacts_of(folder, 0)))
    (folder.artifacts / curve).unlink()
    (folder.artifacts / network).unlink()
    study = open_study(folder)
    # As the dashboard does where somebody deletes it.
    study._storage.set_study_system_attr(study._study_id, f"dashboard:artifacts:1:{network}", "null")
    publish(folder, read_results(folder), SIZE)
    assert [path.name for path in folder.artifacts.iterdir()] == [curve]
    assert "network.svg" not in notes_of(study)[0]


def test_what_somebody_writes_into_a_note_stays(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.5])
    study = open_study(folder)
    optuna_dashboard.save_note(study, "Ask Ada about this one.")
    publish(folder, read_results(folder), SIZE)
    promoted(folder, 0)
    publish(folder, read_results(folder), SIZE)
    note = optuna_dashboard.get_note(study)
    assert note.startswith(f"Ask Ada about this one.\n\n{OURS}\n\n**The best network")
    assert note.count(OURS) == 1
    assert "90.00 % on validation" in note


def test_notes_name_the_limit_on_multiply_adds(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.5], max_madds=900_000)
    publish(folder, read_results(folder), SIZE)
    study = open_study(folder)
    madds = num_madds(network_of(study.trials[0]), SIZE)
    said = f"- multiply-adds for an image: {madds:,}, {percent(madds / 900_000)} of the limit of 900,000\n"
    assert said in notes_of(study)[0]
    assert NotedEvents(study, 20_000, Recorder()).max_madds == 900_000
    assert "within 20,000 parameters and 900,000 multiply-adds" in optuna_dashboard.get_note(study)
