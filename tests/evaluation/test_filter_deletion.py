import itertools

import pytest
import torch
from torch import nn

from interp_train.evaluation.filter_deletion import FilterDeletionMetric, region_ranks
from interp_train.structures import ImageBatch, LayerGeometry

SIZE = 24
GEOMETRY = LayerGeometry(4.0, 1.5, 4.0)  # cells of 4 x 4 pixels


class BrightLeft(nn.Module):
    """Logits: brightness of the left half, and of the right."""

    def forward(self, images):
        halves = images.mean(1).unflatten(2, (2, SIZE // 2)).mean((1, 3))
        return 4 * halves


def batch_of(images, labels, boxes=None):
    count = len(images)
    empty = torch.zeros(count, 0, 0, 0)
    boxes = torch.full((count, 4), torch.nan) if boxes is None else boxes
    return ImageBatch(images, torch.tensor(labels), torch.arange(count) + 5, boxes, empty)


def pixel_value(maps, row, column):
    """Bilinear between the centres of the cells, by hand; one map, a list of lists."""
    cells = len(maps)

    def neighbours(pixel):
        place = min(max((pixel - GEOMETRY.offset) / GEOMETRY.stride, 0), cells - 1)
        low = min(int(place), cells - 2)
        return low, low + 1, place - low

    (r0, r1, v), (c0, c1, u) = neighbours(row), neighbours(column)
    upper = (1 - u) * maps[r0][c0] + u * maps[r0][c1]
    lower = (1 - u) * maps[r1][c0] + u * maps[r1][c1]
    return (1 - v) * upper + v * lower


def slow_area(network, image, label, maps, share, num_steps):
    """Blank pixel by pixel, sorted in plain Python; trapezoids one by one."""
    cells = [(maps[r][c], -r, -c) for r in range(len(maps)) for c in range(len(maps))]
    peak, row, column = max(cells)
    y, x = (GEOMETRY.offset - GEOMETRY.stride * cell for cell in (row, column))
    pixels = [(r, c) for r in range(SIZE) for c in range(SIZE)]
    pixels.sort(key=lambda p: (-round(pixel_value(maps, *p), 5), (p[0] - y) ** 2 + (p[1] - x) ** 2))
    curve = []
    for step in range(num_steps + 1):
        blanked = image.clone()
        number = round(step * share * len(pixels) / num_steps) if peak > 0 else 0
        for r, c in pixels[:number]:
            blanked[:, r, c] = 0
        curve.append(float(network(blanked[None]).softmax(1)[0, label]))
    return sum((a + b) / 2 for a, b in itertools.pairwise(curve)) / num_steps


def test_areas_are_those_of_blanking_pixel_by_pixel():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, SIZE, SIZE, generator=generator)
    # Few distinct values, so that pixels of silent cells are in the order of their distance.
    maps = torch.rand(3, 4, 6, 6, generator=generator).mul(9).sub(6).relu()
    maps[:, 3] = 0
    network, labels = BrightLeft(), [1, 0, 1]
    metric = FilterDeletionMetric(GEOMETRY, share=0.3, num_steps=5)
    metric.update(network, maps, batch_of(images, labels), maps.roll(1, 0))
    numbers = metric.compute()
    slow = torch.tensor(
        [
            [
                slow_area(network, images[i], labels[i], maps[i, k].tolist(), 0.3, 5)
                for k in range(4)
            ]
            for i in range(3)
        ]
    )
    torch.testing.assert_close(metric.result.float(), slow.mean(0), atol=2e-3, rtol=0)
    assert float(numbers["filter_deletion_auc"]) == pytest.approx(float(slow.mean()), abs=2e-3)
    shuffled = [
        slow_area(network, images[i], labels[i], maps[i - 1, k].tolist(), 0.3, 5)
        for i in range(3)
        for k in range(4)
    ]
    assert float(numbers["filter_deletion_auc_shuffled_images"]) == pytest.approx(
        sum(shuffled) / 12, abs=2e-3
    )
    whole = network(images).softmax(1)[range(3), labels].mean()
    assert float(numbers["filter_deletion_auc_untouched"]) == pytest.approx(float(whole))


def test_equal_pixels_go_from_the_peak_outwards():
    values = torch.zeros(1, 5, 5)
    values[0, 4, 4] = 1
    ranks = region_ranks(values, torch.tensor([[1.0, 2.0]]))[0, 0]
    assert ranks[4, 4] == 0
    assert ranks[2, 1] == 1
    near = sorted(
        (int(ranks[r, c]), (r - 2) ** 2 + (c - 1) ** 2) for r in range(5) for c in range(5)
    )
    apart = [distance for rank, distance in near if rank > 0]
    assert apart == sorted(apart)
    assert sorted(ranks.flatten().tolist()) == list(range(25))


def one_square(x, y):
    """An image that is bright in the cell ``(x, y)`` alone, and the map that responds there."""
    maps = torch.zeros(1, 1, 6, 6)
    maps[..., y, x] = 1
    return maps.repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1) * 36, maps


