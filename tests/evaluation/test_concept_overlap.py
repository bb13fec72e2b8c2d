import numpy as np
import pytest
import torch

from interp_train.evaluation.active_pixels import ActiveRows, active_pixels, active_rows, pixel_grid
from interp_train.evaluation.concept_labels import concept_scheme, labelled_batch
from interp_train.evaluation.concept_overlap import UNIONS, dataset_iou, overlap_counts
from interp_train.structures import LayerGeometry

NAMES = {"object": ("dog", "cat", "car"), "colour": ("red", "blue")}
GEOMETRY = LayerGeometry(4.0, 1.5, 9.0)


def pixels_of(active):
    """Dense bool masks ``(N, K, H, W)`` as the sparse form, rows of one pixel."""
    images, units, rows, columns = active.nonzero().unbind(1)
    return ActiveRows(images, units, rows * active.shape[3] + columns, torch.ones(len(images), 1))


def slow_counts(active, labels, union):
    """Intersection ``(K, C)`` and active area ``(K, C)`` of bool masks, mask by mask."""
    sizes = [len(names) for names in NAMES.values()]
    found, area = np.zeros((2, active.shape[1], sum(sizes)), dtype=np.int64)
    for unit in range(active.shape[1]):
        for category in range(2):
            for label in range(1, sizes[category] + 1):
                concept = sum(sizes[:category]) + label - 1
                for image in range(len(active)):
                    mask, truth = active[image, unit], labels[image, category]
                    counts = {
                        "paper": (truth > 0).any(),
                        "all": True,
                        "lite": (mask & (truth > 0)).any(),
                    }[union]
                    found[unit, concept] += (mask & (truth == label)).sum()
                    area[unit, concept] += mask.sum() if counts else 0
    return found, area


