"""Pictures of parse trees show what they should, where they should."""

import random

import pytest
import torch
from matplotlib.patches import Rectangle as Patch

from interp_train.and_or_graph import AndOrGraph, ParseTree, Rectangle
from interp_train.figures import OKABE_ITO
from interp_train.parse_drawings import (
    DrawnBox,
    crop_of,
    crop_tree_figure,
    placed,
    productions,
    scene_figure,
    scene_with_tree_figure,
)

GRID = (4, 4)
LEFT = ParseTree(Rectangle(0, 0, 1, 4))
RIGHT = ParseTree(
    Rectangle(1, 0, 3, 4),
    (ParseTree(Rectangle(1, 0, 3, 2)), ParseTree(Rectangle(1, 2, 3, 2))),
)
TREE = ParseTree(Rectangle(0, 0, 4, 4), (LEFT, RIGHT))
IMAGE = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))


def drawn(tree=TREE, box=(10.0, 4.0, 50.0, 36.0)):
    return DrawnBox(box, 1, ".97", tree)


def outlines(axes, colour):
    rgba = torch.tensor([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return [
        (*patch.get_xy(), patch.get_width(), patch.get_height())
        for patch in axes.patches
        if isinstance(patch, Patch)
        and torch.allclose(torch.tensor(patch.get_edgecolor()[:3]).float(), rgba, atol=1e-3)
    ]


def test_leaves_lie_where_their_cells_are():
    assert placed(Rectangle(1, 2, 3, 2), (10.0, 4.0, 50.0, 36.0), GRID) == (20, 20, 50, 36)
    figure = scene_figure(IMAGE, [drawn()], ["cat", "dog"], GRID)
    found = outlines(figure.axes[0], OKABE_ITO[1])
    expected = [(9.5, 3.5, 10.0, 32), (19.5, 3.5, 30, 16), (19.5, 19.5, 30, 16), (9.5, 3.5, 40, 32)]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected))
    whole = scene_figure(IMAGE, [drawn(LEFT._replace(parts=()))], ["cat", "dog"], GRID)
    assert len(outlines(whole.axes[0], OKABE_ITO[1])) == 1
    nothing = scene_figure(IMAGE, [], ["cat", "dog"], GRID)
    assert [text.get_text() for text in nothing.texts] == ["nothing found"]


def test_the_tree_of_crops_shows_every_part_once_at_one_scale():
    figure = crop_tree_figure(IMAGE, drawn(), GRID)
    (axes,) = figure.axes
    sizes = [
        (
            image.get_extent()[1] - image.get_extent()[0],
            image.get_extent()[2] - image.get_extent()[3],
        )
        for image in axes.images
    ]
    scale = 1.25 / 40
    expected = [(40.0, 32.0), (10, 32), (30, 32), (30, 16), (30, 16)]
    torch.testing.assert_close(torch.tensor(sizes), scale * torch.tensor(expected))
    assert len(axes.lines) == 4
    assert len(outlines(axes, OKABE_ITO[1])) == 3
    pictures = [torch.as_tensor(image.get_array()).permute(2, 0, 1) for image in axes.images]
    torch.testing.assert_close(pictures[0], IMAGE[:, 4:36, 10:50])
    torch.testing.assert_close(pictures[4], IMAGE[:, 20:36, 20:50])
    with pytest.raises(ValueError, match="`drawn` must have a parse tree"):
        crop_tree_figure(IMAGE, drawn(None), GRID)


def test_the_tree_stands_beside_its_image():
    boxes = [drawn(None), drawn(box=(20.0, 4.0, 40.0, 36.0))]
    figure = scene_with_tree_figure(IMAGE, boxes, 1, ["cat", "dog"], GRID)
    scene, tree = figure.axes
    wide, tall = figure.get_size_inches()
    (left, bottom), (right, top) = scene.get_position().get_points().tolist()
    assert (right - left) * wide / ((top - bottom) * tall) == pytest.approx(60 / 40)
    assert tree.get_position().x0 > right
    assert tree.get_position().y1 * tall < tall - 0.2  # below its title
    alone = crop_tree_figure(IMAGE, boxes[1], GRID)
    sizes = tree.get_position().size * figure.get_size_inches()
    assert sizes.tolist() == pytest.approx(alone.get_size_inches().tolist())
    assert len(tree.images) == len(alone.axes[0].images) == 5
    assert [text.get_text() for text in figure.texts] == ["dog .97: 3 leaves"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dog"]
    with pytest.raises(ValueError, match="`drawn` must have a parse tree"):
        scene_with_tree_figure(IMAGE, boxes, 0, ["cat", "dog"], GRID)


def test_crops_do_not_overlap():
    tree = AndOrGraph(4, 4).random_parse_tree(random.Random(1))
    assert len(tree.leaves()) > 4
    (axes,) = crop_tree_figure(IMAGE, drawn(tree), GRID).axes
    boxes = [image.get_extent() for image in axes.images]
    for index, (left, right, bottom, top) in enumerate(boxes):
        for other_left, other_right, other_bottom, other_top in boxes[:index]:
            apart = right <= other_left or other_right <= left
            assert apart or bottom <= other_top or other_bottom <= top


def test_a_crop_holds_at_least_one_pixel_of_the_image():
    assert crop_of(IMAGE, (70.0, 50.0, 80.0, 60.0)).shape == (3, 1, 1)
    assert crop_of(IMAGE, (-5.0, -5.0, 3.0, 2.0)).shape == (3, 2, 3)
    assert crop_of(IMAGE, (5.2, 5.2, 5.3, 5.3)).shape == (3, 1, 1)


def test_productions_by_hand():
    assert productions(TREE) == [
        (Rectangle(0, 0, 4, 4), (Rectangle(0, 0, 1, 4), Rectangle(1, 0, 3, 4))),
        (Rectangle(0, 0, 1, 4), ()),
        (Rectangle(1, 0, 3, 4), (Rectangle(1, 0, 3, 2), Rectangle(1, 2, 3, 2))),
        (Rectangle(1, 0, 3, 2), ()),
        (Rectangle(1, 2, 3, 2), ()),
    ]
