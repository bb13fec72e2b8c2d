"""Filters over landmarks: which objects and colours are drawn, and what is refused."""

import numpy as np
import pytest

from interp_train.data.cub import PART_GROUPS
from interp_train.data.faces68 import PART_NAMES
from interp_train.figures import MUTED, OKABE_ITO
from interp_train.landmark_drawings import (
    BIRD_OUTLINE,
    BIRD_REGIONS,
    FACE_OUTLINE,
    FACE_REGIONS,
    filters_over_landmarks,
)

OUTLINE = ("nose", "tail", "foot")
REGIONS = {"front": ("nose",), "rest": ("tail", "foot")}


def record(folder, name, scores=(0.9, 0.1, 0.5), without=(), first=0):
    """Six objects of three landmarks; the tail of the second is hidden."""
    generator = np.random.default_rng(0)
    locations = generator.uniform(10, 50, (6, 3, 2)).astype(np.float32)
    locations[1, 1] = np.nan
    entries = {
        "sample_ids": first + np.arange(6) * 10,
        "labels": np.zeros(6, dtype=np.int64),
        "boxes": np.tile(np.float32([0, 0, 60, 60]), (6, 1)),
        "part_locations": locations,
        "positions": np.full((6, 3, 2), 30, dtype=np.float32),
        "values": np.ones((6, 3), dtype=np.float32),
        "part_names": np.array(OUTLINE),
        "image_size": np.array([64, 64]),
        "grid": np.array([4, 4]),
        "geometry": np.array([16.0, 8.0, 16.0]),
        "part_tracking_scores": np.array(scores),
        "part_tracking_parts": np.array([0, 1, 2]),
    }
    path = folder / f"{name}.npz"
    np.savez(path, **{key: value for key, value in entries.items() if key not in without})
    return path


def test_each_network_has_a_line_of_the_same_objects(tmp_path):
    paths = {name: record(tmp_path, name) for name in ("ordinary", "parts")}
    figure = filters_over_landmarks(paths, num_objects=5, outline=OUTLINE, regions=REGIONS)
    assert len(figure.axes) == 2 * 5
    outlines = [axes.patches[0].get_xy() for axes in figure.axes]
    for first, second in zip(outlines[:5], outlines[5:], strict=True):
        np.testing.assert_array_equal(first, second)
    assert [text.get_text() for text in figure.texts] == ["ordinary", "parts"]


def test_landmarks_are_marked_on_demand(tmp_path):
    paths = {"parts": record(tmp_path, "parts")}
    options = {"num_objects": 2, "outline": OUTLINE, "regions": REGIONS}
    plain = filters_over_landmarks(paths, **options)
    marked = filters_over_landmarks(paths, mark_landmarks=True, **options)
    assert len(plain.axes[1].collections) == 1
    with np.load(paths["parts"]) as entries:
        shown = marked.axes[1].collections[1].get_offsets()
        np.testing.assert_array_equal(shown, entries["part_locations"][-1])


def test_names_of_birds_and_faces_are_those_of_the_data():
    assert set(BIRD_OUTLINE) | {p for parts in BIRD_REGIONS.values() for p in parts} == {
        part for parts in PART_GROUPS.values() for part in parts
    }
    followed = [part for parts in FACE_REGIONS.values() for part in parts]
    assert sorted(followed) == sorted(PART_NAMES)
    assert set(FACE_OUTLINE) <= set(PART_NAMES)


def test_filters_have_the_colour_of_what_they_follow(tmp_path):
    figure = filters_over_landmarks(
        {"parts": record(tmp_path, "parts")}, num_objects=2, outline=OUTLINE, regions=REGIONS
    )
    colours = figure.axes[1].collections[0].get_facecolors()[:, :3]
    expected = [OKABE_ITO[0], MUTED, OKABE_ITO[1]]
    found = ["#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in colours]
    assert found == expected


def test_what_it_refuses(tmp_path):
    options = {"outline": OUTLINE, "regions": REGIONS}
    with pytest.raises(ValueError, match="`records` must name at least one record"):
        filters_over_landmarks({}, **options)
    whole = {"parts": record(tmp_path, "parts")}
    with pytest.raises(ValueError, match="`num_objects` must be at most the 5 objects"):
        filters_over_landmarks(whole, num_objects=6, **options)
    bare = {"bare": record(tmp_path, "bare", without=("part_tracking_scores",))}
    with pytest.raises(ValueError, match="has no 'part_tracking_scores'"):
        filters_over_landmarks(bare, **options)
    other = {"parts": record(tmp_path, "parts"), "other": record(tmp_path, "other", first=30)}
    with pytest.raises(ValueError, match="that of 'other' lacks 2 of the 4 objects drawn"):
        filters_over_landmarks(other, num_objects=4, **options)
