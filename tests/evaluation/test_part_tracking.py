import itertools
import math

import pytest
import torch

from interp_train.evaluation.part_scheme import part_scheme
from interp_train.evaluation.part_tracking import (
    PartTrackingMetric,
    best_filters,
    in_every_category,
    part_tracking,
    peaks_inside,
    placement,
    summary,
    tracked_offsets,
)
from interp_train.evaluation.tracking_r2 import in_box_frame, tracking_r2
from tests.evaluation.tables import FRAME, GEOMETRY, info, random_batches, random_table


def slow_r2(table, rows, unit, part):
    """R2 by loops over images, from the definition."""
    errors, landmarks = [], []
    for row in rows:
        left, top, right, bottom = table.boxes[row].tolist()
        x, y = table.part_locations[row, part].tolist()
        if math.isnan(x):
            continue
        u, v = table.positions[row, unit].tolist()
        landmark = ((x - left) / (right - left), (y - top) / (bottom - top))
        position = ((u - left) / (right - left), (v - top) / (bottom - top))
        landmarks.append(landmark)
        errors.append((position[0] - landmark[0], position[1] - landmark[1]))

    def variation(vectors):
        mean = [sum(v[axis] for v in vectors) / len(vectors) for axis in (0, 1)]
        return sum((v[0] - mean[0]) ** 2 + (v[1] - mean[1]) ** 2 for v in vectors)

    return 1 - variation(errors) / variation(landmarks)


def slow_tracking(table, unit, classes):
    """Category, part and score of one filter, by loops."""
    means = [table.values[table.labels == c, unit].double().mean() for c in range(classes)]
    category = means.index(max(means))
    return category, *slow_part(table, unit, category)


def slow_part(table, unit, category):
    """Part and score of one filter in one category."""
    rows = [r for r in range(len(table.labels)) if table.labels[r] == category]
    rows = [r for r in rows if table.boxes[r].isfinite().all()]
    choice = [slow_r2(table, rows[0::2], unit, part) for part in range(3)]
    part = choice.index(max(choice))
    return part, slow_r2(table, rows[1::2], unit, part)


@pytest.mark.parametrize("classes", [1, 3])
def test_agrees_with_loops(classes):
    table = random_table(images=90, classes=classes)
    table.boxes[4] = torch.nan
    # Some filters follow a part, more or less.
    followed = table.part_locations[:, [0, 1, 2, 1]].nan_to_num(50)
    noise = torch.randn(90, 4, 2) * torch.tensor([1.0, 5.0, 15.0, 40.0])[:, None]
    table.positions[:, :4] = FRAME.snapped(followed + noise)
    result = part_tracking(table, num_categories=classes)
    for unit in range(7):
        category, part, score = slow_tracking(table, unit, classes)
        assert (int(result.categories[unit]), int(result.parts[unit])) == (category, part)
        assert float(result.scores[unit]) == pytest.approx(score, abs=1e-9)


def test_a_constant_scores_exactly_zero():
    locations = torch.rand(40, 3, 2)
    locations[torch.rand(40, 3) < 0.3] = torch.nan
    positions = torch.tensor([[0.3, 0.7], [1 / 3, 0.1]]).expand(40, 2, 2)
    assert torch.equal(tracking_r2(positions, locations), torch.zeros(2, 3).double())


def test_a_constant_offset_from_the_part_is_free():
    locations = torch.rand(40, 2, 2).double()
    r2 = tracking_r2(locations + torch.tensor([0.3, -0.2]), locations)
    torch.testing.assert_close(r2.diagonal(), torch.ones(2).double())


def test_number_by_hand():
    """Landmark at x = 0, 1, 2, filter at 0, 1, 1: errors 0, 0, -1; 1 - (2/3) / 2 = 2/3."""
    locations = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[2.0, 0.0]]])
    positions = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.0]]])
    assert float(tracking_r2(positions, locations)) == pytest.approx(2 / 3, abs=1e-12)


def test_quantisation_is_all_that_a_perfect_tracker_loses():
    """Rounding to cells of width s adds s^2 / 12 of variance per axis."""
    table = random_table(images=4000, filters=1, parts=1, background=0)
    boxes = torch.tensor([0.0, 0.0, 96.0, 96.0]).expand(4000, 4)
    locations = torch.rand(4000, 1, 2) * 96
    table = table._replace(boxes=boxes, part_locations=locations)
    table = table._replace(positions=FRAME.snapped(locations))
    expected = 1 - (16**2 / 12) / (96**2 / 12)
    assert float(part_tracking(table).scores) == pytest.approx(expected, abs=0.002)


