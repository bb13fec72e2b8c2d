import pytest
import torch
from torch import nn

from interp_train.structures import LayerGeometry, Target
from interp_train.visualization.top_patches import TopPatches
from interp_train.visualization.unit_peaks import grids, squares, strongest_peaks
from tests.contracts.options import small_network
from tests.visualization.networks import PLAIN, random_images, two_layers, units


def slow_patches(network, images, unit, number, side):
    """Image by image, cell by cell, from the definition: stride 2, centres at 2 i, 7 pixels."""
    found = []
    for row, image in enumerate(images):
        with torch.no_grad():
            maps = network[:4](image[None].clone())[0, unit]
        best, place = -1.0, None
        for y in range(6):
            for x in range(6):
                if maps[y, x].item() > best:
                    best, place = maps[y, x].item(), (2 * x, 2 * y)
        left, top = (min(max(centre - side // 2, 0), 12 - side) for centre in place)
        found.append((-best, row, image[:, top : top + side, left : left + side]))
    return sorted(found, key=lambda entry: entry[:2])[:number]


def test_agrees_with_a_loop_over_images_and_cells():
    network, images = two_layers(), random_images(7)
    method = TopPatches(num_patches=4, **PLAIN)
    patches, peaks = method.patches(network, units("3", 2, 0), images)
    for row, unit in enumerate((2, 0)):
        expected = slow_patches(network, images, unit, 4, side=7)
        for place, (value, image, patch) in enumerate(expected):
            assert peaks.rows[row, place] == image
            torch.testing.assert_close(peaks.values[row, place].item(), -value)
            torch.testing.assert_close(patches[row, place], patch.float().clamp(0, 1))


def bright_square(top, left, side=5):
    image = torch.zeros(3, 16, 16)
    image[:, top : top + side, left : left + side] = 1.0
    return image


def test_a_unit_that_looks_for_a_square_shows_squares_by_their_size():
    network = nn.Sequential(nn.Conv2d(3, 1, 5, padding=2), nn.ReLU(), nn.AdaptiveMaxPool2d(1))
    nn.init.ones_(network[0].weight)
    nn.init.zeros_(network[0].bias)
    network.append(nn.Flatten())
    images = torch.stack([bright_square(1, 9, 3), bright_square(6, 4, 5), bright_square(0, 0, 2)])
    method = TopPatches(num_patches=2, patch_size=5, **PLAIN)
    patches, peaks = method.patches(network, Target("1", torch.tensor([0])), images)
    assert peaks.rows.tolist() == [[1, 0]]
    assert peaks.values.tolist() == [[75.0, 27.0]]  # 3 channels times 25, times 9 pixels
    assert peaks.positions[0, 0].tolist() == [6.0, 8.0]
    assert patches[0, 0].min() == 1.0  # the square and nothing else
    assert patches[0, 1].sum() == 27.0
    picture = method(network, Target("1", torch.tensor([0])), images)
    assert picture.shape == (1, 3, 5, 11)
    assert picture[0, :, :, :5].min() == 1.0


def test_a_category_is_a_unit_that_sees_whole_images():
    network, images = small_network(), random_images(3, side=64).float()
    patches, peaks = TopPatches(**PLAIN).patches(network, units(None, 1), images)
    assert patches.shape == (1, 3, 3, 64, 64)
    with torch.no_grad():
        order = network.eval()(images)[:, 1].argsort(descending=True)
    assert peaks.rows[0].tolist() == order.tolist()
    torch.testing.assert_close(patches[0, 0], images[order[0]].clamp(0, 1))


def test_aliases_and_small_batches_give_the_same():
    network, images = small_network(), random_images(5, side=64).float()
    whole = TopPatches()(network, units(network.resolve("top"), 3, 1), images)
    parts = TopPatches(batch_size=2)(network, units("top", 3, 1), images)
    torch.testing.assert_close(whole, parts)


def test_a_silent_unit_is_white():
    network = two_layers()
    with torch.no_grad():
        network[2].weight[1] = -network[2].weight[1].abs()
        network[2].bias[1] = -1.0
    assert TopPatches()(network, units("3", 1), random_images(3)).min() == 1.0


def test_peaks_come_in_order_and_ties_by_index():
    maps = torch.tensor([1.0, 3.0, 3.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2).clone()
    maps[1, 0, 1, 0] = 4.0
    maps[2, 0, 0, 1] = 4.0
    peaks = strongest_peaks(maps, 5, LayerGeometry(4.0, 1.5, 8.0))
    assert peaks.rows.tolist() == [[1, 2, 0]]
    assert peaks.cells[0].tolist() == [[0, 1], [1, 0], [0, 0]]
    assert peaks.positions[0].tolist() == [[1.5, 5.5], [5.5, 1.5], [1.5, 1.5]]


def test_squares_move_into_the_image():
    images = torch.arange(30.0).view(1, 1, 5, 6).expand(3, 1, 5, 6)
    centres = torch.tensor([[2.0, 2.0], [0.0, 4.0], [2.5, 1.5]])
    found = squares(images, centres, 3)[:, 0]
    assert found[0, 0].tolist() == [7.0, 8.0, 9.0]
    assert found[1].tolist() == [[12, 13, 14], [18, 19, 20], [24, 25, 26]]
    assert found[2, 0].tolist() == [8.0, 9.0, 10.0]


def test_grids_are_as_square_as_can_be():
    pictures = torch.zeros(2, 5, 3, 24, 24)
    assert grids(pictures).shape == (2, 3, 49, 74)
    assert grids(pictures, columns=5).shape == (2, 3, 24, 124)
    pictures[0, 1] = torch.nan
    assert grids(pictures)[0, :, :24, 25:49].min() == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_patches": 0}, "`num_patches` must be >= 1"),
        ({"field_share": -1.0}, "`field_share` must be >= 0"),
        ({"patch_size": 0}, "`patch_size` must be >= 1"),
        ({"batch_size": 0}, "`batch_size` must be >= 1"),
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TopPatches(**change)