def random_labels(images=5, size=16, seed=0):
    """Blocks of labels; image 0 lacks objects, image 1 lacks colours, much is unlabelled."""
    rng = np.random.default_rng(seed)
    maps = [rng.integers(0, n + 1, (images, size // 4, size // 4)) for n in (3, 2)]
    labels = np.stack([m.repeat(4, 1).repeat(4, 2) for m in maps], 1)
    labels[0, 0] = labels[1, 1] = 0
    labels[2, :, 4:] = 0
    return labels


@pytest.mark.parametrize("union", UNIONS)
def test_counts_agree_with_masks(union):
    scheme, labels = concept_scheme(NAMES), random_labels()
    maps = torch.randn(5, 6, 4, 4).half()
    maps[:, 5] = 0  # dead
    levels = torch.tensor([[1.0, 0.5, -0.3]]).expand(6, 3).clone()
    levels[5] = 0
    grid = pixel_grid((4, 4), (16, 16), (16, 16), GEOMETRY)
    pieces = active_rows(maps, levels[:, -1], grid)
    given = torch.from_numpy(labels).to(scheme.label_type)
    other = given.flip(0)
    counts = overlap_counts(
        pieces, [labelled_batch(maps, scheme) for maps in (given, other)], levels, union
    )
    category_of = list(scheme.category_of)
    for level in range(3):
        active = np.zeros((5, 6, 256), dtype=bool)
        for image, unit, pixel, _ in active_pixels(maps, levels[:, level], grid):
            active[image, unit, pixel] = True
        active = active.reshape(5, 6, 16, 16)
        for found, truth in zip(counts, (labels, labels[::-1]), strict=True):
            intersection, area = slow_counts(active, truth, union)
            np.testing.assert_array_equal(found.intersection[:, level], intersection)
            np.testing.assert_array_equal(found.active[:, level][:, category_of], area)
            np.testing.assert_array_equal(found.area[:, level], active.sum((0, 2, 3)))
            assert (intersection[:5] > 0).mean() > 0.8  # else the test shows little


def test_iou_by_hand():
    """A unit on 3 of 4 pixels, a concept on 2, both on 1: 1 / (3 + 2 - 1)."""
    scheme = concept_scheme({"object": ["dog"]})
    active = torch.tensor([[[[True, True], [True, False]]]])
    labels = torch.tensor([[[[0, 0], [1, 1]]]])
    (counts,) = overlap_counts(
        [pixels_of(active)], [labelled_batch(labels, scheme)], torch.zeros(1, 1)
    )
    assert dataset_iou(counts, labelled_batch(labels, scheme).counts, scheme).item() == 1 / 4


def test_sums_come_before_the_division():
    scheme = concept_scheme({"object": ["dog"]})
    active = torch.zeros(2, 1, 1, 10, dtype=torch.bool)
    labels = torch.zeros(2, 1, 1, 10, dtype=torch.long)
    active[0, 0, 0, 0] = labels[0, 0, 0, 0] = 1  # IoU 1 on one pixel
    labels[1] = 1  # IoU 0 on ten
    (counts,) = overlap_counts(
        [pixels_of(active)], [labelled_batch(labels, scheme)], torch.zeros(1, 1)
    )
    assert dataset_iou(counts, labelled_batch(labels, scheme).counts, scheme).item() == 1 / 11


def test_unions_by_hand():
    """One pixel right; two on unlabelled ground beside it, three where only colours are."""
    scheme = concept_scheme(NAMES)
    labels = torch.zeros(3, 2, 1, 10, dtype=torch.uint8)
    labels[0, 0, 0, 0] = labels[1, 0, 0, 9] = labels[2, 1, 0, 9] = 1
    active = torch.zeros(3, 1, 1, 10, dtype=torch.bool)
    active[0, 0, 0, 0] = active[1, 0, 0, :2] = active[2, 0, 0, :3] = True
    areas = {}
    for union in UNIONS:
        (counts,) = overlap_counts(
            [pixels_of(active)], [labelled_batch(labels, scheme)], torch.zeros(1, 1), union
        )
        areas[union] = counts.active[0, 0].tolist()
    assert areas == {"paper": [3, 3], "all": [6, 6], "lite": [1, 0]}


def test_counts_above_what_single_precision_holds():
    """16 785 409 pixels: the next number that single precision holds is 16 785 408."""
    side = 4097
    assert int(np.float32(side**2)) != side**2
    scheme = concept_scheme({"object": ["dog"]})
    labels = torch.ones(1, 1, side, side, dtype=torch.uint8)
    grid = pixel_grid((16, 16), (side, side), (side, side), LayerGeometry(256.0, 128.0, 256.0))
    pieces = active_rows(torch.ones(1, 1, 16, 16), torch.zeros(1), grid)
    (counts,) = overlap_counts(pieces, [labelled_batch(labels, scheme)], torch.zeros(1, 1))
    assert int(counts.intersection) == int(counts.area) == int(counts.active) == side**2
    known = labelled_batch(labels, scheme).counts
    assert int(known.pixels) == side**2
    assert dataset_iou(counts, known, scheme).item() == 1


@pytest.mark.parametrize("union", UNIONS)
def test_several_maps_of_a_category_count_like_masks(union):
    """Concepts of one category that overlap; mask by mask."""
    scheme = concept_scheme({"part": ("a", "b", "c"), "colour": ("red",)}, {"part": 2})
    assert scheme.layers == (2, 1)
    masks = torch.rand(6, 3, 8, 8) < torch.tensor([0.4, 0.3, 0.2])[:, None, None]
    masks[:, 2] &= ~(masks[:, 0] & masks[:, 1])  # two maps suffice
    masks[0] = False
    labels = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
    for part in range(3):
        free = labels[:, 0] == 0
        labels[:, 0][masks[:, part] & free] = part + 1
        labels[:, 1][masks[:, part] & ~free] = part + 1
    labels[:, 2, :4] = 1
    active = torch.rand(6, 4, 8, 8) < 0.2
    active[:, 3] = masks[:, 1]
    levels = torch.zeros(4, 1)
    (counts,) = overlap_counts([pixels_of(active)], [labelled_batch(labels, scheme)], levels, union)
    everything = torch.cat([masks, (labels[:, 2] == 1)[:, None]], 1)
    overlap = (active[:, :, None] & everything[:, None]).flatten(3).sum(3)
    assert torch.equal(counts.intersection[:, 0], overlap.sum(0))
    any_part = masks.any(1)
    annotated = {
        "paper": any_part.flatten(1).any(1)[:, None],
        "all": torch.ones(6, 1),
        "lite": (active & any_part[:, None]).flatten(2).any(2),
    }[union]
    area = active.flatten(2).sum(2)
    assert torch.equal(counts.active[:, 0, 0], (area * annotated).sum(0).long())
    found = labelled_batch(labels, scheme).counts
    assert found.pixels.tolist() == everything.sum((0, 2, 3)).tolist()
    assert found.images.tolist() == everything.flatten(2).any(2).sum(0).tolist()
    iou = dataset_iou(counts, found, scheme)[3, 0]
    assert iou.argmax() == 1
    assert iou[1] == 1 or union != "paper"


def test_many_concepts_are_counted_as_few():
    names = {"many": [str(n) for n in range(300)], "a": list("xyz"), "b": list("pq"), "c": ["m"]}
    scheme = concept_scheme(names, {"a": 2})
    generator = torch.Generator().manual_seed(0)
    sizes = (300, 2, 1, 2, 1)  # the two maps of "a" share no label
    labels = torch.stack(
        [torch.randint(size + 1, (3, 6, 6), generator=generator) for size in sizes], 1
    ).short()
    labels[:, 2] *= 3
    active = torch.rand(3, 4, 6, 6, generator=generator) > 0.6
    (counts,) = overlap_counts(
        [pixels_of(active)], [labelled_batch(labels, scheme)], torch.zeros(4, 1)
    )
    flat, category, place = labels.flatten(2), 0, 0
    for maps, size in zip(scheme.layers, scheme.sizes, strict=True):
        for label in range(1, size + 1):
            own = (flat[:, category : category + maps] == label).any(1)
            expected = (active.flatten(2) & own[:, None]).sum((0, 2))
            assert torch.equal(counts.intersection[:, 0, place], expected)
            place += 1
        category += maps
