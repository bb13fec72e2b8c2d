import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from interp_train.callbacks.peak_panels import active_units, merged, tracking_units
from interp_train.callbacks.unit_panels import UnitPanels, drawn_diameter, top_images, unit_pictures
from interp_train.diagnosis.heatmaps.grad_cam import GradCam
from interp_train.evaluation.part_tracking import PartTrackingResult
from interp_train.evaluation.peak_table import MapFrame
from interp_train.structures import LayerGeometry
from tests.callbacks.panel_run import BlobImages, ForeignModule, loader, trainer

LAYER = "body.4"


def panels(**options):
    return UnitPanels([LAYER], **{"num_units": 3, "num_images": 4, "picture_size": 32, **options})


def record(folder):
    return np.load(folder / "measures" / "panels" / f"units_{LAYER}.npz")


def activations(module, images):
    with torch.no_grad():
        return module.eval().body(images)


def slow_top(values, number):
    """Images with the highest peaks, by sorting one filter at a time."""
    return [
        sorted(range(len(values)), key=lambda n: (-float(values[n, unit]), n))[:number]
        for unit in range(values.shape[1])
    ]


def test_the_top_images_are_those_with_the_highest_peaks(tmp_path):
    module = ForeignModule()
    run = trainer(tmp_path, [panels(units=[5, 0, 2])])
    run.validate(module, loader(10), verbose=False)
    images = torch.stack([BlobImages(10)[index].images for index in range(10)])
    peaks = activations(module, images).amax((-2, -1))[:, [5, 0, 2]]
    expected = slow_top(peaks, 4)
    found = record(tmp_path)
    assert found["units"].tolist() == [5, 0, 2]
    for row, (ids, values) in enumerate(zip(found["sample_ids"], found["values"], strict=True)):
        seen = np.isfinite(values)
        assert (ids[seen] - 1000).tolist() == np.array(expected[row])[seen].tolist()
        np.testing.assert_allclose(values[seen], peaks[expected[row], row].numpy()[seen], rtol=1e-5)


def test_fit_and_validate_choose_trackers_where_landmarks_exist(tmp_path):
    run = trainer(tmp_path, [panels()], max_epochs=2)
    run.fit(ForeignModule(), loader(24), loader(24))
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        f"parts_{LAYER}_units_epoch000.png",
        f"parts_{LAYER}_units_epoch001.png",
    ]
    found = record(tmp_path)
    assert found["pictures"].shape == (3, 4, 3, 32, 32)
    assert all("R²" in caption for caption in found["captions"][:1])


def test_without_landmarks_the_most_active_filters_are_shown(tmp_path):
    def bare(batch):
        nowhere = torch.full_like(batch.part_locations, math.nan)
        return batch._replace(part_locations=nowhere)

    run = trainer(tmp_path, [panels(to_batch=bare)])
    module = ForeignModule()
    run.validate(module, loader(10), verbose=False)
    images = torch.stack([BlobImages(10)[index].images for index in range(10)])
    means = activations(module, images).amax((-2, -1)).mean(0)
    assert record(tmp_path)["units"].tolist() == means.argsort(descending=True)[:3].tolist()
    assert record(tmp_path)["captions"].tolist() == [
        f"unit {unit}" for unit in record(tmp_path)["units"]
    ]


def test_training_is_the_same_with_and_without(tmp_path):
    weights = []
    for callbacks in ([], [panels()]):
        torch.manual_seed(3)
        module = ForeignModule()
        run = trainer(
            tmp_path, callbacks, max_epochs=2, accumulate_grad_batches=2, val_check_interval=1
        )
        run.fit(module, loader(), loader())
        assert all(not child._forward_hooks for child in module.modules())
        weights.append({name: value.clone() for name, value in module.state_dict().items()})
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


class RestlessSampler:
    """Gives another order each time it is asked."""

    def __init__(self):
        self.turns = 0

    def __len__(self):
        return 12

    def __iter__(self):
        self.turns += 1
        return iter([(index + self.turns) % 12 for index in range(12)])


