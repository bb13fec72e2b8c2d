import math

import numpy as np
import pytest
import torch
import torch.distributed as dist

from interp_train.streaming import Moments, TailTopK, moments_of, tail_size


def slow_threshold(values, share):
    """The level that at most `share` of the values exceed, by counting."""
    allowed = math.floor(share * len(values) + 1e-9)
    return min(v for v in values if sum(w > v for w in values) <= allowed)


@pytest.mark.parametrize("share", [0.005, 0.05, 0.5])
@pytest.mark.parametrize("pieces", [1, 7, 400])
def test_thresholds_agree_with_counting(share, pieces):
    values = torch.randn(3, 400)
    values[2] = values[2].round()  # many equal values
    tail = TailTopK(tail_size(share, 400) + 1)
    for piece in values.chunk(pieces, 1):
        tail.add(piece)
    expected = [slow_threshold(row.tolist(), share) for row in values]
    assert tail.largest()[:, -1].tolist() == expected
    assert tail.count == 400


@pytest.mark.parametrize("block", [1, 100, 10**6])
def test_parts_at_once_are_the_same(block, monkeypatch):
    monkeypatch.setattr("interp_train.streaming._BLOCK", block)
    values = torch.randn(5, 300).half().requires_grad_()
    whole, parts = TailTopK(20), TailTopK(20)
    whole.add(values[:, :10])
    parts.add(values[:, :10])
    whole.add(values[:, 10:])
    folded = values[:, 31:51].view(5, 4, 5).transpose(1, 2)
    parts.add_parts([values[:, 10:30], values[:, 30:31], folded, values[:, 51:]])
    assert torch.equal(whole.largest(), parts.largest())
    assert torch.equal(whole.bound(5), parts.bound(5))
    assert parts.count == 300
    assert not parts.largest().requires_grad
    parts.add_parts([])
    with pytest.raises(ValueError, match=r"`parts` must have shape \(5, 2\), but got \(4, 2\)"):
        parts.add_parts([values[:, :3], torch.zeros(4, 2)])


def test_a_tail_by_hand():
    tail = TailTopK(2)
    tail.add(torch.tensor([[1.0, 5.0], [0.0, 0.0]]))
    tail.add(torch.tensor([[3.0], [-1.0]]))
    tail.add(torch.zeros(2, 0))
    assert tail.largest().tolist() == [[5.0, 3.0], [0.0, 0.0]]
    assert tail.largest(1).tolist() == [[5.0], [0.0]]
    assert tail.bound(2).tolist() == [3.0, 0.0]


def test_shares_are_decimal_numbers():
    assert 0.29 * 100 < 29  # what binary numbers would give
    assert tail_size(0.29, 100) == 29
    assert tail_size(0.005, 9800) == 49
    assert tail_size(1e-05, 99999) == 0


def test_values_below_the_bound_may_be_left_out():
    values = torch.randn(5, 300)
    whole, sparse = TailTopK(20), TailTopK(20)
    whole.add(values)
    for piece in values.split(30, 1):
        bound = sparse.bound(5)
        above = piece > bound[:, None]
        units, places = above.nonzero().unbind(1)
        sparse.add_sparse(units, piece[units, places], num_units=5, count=30)
    assert torch.equal(whole.largest(), sparse.largest())
    assert (sparse.bound(5) <= sparse.largest()[:, -1]).all()
    assert sparse.count == 300


def test_half_precision_values_stay_what_they_are():
    values = torch.randn(2, 50).half()
    tail = TailTopK(5)
    tail.add(values)
    assert torch.equal(tail.largest(), values.float().sort(1, descending=True).values[:, :5])


def test_errors():
    tail = TailTopK(3)
    tail.add(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"`values` must have shape \(2, n\), but got \(3, 2\)"):
        tail.add(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="`k` must be >= 0 and <= 2, but got 3"):
        tail.largest(3)
    with pytest.raises(ValueError, match="`capacity` must be >= 1, but got 0"):
        TailTopK(0)


def merged(values, shares):
    mine = values[:, slice(*shares[dist.get_rank()])]
    tail = TailTopK(7)
    if mine.shape[1]:
        tail.add(mine)
    known = moments_of(mine) if mine.shape[1] else moments_of(torch.zeros(len(values), 0))
    return tail.largest(), tail.total(), known.over_processes()


@pytest.mark.parametrize("shares", [((0, 3), (3, 60)), ((0, 60), (60, 60)), ((0, 0), (0, 60))])
def test_two_processes_are_equal(two_processes, shares):
    values = torch.randn(4, 60)
    tail = TailTopK(7)
    tail.add(values)
    for largest, total, moments in two_processes(merged, values, shares):
        assert torch.equal(largest, tail.largest())
        assert total == 60
        for found, expected in zip(moments, moments_of(values), strict=True):
            torch.testing.assert_close(found, expected)


def test_moments_agree_with_numpy():
    values = 1e4 + torch.randn(3, 500)
    parts = [moments_of(piece) for piece in values.split([1, 100, 0, 399], 1)]
    total = parts[0]
    for part in parts[1:]:
        total = total.merged(part)
    exact = values.numpy().astype(np.float64)
    assert float(total.number) == 500
    np.testing.assert_allclose(total.mean, exact.mean(1), rtol=1e-14)
    np.testing.assert_allclose(total.variance(), exact.var(1), rtol=1e-9)


def test_moments_by_hand():
    moments = moments_of(torch.tensor([[1.0, 3.0]])).merged(moments_of(torch.tensor([[5.0]])))
    assert moments == Moments(torch.tensor(3.0), torch.tensor([3.0]), torch.tensor([8.0]))
    nothing = moments_of(torch.zeros(1, 0))
    assert nothing.variance().tolist() == [0.0]
    assert nothing.merged(nothing).mean.tolist() == [0.0]


@pytest.mark.parametrize("length", [640, 999, 5000])
def test_few_of_many_are_selected_like_all(length):
    generator = torch.Generator().manual_seed(length)
    values = torch.randint(-40, 40, (7, length), generator=generator).float()  # many equal ones
    values[1], values[2] = 3.0, torch.arange(length)
    values[3] = -values[2]
    tail = TailTopK(5)
    tail.add_parts([values.half()[:, :300], values.half()[:, 300:]])
    expected = values.half().float().sort(1, descending=True).values[:, :5]
    assert torch.equal(tail.largest(), expected)
