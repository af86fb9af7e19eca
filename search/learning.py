"""Learning from the user's own runs: their best configurations are the first trials of the next run."""

from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from typing import Any

from search.completion import run_folders
from search.errors import SpecError, UserError
from search.identity import open_study, spec_of
from search.promotions import Promotion, finished
from search.run_folder import RunFolder, find_run_to_read, read_facts
from search.spec import StudySpec
from search.starts import Configuration
from search.trials import TrialRecord, finished_trials, ranked

AUTO = "auto"  # instead of a name: all runs of the same space
FROM_A_RUN = 5  # configurations that are taken from each run


def runs_to_learn_from(spec: StudySpec, folder: RunFolder) -> tuple[str, ...]:
    """The names of the runs in the same folder that the study learns from: those that it names, or all of its space.

    Raises:
        SpecError: it names itself.
        RunError: a run that it names does not exist.

    """
    if folder.name in spec.learn_from:
        raise SpecError(f"--learn-from {folder.name}: a run cannot learn from itself: name another run")
    if AUTO not in spec.learn_from:
        for name in spec.learn_from:
            find_run_to_read(folder.root.parent, name, folder.storage)
        return spec.learn_from
    others = (root for root in run_folders(folder.root.parent).values() if root.name != folder.name)
    return tuple(root.name for root in others if _has_space_of(spec, RunFolder(root)))


def _has_space_of(spec: StudySpec, folder: RunFolder) -> bool:
    try:
        facts, other = read_facts(folder), spec_of(folder).space
    except UserError:
        return False
    size = facts.data.size if facts and facts.data else None
    return other == (spec.space.for_size(size) if size else spec.space)


def learned(spec: StudySpec, folder: RunFolder) -> list[Configuration]:
    """The best configurations of the runs that the study learns from: the best of each run first, then the second best.

    Raises:
        UserError: a run does not exist, or cannot be read.

    """
    others = [find_run_to_read(folder.root.parent, name, folder.storage) for name in spec.learn_from]
    in_turn = chain.from_iterable(zip_longest(*map(_best, others)))
    return [each for each in in_turn if each is not None]


def _best(folder: RunFolder) -> Sequence[Configuration]:
    """The best configurations of a run, of different networks: by their full runs if there are any, then short runs."""
    trials = {trial.number: trial for trial in finished_trials(open_study(folder))}
    promoted = [trials[run.trial] for run in _best_first(finished(folder)) if run.trial in trials]
    found: dict[str, Configuration] = {}
    for trial in [*promoted, *ranked(trials.values())]:
        if trial.is_decided and trial.network_words not in found:
            source = f"trial {trial.number} of {folder.name}"
            found[trial.network_words] = Configuration(source, _whole_draw(trial))
    return list(found.values())[:FROM_A_RUN]


def _best_first(runs: Iterable[Promotion]) -> list[Promotion]:
    """The longest runs first; if they are equally long, the best by their study's score."""
    reached = [(run.recipe.epochs, run.val_score, run) for run in runs if run.val_score is not None]
    return [run for _, _, run in sorted(reached, key=lambda each: each[:2], reverse=True)]


def _whole_draw(trial: TrialRecord) -> dict[str, Any]:
    """What a trial drew, and the fixed values of its study that decide whether another study can have it."""
    recipe = trial.recipe
    held = {"optimizer": recipe.optimizer, f"{recipe.optimizer}_lr": recipe.lr, "batch_size": recipe.batch_size}
    return {**held, "schedule": recipe.schedule, "block": trial.network.block, **trial.draw}
