import pytest
import torch
from torch import nn

from interp_train.receptive_field import upsampled
from interp_train.structures import LayerGeometry
from interp_train.visualization.image_resolution_receptive_field import (
    ImageResolutionReceptiveField,
    centred_mean,
    discrepancy,
    laid_around,
    occluder_starts,
    tail_thresholds,
)
from tests.contracts.options import small_network
from tests.visualization.networks import PLAIN, random_images, two_layers, units


def occlusion(**changes):
    settings = {"num_occluded": 3, "patch_size": 3, "stride": 2, **PLAIN, **changes}
    return ImageResolutionReceptiveField("occlusion", **settings)


def slow_field(network, images, unit, method):
    """Every place of the raster, also those that cannot matter; then pixel by pixel."""
    side, patch = images.shape[-1], method.patch_size
    noise = torch.rand(3, patch, patch, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        maps = network[:4](images.clone())[:, unit]
    order = maps.amax((-2, -1)).argsort(descending=True)[: method.num_occluded].tolist()
    total, count = torch.zeros(2, 2 * side - 1, 2 * side - 1).double()
    for row in order:
        line, column = divmod(int(maps[row].argmax()), maps.shape[-1])
        sums, covers = torch.zeros(2, side, side).double()
        for top in range(1 - patch, side, method.stride):
            for left in range(1 - patch, side, method.stride):
                copy = images[row].clone()
                for y in range(max(top, 0), min(top + patch, side)):
                    for x in range(max(left, 0), min(left + patch, side)):
                        copy[:, y, x] = noise[:, y - top, x - left]
                with torch.no_grad():
                    value = network[:4](copy[None].clone())[0, unit, line, column]
                change = (value - maps[row, line, column]).abs()
                for y in range(max(top, 0), min(top + patch, side)):
                    for x in range(max(left, 0), min(left + patch, side)):
                        # Covered by a patch that touches the field of 7 x 7 around the peak.
                        touches = all(
                            first + patch - 1 >= 2 * cell - 3 and first <= 2 * cell + 3
                            for first, cell in ((top, line), (left, column))
                        )
                        sums[y, x] += change
                        covers[y, x] += touches
                        assert touches or change == 0
        for y in range(side):
            for x in range(side):
                place = y - 2 * line + side - 1, x - 2 * column + side - 1
                total[place] += sums[y, x] / max(covers[y, x], 1)
                count[place] += 1
    return total / count.clamp(min=1)


@pytest.mark.parametrize("change", [{}, {"patch_size": 1, "stride": 1}, {"batch_size": 4}])
def test_the_measured_field_agrees_with_a_loop_over_all_places(change):
    network, images = two_layers(), random_images(4)
    method = occlusion(**change)
    found = method.fields(network, units("3", 2, 1), images)
    for field, unit in zip(found, (2, 1), strict=True):
        torch.testing.assert_close(field, slow_field(network, images, unit, method))


def test_the_field_of_a_unit_that_looks_at_one_corner_is_that_corner():
    network = nn.Sequential(
        nn.Conv2d(3, 1, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)
    )
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].weight[..., 0, 4] = 1.0  # two up, two right
    images = random_images(5).float()
    method = occlusion(patch_size=1, stride=1, num_occluded=5)
    (field,) = method.fields(network, units("1", 0), images)
    assert field.nonzero().tolist() == [[11 - 2, 11 + 2]]
    # Its image-resolution field is the pixel up right of each cell above the threshold.
    masks, peaks = occlusion(patch_size=1, stride=1, num_images=2, share=0.0).masks(
        network, units("1", 0), images
    )
    assert masks.sum() == 0  # nothing exceeds the highest response
    masks, peaks = occlusion(patch_size=1, stride=1, num_images=1, share=1 / 720).masks(
        network, units("1", 0), images
    )
    x, y = peaks.positions[0, 0].int().tolist()
    assert masks[0, 0].nonzero().tolist() == [[y - 2, x + 2]]


def test_the_computed_field_is_the_upsampled_map_above_the_threshold():
    network, images = two_layers(), random_images(6)
    method = ImageResolutionReceptiveField(num_images=3, share=0.05, **PLAIN)
    masks, peaks = method.masks(network, units("3", 4, 0), images)
    with torch.no_grad():
        maps = network[:4](images)
    for row, unit in enumerate((4, 0)):
        values = sorted(maps[:, unit].flatten().tolist(), reverse=True)
        level = values[int(0.05 * 216)]
        assert sum(value > level for value in values) <= 0.05 * 216
        for place, image in enumerate(peaks.rows[row].tolist()):
            smooth = upsampled(
                maps[image : image + 1, unit : unit + 1], (12, 12), LayerGeometry(2, 0, 7)
            )
            assert torch.equal(masks[row, place], smooth[0, 0] > level)


