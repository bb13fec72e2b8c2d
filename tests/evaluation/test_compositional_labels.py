import pytest
import torch
import torch.distributed

from interp_train.evaluation.active_pixels import active_pixels, pixel_grid
from interp_train.evaluation.compositional_labels import Combinations, CompositionalLabels
from interp_train.evaluation.dissection import DissectionMetric
from interp_train.structures import ConceptBatch, LayerGeometry

NAMES = {"object": ("dog", "cat", "car"), "part": ("leg", "tail")}
LAYERS = {"part": 2}
GEOMETRY = LayerGeometry(4.0, 1.5, 9.0)
OPTIONS = {"concept_layers": LAYERS, "least_images": 1}


def probe(images=12, seed=0):
    """Label maps of 16 x 16, maps of 4 x 4; the first unit fires on dogs and cats."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 4, (images, 1, 4, 4), generator=generator)
    first, second = torch.randint(0, 3, (2, images, 1, 4, 4), generator=generator)
    second[second == first] = 0
    labels = torch.cat([coarse, first, second], 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    maps = torch.rand(images, 5, 4, 4, generator=generator)
    maps[:, 0] = ((coarse[:, 0] == 1) | (coarse[:, 0] == 2)).float() + 0.1 * maps[:, 0]
    maps[:, 4] = 0
    ids = torch.arange(images)
    return maps, ConceptBatch(torch.zeros(images, 3, 16, 16), ids - ids - 1, ids, labels)


THRESHOLDS = torch.tensor([0.5, 0.8, 0.9, 0.3, 0.0])


def dense(maps, batch):
    """Active masks ``(N, K, 256)`` and concept masks ``(N, C, 256)``."""
    grid = pixel_grid((4, 4), (16, 16), (16, 16), GEOMETRY)
    active = torch.zeros(len(maps), 5, 256, dtype=torch.bool)
    for piece in active_pixels(maps.half(), THRESHOLDS, grid):
        active[piece.images, piece.units, piece.pixels] = True
    flat = batch.concept_maps.flatten(2)
    masks = [(flat[:, 0] == label) for label in (1, 2, 3)]
    masks += [(flat[:, 1:] == label).any(1) for label in (1, 2)]
    return active, torch.stack(masks, 1)


def rows(batch, some):
    return type(batch)(*(field[some] for field in batch))


def measured(images=12):
    """All images in one process, or every second one in each of two."""
    maps, batch = probe(images)
    metric = CompositionalLabels(THRESHOLDS, GEOMETRY, NAMES, **OPTIONS)
    several = torch.distributed.is_initialized()
    own = torch.arange(images)
    own = own[torch.distributed.get_rank() :: 2] if several else own
    for some in own.split(5):
        metric.update(maps[some], rows(batch, some))
    return metric.compute(), metric.result


def test_formulas_have_the_counts_of_their_masks():
    numbers, result = measured()
    active, masks = dense(*probe())
    for unit, found in enumerate(result.formulas[:4]):
        mask = found.formula.holds(masks.transpose(1, 2))
        assert found.intersection == int((mask & active[:, unit]).sum())
        assert found.union == int((mask | active[:, unit]).sum())
    assert {"dog", "cat", "OR"} <= set(result.texts()[0].replace("(", "").replace(")", "").split())
    assert result.formulas[4] is None
    for unit, found in enumerate(result.concepts[:4]):
        ious = [
            float((mask & active[:, unit]).sum() / (mask | active[:, unit]).sum())
            for mask in masks.unbind(1)
        ]
        assert found.iou == pytest.approx(max(ious))
    expected = sum(found.iou for found in result.formulas[:4]) / 5
    assert float(numbers["mean_best_iou"]) == pytest.approx(expected)
    assert numbers["mean_best_iou"] >= numbers["mean_best_iou_single"]
    assert numbers["explained"] == sum(found.iou > 0.04 for found in result.formulas[:4])
    assert numbers["explained_single"] == sum(found.iou > 0.04 for found in result.concepts[:4])


def test_single_concepts_agree_with_dissection():
    """Where every image counts, and a formula has one concept, it is network dissection."""
    maps, batch = probe()
    dissection = DissectionMetric(
        GEOMETRY, NAMES, quantiles=(0.1,), union="all", rotated_basis=False,
        shuffled_masks=False, concept_layers=LAYERS, least_images=1,
    )  # fmt: skip
    dissection.update(maps, batch)
    dissection.compute()
    thresholds = dissection.result.thresholds[:, 0]
    metric = CompositionalLabels(thresholds, GEOMETRY, NAMES, max_length=1, **OPTIONS)
    metric.update(maps, batch)
    metric.compute()
    labels = dissection.result.labels()
    for unit, found in enumerate(metric.result.formulas):
        assert (found.iou if found else 0.0) == float(labels.scores[unit])
        assert found is None or found.formula.concepts == (int(labels.concepts[unit]),)


def test_equal_combinations_are_united(monkeypatch):
    expected = measured(30)
    monkeypatch.setattr("interp_train.evaluation.compositional_labels._PENDING", 1)
    assert measured(30) == expected
    counts = Combinations(
        torch.tensor([[2], [1], [2]]), torch.tensor([3, 4, 5]), torch.tensor([[1], [0], [2]])
    ).united()
    assert [field.tolist() for field in counts] == [[[1], [2]], [4, 8], [[0], [3]]]


@pytest.mark.parametrize("images", [12, 1])
def test_two_processes_agree_with_one(two_processes, images):
    expected = measured(images)
    for found in two_processes(measured, images):
        assert found == expected


def test_rare_concepts_are_in_no_formula():
    maps, batch = probe()
    batch.concept_maps[1:, 0][batch.concept_maps[1:, 0] == 3] = 0
    metric = CompositionalLabels(
        THRESHOLDS, GEOMETRY, NAMES, concept_layers=LAYERS, least_images=2, max_length=4
    )
    metric.update(maps, batch)
    metric.compute()
    assert not any("car" in text for text in metric.result.texts())


def test_errors():
    with pytest.raises(ValueError, match=r"`thresholds` must have shape \(K\)"):
        CompositionalLabels(torch.zeros(3, 1), None, NAMES)
    metric = CompositionalLabels(THRESHOLDS, None, NAMES, **OPTIONS)
    maps, batch = probe()
    with pytest.raises(ValueError, match=r"`activations` must have shape \(12, 5, h, w\), but got"):
        metric.update(maps[:, :3], batch)
    with pytest.raises(ValueError, match="`update` must be called with at least one image"):
        metric.compute()
