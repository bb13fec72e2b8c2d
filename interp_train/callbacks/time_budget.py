"""How much of a validation interpretability may take: heavy parts run while there is time left."""

import contextlib
import time
from collections.abc import Iterator
from typing import final

import torch

from interp_train.checks import check_range
from interp_train.collectives import max_over_processes


@final
class TimeBudget:
    """Wall time per validation, and what the heavy parts needed so far.

    A part runs if the time that is left covers what the part took the last time; the first time
    it runs if any time is left. All processes decide alike.

    A share is of the time of this validation or of the one before, whichever is longer; in the
    first there is no limit before its images were seen (`close`).

    Args:
        seconds: per validation; None is no limit.
        share: of the time that the validation takes beside it; None is no limit.

    Attributes:
        costs: part -> seconds that it took the last time.
        validation: seconds that the latest validation took beside it; None before the first.
        skipped: part -> why it was left out of this validation.
    """

    def __init__(self, seconds: float | None = None, share: float | None = None) -> None:
        for name, value in (("budget_seconds", seconds), ("budget_share", share)):
            if value is not None:
                check_range(name, value, 0.0)
        self.seconds, self.share = seconds, share
        self.costs: dict[str, float] = {}
        self.validation: float | None = None
        self.skipped: dict[str, str] = {}
        self._began = time.perf_counter()
        self._spent = 0.0
        self._running = False

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.seconds is not None or self.share is not None

    def start(self) -> None:
        """Begin a validation."""
        self._began, self._spent, self.skipped = time.perf_counter(), 0.0, {}

    def close(self) -> None:
        """All images of the validation were seen: what it takes beside the parts is known."""
        self.validation = self._beside()

    @contextlib.contextmanager
    def spend(self) -> Iterator[None]:
        """Charge the time inside the block; nested blocks are charged once."""
        if self._running:
            yield
            return
        self._running, began = True, time.perf_counter()
        try:
            yield
        finally:
            self._running = False
            self._spent += time.perf_counter() - began

    @contextlib.contextmanager
    def part(self, name: str, *, more: bool = False) -> Iterator[None]:
        """Charge a heavy part and remember what it took.

        Args:
            name: of the part.
            more: whether this adds to what it took before.
        """
        began = time.perf_counter()
        with self.spend():
            yield
        known = self.costs.get(name, 0.0) if more else 0.0
        self.costs[name] = known + time.perf_counter() - began

    def left(self) -> float:
        """Seconds left in this validation, outside of `spend`; infinite without a limit."""
        limits = [float("inf")]
        if self.seconds is not None:
            limits.append(self.seconds)
        if self.share is not None and self.validation is not None:
            limits.append(self.share * max(self.validation, self._beside()))
        return min(limits) - self._spent

    def _beside(self) -> float:
        return time.perf_counter() - self._began - self._spent

    def allows(self, part: str, device: torch.device) -> bool:
        """Whether all processes have the time for a part; if not, the reason is in `skipped`.

        A collective if there is a limit.

        Args:
            part: name of the part.
            device: of the collective.
        """
        left, needed = self.left(), self.costs.get(part, 0.0)
        took = f"took {needed:.2g} s before" if needed else "was not measured before"
        return not self.refused(part, left <= 0 or left < needed, device, f"it {took}, and "
                                f"{max(left, 0.0):.2g} s of the time budget are left")  # fmt: skip

    def refused(self, part: str, short: bool, device: torch.device, why: str) -> bool:
        """Whether any process is short of time for a part; a collective if there is a limit.

        Args:
            part: name of the part.
            short: whether this process is.
            device: of the collective.
            why: is said of the part.
        """
        if not self.limited or not bool(
            max_over_processes(torch.tensor(int(short), device=device))
        ):
            return False
        self.skipped[part] = f"{why}. Raise `budget_seconds` or `budget_share`"
        return True
