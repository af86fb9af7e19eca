"""Trains a trial's network in a full run. The only reader of the test split, once per finished model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from search.between import Watcher
from search.checkpoints import Save
from search.errors import RunError
from search.long_run import finish, train_to_end
from search.promotions import Promotion
from search.run_folder import PromotionFolder, RunFolder, write_text
from search.storage import write_with_retries
from search.trials import TrialRecord
from train_core import checkpoint
from train_core.data import Split, TrainingData
from train_core.inference import predict, seen_batch
from train_core.loop import evaluate, latency
from train_core.predictions import Predictions, SeenBatch
from train_core.results import EpochResult, Score
from train_core.specs import TrainSpec, num_madds, num_params
from train_core.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Promoter:
    """Trains full runs of a run's trials, from their checkpoints where there are any, and tests what is finished."""

    folder: RunFolder
    data: TrainingData
    load_test: Callable[[], Split | None]
    device_name: str
    mirrored: bool = False  # also test on averages over mirror images
    asam: float = 0.0  # the radius of sharpness-aware steps; 0: plain steps
    score: Score = "accuracy"  # the score that the study compares networks by
    save: Save = checkpoint.save
    stop: Callable[[], bool] = lambda: False  # returns whether to stop waiting for a full disk

    def train(
        self,
        trial: TrialRecord,
        epochs: int,
        seed: int,
        on_epoch: Callable[[EpochResult], None],
        watcher: Watcher = Watcher(),  # noqa: B008  # it is frozen
        *,
        tests: bool = True,
        refit: bool = False,
    ) -> Promotion:
        """Train the trial's network for `epochs`; then, if `tests`, read the test split.

        A finished run is read back and not trained again; a diverged run counts as finished. `refit`: the validation
        images are trained on as well, so only the test split can score it.

        Raises:
            CheckpointError: the checkpoint is damaged, or belongs to another study.
            RunError: the result is damaged, or belongs to another study.

        """
        folder = self.folder.promotion(trial.number, epochs, seed, refit=refit)
        changes = {"epochs": epochs, "seed": seed, "data_fraction": 1.0, "asam": self.asam}
        recipe = trial.recipe.model_copy(update=changes)
        if folder.result.exists():
            run = folder.read(Promotion)
            if (run.network, run.recipe) != (trial.network, recipe):
                raise RunError(
                    f"{folder.result} is of another network or recipe: delete {folder.root} to train this one"
                )
        else:
            run = self._train(trial, recipe, folder, on_epoch, watcher, refit=refit)
        if not (run.refit or run.diverged or folder.predictions("val").exists()) and checkpoint.exists(
            folder.checkpoint
        ):
            # From a version that did not store them.
            self._predict_validation(checkpoint.load(folder.checkpoint, self.data.train.images.device), folder)
        missing = not run.tested or (self.mirrored and run.test_images and run.mirrored_test_accuracy is None)
        if tests and missing and run.diverged is None:
            run = self._test(run, folder)
        return run

    def _train(
        self,
        trial: TrialRecord,
        recipe: TrainSpec,
        folder: PromotionFolder,
        on_epoch: Callable[[EpochResult], None],
        watcher: Watcher,
        *,
        refit: bool,
    ) -> Promotion:
        assert trial.score is not None  # only complete trials are promoted
        network, data = trial.network, self.data.with_validation_in_training() if refit else self.data
        state, diverged = train_to_end(
            folder, network, recipe, data, save=self.save, on_epoch=on_epoch, watcher=watcher
        )
        final = None if diverged or refit else state.final_result
        run = Promotion(
            trial=trial.number,
            seed=recipe.seed,
            network=network,
            recipe=recipe,
            parameters=num_params(network),
            multiply_adds=num_madds(network, data.size),
            score=self.score,
            short_score=trial.score,
            val_accuracy=None if final is None else final.val_accuracy,
            val_balanced=None if final is None else final.val_balanced,
            test_accuracy=None,
            tested=False,
            refit=refit,
            test_images=0,
            seconds=sum(result.seconds for result in state.history),
            device=self.device_name,
            diverged=diverged,
            history=tuple(state.history),
        )
        if run.val_accuracy is not None:
            self._predict_validation(state, folder)  # before the result: if there is a result, there are predictions
        self._write(run, folder)
        finish(folder)
        return run

    def _predict_validation(self, state: TrainState, folder: PromotionFolder) -> None:
        """Store the trained network's predictions for the validation images."""
        predictions = predict(state.final_model, self.data.val, self.data, state.recipe.precision)
        self._store(predictions, folder.predictions("val"))

    def _test(self, run: Promotion, folder: PromotionFolder) -> Promotion:
        """The full run with its network's accuracies on the test split."""
        data = self.data.with_validation_in_training() if run.refit else self.data
        state = checkpoint.load(folder.checkpoint, data.train.images.device)
        test = self.load_test()
        measured: dict[str, float] = {}
        if test is not None:
            split = test.to(data.train.images.device)
            precision = run.recipe.precision
            if run.test_accuracy is None or not folder.predictions("test").exists():
                plain = predict(state.final_model, split, data, precision)
                self._store(plain, folder.predictions("test"))
                if run.test_accuracy is None:  # if the mirrored accuracy is asked for later, the plain one stays
                    measured |= {"test_accuracy": plain.accuracy, "test_balanced": plain.balanced}
            if self.mirrored:
                mirrored = evaluate(state.final_model, split, data.mean, data.std, precision, mirrored=True)
                measured |= {
                    "mirrored_test_accuracy": mirrored.accuracy,
                    "mirrored_test_balanced": mirrored.balanced,
                }
        run = run.model_copy(
            update={
                "tested": True,
                "test_images": len(test) if test is not None else 0,
                "latency_s": run.latency_s or latency(state.final_model, (data.in_channels, *data.size)),
                **measured,
            }
        )
        self._write(run, folder)
        return run

    def draw_batch(self, run: Promotion) -> None:
        """Store a training batch as the network of a full run sees it: augmented, and mixed if the recipe says so."""
        folder = self.folder.promotion(run.trial, run.recipe.epochs, run.seed, refit=run.refit)
        if not folder.batch.exists():
            self._store(seen_batch(self.data, run.recipe), folder.batch)

    def _store(self, what: Predictions | SeenBatch, path: Path) -> None:
        write_with_retries(lambda: what.write(path), path, self.stop)

    def _write(self, run: Promotion, folder: PromotionFolder) -> None:
        text = run.model_dump_json(indent=2) + "\n"
        write_with_retries(lambda: write_text(folder.result, text), folder.result, self.stop)
