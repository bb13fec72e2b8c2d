import math

import pytest
import torch
import torch.distributed

from interp_train.evaluation.region_consistency import (
    RegionConsistencyMetric,
    mean_shares,
    region_scores,
    region_shares,
    regions_at,
    relative_entropy,
)
from interp_train.structures import ImageBatch, PartBatch
from interp_train.testing import check_metric_merges
from tests.evaluation.tables import FRAME, GEOMETRY, info, random_batches

NAMES = ("region_inconsistency", "region_diversity", "region_information")


def slow_region(point, landmarks, box):
    """Index of the nearest visible landmark, or their number."""
    x, y = point
    if x < box[0] or x > box[2] or y < box[1] or y > box[3]:
        return len(landmarks)
    best, least = len(landmarks), math.inf
    for part, (a, b) in enumerate(landmarks):
        if not math.isnan(a) and (x - a) ** 2 + (y - b) ** 2 < least:
            best, least = part, (x - a) ** 2 + (y - b) ** 2
    return best


def entropy_of(shares):
    return -sum(v * math.log(v) for v in shares if v) / math.log(len(shares))


def slow_category(images, k, num_categories):
    """Where the mean peak of filter k is largest."""
    means = []
    for category in range(num_categories):
        peaks = [float(maps[k].max()) for maps, _, _, label in images if label == category]
        means.append(sum(peaks) / len(peaks))
    return means.index(max(means))


def slow_shares(maps, landmarks, box):
    """Shares of one map, cell by cell."""
    found = [0.0] * (len(landmarks) + 1)
    for row in range(FRAME.height):
        for column in range(FRAME.width):
            point = (7.5 + 16 * column, 7.5 + 16 * row)
            found[slow_region(point, landmarks, box)] += max(float(maps[row, column]), 0)
    mass = sum(found)
    return [value / mass if mass else 1 / len(found) for value in found]


def slow_scores(batches, num_categories):
    """Inconsistency, diversity and information, with loops over images, filters and cells."""
    images = [
        (maps[n], batch.part_locations[n].tolist(), batch.boxes[n].tolist(), int(batch.labels[n]))
        for maps, batch in batches
        for n in range(len(batch.labels))
    ]
    seen = [image for image in images if any(not math.isnan(a) for a, _ in image[1])]
    shares = {category: [] for category in range(num_categories)}
    for k in range(len(images[0][0])):
        category = slow_category(images, k, num_categories)
        own = [slow_shares(m[k], marks, box) for m, marks, box, label in seen if label == category]
        shares[category].append([sum(column) / len(own) for column in zip(*own, strict=True)])
    everyone = [one for some in shares.values() for one in some]
    inconsistency = sum(map(entropy_of, everyone)) / len(everyone)
    diversity = 0.0
    for some in shares.values():
        if some:
            mean = [sum(column) / len(some) for column in zip(*some, strict=True)]
            diversity += entropy_of(mean) * len(some) / len(everyone)
    return inconsistency, diversity, diversity - inconsistency


@pytest.mark.parametrize("classes", [1, 2])
def test_agrees_with_loops(classes):
    batches = random_batches(images=30, classes=classes, size=6)
    for maps, _ in batches:
        maps[:, 1] = maps[:, 1].clamp(min=0.6) - 0.6  # sometimes sparse
        maps[::3, 2] = -1.0  # sometimes silent
    metric = RegionConsistencyMetric(GEOMETRY, info(classes))
    for maps, batch in batches:
        metric.update(maps, batch)
    found = metric.compute()
    for name, expected in zip(NAMES, slow_scores(batches, classes), strict=True):
        assert float(found[name]) == pytest.approx(expected, abs=5e-4), name


def test_regions_by_hand():
    landmarks = torch.tensor([[[10.0, 10.0], [30.0, 10.0], [torch.nan, torch.nan]]])
    points = torch.tensor([[[12.0, 10.0], [29.0, 40.0], [20.0, 10.0], [45.0, 10.0], [5.0, -1.0]]])
    box = torch.tensor([[0.0, 0.0, 40.0, 40.0]])
    assert regions_at(points, landmarks, box).tolist() == [[0, 1, 0, 3, 3]]
    unknown = torch.full((1, 4), torch.nan)
    assert regions_at(points, landmarks, unknown).tolist() == [[0, 1, 0, 1, 0]]
    nothing = torch.full((1, 3, 2), torch.nan)
    assert regions_at(points, nothing, box).tolist() == [[3] * 5]
    assert regions_at(points, nothing[:, :0], box).tolist() == [[0] * 5]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_shares_by_hand(scale):
    maps = torch.tensor([[[[3.0, 1.0], [-5.0, 0.0]], [[0.0, -1.0], [0.0, 0.0]]]]) * scale
    found = region_shares(maps, torch.tensor([[0, 2, 0, 1]]), 3)
    torch.testing.assert_close(found, torch.tensor([[[0.75, 0.0, 0.25], [1 / 3] * 3]]))


