import pytest
import torch

from interp_train.visualization.up_convolutional_inversion.functional import (
    decoder_widths,
    doublings,
    side_by_side,
    squared_errors,
)


@pytest.mark.parametrize(
    ("cells", "pixels", "count"),
    [(7, 224, 5), (13, 224, 5), (112, 224, 1), (64, 64, 0), (80, 64, 0)],
)
def test_doublings_cover_the_image_and_no_more(cells, pixels, count):
    assert doublings((cells, cells), (pixels, pixels)) == count
    assert cells * 2**count >= pixels
    assert count == 0 or cells * 2 ** (count - 1) < pixels
    assert doublings((cells, pixels), (pixels, pixels)) == count


def test_widths_halve_between_their_bounds():
    assert decoder_widths(512, 4, widest=256, narrowest=32) == [256, 128, 64, 32, 32]
    assert decoder_widths(8, 1, widest=256, narrowest=16) == [16, 16]


def test_errors_by_hand():
    images = torch.zeros(2, 1, 1, 2)
    drawn = torch.tensor([[1.0, 3.0], [0.0, 0.0]]).view(2, 1, 1, 2)
    assert squared_errors(drawn, images).tolist() == [5.0, 0.0]
    with pytest.raises(ValueError, match="`reconstructions` must have shape"):
        squared_errors(drawn[:1], images)


def test_layers_stand_side_by_side():
    images = torch.rand(2, 3, 4, 5)
    found = side_by_side(images, [images / 2, images / 4])
    assert found.shape == (3, 11, 21)
    assert torch.equal(found[:, 7:, 8:13], images[1] / 2)
