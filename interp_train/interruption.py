"""Ctrl-C and SIGTERM as one exception, so that a run ends in order and can be resumed."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(BaseException):
    """The user or the system asked the process to end.

    Not a `KeyboardInterrupt`, which Lightning turns into an exit of its own.

    Attributes:
        signum: the signal.
        exit_code: what a shell expects of a process that ended by it: 130 or 143.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum
        self.exit_code = 128 + signum


@contextlib.contextmanager
def interruptions_raised() -> Iterator[None]:
    """Inside the block the first SIGINT or SIGTERM raises `Interrupted`; a second one kills.

    Does nothing outside of the main thread, where signals cannot be caught.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {signum: signal.getsignal(signum) for signum in signals}

    def raise_interrupted(signum: int, frame: FrameType | None) -> None:
        for caught in signals:
            signal.signal(caught, signal.SIG_DFL)
        raise Interrupted(signum)

    for signum in signals:
        signal.signal(signum, raise_interrupted)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
