import torch

from interp_train.visualization.backprojection import on_grey


def test_zero_is_grey_and_the_strongest_hundredth_is_black_or_white():
    gradients = torch.zeros(2, 1, 10, 10)
    gradients[0, 0, 0, :2] = torch.tensor([-4.0, 4.0])
    gradients[0, 0, 1] = 1.0
    found = on_grey(gradients, (0.5,))
    assert found.shape == (2, 3, 10, 10)
    assert found[0, :, 0, :3].tolist() == [[0.0, 1.0, 0.5]] * 3
    # Rank 98.01 of 0 .. 99: 98 is the first 4, so the scale is 4 and 1 is a quarter of it.
    torch.testing.assert_close(found[0, :, 1], torch.full((3, 10), 0.625))
    assert torch.equal(found[1], torch.full((3, 10, 10), 0.5))


def test_a_single_strong_value_is_the_scale():
    gradients = torch.zeros(1, 1, 20, 20)
    gradients[0, 0, 3, 3] = -2.0
    assert on_grey(gradients, (1.0,))[0, 0, 3, 3] == 0.0


def test_channels_are_undone_one_by_one():
    gradients = torch.ones(1, 3, 1, 1)
    found = on_grey(gradients, (0.5, 1.0, 2.0))[0, :, 0, 0] - 0.5
    torch.testing.assert_close(found / found[1], torch.tensor([found[0] / found[1], 1.0, 0.5]))
    torch.testing.assert_close(found[2] / found[1], torch.tensor(0.5))