def test_means_and_entropies_by_hand():
    shares = torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]], [[0.0, 1.0]]])
    labels = torch.tensor([0, 0, 1])
    torch.testing.assert_close(
        mean_shares(shares, labels, torch.tensor([0])), torch.tensor([[0.75, 0.25]]).double()
    )
    assert relative_entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).tolist() == [0, 1]
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert relative_entropy(torch.tensor([0.75, 0.25])) == pytest.approx(expected)


def test_scores_in_their_limits():
    one_category = torch.zeros(4, dtype=torch.long)
    each_its_own = region_scores(torch.eye(4).double(), one_category)
    assert [float(each_its_own[name]) for name in NAMES] == pytest.approx([0, 1, 1])
    all_alike = region_scores(torch.eye(4).double()[[2] * 4], one_category)
    assert [float(all_alike[name]) for name in NAMES] == pytest.approx([0, 0, 0])
    vague = region_scores(torch.full((4, 4), 0.25).double(), one_category)
    assert [float(vague[name]) for name in NAMES] == pytest.approx([1, 1, 0])
    # Two regions in the first category, one in the second.
    categories = torch.tensor([0, 0, 1, 1])
    parted = region_scores(torch.eye(4).double()[[0, 1, 2, 2]], categories)
    assert [float(parted[name]) for name in NAMES] == pytest.approx([0, 0.25, 0.25])


def spot_batch(images=60, seed=0):
    """Two landmarks anywhere in the image; filters that see one of them, the middle, nothing."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(36, (images, 2), generator=generator)
    cells[:, 1] = (cells[:, 0] + 1 + cells[:, 1] % 35) % 36
    landmarks = FRAME.positions_of(cells).float()
    maps = torch.zeros(images, 4, 36)
    for n in range(images):
        maps[n, 0, cells[n, 0]] = maps[n, 1, cells[n, 1]] = 1
        maps[n, 2, 14] = 1  # always the same place
    none = torch.zeros(images, 0, 0, 0)
    boxes = torch.tensor([0.0, 0.0, 96.0, 96.0]).expand(images, 4)
    batch = PartBatch(
        torch.zeros(images, 3, 96, 96), torch.zeros(images).long(), torch.arange(images), boxes,
        none, landmarks, torch.full((images, 2, 4), torch.nan), none.bool(),
    )  # fmt: skip
    return maps.view(images, 4, 6, 6), batch


def test_filters_that_follow_parts_stand_out_from_a_constant_place():
    metric = RegionConsistencyMetric(GEOMETRY)
    metric.update(*spot_batch())
    found = metric.compute()
    inconsistency = metric.result.inconsistency
    assert inconsistency[:2].tolist() == [0, 0]
    assert inconsistency[2] == pytest.approx(math.log(2) / math.log(3), abs=0.02)
    assert inconsistency[3] == pytest.approx(1, abs=1e-3)  # dead
    assert found["region_inconsistency_oracle"] == 0
    assert found["region_information_oracle"] == pytest.approx(math.log(2) / math.log(3))
    assert found["region_inconsistency_constant"] == pytest.approx(
        float(inconsistency[2]), abs=0.03
    )
    for name in ("constant", "object_centre"):  # one place tells nothing about a filter
        assert found[f"region_information_{name}"] == pytest.approx(0, abs=1e-9)
    assert found["region_information_random"] < 0.05
    metric = RegionConsistencyMetric(GEOMETRY)
    maps, batch = spot_batch()
    metric.update(maps[:, :2], batch)
    found = metric.compute()
    assert found["region_information"] == pytest.approx(float(found["region_information_oracle"]))


def test_without_landmarks_it_says_what_is_missing():
    maps, batch = spot_batch(5)
    metric = RegionConsistencyMetric(GEOMETRY)
    metric.update(maps, ImageBatch(*batch[:5]))
    assert metric.compute() == {}
    assert metric.missing == "part_locations"


def make_metric():
    return RegionConsistencyMetric(GEOMETRY, info(2))


def test_two_processes_are_equal(two_processes):
    check_metric_merges(make_metric, random_batches(classes=2, size=3), run_on_two=two_processes)


def test_an_image_that_comes_twice_counts_once():
    batches = random_batches(classes=2, size=3)
    once, twice = make_metric(), make_metric()
    for maps, batch in batches:
        once.update(maps, batch)
    for maps, batch in [*batches, batches[0]]:
        twice.update(maps, batch)
    assert once.compute() == twice.compute()
