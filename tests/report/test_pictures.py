"""Plots and panels: what they draw is what was recorded."""

import math

import numpy as np
import pytest
import torch

from interp_train.figures import OKABE_ITO
from interp_train.report.embedding import save_plot
from interp_train.report.filter_plots import (
    best_unit_of,
    instability_plot,
    telling_parts,
    tracking_plot,
)
from interp_train.report.panels import (
    TILE,
    disks_at,
    lit_pictures,
    peaks_in,
    position_panel,
    units_of_images,
)
from interp_train.report.plots import curves_plot, differences_plot, measures_plot, row_colour
from interp_train.report.records import read_folder
from tests.report.fake_study import LAYER, SIZE, drawn_images, write_study

IMAGES = drawn_images(60)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return read_folder(write_study(tmp_path_factory.mktemp("outputs"), images=IMAGES))


@pytest.fixture(scope="module")
def record(study):
    return study.of("interpretable", "creatures")[0].layers[LAYER]


def test_curves_are_means_and_ranges_over_seeds(study):
    axes = curves_plot(study, "creatures", LAYER).figure.axes[0]
    curves = [run.curves["accuracy/top1"] for run in study.of("ordinary", "creatures")]
    line = axes.get_lines()[0]
    expected = [100 * np.mean([curve[epoch] for curve in curves]) for epoch in sorted(curves[0])]
    np.testing.assert_allclose(line.get_ydata(), expected)
    assert list(line.get_xdata()) == [1, 2, 3, 4, 5, 6]
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(100 * max(max(curve.values()) for curve in curves))


def test_dots_are_the_seeds_and_hollow_marks_the_baselines(study):
    figure = measures_plot(study, "creatures", LAYER).figure
    axes = next(a for a in figure.axes if "location instability" in a.get_title(loc="left"))
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    values = [run.result[f"parts/{LAYER}/location_instability"]
              for run in study.of("ordinary", "creatures")]  # fmt: skip
    np.testing.assert_allclose(np.sort(axes.collections[0].get_offsets()[:, 0]), np.sort(values))
    oracle = labels.index("oracle per part")
    logged = study.runs[0].result[f"parts/{LAYER}/location_instability_oracle"]
    marks = axes.collections[oracle]
    assert marks.get_offsets()[0, 0] == pytest.approx(logged, rel=0.2)
    assert not len(marks.get_facecolor())


def test_rows_keep_their_colour_and_the_ordinary_one_is_blue(study):
    assert row_colour(study, "ordinary") == OKABE_ITO[0]
    assert row_colour(study._replace(rows=("b", "ordinary")), "ordinary") == OKABE_ITO[0]


def test_nothing_is_drawn_of_nothing(study):
    empty = study._replace(runs=())
    assert curves_plot(empty, "creatures", LAYER) is None
    assert measures_plot(empty, "creatures", LAYER) is None
    assert differences_plot(empty, "creatures", {}) is None
    assert tracking_plot(empty, "creatures", LAYER, []) is None


def test_the_best_unit_is_chosen_on_one_half_and_scored_on_the_other(record):
    choice = np.array(record.arrays["part_tracking_choice_r2"])
    active = record.arrays["part_tracking_active"]
    for part in range(len(record.part_names)):
        alive = [k for k in range(len(active)) if active[k] >= 0.01]
        expected = max(alive, key=lambda k: choice[k, part])
        unit, score = best_unit_of(record, part)
        assert unit == expected
        assert score == record.arrays["part_tracking_score_r2"][expected, part]


def test_images_of_several_categories_show_filters_of_their_own(tmp_path):
    folder = write_study(tmp_path, seeds=(0,), classes=3, images=drawn_images(90, 3))
    run = read_folder(folder).of("interpretable", "creatures")[0]
    layer, pinned = run.layers[LAYER], run.panels["pinned"]
    categories = layer.arrays["part_tracking_categories"]
    for (unit, _), label in zip(units_of_images(layer, 0, pinned), pinned["labels"], strict=True):
        assert categories[unit] == label


def test_telling_parts_come_in_the_order_of_their_scores(study):
    runs = [study.of(row, "creatures")[0] for row in study.rows]
    parts = telling_parts(runs, LAYER, 3)
    best = [max(best_unit_of(run.layers[LAYER], part)[1] for run in runs) for part in parts]
    assert best == sorted(best, reverse=True)
    assert len(parts) == 3


def test_the_light_falls_on_the_peak_and_the_ring_on_the_landmark(study, record):
    pinned = study.runs[0].panels["pinned"]
    unit, _ = best_unit_of(record, 0)
    white = {**pinned, "images": np.full_like(pinned["images"], 128)}
    drawn = lit_pictures(record, [unit] * 8, 0, white)
    peaks = peaks_in(record, pinned, [unit] * 8) * TILE / SIZE
    landmarks = torch.as_tensor(pinned["part_locations"])[:, 0] * TILE / SIZE
    for picture, peak, landmark in zip(drawn, peaks, landmarks, strict=True):
        x, y = (int(value) for value in peak)
        ring = (picture == 1).all(0).nonzero().float()
        if len(ring):
            np.testing.assert_allclose(ring.mean(0).flip(0), landmark, atol=1.0)
        if (torch.tensor([x, y]) - landmark).norm() > 12:
            assert picture[0, y, x].item() == pytest.approx(128 / 255, abs=1e-3)


def test_a_silent_filter_leaves_the_image_dark(study, record):
    pinned = study.runs[0].panels["pinned"]
    dead = record.table.values.shape[1] - 1
    drawn = lit_pictures(
        record, [dead] * 8, 0, {**pinned, "part_locations": pinned["part_locations"] * np.nan}
    )
    assert drawn.max() <= 0.41
    assert peaks_in(record, pinned, [dead] * 8).isnan().all()


def test_disks_are_empty_where_the_place_is_unknown():
    masks = disks_at(torch.tensor([[10.0, 20.0], [math.nan, 3.0]]), 2.0)
    assert masks[0, 0].nonzero().float().mean(0).tolist() == [20.0, 10.0]
    assert masks[0].sum() == 13
    assert not masks[1].any()


def test_positions_are_drawn_for_followed_parts_only(study):
    runs = [study.of(row, "creatures")[0] for row in study.rows]
    panels, legend = position_panel("creatures", LAYER, runs)
    ordinary, interpretable = panels
    assert all("<circle" not in tile for tile in ordinary.strips[0].tiles)
    assert any("<circle" in tile for tile in interpretable.strips[0].tiles)
    assert legend
    assert all(colour in "".join(interpretable.strips[0].tiles) for _, colour in legend)


def test_every_filter_stands_at_its_instability_and_its_tracking_score(study):
    runs = [study.of(row, "creatures")[0] for row in study.rows]
    axes = instability_plot(study, "creatures", LAYER, runs).figure.axes[0]
    for dots, run in zip(axes.collections, runs, strict=True):
        arrays = run.layers[LAYER].arrays
        x, y = np.asarray(dots.get_offsets()).T
        np.testing.assert_allclose(x, arrays["location_instability_best_category"])
        np.testing.assert_allclose(y, np.maximum(arrays["part_tracking_scores"], -1))


def test_a_plot_in_the_page_has_no_outside_address_and_ids_of_its_own(study, tmp_path):
    plot = curves_plot(study, "creatures", LAYER)
    text = save_plot(plot, tmp_path)
    assert "http" not in text
    assert text.startswith("<svg")
    assert 'id="curves-creatures-' in text or 'id="curves_creatures-' in text
    assert OKABE_ITO[0] in text
    assert (tmp_path / "curves_creatures.pdf").stat().st_size > 1000
