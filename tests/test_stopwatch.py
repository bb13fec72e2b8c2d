import contextlib
import gc

import pytest

from interp_train import stopwatch
from interp_train.stopwatch import Stopwatch, stopwatch_of


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when told to."""

    class Clock:
        now = 100.0

        def advance(self, seconds):
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: clock.now)
    return clock


def test_sums_per_activity(clock):
    watch = Stopwatch()
    for seconds in (1.0, 2.0):
        with watch.measure("figures"):
            clock.advance(seconds)
        clock.advance(10.0)
    with watch.measure("metrics"):
        clock.advance(4.0)
    assert watch.seconds == {"figures": 3.0, "metrics": 4.0}
    assert watch.total() == 7.0


def test_nested_activities_are_charged_to_the_outer_one_only(clock):
    watch = Stopwatch()
    with watch.measure("outer"):
        clock.advance(1.0)
        with watch.measure("inner"):
            clock.advance(2.0)
    assert watch.seconds == {"outer": 3.0}


def test_time_before_an_error_counts(clock):
    watch = Stopwatch()
    with contextlib.suppress(ZeroDivisionError), watch.measure("outer"):
        clock.advance(1 / 1)
        clock.advance(1 / 0)
    with watch.measure("next"):
        clock.advance(2.0)
    assert watch.seconds == {"outer": 1.0, "next": 2.0}


class Owner:
    pass


def test_each_owner_has_one_stopwatch_and_takes_it_along():
    gc.collect()  # what earlier tests left
    owner, other = Owner(), Owner()
    assert stopwatch_of(owner) is stopwatch_of(owner)
    assert stopwatch_of(owner) is not stopwatch_of(other)
    before = len(stopwatch._STOPWATCHES)
    del owner
    gc.collect()
    assert len(stopwatch._STOPWATCHES) == before - 1
