"""Tables of units, and records that come back as they went."""

import json

import numpy as np
import pytest
import torch

from interp_train.evaluation.dissection import DissectionMetric
from interp_train.evaluation.layer_dissection import (
    as_entries,
    from_entries,
    layer_dissection,
)
from interp_train.structures import ConceptBatch

NAMES = {"thing": ("red", "green"), "scene": ("day", "night")}


def measured(**options):
    """Six units over 30 images: units 0 and 1 follow red, 2 follows green, 3 is dead."""
    generator = torch.Generator().manual_seed(3)
    maps = torch.rand(30, 6, 4, 4, generator=generator) * 0.1
    labels = torch.zeros(30, 2, 4, 4, dtype=torch.long)
    for image in range(30):
        row, column = image % 4, image // 4 % 4
        labels[image, 0, row, column] = 1 + image % 2
        labels[image, 1] = 1 + image // 15
        strength = 1 + 0.01 * image
        maps[image, 2 if image % 2 else 0, row, column] += strength
        if image % 2 == 0:
            maps[image, 1, row, column] += strength * (image < 20)
    maps[:, 3] = 0
    batch = ConceptBatch(torch.zeros(30, 3, 4, 4), torch.zeros(30), torch.arange(30), labels)
    metric = DissectionMetric(None, NAMES, quantiles=(0.03, 0.1), **options)
    metric.update(maps, batch)
    return metric, metric.compute()


def test_units_are_listed_with_their_best_concept():
    metric, numbers = measured()
    found = layer_dissection("layer", metric, numbers)
    iou = metric.result.iou[:, 0]
    rows = found.unit_rows()
    names = ["red", "green", "day", "night"]
    for unit in range(6):
        best = max(range(4), key=lambda concept: float(iou[unit, concept]))
        score = float(iou[unit, best])
        expected = (names[best], ["thing", "scene"][best // 2]) if score > 0 else ("", "")
        assert (rows[unit].label, rows[unit].category) == expected
        assert rows[unit].iou == score
        assert rows[unit].detector == (score > 0.04)
        assert rows[unit].active_area == float(metric.result.area[unit, 0])
    assert [row.label for row in rows[:4]] == ["red", "red", "green", ""]
    assert found.counts()["detectors"] == float(numbers["detectors"])


def test_the_best_unit_of_each_concept_comes_first():
    metric, numbers = measured()
    found = layer_dissection("layer", metric, numbers)
    chosen = found.chosen_units(9)
    rows = found.unit_rows()
    different = len({row.label for row in rows if row.detector})
    assert len({rows[unit].label for unit in chosen[:different]}) == different
    assert {0, 2} <= set(chosen[:different])
    assert 1 not in chosen[:different]  # the second best for red
    assert 3 not in chosen
    assert sorted(chosen) == [row.unit for row in rows if row.detector]
    assert found.chosen_units(1) == chosen[:1]
    nobody = found._replace(least_iou=1.0)
    assert nobody.chosen_units(9) == [max(range(6), key=lambda unit: rows[unit].iou)]


def test_baselines_are_counted_by_the_same_rule():
    metric, numbers = measured()
    found = layer_dissection("layer", metric, numbers, {"detectors": 1.0})
    assert found.baselines["random_network"] == {"detectors": 1.0}
    for baseline in ("rotated_basis", "shuffled_masks"):
        for name in ("detectors", "unique_best", "unique_per_category", "mean_best_iou"):
            assert found.baselines[baseline][name] == float(numbers[f"{name}_{baseline}"])
        assert "detectors_thing" in found.baselines[baseline]
    metric, numbers = measured(rotated_basis=False, shuffled_masks=False)
    assert layer_dissection("layer", metric, numbers).baselines == {}


def test_records_come_back(tmp_path):
    metric, numbers = measured()
    found = layer_dissection("layer", metric, numbers, {"detectors": 1.0})
    entries = {k: np.asarray(v) for k, v in as_entries(found).items()}
    np.savez(tmp_path / "r.npz", allow_pickle=False, layer="layer",
             dissection_numbers=json.dumps(found.numbers), **entries)  # fmt: skip
    with np.load(tmp_path / "r.npz", allow_pickle=False) as record:
        back = from_entries({name: record[name] for name in record.files})
    for name, value in found._asdict().items():
        if name != "result":
            assert getattr(back, name) == value
    for name, value in found.result._asdict().items():
        torch.testing.assert_close(getattr(back.result, name), value, rtol=0, atol=0)
    assert back.unit_rows(1) == found.unit_rows(1)
    assert from_entries({"positions": 1}) is None
    assert pytest.approx(0.04) == back.least_iou
