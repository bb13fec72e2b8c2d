import pytest
import torch

from interp_train.visualization.random_views import View, random_view, seen

PICTURES = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
OUTSIDE = torch.tensor([0.1, 0.5, 0.9])


def test_the_plain_view_shows_the_picture():
    found = seen(PICTURES, View((0.0, 0.0), 1.0, 0.0), OUTSIDE)
    torch.testing.assert_close(found, PICTURES)


def test_a_shift_of_whole_pixels_moves_them_and_shows_the_outside():
    found = seen(PICTURES, View((2 / 8, -1 / 6), 1.0, 0.0), OUTSIDE)
    expected = OUTSIDE.view(3, 1, 1).expand(2, 3, 6, 8).clone()
    expected[..., :5, 2:] = PICTURES[..., 1:, :6]
    torch.testing.assert_close(found, expected)


def test_a_quarter_turn_goes_clockwise():
    square = PICTURES[..., :6]
    found = seen(square, View((0.0, 0.0), 1.0, 90.0), OUTSIDE)
    torch.testing.assert_close(found, square.rot90(-1, (-2, -1)))


def test_a_turn_keeps_distances_where_the_sides_differ():
    line = torch.zeros(1, 1, 20, 40)
    line[..., 9:11, 15:25] = 1.0  # 10 long, 2 thick
    found = seen(line, View((0.0, 0.0), 1.0, 90.0), torch.zeros(1))
    expected = torch.zeros_like(line)
    expected[..., 5:15, 19:21] = 1.0
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_larger_size_shows_the_middle():
    found = seen(PICTURES, View((0.0, 0.0), 2.0, 0.0), OUTSIDE)
    rows, columns = (torch.arange(n) / 2 + (n / 2 - 0.5) / 2 for n in (6, 8))
    for y in range(6):
        for x in range(8):
            (top, left), (v, u) = (int(rows[y]), int(columns[x])), (rows[y] % 1, columns[x] % 1)
            around = PICTURES[..., top : top + 2, left : left + 2]
            weights = torch.tensor([[(1 - v) * (1 - u), (1 - v) * u], [v * (1 - u), v * u]])
            torch.testing.assert_close(found[..., y, x], (around * weights).sum((-2, -1)))


def test_gradients_reach_the_pictures():
    pictures = PICTURES[:1, :1].double().requires_grad_()
    view = View((0.1, 0.05), 0.9, 7.0)
    assert torch.autograd.gradcheck(lambda p: seen(p, view, OUTSIDE[:1].double()), pictures)


def test_views_stay_in_their_ranges():
    generator = torch.Generator().manual_seed(0)
    views = [random_view(generator, jitter=0.1, zoom=0.2, degrees=5.0) for _ in range(200)]
    shifts = torch.tensor([view.shift for view in views])
    assert 0.09 < shifts.abs().max() <= 0.1
    sizes, turns = (torch.tensor([view[i] for view in views]) for i in (1, 2))
    assert 0.8 <= sizes.min() < 0.82
    assert 1.18 < sizes.max() <= 1.2
    assert 4.9 < turns.abs().max() <= 5.0
    assert turns.mean() == pytest.approx(0.0, abs=0.7)
