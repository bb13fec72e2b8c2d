"""Heads that parse boxes inside torchvision's own detectors, small and untrained."""

import math

import pytest
import torch
from torch import nn
from torchvision.models.detection import (
    FasterRCNN,
    fasterrcnn_mobilenet_v3_large_320_fpn,
    ssdlite320_mobilenet_v3_large,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from interp_train.learning.interpretable_rcnn.detector import (
    PartSettings,
    detections_of,
    parses_at,
)
from interp_train.learning.interpretable_rcnn.torchvision_host import add_part_head

BOXES = torch.tensor([[5.0, 5.0, 40.0, 40.0]])
TARGETS = [
    {"boxes": BOXES, "labels": torch.tensor([2])},
    {"boxes": BOXES[:0], "labels": torch.zeros(0, dtype=torch.long)},
]


def single_map_detector(grid=7):
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, 4, 1), nn.ReLU()
    )
    backbone.out_channels = 6
    return FasterRCNN(
        backbone,
        4,
        rpn_anchor_generator=AnchorGenerator(((16, 32),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], grid, 2),
        min_size=64,
        max_size=96,
        box_detections_per_img=5,
        box_score_thresh=0.0,
    )


def learn_and_detect(network, head):
    images = [torch.rand(3, 64, 80), torch.rand(3, 64, 64)]
    for sharpness in (0.0, 2.0, math.inf):
        head.sharpness = sharpness
        losses = network.train()(images, TARGETS)
        sum(losses.values()).backward()
    assert all(p.grad is not None for p in head.parameters())
    assert all(p.grad is not None for p in network.roi_heads.parameters())
    found = detections_of(network.eval(), images[0])
    assert len(found.trees) == len(found.boxes) > 0
    assert all(tree.rectangle == head.graph.root for tree in found.trees)
    assert found.tree_scores.isfinite().all()
    (plain,) = network([images[0]])
    torch.testing.assert_close(plain["boxes"], found.boxes)
    assert torch.equal(plain["labels"] - 1, found.labels)
    parses = parses_at(network, images[0], found.boxes, found.labels)
    assert [parse.tree for parse in parses] == list(found.trees)


@pytest.mark.parametrize("kind", ["and_or", "position_sensitive"])
def test_a_detector_of_one_map_becomes_a_host(kind):
    network = single_map_detector()
    proposals = [value.clone() for value in network.rpn.state_dict().values()]
    parts = PartSettings(projection_size=5, class_aware=kind == "and_or")
    head = add_part_head(network, kind, parts=parts, representation_size=16)
    assert head is network.roi_heads.box_head
    assert head.num_foreground == 3
    assert len(head.graph) == 144
    after = network.rpn.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(proposals, after, strict=True))
    learn_and_detect(network, head)


def test_torchvision_s_builder_is_a_host_and_takes_new_categories():
    torch.manual_seed(0)
    network = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=91, min_size=64, max_size=96,
        box_detections_per_img=4, box_score_thresh=0.0, rpn_post_nms_top_n_train=20,
        rpn_post_nms_top_n_test=20, rpn_score_thresh=0.0,
    )  # fmt: skip
    head = add_part_head(network, "position_sensitive", num_classes=5)
    assert head.num_foreground == 4
    assert network.roi_heads.box_roi_pool.reduction.in_channels == 256
    assert network.roi_heads.box_roi_pool.featmap_names == ["0", "1", "2", "3"]
    learn_and_detect(network, head)


@pytest.mark.parametrize("builder", [False, True])
def test_colours_reach_the_head_of_any_host(builder):
    """Parts pay for colours: a box whose halves differ is cut between them, untrained as it is."""
    network = single_map_detector()
    if builder:
        network = fasterrcnn_mobilenet_v3_large_320_fpn(
            weights=None, weights_backbone=None, num_classes=4, min_size=64, max_size=96,
            box_detections_per_img=4, box_score_thresh=0.0, rpn_score_thresh=0.0,
        )  # fmt: skip
    names = set(network.backbone.state_dict())
    parts = PartSettings(projection_size=5, homogeneity=500.0, leaf_cost=5.0)
    add_part_head(network, parts=parts, representation_size=16)
    assert set(network.backbone.state_dict()) == names
    image = torch.rand(3, 64, 80) / 20
    image[0, 10:52, 22:], image[1, 10:52, :22] = 0.9, 0.8
    box = torch.tensor([[10.0, 10.0, 38.0, 52.0]])  # cut at 3 of 7 cells
    network.train(False)
    for label in (0, 2):
        (parse,) = parses_at(network, image, box, torch.tensor([label]))
        left, right = sorted(parse.tree.leaves())
        assert (tuple(left), tuple(right)) == ((0, 0, 3, 7), (3, 0, 4, 7))


def test_what_is_no_host_is_refused():
    with pytest.raises(ValueError, match="`kind` must be one of 'and_or', 'position_sensitive'"):
        add_part_head(single_map_detector(), "two_layer")
    with pytest.raises(ValueError, match="`detector` must be a Faster R-CNN .* but got SSD"):
        add_part_head(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None))
    with pytest.raises(ValueError, match=r"square grid, .* and grid \(3, 5\)"):
        add_part_head(single_map_detector((3, 5)))
    network = single_map_detector()
    add_part_head(network, representation_size=8)
    with pytest.raises(ValueError, match="heads that it was built with .* box_head AndOrHead"):
        add_part_head(network)
