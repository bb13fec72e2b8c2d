import pytest
import torch

from interp_train.gallery_figures import gallery_figure


def test_rows_are_captioned_and_columns_titled():
    pictures = torch.rand(3, 2, 3, 24, 24)
    figure = gallery_figure(
        pictures, ["unit 1", "unit 2", "unit 3"], ["a", "a long title of two lines"]
    )
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["unit 1", "unit 2", "unit 3", "a", "a long title of two\nlines"]
    heights = [text.get_position()[1] for text in axes.texts[:3]]
    assert heights == sorted(heights)


def test_every_picture_keeps_its_place():
    pictures = torch.arange(4.0).view(2, 2, 1, 1, 1).expand(-1, -1, 3, 24, 24) / 4
    (axes,) = gallery_figure(pictures, ["", ""], ["", ""], note="note").axes
    shown = torch.as_tensor(axes.images[0].get_array()).float()
    found = [float(shown[y, x, 0]) for y in (12, 37) for x in (12, 37)]
    scale = 255 if shown.max() > 1 else 1
    assert [round(value / scale, 2) for value in found] == [0.0, 0.25, 0.5, 0.75]


def test_numbers_must_fit():
    with pytest.raises(ValueError, match="`pictures` must have shape"):
        gallery_figure(torch.zeros(2, 2, 3, 8, 8), ["one"], ["a", "b"])
