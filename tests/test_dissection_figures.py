"""Figures of dissection: what they state is what they were given, and nothing lies on anything."""

import pytest

from interp_train.dissection_figures import LayerBars, detectors_figure, iou_curves_figure
from interp_train.figures import as_pixels

CATEGORIES = ("object", "part", "colour", "texture", "scene")


def bars(concepts=40, baselines=("random_network", "rotated_basis", "shuffled_masks")):
    found = [(f"concept number {i}", i % 5, 40 - i) for i in range(concepts)]
    return LayerBars(
        layer="features.12", num_units=512, least_iou=0.04, categories=CATEGORIES,
        detectors=[30.0, 12.0, 0.0, 5.0, 1.0], unique=[4.0, 3.0, 0.0, 2.0, 1.0],
        baselines={name: [3.0 + n, 1.0, 0.0, 4.0, 0.0] for n, name in enumerate(baselines)},
        concepts=found,
    )  # fmt: skip


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def boxes(figure):
    """Extents of all texts that are drawn."""
    as_pixels(figure)  # draws
    renderer = figure.canvas.get_renderer()
    written = [
        text
        for axes in figure.axes
        for text in (axes.title, axes._left_title, axes.xaxis.label, *axes.texts)
        if text.get_text()
    ]
    return [text.get_window_extent(renderer) for text in written]


@pytest.mark.parametrize("number", [1, 3])
def test_bars_state_detectors_and_concepts(number):
    figure = detectors_figure([bars()] * number)
    assert len(figure.axes) == 2 * number
    assert texts(figure)[:5] == ["30 (4)", "12 (3)", "0 (0)", "5 (2)", "1 (1)"]
    widths = [patch.get_width() for patch in figure.axes[0].patches[:5]]
    assert widths == [30, 12, 0, 5, 1]
    marks = [tuple(m.get_offsets()[0]) for m in figure.axes[0].collections[:3]]
    assert [x for x, _ in marks] == [3, 4, 5]
    heights = [patch.get_height() for patch in figure.axes[1].patches]
    assert sorted(heights, reverse=True) == list(range(40, 12, -1))
    assert "12 rarer ones left out" in figure.axes[1].get_title(loc="left")
    found = boxes(figure)
    overlapping = [(a, b) for i, a in enumerate(found) for b in found[:i] if a.overlaps(b)]
    assert overlapping == []
    width, height = figure.canvas.get_width_height()
    assert min(min(box.x0, box.y0) for box in found) >= 0
    assert max(box.x1 for box in found) <= width
    assert max(box.y1 for box in found) <= height


def test_a_layer_without_detectors_says_so():
    figure = detectors_figure([bars(concepts=0, baselines=())])
    assert "no unit detects a concept" in texts(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["this network"]


def test_curves_show_the_nulls_of_each_epoch():
    quantities = {
        "mean_best_iou": {0: 0.01, 1: 0.03, 2: 0.05},
        "mean_best_iou_rotated_basis": {0: 0.01, 1: 0.02, 2: 0.02},
        "mean_best_iou_random_network": {0: 0.01, 1: 0.01, 2: 0.01},
        "detectors": {0: 0.0, 1: 4.0, 2: float("nan")},
        "unique_best": {0: 0.0, 1: 0.0, 2: 0.0},
    }
    figure = iou_curves_figure({"layer4": quantities, "layer3": quantities})
    assert len(figure.axes) == 6
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines.keys() == {"this network", "random weights", "rotated basis"}
    assert lines["this network"].get_xdata().tolist() == [1, 2, 3]
    assert lines["this network"].get_ydata().tolist() == [0.01, 0.03, 0.05]
    assert lines["rotated basis"].get_ydata().tolist() == [0.01, 0.02, 0.02]
    assert figure.axes[1].lines[0].get_xdata().tolist() == [1, 2]
    assert figure.axes[0].get_ylim()[0] == 0
    assert figure.axes[2].get_ylim() == (0, 1)
    found = boxes(figure)
    assert not [(a, b) for i, a in enumerate(found) for b in found[:i] if a.overlaps(b)]
