"""Ctrl-C, and SIGTERM as a cluster sends it: the first stops where little is lost, the second stops at once."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

NOTICE = b"\nsearch: stopping; press Ctrl-C again to stop immediately\n"


def end_on_sigterm() -> None:
    """Make SIGTERM act like Ctrl-C, for a command that can be continued; if it is ignored, it stays ignored.

    By default, SIGTERM would end the process without a message, or do nothing to the first process of a container.
    """
    if signal.getsignal(signal.SIGTERM) != signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextmanager
def stop_requested(is_live: Callable[[], bool] = lambda: False) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether a signal has asked to stop; call it where stopping is cheap.

    The first signal prints `NOTICE` at once, unless `is_live` says that a live view is drawn: it would paint over the
    line, and itself shows that the command is stopping.

    The first signal is only recorded; after it, the earlier handlers are active again. Python's own handler would raise
    an exception at any point, which is lost inside a finalizer. A signal that is ignored, such as Ctrl-C in a process
    that a shell script starts with `&`, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may set handlers: a notebook interrupts its threads itself
        return
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        restore()
        if not is_live():
            with suppress(OSError):  # nobody reads it, for example after `search run 2>&1 | head -1`
                os.write(2, NOTICE)  # print and logging may be in use at this moment

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