def test_a_random_position_loses_its_own_variance():
    """Independent of the landmark, R2 = - var(position) / var(landmark), here -1."""
    positions, locations = torch.rand(20000, 2, 1, 2).unbind(1)
    assert float(tracking_r2(positions, locations)) == pytest.approx(-1, abs=0.03)


def test_box_frame_by_hand():
    points, boxes = torch.tensor([[[30.0, 15.0]]]), torch.tensor([[10.0, 10.0, 50.0, 20.0]])
    assert in_box_frame(points, boxes).tolist() == [[[0.5, 0.5]]]


def test_dead_filters_score_zero():
    table = random_table(images=201, background=0)
    table.positions[:, 0] = table.part_locations[:, 0].nan_to_num(50)
    table.values[:, :2] = 0
    table.values[:2, 0] = 1  # 2 of 201 images: .995 %
    table.values[:3, 1] = 1  # 3 of 201 images: 1.5 %
    result = part_tracking(table)
    assert float(result.scores[0]) == 0
    assert float(result.scores[1]) != 0
    assert float(result.score_r2[0].max()) > 0.9
    best, _ = best_filters(result)
    assert 0 not in best.tolist()


def test_parts_are_chosen_on_even_and_scored_on_odd_ranks():
    table = random_table(images=80, filters=1, parts=2, background=0)
    locations = table.part_locations.nan_to_num(40)
    followed = torch.where(torch.arange(80)[:, None] % 2 == 0, locations[:, 0], locations[:, 1])
    table = table._replace(part_locations=locations, positions=followed[:, None])
    result = part_tracking(table)
    assert result.parts.tolist() == [0]
    rows = list(range(1, 80, 2))
    assert float(result.scores) == pytest.approx(slow_r2(table, rows, 0, 0))
    assert float(result.choice_r2[0, 0]) == pytest.approx(1)
    assert float(result.score_r2[0, 1]) == pytest.approx(1)


def test_background_and_images_without_box_do_not_count():
    table = random_table(images=80)
    more = random_table(images=160, seed=1)
    ids = torch.cat((table.sample_ids, more.sample_ids + 5000))
    more.labels[:] = -1
    more.labels[80:] = 0
    more.boxes[80:] = torch.nan
    both = type(table)(ids, *(torch.cat(pair) for pair in zip(table[1:], more[1:], strict=True)))
    assert torch.equal(part_tracking(table).scores, part_tracking(both).scores)


def test_summary_by_hand():
    table = random_table(images=400, filters=4, parts=3, background=0)
    table.positions[:, :2] = table.part_locations[:, :1].nan_to_num(50)  # two follow part 0
    table.positions[:, 2] = table.part_locations[:, 1].nan_to_num(50)
    table.values[:, 2] = 0  # but this one is dead
    result = part_tracking(table)
    groups = {"front": (0, 1), "back": (2,)}
    numbers = summary(result, part_scheme(table, info(groups=groups)))
    assert float(numbers["share"]) == 0.5
    assert float(numbers["distinct_parts"]) == 1
    assert float(numbers["coverage"]) == 0.5
    assert float(numbers["covered_groups"]) == 1
    assert float(numbers["repeated_parts"]) == 0
    assert float(numbers["dead_share"]) == 0.25
    assert float(numbers["best_part_0"]) == pytest.approx(1, abs=1e-6)
    assert float(numbers["best_part_2"]) < 0.25
    mean = (2 + 0 + float(result.scores[3])) / 4
    assert float(numbers["mean_r2"]) == pytest.approx(mean, abs=1e-6)


def test_a_part_is_repeated_from_three_filters_on():
    table = random_table(images=200, filters=6, parts=3, background=0)
    followed = table.part_locations[:, [0, 0, 0, 1, 1]].nan_to_num(50)
    table.positions[:, :5] = followed
    numbers = summary(part_tracking(table), part_scheme(table, info()))
    assert float(numbers["distinct_parts"]) == 2
    assert float(numbers["repeated_parts"]) == 1


def test_each_category_has_parts_of_its_own():
    table = random_table(images=400, filters=7, parts=3, classes=2, background=0)
    categories = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    table.positions[:] = table.part_locations[:, [0, 0, 0, 1, 0, 0, 1]].nan_to_num(50)
    result = part_tracking(table, num_categories=2, categories=categories)
    scheme = part_scheme(table, info(classes=2, groups={"front": (0,), "back": (1, 2)}))
    numbers = summary(result, scheme)
    assert float(numbers["distinct_parts"]) == 4
    assert float(numbers["repeated_parts"]) == 1  # three follow part 0 of category 0
    assert float(numbers["covered_groups"]) == 4
    assert float(numbers["coverage"]) == 1
    alone = part_tracking(table, num_categories=2, categories=torch.zeros(7, dtype=torch.long))
    numbers = summary(alone, scheme)
    assert float(numbers["covered_groups"]) == 2
    assert float(numbers["coverage"]) == 0.5  # of a category without filters nothing is covered