def test_a_filter_on_the_evidence_takes_it_and_others_do_not():
    image, on_it = one_square(1, 2)
    elsewhere, silent = one_square(4, 5)[1], torch.zeros(1, 1, 6, 6)
    maps = torch.cat([on_it, elsewhere, silent], 1)
    metric = FilterDeletionMetric(GEOMETRY, share=0.1)
    metric.update(BrightLeft(), maps, batch_of(image, [0]), maps)
    numbers = metric.compute()
    found, whole = metric.result.tolist(), float(numbers["filter_deletion_auc_untouched"])
    assert found[0] < 0.75 * whole
    assert found[1] == pytest.approx(whole)
    assert found[2] == pytest.approx(whole)


def test_the_centre_is_that_of_the_box():
    image, maps = one_square(1, 2)
    box = torch.tensor([[3.5, 7.5, 7.5, 11.5]])
    areas = []
    for boxes in (box, box + 12, None):
        metric = FilterDeletionMetric(GEOMETRY, share=0.1)
        metric.update(BrightLeft(), maps, batch_of(image, [0], boxes), maps)
        areas.append(float(metric.compute()["filter_deletion_auc_object_centre"]))
    assert areas[0] < 0.75 * areas[1]
    assert areas[1] == pytest.approx(areas[2])


def test_images_without_a_category_do_not_count():
    metric = FilterDeletionMetric(GEOMETRY)
    image, maps = one_square(1, 2)
    metric.update(BrightLeft(), maps, batch_of(image, [-1]), maps)
    assert metric.compute() == {}
    assert metric.missing == "images of a category"
    both = FilterDeletionMetric(GEOMETRY)
    both.update(
        BrightLeft(), maps.expand(2, -1, -1, -1), batch_of(image.expand(2, -1, -1, -1), [-1, 0]),
        maps.expand(2, -1, -1, -1),
    )  # fmt: skip
    metric.update(BrightLeft(), maps, batch_of(image, [0]), maps)
    assert both.compute() == metric.compute()


def test_of_many_filters_some_are_measured_the_same_each_time():
    metric = FilterDeletionMetric(num_filters=4)
    chosen = metric.filters(100).tolist()
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 4
    assert chosen == FilterDeletionMetric(num_filters=4).filters(100).tolist()
    assert len({number % 4 for number in FilterDeletionMetric().filters(96).tolist()}) == 4
    assert metric.filters(3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("option", "value"),
    [("share", 0), ("share", 1.5), ("num_steps", 0), ("num_filters", 0), ("batch_size", 0)],
)
def test_bad_options_are_named(option, value):
    with pytest.raises(ValueError, match=f"`{option}` must be"):
        FilterDeletionMetric(**{option: value})


def test_a_wrong_scale_or_other_maps_of_another_shape_are_named():
    with pytest.raises(ValueError, match="`scale` must be"):
        FilterDeletionMetric(scale="probability")
    image, maps = one_square(0, 0)
    with pytest.raises(ValueError, match="`others` must have shape"):
        FilterDeletionMetric().update(BrightLeft(), maps, batch_of(image, [0]), maps[..., 1:])
