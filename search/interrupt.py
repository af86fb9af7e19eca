"""Ctrl-C, and SIGTERM as a cluster sends it: once to stop where little is lost, twice to stop at once."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

NOTICE = b"\nsearch: stopping; press Ctrl-C again to stop immediately\n"


def end_on_sigterm() -> None:
    """Have SIGTERM do what Ctrl-C does, for a command that can be given again; ignored, it stays so.

    Left as it is, it would end the process without a word, and nothing at all that is the first one of a container.
    """
    if signal.getsignal(signal.SIGTERM) != signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextmanager
def stop_requested(is_live: Callable[[], bool] = lambda: False) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether a signal has asked to stop, to be called where stopping is cheap.

    The first signal is answered at once by `NOTICE`, unless `is_live` says that a live view is drawn: it would paint
    over the line, and shows by itself that the command stops.

    The first signal is only noted; after it, the handlers are again those from before. An exception, which Python's
    own handler would raise wherever the program happens to be, is lost where that is a finalizer. A signal that is
    ignored, as Ctrl-C is by what a shell script starts with `&`, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may set handlers: a notebook's worker thread has its own ways
        return
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        restore()
        if not is_live():
            with suppress(OSError):  # nobody reads it, as after `search run 2>&1 | head -1`
                os.write(2, NOTICE)  # print and logging may be in the middle of something

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(received)
    finally:
        restore()