def test_shared_filters_count_in_every_category():
    table = random_table(images=400, filters=4, parts=3, classes=2, background=0)
    followed = table.part_locations[:, [0, 0, 0, 1]].nan_to_num(50)
    second = (table.labels == 1)[:, None, None]
    elsewhere = torch.tensor([False, False, False, True])[:, None]  # lost in the second category
    table.positions[:] = torch.where(second & elsewhere, table.positions, followed)
    scheme = part_scheme(table, info(classes=2, groups={"front": (0,), "back": (1, 2)}))
    numbers = in_every_category(table, scheme)
    pairs = [slow_part(table, unit, category) for category in range(2) for unit in range(4)]
    assert [score > 0.25 for _, score in pairs] == [True] * 7 + [False]
    mean = sum(score for _, score in pairs) / 8
    assert float(numbers["every_category_mean_r2"]) == pytest.approx(mean, abs=1e-6)
    found = {name.removeprefix("every_category_"): float(n) for name, n in numbers.items()}
    del found["mean_r2"]
    assert found == {
        "share": 7 / 8, "coverage": 0.75, "covered_groups": 3.0, "distinct_parts": 3.0,
        "repeated_parts": 2.0,
    }  # fmt: skip


def test_swapped_halves_score_where_the_others_chose():
    table = random_table(images=200, filters=6, parts=3, background=0)
    numbers = summary(part_tracking(table), part_scheme(table, info()))
    rows = torch.arange(200)
    expected = []
    for unit in range(6):
        chosen = [slow_r2(table, rows[1::2].tolist(), unit, part) for part in range(3)]
        part = chosen.index(max(chosen))
        expected.append(slow_r2(table, rows[0::2].tolist(), unit, part))
    assert float(numbers["swapped_mean_r2"]) == pytest.approx(sum(expected) / 6, abs=1e-6)


def test_half_of_the_filters_is_drawn_by_the_seed():
    table = random_table(images=200, filters=5, parts=3, background=0)
    result, scheme = part_tracking(table), part_scheme(table, info())
    half = {seed: float(summary(result, scheme, seed)["half_mean_r2"]) for seed in range(4)}
    assert half[0] == float(summary(result, scheme, 0)["half_mean_r2"])
    assert len(set(half.values())) > 1
    means = [
        float(result.scores[list(some)].mean()) for some in itertools.combinations(range(5), 3)
    ]
    assert all(min(abs(value - mean) for mean in means) < 1e-9 for value in half.values())


def slow_offset(table, result, unit, side):
    """Length of the mean displacement on the odd ranks, by loops."""
    rows = [r for r in range(len(table.labels)) if table.labels[r] == result.categories[unit]]
    rows = [r for r in rows if table.boxes[r].isfinite().all()][1::2]
    apart = []
    for row in rows:
        x, y = table.part_locations[row, result.parts[unit]].tolist()
        if not math.isnan(x):
            u, v = table.positions[row, unit].tolist()
            apart.append(((u - x) / side[0], (v - y) / side[1]))
    return math.hypot(*(sum(d[axis] for d in apart) / len(apart) for axis in (0, 1)))


def slow_inside(table, category, unit):
    """Share of the peaks in the box, by loops."""
    found = []
    for row in range(len(table.labels)):
        left, top, right, bottom = table.boxes[row].tolist()
        if table.labels[row] == category and table.values[row, unit] > 0 and right > left:
            u, v = table.positions[row, unit].tolist()
            found.append(left <= u <= right and top <= v <= bottom)
    return sum(found) / len(found)


@pytest.mark.parametrize("classes", [1, 3])
def test_placement_agrees_with_loops(classes):
    table = random_table(images=90, classes=classes)
    table.boxes[4] = torch.nan
    table.values[::3, 2] = 0
    result = part_tracking(table, num_categories=classes)
    offsets = tracked_offsets(table, result, (96, 80))
    inside = peaks_inside(table, result.categories)
    for unit in range(7):
        assert float(offsets[unit]) == pytest.approx(slow_offset(table, result, unit, (96, 80)))
        expected = slow_inside(table, int(result.categories[unit]), unit)
        assert float(inside[unit]) == pytest.approx(expected)
    numbers = placement(table, result, FRAME)
    assert float(numbers["offset"]) == pytest.approx(
        float(tracked_offsets(table, result, (96, 96)).mean())
    )
    assert float(numbers["inside"]) == pytest.approx(float(inside.mean()))


