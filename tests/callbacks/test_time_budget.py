"""A clock that only the test moves."""

import pytest
import torch

from interp_train.callbacks import time_budget
from interp_train.callbacks.time_budget import TimeBudget

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A list with the time in it."""
    now = [100.0]
    monkeypatch.setattr(time_budget.time, "perf_counter", lambda: now[0])
    return now


def test_without_a_limit_everything_runs(clock):
    budget = TimeBudget()
    budget.start()
    with budget.part("pictures"):
        clock[0] += 50
    assert budget.costs == {"pictures": 50.0}
    assert budget.allows("pictures", CPU)
    assert budget.skipped == {}


def test_a_part_runs_if_what_it_took_is_left(clock):
    budget = TimeBudget(seconds=10)
    budget.start()
    assert budget.allows("nulls", CPU)
    with budget.part("nulls"), budget.spend():  # charged once
        clock[0] += 6
    clock[0] += 1000  # the validation itself is not charged
    assert budget.left() == 4
    assert not budget.allows("nulls", CPU)
    assert budget.skipped["nulls"].startswith("it took 6 s before, and 4 s of the time budget")
    assert budget.allows("pictures", CPU)
    with budget.spend():
        clock[0] += 4
    assert not budget.allows("pictures", CPU)
    assert "was not measured before, and 0 s" in budget.skipped["pictures"]
    budget.start()
    assert budget.skipped == {}
    assert budget.allows("nulls", CPU)


def test_parts_may_come_in_pieces(clock):
    budget = TimeBudget(seconds=10)
    for more, expected in ((False, 1.0), (True, 2.0), (True, 3.0), (False, 1.0)):
        with budget.part("twin", more=more):
            clock[0] += 1
        assert budget.costs["twin"] == expected


def test_a_share_is_of_the_time_beside_the_parts(clock):
    budget = TimeBudget(share=0.5)
    budget.start()
    assert budget.left() == float("inf")  # nobody knows yet how long the validation takes
    clock[0] += 20
    with budget.part("nulls"):
        clock[0] += 7
    budget.close()
    assert budget.validation == 20
    assert budget.left() == pytest.approx(3)
    budget.start()
    assert budget.left() == pytest.approx(10)  # of the validation before
    clock[0] += 30
    assert budget.left() == pytest.approx(15)
    assert not budget.refused("twin", short=False, device=CPU, why="late")
    assert budget.refused("twin", short=True, device=CPU, why="late")
    assert budget.skipped == {"twin": "late. Raise `budget_seconds` or `budget_share`"}


@pytest.mark.parametrize("name", ["seconds", "share"])
def test_a_budget_is_not_negative(name):
    with pytest.raises(ValueError, match=f"`budget_{name}` must be"):
        TimeBudget(**{name: -1})
