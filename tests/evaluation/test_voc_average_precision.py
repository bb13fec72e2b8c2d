"""VOC 2007's average precision against loops written from the rules of the challenge."""

import random

import pytest
import torch

from interp_train.evaluation.voc_average_precision import VocAveragePrecision, average_precision
from interp_train.structures import Detections


def found(boxes, scores, labels):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    scores, labels = torch.tensor(scores, dtype=torch.float32), torch.tensor(labels).long()
    return Detections(boxes, scores, labels, [], scores * torch.nan)


def slow_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (total - shared)


def slow_voc(images, kind):
    """The evaluation of the challenge: one pass over all detections of a category, surest first."""
    detections = [
        (score, index, box)
        for index, (entry, _) in enumerate(images)
        for box, score, label in zip(
            entry.boxes.tolist(), entry.scores.tolist(), entry.labels.tolist(), strict=True
        )
        if label == kind
    ]
    objects = [
        [{"box": o[0], "hard": o[2], "claimed": False} for o in listed if o[1] == kind]
        for _, listed in images
    ]
    number = sum(not entry["hard"] for listed in objects for entry in listed)
    if number == 0:
        return float("nan")
    right = wrong = 0
    curve = []
    for _, index, box in sorted(detections, key=lambda entry: -entry[0]):
        overlaps = [slow_iou(box, entry["box"]) for entry in objects[index]]
        best = max(range(len(overlaps)), key=overlaps.__getitem__, default=None)
        if best is not None and overlaps[best] >= 0.5:
            if objects[index][best]["hard"]:
                continue
            right += not objects[index][best]["claimed"]
            wrong += objects[index][best]["claimed"]
            objects[index][best]["claimed"] = True
        else:
            wrong += 1
        curve.append((right / number, right / (right + wrong)))
    total = 0.0
    for tenth in range(11):
        reached = [p for recall, p in curve if recall >= tenth / 10 - 1e-12]
        total += max(reached, default=0.0) / 11
    return total


def random_images(number, seed=0):
    source = random.Random(seed)

    def box():
        x, y = source.randrange(40), source.randrange(40)
        return [x, y, x + source.randrange(8, 24), y + source.randrange(8, 24)]

    images = []
    for _ in range(number):
        objects = [(box(), source.randrange(3), source.random() < 0.2) for _ in range(5)]
        close = [[side + source.randrange(-2, 3) for side in entry[0]] for entry in objects]
        boxes = [box() for _ in range(4)] + close + close[:2]
        labels = [source.randrange(3) for _ in range(4)] + [entry[1] for entry in objects]
        labels += [entry[1] for entry in objects[:2]]
        scores = [source.random() for _ in boxes]
        images.append((found(boxes, scores, labels), objects))
    images.append((found([], [], []), []))
    return images


def arguments(images):
    return (
        [entry for entry, _ in images],
        [torch.tensor([o[0] for o in listed]).float().reshape(-1, 4) for _, listed in images],
        [torch.tensor([o[1] for o in listed]).long() for _, listed in images],
        [torch.tensor([o[2] for o in listed]).bool() for _, listed in images],
    )


def test_it_equals_the_rules_of_the_challenge():
    images = random_images(6)
    metric = VocAveragePrecision(4)
    for image in images:
        metric.update(*arguments([image]))
    expected = torch.tensor([slow_voc(images, kind) for kind in range(4)], dtype=torch.float64)
    assert expected[:3].min() > 0.2
    assert expected[:3].max() < 0.95
    torch.testing.assert_close(metric.compute(), expected, equal_nan=True)


def test_by_hand():
    """Right, wrong, right of two objects: precision 1 up to recall 0.5, then 2/3."""
    scores, right = torch.tensor([0.3, 0.9, 0.5]), torch.tensor([1.0, 1.0, 0.0])
    assert average_precision(scores, right, 2) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert average_precision(scores[:0], right[:0], 2) == 0
    assert average_precision(scores, right, 0).isnan()


def test_three_of_ten_objects_reach_a_recall_of_three_tenths():
    ones = torch.ones(3)
    assert average_precision(ones, ones, 10) == pytest.approx(4 / 11)


def of_share(number):
    metric = VocAveragePrecision(3)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    step = 2 if torch.distributed.is_initialized() else 1
    for image in random_images(number)[rank::step]:
        metric.update(*arguments([image]))
    return metric.compute()


@pytest.mark.parametrize("number", [4, 0])
def test_two_processes_find_what_one_finds(two_processes, number):
    expected = of_share(number)
    for result in two_processes(of_share, number):
        torch.testing.assert_close(result, expected, equal_nan=True)


def test_a_bad_threshold_is_named():
    with pytest.raises(ValueError, match="`threshold` must be >= 0.0 and <= 1.0"):
        VocAveragePrecision(2, threshold=50)
