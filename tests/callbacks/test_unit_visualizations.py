from dataclasses import dataclass

import numpy as np
import pytest
import torch

from interp_train.callbacks.unit_visualizations import UnitVisualizations
from interp_train.structures import Target
from interp_train.visualization.top_patches import TopPatches
from tests.callbacks import spot_run
from tests.callbacks.panel_run import BlobImages, ForeignModule, loader, trainer


@dataclass(frozen=True)
class Halved:
    of_images = True

    def __call__(self, network, target, images):
        return images / 2


def visualizations(**options):
    methods = {"top_patches": TopPatches(num_patches=4), "off": None, "halved": Halved()}
    settings = {"layers": ["body.4"], "num_units": 2, "num_images": 6, "num_inverted": 3}
    return UnitVisualizations(methods, **{**settings, **options})


def record(folder, end=""):
    return np.load(folder / "measures" / "panels" / f"gallery_body.4{end}.npz")


def test_draws_and_records_units_and_images(tmp_path):
    run = trainer(tmp_path, [visualizations(picture_size=32)], max_epochs=2)
    run.fit(ForeignModule(), loader(), loader())
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    kinds = ("images", "units")
    assert names == [
        f"visualization_body.4_{kind}_epoch00{n}.png" for kind in kinds for n in (0, 1)
    ]
    units, inverted = record(tmp_path), record(tmp_path, "_images")
    assert units["columns"].tolist() == ["top patches"]
    assert units["pictures"].shape == (2, 1, 3, 32, 32)
    assert units["captions"].tolist() == [f"unit {row}" for row in units["rows"]]
    assert inverted["columns"].tolist() == ["image", "halved"]
    assert inverted["captions"].tolist() == ["image 1", "image 2", "image 3"]


def test_the_pictures_are_those_of_the_method_on_a_sample_that_is_spread(tmp_path):
    module = ForeignModule()
    run = trainer(tmp_path, [visualizations(units=[3, 1])])
    run.validate(module, loader(), verbose=False)
    places = [0, 2, 4, 7, 9, 11]
    images = torch.stack([BlobImages()[place].images for place in places])
    target = Target("body.4", torch.tensor([3, 1]))
    expected = TopPatches(num_patches=4)(module.eval(), target, images)
    found = torch.from_numpy(record(tmp_path)["pictures"])[:, 0].float() / 255
    sides = torch.nn.functional.interpolate(expected, (160, 160), mode="bilinear", antialias=True)
    torch.testing.assert_close(found, sides.clamp(0, 1), atol=0.003, rtol=0)


def test_a_learning_system_is_asked_by_an_alias(tmp_path):
    run = spot_run.trainer(tmp_path, callbacks=[visualizations(layers=["top"])])
    run.validate(spot_run.SpotSystem(), spot_run.SpotData(), verbose=False)
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert [name.partition("_epoch")[0] for name in names] == [
        "visualization_relu_images", "visualization_relu_units",
    ]  # fmt: skip


def test_training_is_the_same_with_and_without(tmp_path):
    weights = []
    for callbacks in ([], [visualizations()]):
        torch.manual_seed(3)
        module = ForeignModule()
        run = trainer(
            tmp_path, callbacks, max_epochs=2, accumulate_grad_batches=2, val_check_interval=1
        )
        run.fit(module, loader(), loader())
        weights.append({name: value.clone() for name, value in module.state_dict().items()})
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_every_n_epochs_and_the_last(tmp_path):
    run = trainer(tmp_path, [visualizations(every_n_epochs=2, num_inverted=0)], max_epochs=4)
    run.fit(ForeignModule(), loader(), loader())
    assert len(list((tmp_path / "figures").iterdir())) == 3


def test_a_wrong_layer_fails_before_anything_is_computed(tmp_path):
    run = trainer(tmp_path, [visualizations(layers=["body.9"])])
    with pytest.raises(ValueError, match=r"body\.9"):
        run.validate(ForeignModule(), loader(), verbose=False)


@pytest.mark.parametrize("name", ["num_units", "num_images", "picture_size", "every_n_epochs"])
def test_numbers_must_be_positive(name):
    with pytest.raises(ValueError, match=f"`{name}` must be >= 1, but got 0"):
        visualizations(**{name: 0})
