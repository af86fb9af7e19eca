"""Trains the rows of a report exactly as published, next to the printed results."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from search.between import Watcher
from search.checkpoints import Save
from search.errors import SpecError
from search.long_run import finish, train_to_end
from search.published import Protocol, Reproduction
from search.run_folder import RunFolder, write_text
from search.storage import write_with_retries
from train_core.data import Split, TrainingData
from train_core.loop import evaluate
from train_core.results import EpochResult
from train_core.specs import ResNetSpec, TrainSpec, num_params


@dataclass(frozen=True, kw_only=True)
class Reproducer:
    """Trains networks by published recipes, continuing from a checkpoint if there is one, and tests them.

    Held out: a validation split is kept from training, and the test split is read once, when a network is finished.
    All images: the validation images are trained on as well, and the test split is read once, after the last epoch.
    As published: all training images are trained on, and the epoch that is best on the test split counts. That number
    is too high, because the images that judge it also chose it.
    """

    folder: RunFolder
    data: TrainingData
    load_test: Callable[[], Split | None]
    protocol: Protocol
    device_name: str
    save: Save
    stop: Callable[[], bool] = lambda: False  # returns whether to stop waiting for a full disk

    def train(
        self,
        row: str,
        network: ResNetSpec,
        recipe: TrainSpec,
        on_epoch: Callable[[EpochResult], None],
        watcher: Watcher = Watcher(),  # noqa: B008  # it is frozen
    ) -> Reproduction:
        """Train a row's network; a finished row is read back and not trained again.

        Raises:
            CheckpointError: the checkpoint is damaged, or belongs to another network or recipe.
            RunError: the result is damaged.
            SpecError: a choice by the test split is requested, but there is none.

        """
        if self.protocol != "held-out":
            keep = "best" if self.protocol == "published" else "last"  # with all images, no other epoch can be chosen
            recipe = recipe.model_copy(update={"keep": keep})
        folder = self.folder.reproduction(row, recipe.epochs, recipe.seed, self.protocol, self.data.fingerprint)
        if folder.result.exists():
            done = folder.read(Reproduction)
            if (done.network, done.recipe) == (network, recipe):
                return done
        data = self._data()
        state, diverged = train_to_end(
            folder, network, recipe, data, save=self.save, on_epoch=on_epoch, watcher=watcher
        )
        test = None if diverged or self.protocol == "published" else self._test()
        accuracy = None
        if test is not None:
            accuracy = evaluate(state.final_model, test, data.mean, data.std, recipe.precision).accuracy
        elif self.protocol == "published" and diverged is None:
            accuracy = state.final_result.val_accuracy
        done = Reproduction(
            row=row,
            network=network,
            recipe=recipe,
            protocol=self.protocol,
            parameters=num_params(network),
            accuracy=accuracy,
            val_accuracy=None if diverged or self.protocol != "held-out" else state.final_result.val_accuracy,
            epoch=None if diverged else state.final_result.epoch,
            seconds=sum(result.seconds for result in state.history),
            training_images=len(data.train),
            device=self.device_name,
            diverged=diverged,
            history=tuple(state.history),
        )
        text = done.model_dump_json(indent=2) + "\n"
        write_with_retries(lambda: write_text(folder.result, text), folder.result, self.stop)
        finish(folder)
        return done

    def _data(self) -> TrainingData:
        """The images to train on, and those to evaluate after every epoch."""
        if self.protocol == "held-out":
            return self.data
        if self.protocol == "all-images":
            return self.data.with_validation_in_training()
        test = self._test()
        if test is None:
            raise SpecError("these images have no test split to choose by: leave out --protocol published")
        return replace(self.data.with_validation_in_training(), val=test)

    def _test(self) -> Split | None:
        test = self.load_test()
        return None if test is None else test.to(self.data.train.images.device)
