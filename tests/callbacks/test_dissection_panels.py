"""Pictures of dissected units, against loops over their pixels."""

import pytest
import torch

from interp_train.callbacks.dissection_panels import (
    ShownImages,
    images_of_loader,
    masked_pictures,
    patches_around,
    pixels_of_images,
    unit_panel,
)
from interp_train.evaluation.layer_dissection import layer_dissection
from interp_train.evaluation.peak_table import MapFrame
from interp_train.evaluation.top_images import TopImages
from interp_train.structures import LayerGeometry
from tests.evaluation.test_layer_dissection import measured

FRAME = MapFrame(4, 4, 16, 16, LayerGeometry(4.0, 1.5, 4.0))


def slow_value(cells, x, y):
    """Bilinear between the centres 1.5, 5.5, 9.5, 13.5, constant outside."""
    places = [min(max((p - 1.5) / 4, 0.0), 3.0) for p in (x, y)]
    (a, s), (b, t) = ((min(int(p), 2), p - min(int(p), 2)) for p in places)
    top = cells[b][a] * (1 - s) + cells[b][a + 1] * s
    bottom = cells[b + 1][a] * (1 - s) + cells[b + 1][a + 1] * s
    return top * (1 - t) + bottom * t


@pytest.mark.parametrize("peak", [(0, 0), (1, 2), (3, 3)])
def test_pixels_above_the_threshold_keep_their_colour(peak):
    cells = torch.zeros(4, 4)
    cells[peak] = 1.0
    colour = torch.tensor([0.9, 0.3, 0.0])
    pixels = colour[:, None, None].expand(1, 1, 3, 16, 16)
    drawn = masked_pictures(pixels, cells[None, None], torch.tensor([0.4]), FRAME, 8)[0, 0]
    assert drawn.shape == (3, 8, 8)
    x, y = (min(max(round(1.5 + 4 * p - 4), 0), 8) for p in (peak[1], peak[0]))
    grey = torch.full((3,), 0.7 * float(colour.mean()))
    for row in range(8):
        for column in range(8):
            active = slow_value(cells.tolist(), x + column, y + row) > 0.4
            found = drawn[:, row, column]
            line = torch.allclose(found, torch.tensor([0xF0, 0xE4, 0x42]) / 255, atol=1e-5)
            if active:  # in its colour, or on the inner edge
                assert line or torch.allclose(found, colour, atol=1e-5)
            else:
                assert torch.allclose(found, grey, atol=1e-5) or not found.any()


def test_patches_stay_inside_the_image():
    images = torch.arange(2 * 6 * 10.0).view(2, 1, 6, 10)
    patches = patches_around(images, torch.tensor([[0.0, 5.0], [4.6, 2.0]]))
    assert torch.equal(patches[0], images[0, :, 3:6, 0:5])
    assert torch.equal(patches[1], images[1, :, 0:3, 2:7])


def test_a_panel_shows_the_top_images_of_the_chosen_units():
    metric, numbers = measured()
    found = layer_dissection("layer", metric, numbers)
    top = TopImages(3)
    maps = torch.rand(30, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    maps[:, 2] = 0  # a chosen unit that is silent in its top images
    top.add(maps, torch.arange(30) + 7)
    asked = []

    def show(places):
        asked.extend(places)
        shades = torch.tensor(places)[:, None, None, None] / 30
        return ShownImages(shades.expand(-1, 3, 16, 16), torch.tensor(places) + 7)

    panel = unit_panel(found, top, show, FRAME, number=2, size=16)
    assert panel.units == found.chosen_units(2)
    assert set(panel.units) == {0, 2}
    assert asked == sorted(set(top.places[panel.units].flatten().tolist()))
    silent = panel.units.index(2)
    assert panel.pictures[silent].isnan().all()
    assert panel.values[silent].isnan().all()
    other = 1 - silent
    assert torch.equal(panel.values[other], top.values[panel.units[other]])
    assert panel.captions[other].splitlines()[0] == "unit 0: red"
    assert panel.captions[other].splitlines()[1].startswith("thing, IoU .")
    with pytest.raises(ValueError, match="must not shuffle"):
        unit_panel(found, top, lambda p: show(p)._replace(sample_ids=torch.tensor(p)), FRAME,
                   number=2, size=16)  # fmt: skip
    arrays = panel.as_arrays()
    assert arrays["pictures"].dtype == "uint8"


def test_pixels_follow_the_stated_normalisation():
    class Source:
        mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    images = torch.tensor([-2.0, 0.0, 2.0]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    assert pixels_of_images(Source(), images)[0, 0, 0].tolist() == [0.0, 0.5, 1.0]
    assert pixels_of_images(object(), 10 * images)[0, 0, 0].tolist() == [0.0, 0.5, 1.0]


def test_images_are_read_by_their_place_in_the_stream():
    data = [torch.tensor(10 * index) for index in range(50)]
    loader = torch.utils.data.DataLoader(data, batch_size=7, sampler=range(49, -1, -1))
    show = images_of_loader(loader, lambda batch: ShownImages(batch, batch))
    places = list(range(0, 50, 1))
    assert show(places).sample_ids.tolist() == [10 * (49 - place) for place in places]
