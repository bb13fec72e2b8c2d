import pytest
import torch

from interp_train.evaluation.concept_labels import concept_scheme
from interp_train.evaluation.detectors import (
    HEADLINES,
    detector_numbers,
    headline_numbers,
    null_numbers,
    unit_labels,
)

SCHEME = concept_scheme({"object": ("dog", "cat"), "light colour": ("red", "blue")})
IOU = torch.tensor(
    [
        [0.30, 0.10, 0.20, 0.00],  # dog, and red
        [0.05, 0.02, 0.06, 0.01],  # red, and dog
        [0.00, 0.03, 0.00, 0.04],  # nothing: not above 0.04
        [0.00, 0.00, 0.00, 0.50],  # blue
        [0.00, 0.00, 0.00, 0.00],  # dead
    ],
    dtype=torch.float64,
)


def test_counts_by_hand():
    numbers = {name: float(value) for name, value in detector_numbers(IOU, SCHEME).items()}
    assert numbers == {
        "detectors": 3,
        "detector_share": 0.6,
        "unique_best": 3,  # dog, red, blue
        "unique_per_category": 3,  # dog; red, blue
        "mean_best_iou": pytest.approx((0.3 + 0.06 + 0.04 + 0.5) / 5),
        "detectors_object": 2,
        "unique_object": 1,
        "detectors_light_colour": 3,
        "unique_light_colour": 2,
    }
    assert headline_numbers(IOU, SCHEME, 0.04).keys() == set(HEADLINES)


def test_the_two_rules_differ():
    """One unit, two categories: one best label, two detectors."""
    numbers = detector_numbers(IOU[:1], SCHEME)
    assert float(numbers["unique_best"]) == 1
    assert float(numbers["unique_per_category"]) == 2


def slow_numbers(iou, least):
    """Both rules with loops over sets."""
    best, pairs = set(), set()
    for row in iou.tolist():
        if max(row) > least:
            best.add(row.index(max(row)))
        for first in (0, 2):
            part = row[first : first + 2]
            if max(part) > least:
                pairs.add(first + part.index(max(part)))
    return len(best), len(pairs)


def test_counts_agree_with_loops():
    for _ in range(20):
        iou = torch.rand(7, 4).double() ** 4
        numbers = detector_numbers(iou, SCHEME, 0.2)
        found = (float(numbers["unique_best"]), float(numbers["unique_per_category"]))
        assert found == slow_numbers(iou, 0.2)


def test_labels():
    labels = unit_labels(IOU)
    assert labels.concepts.tolist() == [0, 2, 3, 3, -1]
    assert labels.scores.tolist() == [0.3, 0.06, 0.04, 0.5, 0]


def test_chance_is_taken_off_by_concept():
    shuffled = torch.zeros(5, 4).double()
    shuffled[:, 2] = 0.07  # red is found by chance
    shuffled[0, 0] = 1.0  # 95 % of the units: 0.8 of the way to the largest of five
    numbers = null_numbers(IOU, shuffled)
    assert float(numbers["null_p95"]) == pytest.approx((0.8 + 0 + 0.07 + 0) / 4)
    assert float(numbers["detectors_above_null"]) == 1  # blue; dog 0.3 < 0.8, red 0.06 < 0.07
