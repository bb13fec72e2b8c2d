"""Account for the wall time that interpretability costs inside a run.

Times are host times without device synchronisation: on a GPU they show what the host spends,
so that measuring never slows the run down.
"""

import contextlib
import time
import weakref
from collections.abc import Iterator


class Stopwatch:
    """Sums seconds per named activity; nested activities are charged to the outer one only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.started = time.perf_counter()
        self._running = False

    @contextlib.contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Charge the time inside the block to `activity`."""
        if self._running:
            yield
            return
        self._running = True
        start = time.perf_counter()
        try:
            yield
        finally:
            self._running = False
            self.seconds[activity] = self.seconds.get(activity, 0.0) + time.perf_counter() - start

    def total(self) -> float:
        """Seconds charged so far, over all activities."""
        return sum(self.seconds.values())


_STOPWATCHES: "weakref.WeakKeyDictionary[object, Stopwatch]" = weakref.WeakKeyDictionary()


def stopwatch_of(owner: object) -> Stopwatch:
    """The stopwatch of a trainer (or any other object), made at first use."""
    if owner not in _STOPWATCHES:
        _STOPWATCHES[owner] = Stopwatch()
    return _STOPWATCHES[owner]
