"""Baselines of real data, recomputed from annotation files alone, against tests/reference."""

import csv
from pathlib import Path

import pytest
import torch
import yaml

from interp_train.evaluation.location_instability import baseline_instability
from interp_train.evaluation.part_tracking import baseline_scores
from interp_train.evaluation.peak_table import MapFrame, PeakTable
from interp_train.evaluation.position_baselines import position_baselines
from interp_train.structures import LayerGeometry

FRAME = MapFrame(14, 14, 224, 224, LayerGeometry(16.0, 7.5, 196.0))  # conv5_3 of VGG-16
REFERENCE = Path(__file__).parents[1] / "reference" / "evaluation"


def reference(file, quantity, setting):
    """Value and tolerance of the entry whose setting begins with `setting`."""
    entries = yaml.safe_load((REFERENCE / file).read_text("utf-8"))
    (entry,) = (
        e for e in entries if e["quantity"] == quantity and e["setting"].startswith(setting)
    )
    return entry["value"], entry["tolerance"]


def as_table(ids, labels, locations):
    """Crops of the object's box, resized to 224 x 224 pixels."""
    count = len(ids)
    return PeakTable(
        torch.tensor(ids), torch.tensor(labels),
        torch.tensor([0.0, 0.0, 223.0, 223.0]).expand(count, 4),
        torch.tensor(locations), torch.zeros(count, 1, 2), torch.ones(count, 1),
    )  # fmt: skip


@pytest.fixture
def cub(data_folder):
    """Test birds of CUB-200-2011."""
    root = data_folder("CUB_200_2011_40") / "CUB_200_2011"

    def rows(name):
        return [line.split() for line in (root / name).read_text("utf-8").splitlines()]

    boxes = {i: list(map(float, box)) for i, *box in rows("bounding_boxes.txt")}
    places = {i: [[float("nan")] * 2 for _ in range(15)] for i in boxes}
    for i, part, x, y, visible in rows("parts/part_locs.txt"):
        if visible == "1":
            left, top, width, height = boxes[i]
            place = [(float(x) - left) / width * 224, (float(y) - top) / height * 224]
            places[i][int(part) - 1] = place
    test = [i for i, train in rows("train_test_split.txt") if train == "0"]
    return as_table([int(i) for i in test], [0] * len(test), [places[i] for i in test])


@pytest.fixture
def animals(data_folder):
    """All animals of the csv; landmarks are the centres of the boxes of head and front legs."""
    with (data_folder("animal_part") / "annotations.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["name"] for row in rows})

    def place(row, part):
        if not row[f"{part}_xmin"]:
            return [float("nan")] * 2
        centre = []
        for axis in "xy":
            low, high = float(row[f"{axis}min"]), float(row[f"{axis}max"])
            middle = (float(row[f"{part}_{axis}min"]) + float(row[f"{part}_{axis}max"])) / 2
            centre.append((middle - low) / (high - low) * 224)
        return centre

    labels = [names.index(row["name"]) for row in rows]
    locations = [[place(row, "head"), place(row, "legs")] for row in rows]
    return as_table(list(range(len(rows))), labels, locations)


@pytest.mark.parametrize("name", ["constant", "random", "oracle"])
def test_instability_of_baselines_on_birds(cub, name):
    baseline = position_baselines(cub, FRAME)[name]
    found = baseline_instability(name, baseline, FRAME.diagonal(), (0, 5, 13), 1)
    value, tolerance = reference("location_instability.yaml", f"instability of {name}", "CUB")
    if name == "oracle":  # one number for each part that an oracle follows
        assert found[0].tolist() == pytest.approx(list(value.values()), abs=tolerance)
    else:
        assert float(found.mean()) == pytest.approx(value, abs=tolerance)


@pytest.mark.parametrize("name", ["constant", "random"])
def test_instability_of_baselines_on_animals(animals, name):
    baseline = position_baselines(animals, FRAME)[name]
    found = baseline_instability(name, baseline, FRAME.diagonal(), (0, 1), 7)
    value, tolerance = reference("location_instability.yaml", f"instability of {name}", "Animal")
    assert float(found.mean()) == pytest.approx(value, abs=tolerance)


@pytest.mark.parametrize("name", ["constant", "random", "mean_landmark", "oracle"])
def test_tracking_of_baselines_on_birds(cub, name):
    baseline = position_baselines(cub, FRAME)[name]
    found = baseline_scores(name, baseline, 1)
    value, tolerance = reference("part_tracking.yaml", f"mean R2 of {name}", "CUB")
    assert float(found["mean_r2"]) == pytest.approx(value, abs=tolerance)