def test_a_loader_whose_order_changes_is_refused(tmp_path):
    restless = DataLoader(BlobImages(12), batch_size=4, sampler=RestlessSampler())
    run = trainer(tmp_path, [panels()])
    with pytest.raises(ValueError, match="must not shuffle"):
        run.validate(ForeignModule(), restless, verbose=False)


def test_the_picture_lights_the_peak_and_outlines_half_of_it():
    frame = MapFrame(4, 4, 32, 32, LayerGeometry(8.0, 3.5, 20.0))
    maps = torch.zeros(1, 1, 4, 4)
    maps[0, 0, 1, 2] = 2.0  # centre at (19.5, 11.5)
    pixels = torch.full((1, 1, 3, 32, 32), 0.5)
    picture = unit_pictures(pixels, maps, frame, diameter=16.0, size=32)[0, 0, 0]
    assert picture[11, 19].item() == pytest.approx(0.5)
    assert picture[28, 4].item() == pytest.approx(0.5 * 0.4)
    for row, column in (picture == 1).nonzero().tolist():
        # Bilinear: (1 - dx/8) (1 - dy/8) > 1/2 inside the line, which is one pixel wide.
        dx, dy = (max(abs(v - c) - 1.5, 0) / 8 for v, c in ((column, 19.5), (row, 11.5)))
        assert (1 - dx) * (1 - dy) > 0.5
    assert (picture == 1).sum() > 8


def test_diameter_is_a_share_of_the_receptive_field_within_bounds():
    def frame(size, stride=8.0):
        return MapFrame(28, 28, 224, 224, LayerGeometry(stride, 0.0, size))

    assert drawn_diameter(frame(195.0), 72 / 195) == pytest.approx(72)
    assert drawn_diameter(frame(900.0), 0.37) == 112
    assert drawn_diameter(frame(10.0), 0.37) == 16


def test_top_images_of_fewer_images_than_asked_for():
    values, rows = top_images(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), 4)
    assert values.tolist() == [[3.0, 1.0], [5.0, 5.0]]
    assert rows.tolist() == [[1, 0], [0, 1]]


def places_of_this_rank():
    rank = torch.distributed.get_rank()
    return merged({10 + rank: rank, 20 + rank: 5 + rank})


def test_process_0_knows_the_places_of_all_images(two_processes):
    for found in two_processes(places_of_this_rank):
        assert found == {10: 0, 20: 5, 11: 1, 21: 6}
    assert merged({1: 2}) == {1: 2}


def test_units_that_follow_different_parts_come_first():
    nan = math.nan
    result = PartTrackingResult(
        scores=torch.tensor([0.9, 0.8, 0.3, nan]),
        parts=torch.tensor([0, 0, 1, -1]),
        categories=torch.zeros(4, dtype=torch.long),
        active=torch.ones(4),
        choice_r2=torch.tensor([[0.9, -1.0], [0.8, -1.0], [0.1, 0.3], [nan, nan]]),
        score_r2=torch.tensor([[0.9, -1.0], [0.8, -1.0], [0.1, 0.3], [nan, nan]]),
    )
    assert tracking_units(result, 2) == [0, 2]
    assert tracking_units(result, 9) == [0, 2, 1, 3]
    assert active_units(torch.tensor([[1.0, 3.0, 2.0]]), 2) == [1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": "best"}, "`units` must be one of 'tracking', 'active', but got 'best'"),
        ({"num_units": 0}, "`num_units` must be >= 1"),
        ({"every_n_epochs": 0}, "`every_n_epochs` must be >= 1"),
    ],
)
def test_constructor_checks(options, message):
    with pytest.raises(ValueError, match=message):
        panels(**options)


def test_an_unknown_unit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`units` must be >= 0 and <= 7, but got 99"):
        trainer(tmp_path, [panels(units=[99])]).validate(ForeignModule(), loader(), verbose=False)


def test_grad_cam_is_not_changed_by_an_open_tap():
    module = ForeignModule().eval()
    images = torch.randn(2, 3, 32, 32)
    from interp_train.activations import ActivationTap
    from interp_train.structures import Target

    target = Target(None, torch.tensor([0, 1]))
    expected = GradCam(LAYER)(module, images, target)
    with ActivationTap(module, [LAYER]):
        assert torch.equal(GradCam(LAYER)(module, images, target), expected)