def test_placement_by_hand():
    """A filter 24 and 32 px beside its part, on images of 96 px: 40 / 96 of the side."""
    table = random_table(images=200, filters=2, parts=1, background=0)
    table = table._replace(part_locations=torch.rand(200, 1, 2) * 50)
    table.positions[:, :1] = table.part_locations + torch.tensor([24.0, 32.0])
    table.positions[:, 1:] = table.boxes[:, None, :2] - 1  # always outside
    result = part_tracking(table)
    assert float(tracked_offsets(table, result, (96, 96))[0]) == pytest.approx(40 / 96)
    assert float(peaks_inside(table, result.categories)[1]) == 0


def test_dead_filters_have_no_place():
    table = random_table(images=200, filters=3, background=0)
    result = part_tracking(table._replace(values=torch.zeros_like(table.values)))
    assert placement(table, result, FRAME) == {}
    table.values[:, 1:] = 0
    result = part_tracking(table)
    alone = tracked_offsets(table, result, (96, 96))[0]
    assert float(placement(table, result, FRAME)["offset"]) == pytest.approx(float(alone))


def test_an_assignment_from_outside_is_used():
    table = random_table(images=200, classes=2)
    forced = part_tracking(table, num_categories=2, categories=torch.ones(7).long())
    only = table._replace(labels=torch.where(table.labels == 1, 0, -1))
    assert torch.equal(forced.scores, part_tracking(only).scores)


def test_filters_go_to_categories_with_landmarks_only():
    table = random_table(images=200, classes=2)
    table.part_locations[table.labels == 0] = torch.nan
    result = part_tracking(table, num_categories=2)
    assert result.categories.tolist() == [1] * 7
    assert result.scores.isfinite().all()


def test_parts_that_cannot_be_measured_are_nan():
    table = random_table(images=60, background=0)
    table.part_locations[1:, 1] = torch.nan  # visible once
    table.part_locations[:, 2] = table.boxes[:, :2] + 0.5 * (
        table.boxes[:, 2:] - table.boxes[:, :2]
    )
    result = part_tracking(table)
    assert result.choice_r2.isfinite().any(0).tolist() == [True, False, False]
    assert result.parts.tolist() == [0] * 7
    table.part_locations[:, 0] = torch.nan
    with pytest.raises(ValueError, match="`table` must show a moving part"):
        part_tracking(table)


@pytest.mark.parametrize("classes", [1, 2])
def test_baselines_mean_what_they_should(classes):
    metric = PartTrackingMetric(GEOMETRY, info(classes=classes))
    for activations, batch in random_batches(images=300, classes=classes, size=100):
        metric.update(activations, batch)
    numbers = metric.compute()
    mean = {
        name: float(numbers[f"part_tracking_mean_r2_{name}"])
        for name in ("constant", "random", "object_centre", "mean_landmark", "oracle")
    }
    assert mean["oracle"] > 0.9
    assert abs(mean["mean_landmark"]) < 0.1
    assert abs(mean["object_centre"]) < 0.1
    assert mean["random"] < -0.5
    assert float(numbers["part_tracking_mean_r2"]) == pytest.approx(mean["random"], abs=0.15)
    assert float(numbers["part_tracking_share_oracle"]) == 1
    assert float(numbers["part_tracking_share_random"]) == 0


def test_what_is_missing():
    (activations, batch), *_ = random_batches(size=23)
    nowhere = torch.full_like(batch.boxes, torch.nan)
    metric = PartTrackingMetric(GEOMETRY, info())
    metric.update(activations, batch._replace(boxes=nowhere))
    assert metric.compute() == {}
    assert metric.missing == "boxes"
    metric.reset()
    hidden = batch.part_locations * torch.nan
    metric.update(activations, batch._replace(boxes=nowhere, part_locations=hidden))
    assert metric.compute() == {}
    assert metric.missing == "part_locations and boxes"
    metric.reset()
    metric.update(activations[:3], type(batch)(*(field[:3] for field in batch)))
    assert metric.compute() == {}
    assert metric.missing == "a part that moves and is visible in two even and two odd images"


def test_categories_can_be_pooled():
    single = PartTrackingMetric(GEOMETRY, info())
    pooled = PartTrackingMetric(GEOMETRY, info(classes=3), by_category=False)
    for activations, batch in random_batches(images=100, classes=3, size=100):
        pooled.update(activations, batch)
        single.update(activations, batch._replace(labels=batch.labels.clamp(max=0)))
    assert pooled.compute() == single.compute()


def test_names_must_fit_the_parts():
    with pytest.raises(ValueError, match="it names 2 parts and `part_locations` has 3"):
        part_scheme(random_table(), info(parts=2))
