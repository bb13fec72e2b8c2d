import math

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from interp_train import figures
from interp_train.figures import (
    MARKERS,
    OKABE_ITO,
    UnitPictures,
    as_pixels,
    category_style,
    coloured,
    heatmap_figure,
    image_grid,
    new_figure,
    outlined,
    overlay,
    position_figure,
    rescaled,
    save_figure,
    spotlight,
    unit_figure,
    unnormalised,
)


def test_unnormalised_inverts_the_normalisation():
    pixels = torch.rand(2, 3, 4, 5)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    shift, scale = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    torch.testing.assert_close(unnormalised((pixels - shift) / scale, mean, std), pixels)
    assert unnormalised(torch.zeros(1, 1, 2, 2), (0.5,), (1.0,)).shape == (1, 3, 2, 2)


def test_rescaled_stretches_the_batch_and_survives_a_constant():
    torch.testing.assert_close(
        rescaled(torch.tensor([[[[-2.0, 0.0, 2.0]]]]))[0, 1, 0], torch.tensor([0.0, 0.5, 1.0])
    )
    assert rescaled(torch.ones(1, 3, 2, 2)).isfinite().all()


def test_colours_are_those_of_matplotlib_on_the_stated_scale():
    values = torch.tensor([0.0, 1.0, 2.0, 4.0, -3.0, 9.0]).view(1, 1, 1, 6)
    found = coloured(values, low=0.0, high=4.0, colour_map="viridis")[0, :, 0].T
    for colour, share in zip(found, (0, 0.25, 0.5, 1.0, 0.0, 1.0), strict=True):
        expected = matplotlib.colormaps["viridis"](round(share * 255))[:3]
        np.testing.assert_allclose(colour.numpy(), expected, atol=1e-6)


def test_the_lightness_of_the_default_map_rises_from_end_to_end():
    values = torch.linspace(0, 1, 64).view(1, 1, 1, 64)
    colours = coloured(values, low=0, high=1)[0, :, 0]
    luminance = (colours * torch.tensor([0.2126, 0.7152, 0.0722])[:, None]).sum(0)
    assert (luminance.diff() > 0).all()


def test_overlay_at_opacity_zero_is_grey_and_at_one_the_heatmap():
    images, heatmaps = torch.rand(1, 3, 4, 4), torch.rand(1, 1, 4, 4)
    grey = images.mean(1, keepdim=True).expand(1, 3, 4, 4)
    torch.testing.assert_close(overlay(images, heatmaps, high=1, opacity=0), grey)
    torch.testing.assert_close(
        overlay(images, heatmaps, high=1, opacity=1), coloured(heatmaps, low=0, high=1)
    )


def test_spotlight_keeps_the_inside_and_darkens_the_outside():
    images = torch.full((3, 3, 21, 31), 0.5)
    centres = torch.tensor([[20.0, 5.0], [0.0, 0.0], [math.nan, math.nan]])
    lit = spotlight(images, centres, 10.0, darkness=0.6)
    for row in range(21):
        for column in range(31):
            distance = math.hypot(column - 20, row - 5)
            light = min(max((5.0 - distance) / 1.0 + 0.5, 0.0), 1.0)
            expected = 0.5 * (1 - 0.6 * (1 - light))
            assert lit[0, 1, row, column].item() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(lit[2], images[2])


def test_the_outline_of_a_square_is_its_border():
    masks = torch.zeros(1, 1, 7, 7, dtype=torch.bool)
    masks[..., 1:6, 1:6] = True
    drawn = outlined(torch.zeros(1, 3, 7, 7), masks)
    expected = torch.zeros(7, 7)
    expected[1:6, 1:6] = 1
    expected[2:5, 2:5] = 0
    torch.testing.assert_close(drawn[0, 0], expected)


def test_image_grid_places_rows_and_leaves_gaps():
    images = torch.stack([torch.full((3, 2, 2), value) for value in (0.1, 0.2, math.nan)])
    grid = image_grid(images, 2, gap=1, background=0.9)
    expected = torch.tensor(
        [
            [0.1, 0.1, 0.9, 0.2, 0.2],
            [0.1, 0.1, 0.9, 0.2, 0.2],
            [0.9, 0.9, 0.9, 0.9, 0.9],
            [0.9, 0.9, 0.9, 0.9, 0.9],
            [0.9, 0.9, 0.9, 0.9, 0.9],
        ]
    )
    torch.testing.assert_close(grid[0], expected)


