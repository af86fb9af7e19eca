"""The output of `search predict`: a progress bar, and an error line for each image that has no answer."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from search.bars import bars_below
from search.predict import Prediction, Predictions
from search.terminal import console


class Answers:
    """Iterates over the answers, one per image. Images without an answer are named on standard error."""

    def __init__(self, predictions: Predictions, bar: Progress) -> None:
        self.failed = 0
        self._predictions = predictions
        self._bar = bar
        self._task = bar.add_task("images", total=len(predictions), note="")

    def __iter__(self) -> Iterator[Prediction]:
        """Yield the answers."""
        for prediction in self._predictions:
            if prediction.error is not None:
                self.failed += 1
                self._bar.console.print(Text(f"search: {prediction}"))
            yield prediction
            self._bar.advance(self._task)


@contextmanager
def answering(predictions: Predictions) -> Iterator[Answers]:
    """The answers, with a bar on standard error if it is a terminal and the answers are not printed to one."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    with bars_below(errors, is_shown=errors.is_terminal and not console.is_terminal) as bar:
        yield Answers(predictions, bar)
