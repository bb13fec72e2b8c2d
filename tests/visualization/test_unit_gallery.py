from dataclasses import dataclass

import pytest
import torch

from interp_train.structures import Target
from interp_train.visualization.feature_inversion import FeatureInversion
from interp_train.visualization.top_patches import TopPatches
from interp_train.visualization.unit_gallery import (
    image_gallery,
    most_active_units,
    normalised_like,
    pictures_images,
    unit_gallery,
)
from tests.contracts.options import small_network


@dataclass(frozen=True)
class Shades:
    """Units as grey squares, darker by their number."""

    height: int = 4
    width: int = 8

    def __call__(self, network, target, images):
        shades = 1 - target.units.float() / 10
        return shades.view(-1, 1, 1, 1).expand(-1, 3, self.height, self.width)


class Mirrored:
    of_images = True

    def __call__(self, network, target, images):
        return images.flip(-1) * 0.5


def images(number=5, size=32):
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(0))


def slow_mean_peaks(network, layer, batch):
    found = []

    def keep(module, inputs, output):
        found.append(output)

    handle = network.get_submodule(layer).register_forward_hook(keep)
    with torch.no_grad():
        for image in batch:
            network(image[None])
    handle.remove()
    units = found[0].shape[1]
    return [sum(float(maps[0, unit].max()) for maps in found) / len(batch) for unit in range(units)]


def test_most_active_units_have_the_highest_mean_peak():
    network = small_network().eval()
    layer = network.resolve("top")
    peaks = slow_mean_peaks(network, layer, images())
    expected = sorted(range(len(peaks)), key=lambda unit: -peaks[unit])[:3]
    assert most_active_units(network, layer, images(), 3, batch_size=2) == expected
    assert most_active_units(network, "top", images(), 3) == expected  # the alias


def test_a_gallery_has_a_row_per_unit_and_a_column_per_method():
    methods = {"shades": Shades(), "mirror": Mirrored(), "tall": Shades(8, 4)}
    found = unit_gallery(small_network(), "top", [2, 5], images(), methods, size=16)
    assert found.rows == (2, 5)
    assert found.columns == ("shades", "tall")
    assert found.pictures.shape == (2, 2, 3, 16, 16)
    middle = found.pictures[:, :, 0, 8, 8]
    torch.testing.assert_close(middle, torch.tensor([[0.8, 0.8], [0.5, 0.5]]))
    assert (found.pictures[:, 0, :, 0] == 1).all()  # white beside what is not square
    assert (found.pictures[:, 1, :, :, 0] == 1).all()


def test_images_stand_beside_their_inversions():
    network, batch = small_network(), images(2, 16)
    methods = {"shades": Shades(), "mirror": Mirrored()}
    stats = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    found = image_gallery(network, "top", batch, methods, **stats, size=16)
    assert found.columns == ("image", "mirror")
    torch.testing.assert_close(found.pictures[:, 0], (batch * 0.5 + 0.5).clamp(0, 1))
    torch.testing.assert_close(found.pictures[:, 1], batch.flip(-1) * 0.5)


def test_without_a_method_of_the_kind_there_is_no_gallery():
    stats = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    assert unit_gallery(small_network(), "top", [0], images(), {"m": Mirrored()}) is None
    assert image_gallery(small_network(), "top", images(), {"s": Shades()}, **stats) is None


def test_methods_of_the_package_take_the_normalisation_of_the_data():
    found = normalised_like(TopPatches(num_patches=2), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert found == TopPatches(num_patches=2, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    foreign = Mirrored()
    assert normalised_like(foreign, (0.0,), (1.0,)) is foreign


def test_feature_inversion_says_that_it_pictures_images():
    assert pictures_images(FeatureInversion())
    assert not pictures_images(TopPatches())
    target = Target("top", torch.tensor([0]))
    drawn = FeatureInversion(steps=1)(small_network(), target, images(3))
    assert len(drawn) == 3


def test_errors():
    with pytest.raises(ValueError, match="`number` must be >= 1, but got 0"):
        most_active_units(small_network(), "top", images(), 0)
