import math

import numpy as np
import pytest
import torch

from interp_train.callbacks.peak_panels import LayerPeaks
from interp_train.callbacks.position_panels import PositionPanels, followed_units, positions_in
from interp_train.evaluation.part_scheme import PartScheme
from interp_train.evaluation.part_tracking import PartTrackingResult
from interp_train.evaluation.peak_table import MapFrame, PeakTable
from interp_train.structures import LayerGeometry
from tests.callbacks.panel_run import BlobImages, ForeignModule, loader, trainer

LAYER = "body.4"


def pinned(folder):
    return np.load(folder / "measures" / "panels" / "pinned.npz")


def test_figures_and_the_record_of_the_pinned_images(tmp_path):
    run = trainer(tmp_path, [PositionPanels([LAYER], num_images=4, least_r2=-5.0)])
    run.validate(ForeignModule(), loader(24), verbose=False)
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        f"parts_{LAYER}_positions.pdf",
        f"parts_{LAYER}_positions.svg",
        f"parts_{LAYER}_positions_epoch000.png",
    ]
    found = pinned(tmp_path)
    assert found["images"].shape == (4, 3, 32, 32)
    for row, sample in enumerate(found["sample_ids"]):
        item = BlobImages(24)[int(sample) - 1000]
        np.testing.assert_allclose(found["part_locations"][row], item.part_locations)


def test_without_landmarks_only_the_images_are_recorded(tmp_path):
    def bare(batch):
        nowhere = torch.full_like(batch.part_locations, math.nan)
        return batch._replace(part_locations=nowhere)

    run = trainer(tmp_path, [PositionPanels([LAYER], num_images=4, to_batch=bare)])
    run.validate(ForeignModule(), loader(24), verbose=False)
    assert len(pinned(tmp_path)["images"]) == 4
    assert not (tmp_path / "figures").exists()


def test_units_are_drawn_where_they_follow_a_part():
    nan = math.nan
    result = PartTrackingResult(
        scores=torch.tensor([0.9, 0.1]),
        parts=torch.tensor([0, 1]),
        categories=torch.zeros(2, dtype=torch.long),
        active=torch.ones(2),
        choice_r2=torch.tensor([[0.9, -1.0, nan], [0.8, 0.1, nan]]),
        score_r2=torch.tensor([[0.9, -1.0, nan], [0.8, 0.1, nan]]),
    )
    labels = torch.tensor([0, -1])
    assert followed_units(result, labels, 0.25).tolist() == [[0, -1, -1]] * 2
    assert followed_units(result, labels, 0.0).tolist() == [[0, 1, -1]] * 2
    of_two = result._replace(categories=torch.tensor([0, 1]))
    assert followed_units(of_two, torch.tensor([0, 1]), -2.0).tolist() == [[0, 0, -1], [1, 1, -1]]


def test_a_silent_unit_and_an_image_that_was_not_measured_have_no_position():
    table = PeakTable(
        sample_ids=torch.tensor([3, 8]),
        labels=torch.zeros(2, dtype=torch.long),
        boxes=torch.zeros(2, 4),
        part_locations=torch.zeros(2, 0, 2),
        positions=torch.arange(8.0).view(2, 2, 2),
        values=torch.tensor([[1.0, 0.0], [0.0, 2.0]]),
    )
    frame = MapFrame(2, 2, 4, 4, LayerGeometry(2.0, 0.5, 2.0))
    peaks = LayerPeaks("layer", table, frame, PartScheme((), {}, (), 1), None)
    units = torch.tensor([[1, 0, -1], [1, 0, 0]])
    found = positions_in(peaks, torch.tensor([8, 5]), units)
    expected = torch.full((2, 3, 2), math.nan)
    expected[0, 0] = torch.tensor([6.0, 7.0])
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_an_unknown_layer_fails_before_anything_is_computed(tmp_path):
    run = trainer(tmp_path, [PositionPanels(["bodi.4"])])
    with pytest.raises(ValueError, match=r"`layers` must name .*'bodi.4'.*'body.4'"):
        run.validate(ForeignModule(), loader(), verbose=False)