def test_thresholds_by_hand():
    maps = torch.arange(10.0).view(5, 1, 1, 2)
    assert tail_thresholds(maps, 0.2).tolist() == [7.0]  # 8 and 9 exceed it
    assert tail_thresholds(maps, 0.0).tolist() == [9.0]
    assert tail_thresholds(maps, 1.0).tolist() == [0.0]


def test_occluders_touch_the_field_and_lie_on_one_raster():
    # Field 4 .. 6; patches of 3 that touch it start at 2 .. 6; the raster is -2, 0, 2, 4, 6, 8.
    assert occluder_starts(5.0, 1.0, 3, 2, 10).tolist() == [2, 4, 6]
    assert occluder_starts(0.0, 1.0, 3, 2, 10).tolist() == [-2, 0]
    assert occluder_starts(9.0, 50.0, 3, 2, 10).tolist() == [-2, 0, 2, 4, 6, 8]


def test_discrepancy_and_centred_mean_by_hand():
    changes = torch.tensor([[1.0, 3.0]])
    found = discrepancy(changes, torch.tensor([0]), torch.tensor([-1, 1]), 2, (2, 3))
    assert found.tolist() == [[1.0, 3.0, 3.0]] * 2
    maps = torch.tensor([[[1.0, 2.0]], [[4.0, 8.0]]])
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert centred_mean(maps, centres).tolist() == [[4.0, 4.5, 2.0]]
    assert centred_mean(maps[:0], centres[:0]).tolist() == [[0.0, 0.0, 0.0]]


def test_fields_are_laid_around_active_cells():
    field = torch.zeros(5, 7)
    field[2, 3], field[2, 4] = 1.0, 0.5  # in the middle, and to its right
    active = torch.zeros(1, 2, 2, dtype=torch.bool)
    active[0, 1, 0] = active[0, 1, 1] = True
    found = laid_around(active, field, LayerGeometry(1.0, 0.0, 3.0), (3, 4))
    assert found[0].tolist() == [[0, 0, 0, 0], [1, 1, 0.5, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("method", ["computation", "occlusion"])
def test_pictures_are_dark_outside_the_field(method):
    network, images = two_layers(), random_images(4).clamp(0.2, 0.8)
    changes = {"num_images": 4, "picture_size": 12, "share": 0.1, "darkness": 1.0}
    visualizer = occlusion(**changes)
    if method == "computation":
        visualizer = ImageResolutionReceptiveField(**changes, **PLAIN)
    masks, _ = visualizer.masks(network, units("3", 2), images)
    picture = visualizer(network, units("3", 2), images)[0]
    assert picture.shape == (3, 25, 25)
    assert 0 < masks.float().mean() < 1
    for place in range(4):
        top, left = place // 2 * 13, place % 2 * 13
        drawn = picture[:, top : top + 12, left : left + 12]
        assert torch.equal((drawn > 0).all(0), masks[0, place])


def test_silent_units_are_white():
    network = two_layers()
    with torch.no_grad():
        network[2].bias[1] = -100.0
    images = random_images(3)
    for visualizer in (ImageResolutionReceptiveField(), occlusion()):
        assert visualizer(network, units("3", 1), images).min() == 1.0


def test_categories_and_aliases_work():
    network, images = small_network(), random_images(3, side=64).float()
    method = ImageResolutionReceptiveField(num_images=2)
    assert method(network, units(None, 1), images).shape == (1, 3, 112, 228)
    first = method(network, units("top", 1), images)
    assert torch.equal(first, method(network, units(network.resolve("top"), 1), images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "gradient"}, "`method` must be one of 'computation', 'occlusion'"),
        ({"num_images": 0}, "`num_images` must be >= 1"),
        ({"share": 1.5}, "`share` must be >= 0 and <= 1"),
        ({"stride": 12}, "`stride` must be >= 1 and <= 11"),
        ({"cut": -0.1}, "`cut` must be >= 0 and <= 1"),
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ImageResolutionReceptiveField(**change)