def test_category_styles_do_not_repeat_before_all_combinations_are_used():
    number = len(OKABE_ITO) * len(MARKERS)
    assert len({category_style(index) for index in range(number)}) == number
    assert category_style(number) == category_style(0)


def linear(channel):
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


# Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB.
DEFICIENCIES = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
}  # fmt: skip


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_colours_of_categories_stay_apart_for_colour_blind_readers(kind):
    matrix = np.array(DEFICIENCIES[kind])
    colours = [
        matrix @ [linear(channel) for channel in matplotlib.colors.to_rgb(colour)]
        for colour in OKABE_ITO
    ]
    seen = [np.sign(colour) * np.abs(colour) ** (1 / 2.4) for colour in colours]
    distances = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(distances) > 0.08


def mean_colour(pixels):
    return pixels.float().mean((1, 2)) / 255


def test_heatmap_figure_shows_images_above_overlays_on_one_scale():
    images = torch.zeros(2, 3, 40, 40)
    images[1] = 1.0
    heatmaps = torch.zeros(2, 1, 40, 40)
    heatmaps[0] = 2.0
    pixels = as_pixels(heatmap_figure(images, heatmaps, ["a", "b"], scale_label="logits"))
    height, width = pixels.shape[1:]
    above, below = pixels[:, height // 4], pixels[:, height // 2 + height // 12]
    assert mean_colour(above[:, None, : width // 3]).max() < 0.05
    assert mean_colour(above[:, None, -width // 3 :]).min() > 0.95
    hottest = torch.tensor(matplotlib.colormaps["magma"](255)[:3]) * 0.6
    torch.testing.assert_close(
        mean_colour(below[:, None, 40 : width // 3]), hottest.float(), atol=0.02, rtol=0
    )


def test_zero_heatmaps_are_not_stretched_and_sparse_ones_not_saturated():
    heatmaps = torch.zeros(1, 1, 40, 40)
    assert figures.common_high(heatmaps) == 1.0
    assert figures.common_high(heatmaps + 1e-15) == 1.0
    heatmaps[0, 0, 3, 4] = 0.25
    assert figures.common_high(heatmaps) == 0.25
    assert figures.common_high(torch.linspace(0, 1, 1600).view_as(heatmaps)) < 0.9951


def test_position_figure_draws_each_peak_where_it_is():
    images = torch.zeros(2, 3, 50, 50)
    landmarks = torch.full((2, 2, 2), math.nan)
    positions = torch.tensor([[[10.0, 40.0]], [[30.0, 20.0]]])
    figure = position_figure(
        images, landmarks, positions, unit_parts=[1], part_names=["head", "tail"], columns=2
    )
    drawn = [entry for entry in figure.axes[0].collections if len(entry.get_facecolor())]
    (scatter,) = drawn
    # The second image begins one gap (3 pixels) after the first.
    np.testing.assert_allclose(scatter.get_offsets(), [[10, 40], [83, 20]])
    np.testing.assert_allclose(
        scatter.get_facecolor()[0][:3], matplotlib.colors.to_rgb(OKABE_ITO[1])
    )


def test_unit_figure_leaves_missing_images_blank():
    images = torch.zeros(1, 2, 3, 30, 30)
    images[0, 1] = math.nan
    values = torch.tensor([[1.0, math.nan]])
    figure = unit_figure(UnitPictures(images, values, ["unit 3"]))
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert shown[:, :30].max() == 0
    assert shown[:, -29:].min() == 1


def test_files_are_equal_for_equal_figures_and_name_no_program(tmp_path):
    for suffix in ("png", "pdf", "svg"):
        contents = []
        for name in ("a", "b"):
            figure = new_figure(1, 1)
            figures.quiet_axes(figure.add_subplot()).plot([1, 2])
            path = save_figure(figure, tmp_path / "deep" / f"{name}.{suffix}")
            contents.append(path.read_bytes())
        if suffix != "svg":  # ids of svg elements are salted
            assert contents[0] == contents[1], suffix
        assert b"CreationDate" not in contents[0]
    with Image.open(tmp_path / "deep" / "a.png") as image:
        assert "Software" not in image.info


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"`centres` must have shape \(2, 2\)"):
        spotlight(torch.zeros(2, 3, 4, 4), torch.zeros(3, 2), 2.0)
    with pytest.raises(ValueError, match=r"`heatmaps` must have shape"):
        heatmap_figure(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 2, 2), ["a"], scale_label="")
    with pytest.raises(ValueError, match=r"`landmarks` must have shape"):
        position_figure(
            torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 2), torch.zeros(1, 1, 2),
            unit_parts=[0], part_names=["head"],
        )  # fmt: skip
