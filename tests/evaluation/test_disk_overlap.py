import numpy as np
import pytest
import torch

from interp_train.evaluation import disk_overlap
from interp_train.evaluation.disk_overlap import box_masks, count_bits, disks, packed
from interp_train.evaluation.peak_table import MapFrame
from interp_train.structures import LayerGeometry

FRAME = MapFrame(3, 4, 25, 33, LayerGeometry(8.0, 3.5, 8.0))  # 825 pixels: not a multiple of 64


def test_counts_of_bits(monkeypatch):
    masks = torch.rand(5, 2, 25, 33) < 0.3
    expected = masks.sum((-2, -1)).tolist()
    assert count_bits(packed(masks)).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)  # numpy < 2
    assert count_bits(packed(masks)).tolist() == expected


def test_disks_hold_the_pixels_within_the_radius():
    words = disks(FRAME, 6.0)
    for cell in range(12):
        x, y = 3.5 + 8 * (cell % 4), 3.5 + 8 * (cell // 4)
        inside = [
            [(column - x) ** 2 + (row - y) ** 2 <= 36 for column in range(33)] for row in range(25)
        ]
        assert np.array_equal(words[cell], packed(torch.tensor(inside)[None])[0])


def test_boxes_hold_the_pixels_whose_centre_they_hold():
    boxes = torch.tensor([[[1.5, 2.0, 4.0, 3.0], [torch.nan] * 4]])
    masks = box_masks(boxes, 6, 7)
    assert masks[0, 0].nonzero().tolist() == [[2, 2], [2, 3], [2, 4], [3, 2], [3, 3], [3, 4]]
    assert not masks[0, 1].any()


@pytest.mark.parametrize("at_once", [4096, 2])
def test_overlaps_agree_with_unions_of_pixels(monkeypatch, at_once):
    monkeypatch.setattr(disk_overlap, "_REGIONS_AT_ONCE", at_once)
    parts = torch.rand(3, 2, 25, 33) < 0.4
    parts[1, 1] = False
    regions = [(0, [0, 1, 5]), (0, [11]), (1, [3, 3]), (2, list(range(12))), (2, [7])]
    images = torch.tensor([image for image, _ in regions])
    cells = torch.tensor([cell for _, some in regions for cell in some])
    region_of = torch.tensor([r for r, (_, some) in enumerate(regions) for _ in some])
    words = disks(FRAME, 6.0)
    found = disk_overlap.region_overlaps(cells, region_of, images, words, packed(parts))
    y, x = torch.arange(25)[:, None], torch.arange(33)
    for region, (image, some) in enumerate(regions):
        union = torch.zeros(25, 33, dtype=torch.bool)
        for cell in some:
            union |= (x - 3.5 - 8 * (cell % 4)) ** 2 + (y - 3.5 - 8 * (cell // 4)) ** 2 <= 36
        for part in range(2):
            common, either = union & parts[image, part], union | parts[image, part]
            assert float(found[region, part]) == pytest.approx(
                int(common.sum()) / int(either.sum())
            )
