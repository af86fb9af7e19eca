"""The answers of `search predict` on their way to the output: a bar, and a line for each image without an answer."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from search.bars import bars_below
from search.predict import Prediction, Predictions
from search.terminal import console


class Answers:
    """The answers for images, one by one. Those that have none are named on standard error."""

    def __init__(self, predictions: Predictions, bar: Progress) -> None:
        self.failed = 0
        self._predictions = predictions
        self._bar = bar
        self._task = bar.add_task("images", total=len(predictions), note="")

    def __iter__(self) -> Iterator[Prediction]:
        """Pass the answers on."""
        for prediction in self._predictions:
            if prediction.error is not None:
                self.failed += 1
                self._bar.console.print(Text(f"search: {prediction}"))
            yield prediction
            self._bar.advance(self._task)


@contextmanager
def answering(predictions: Predictions) -> Iterator[Answers]:
    """Answers with a bar on standard error where that is a terminal, and where the answers do not show up in one."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    with bars_below(errors, is_shown=errors.is_terminal and not console.is_terminal) as bar:
        yield Answers(predictions, bar)
