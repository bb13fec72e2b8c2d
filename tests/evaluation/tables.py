"""Small tables and batches of peaks, with parts, gaps and several categories."""

import torch

from interp_train.evaluation.peak_table import MapFrame, PeakTable
from interp_train.structures import DataInfo, LayerGeometry, PartBatch

GEOMETRY = LayerGeometry(16.0, 7.5, 100.0)
FRAME = MapFrame(6, 6, 96, 96, GEOMETRY)


def info(classes=1, parts=3, groups=None):
    """What a data set would say about such tables."""
    return DataInfo(
        name="tables",
        class_names=tuple(f"class_{c}" for c in range(classes)),
        part_names=tuple(f"part {p}" for p in range(parts)),
        part_groups=groups or {},
        instability_parts=(),
        image_size=96,
        channels=3,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        fingerprint="",
        licence="",
    )


def random_table(images=41, filters=7, parts=3, classes=1, background=0.1, seed=0):
    """A table with random entries; a fifth of the landmarks is not visible."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator)

    corners = rand(images, 2) * 20
    boxes = torch.cat((corners, corners + 40 + rand(images, 2) * 30), 1)
    locations = rand(images, parts, 2) * 90
    locations[rand(images, parts) < 0.2] = torch.nan
    labels = (rand(images) * classes).long()
    labels[rand(images) < background] = -1
    cells = (rand(images, filters) * 36).long()
    ids = torch.randperm(max(1000, images), generator=generator)[:images].sort().values
    positions = FRAME.positions_of(cells).float()
    return PeakTable(ids, labels, boxes, locations, positions, rand(images, filters))


def random_batches(images=23, filters=5, parts=3, size=1, classes=1, seed=0, masks=True):
    """``(activations, PartBatch)`` pairs of `size` images, ids in random order."""
    table = random_table(images, filters, parts, classes, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(images, generator=generator)
    maps = torch.rand(images, filters, 6, 6, generator=generator) - 0.1
    regions = torch.zeros(images, parts, 96, 96, dtype=torch.bool)
    for image in range(images):
        for part in range(parts):
            x, y = table.part_locations[image, part].nan_to_num(-99).int().tolist()
            if x > -99:
                side = 8 + 4 * part
                regions[image, part, max(y - side, 0) : y + side, max(x - side, 0) : x + side] = (
                    True
                )
    if not masks:
        regions = regions.new_zeros(images, 0, 0, 0)
    part_boxes = torch.full((images, parts, 4), torch.nan)
    empty = torch.zeros(images, 0, 0, 0)
    pixels = torch.zeros(images, 3, 96, 96)
    batch = PartBatch(
        pixels, table.labels, table.sample_ids, table.boxes, empty, table.part_locations,
        part_boxes, regions,
    )  # fmt: skip
    return [
        (maps[rows], PartBatch(*(field[rows] for field in batch)))
        for rows in torch.split(order, size)
    ]
