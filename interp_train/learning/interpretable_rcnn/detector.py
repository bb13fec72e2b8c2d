"""torchvision's Faster R-CNN over any backbone, with a head that parses boxes or with two layers.

S. Ren, K. He, R. Girshick, J. Sun, "Faster R-CNN: Towards Real-Time Object Detection with Region
Proposal Networks", NeurIPS 2015.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from interp_train.and_or_graph import AndOrGraph
from interp_train.collectives import num_processes, sum_over_processes
from interp_train.learning.interpretable_rcnn.box_colours import ColourRoIAlign, keep_images
from interp_train.learning.interpretable_rcnn.feature_pyramid import BackbonePyramid
from interp_train.learning.interpretable_rcnn.layers import AndOrHead, AndOrPredictor
from interp_train.learning.interpretable_rcnn.part_head import LeafScores, PartHead
from interp_train.learning.interpretable_rcnn.position_sensitive import (
    PositionSensitiveHead,
    PositionSensitivePredictor,
    SensitiveRoIAlign,
)
from interp_train.learning.interpretable_rcnn.proposal_sampling import ProposalSampler
from interp_train.structures import DataInfo, DetectionBatch, Detections


@dataclass(frozen=True)
class DetectorSettings:
    """What of a Faster R-CNN is ours to choose; the rest has torchvision's values.

    Attributes:
        shorter_side: to which images are resized, in pixels; None is the data's image size.
        longer_side: which they do not exceed; None is the data's image size, so that with both
            None the longer side has that size.
        channels: of the feature pyramid.
        coarser_level: whether a map of half the coarsest one's size is added for large objects.
        anchor_scales: side of the square anchors over the stride of their map.
        aspect_ratios: height over width of the anchors.
        num_proposals: kept per image.
        num_sampled: proposals per image that the box head learns from.
        representation_size: units of the box head's two linear layers, which the position-sensitive
            head does not have.
        grid: side of the grid of cells that a box is pooled to.
        least_score: of a detection.
        nms_threshold: IoU above which the less sure of two detections of a category is dropped.
        num_detections: kept per image.
    """

    shorter_side: int | None = None
    longer_side: int | None = None
    channels: int = 256
    coarser_level: bool = True
    anchor_scales: Sequence[float] = (2.0, 4.0, 8.0)
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    num_proposals: int = 1000
    num_sampled: int = 512
    representation_size: int = 1024
    grid: int = 7
    least_score: float = 0.05
    nms_threshold: float = 0.5
    num_detections: int = 100


@dataclass(frozen=True)
class PartSettings:
    """The And-Or graph of the head, and the course from folding to unfolding.

    Attributes:
        min_side: least height and width of a part, in cells.
        root_terminal: whether the whole box may be a part.
        class_aware: see `AndOrHead` and `PositionSensitiveHead`.
        pooling: see there.
        homogeneity: see `AndOrHead`; not of the position-sensitive head, like the next.
        leaf_cost: see there.
        projection_size: channels that parts are scored from.
        folding: share of the training steps with folding, from the first on.
        smooth: share of the steps between folding and unfolding.
    """

    min_side: int = 2
    root_terminal: bool = True
    class_aware: bool = True
    pooling: str = "leaves"
    homogeneity: float = 0.0
    leaf_cost: float = 0.0
    projection_size: int = 64
    folding: float = 0.5
    smooth: float = 0.1


def box_head_of(
    kind: str, num_classes: int, settings: DetectorSettings, parts: PartSettings
) -> PartHead | TwoMLPHead:
    """One of the heads that parse boxes, or torchvision's two layers.

    Args:
        kind: ``"and_or"``, ``"position_sensitive"`` or ``"two_layer"``; the first and the last
            have equally many units.
        num_classes: with the background.
        settings: see `DetectorSettings`.
        parts: see `PartSettings`.

    Raises:
        ValueError: if parts of the position-sensitive head shall cost something.
    """
    grid, channels = settings.grid, settings.channels
    if kind == "two_layer":
        return TwoMLPHead(channels * grid**2, settings.representation_size)
    graph = AndOrGraph(grid, grid, min_side=parts.min_side, root_terminal=parts.root_terminal)
    shared: dict[str, Any] = {"class_aware": parts.class_aware, "pooling": parts.pooling}
    if kind == "position_sensitive":
        if parts.homogeneity or parts.leaf_cost:
            raise ValueError(
                f"`homogeneity` and `leaf_cost` must be 0 for the position-sensitive head, whose "
                f"parts have maps of their own, but got {parts.homogeneity} and "
                f"{parts.leaf_cost}. Set head=and_or, or both to 0."
            )
        return PositionSensitiveHead(parts.projection_size, num_classes, graph, **shared)
    return AndOrHead(
        channels,
        num_classes,
        graph,
        projection_size=parts.projection_size,
        homogeneity=parts.homogeneity,
        leaf_cost=parts.leaf_cost,
        representation_size=settings.representation_size,
        **shared,
    )


def box_predictor_of(head: PartHead | TwoMLPHead, num_classes: int) -> nn.Module:
    """What reads logits and box offsets from the output of a head."""
    if isinstance(head, AndOrHead):
        return AndOrPredictor(head)
    if isinstance(head, PositionSensitiveHead):
        return PositionSensitivePredictor(head)
    layer: Any = head.fc7
    predictor: nn.Module = FastRCNNPredictor(layer.out_features, num_classes)
    return predictor


def box_pool_of(
    head: nn.Module, names: Sequence[str], settings: DetectorSettings
) -> MultiScaleRoIAlign:
    """What pools boxes for a head from maps of these names."""
    if isinstance(head, PositionSensitiveHead):
        return SensitiveRoIAlign(names, settings.grid, settings.channels, head.in_channels)
    return MultiScaleRoIAlign(list(names), settings.grid, sampling_ratio=2)


def add_colours(detector: FasterRCNN) -> None:
    """Let the colours of boxes reach a head that asks for them; others stay as they are."""
    heads = detector.roi_heads
    if isinstance(heads.box_head, AndOrHead) and heads.box_head.homogeneity:
        heads.box_roi_pool = ColourRoIAlign(heads.box_roi_pool)
        detector.backbone.register_forward_hook(keep_images)


def build_detector(
    pyramid: BackbonePyramid,
    head: PartHead | TwoMLPHead,
    settings: DetectorSettings,
    info: DataInfo,
) -> FasterRCNN:
    """A Faster R-CNN with one of the box heads.

    Args:
        pyramid: puts out the maps.
        head: from `box_head_of`.
        settings: see `DetectorSettings`.
        info: names of the categories; size, mean and standard deviation of the images.
    """
    sizes = [
        tuple(scale * stride for scale in settings.anchor_scales) for stride in pyramid.strides
    ]
    ratios = (tuple(settings.aspect_ratios),) * len(sizes)
    detector = FasterRCNN(
        pyramid,
        min_size=settings.shorter_side or info.image_size,
        max_size=settings.longer_side or info.image_size,
        image_mean=list(info.mean),
        image_std=list(info.std),
        rpn_anchor_generator=AnchorGenerator(tuple(sizes), ratios),
        rpn_pre_nms_top_n_train=2 * settings.num_proposals,
        rpn_pre_nms_top_n_test=2 * settings.num_proposals,
        rpn_post_nms_top_n_train=settings.num_proposals,
        rpn_post_nms_top_n_test=settings.num_proposals,
        box_roi_pool=box_pool_of(head, pyramid.names, settings),
        box_head=head,
        box_predictor=box_predictor_of(head, 1 + len(info.class_names)),
        box_score_thresh=settings.least_score,
        box_nms_thresh=settings.nms_threshold,
        box_detections_per_img=settings.num_detections,
        box_batch_size_per_image=settings.num_sampled,
    )
    detector.rpn.fg_bg_sampler = ProposalSampler(256, 0.5)
    detector.roi_heads.fg_bg_sampler = ProposalSampler(settings.num_sampled, 0.25)
    add_colours(detector)
    return detector


def targets_of(batch: DetectionBatch) -> list[dict[str, Tensor]]:
    """The objects to learn as torchvision takes them: the background is category 0."""
    return [
        {"boxes": boxes[~ignored], "labels": labels[~ignored] + 1}
        for boxes, labels, ignored in zip(batch.boxes, batch.labels, batch.ignored, strict=True)
    ]


def training_losses(
    detector: FasterRCNN, batch: DetectionBatch, seed: int, epoch: int
) -> dict[str, Tensor]:
    """The four losses of a batch, by torchvision's names.

    Args:
        detector: in training mode.
        batch: images and objects.
        seed: with the epoch and the sample ids, the source of the choice of anchors and proposals.
        epoch: 1 in the first epoch.

    Returns:
        Means over the sampled boxes of all processes (times the number of processes, by which
        their gradients are divided), as one process would compute them for all images.
    """
    for sampler in samplers_of(detector):
        sampler.begin(seed, epoch, batch.sample_ids.tolist())
    losses: dict[str, Tensor] = detector(list(batch.images), targets_of(batch))
    if num_processes() == 1:
        return losses
    numbers = torch.tensor(
        [float(sampler.number) for sampler in samplers_of(detector)], device=batch.sample_ids.device
    )
    shares = num_processes() * numbers / sum_over_processes(numbers)
    of_proposals = ("loss_objectness", "loss_rpn_box_reg")
    return {name: loss * shares[int(name not in of_proposals)] for name, loss in losses.items()}


def samplers_of(detector: FasterRCNN) -> tuple[ProposalSampler, ProposalSampler]:
    """Those of the region proposals and of the box head."""
    return detector.rpn.fg_bg_sampler, detector.roi_heads.fg_bg_sampler


@torch.no_grad()
def validated(
    detector: FasterRCNN, batch: DetectionBatch
) -> tuple[dict[str, Tensor], list[Detections]]:
    """Losses (means over the images) and detections, in evaluation mode.

    Each image is seen alone, so that nothing depends on the images beside it. No statistics
    change, and the global random state is not read.

    Args:
        detector: in evaluation mode.
        batch: images and objects.
    """
    sums: dict[str, Tensor] = {}
    found = []
    for index, target in enumerate(targets_of(batch)):
        image, sample_id = batch.images[index], int(batch.sample_ids[index])
        resized, targets = detector.transform([image], [target])
        maps = maps_of(detector, resized)
        for sampler in samplers_of(detector):
            sampler.begin(0, 0, [sample_id])
        with _losses_asked(detector):
            proposals, losses = detector.rpn(resized, maps, targets)
            _, more = detector.roi_heads(maps, proposals, resized.image_sizes, targets)
        for name, loss in {**losses, **more}.items():
            sums[name] = sums.get(name, 0) + loss / len(batch.images)
        found.append(_detections(detector, resized, maps, image))
    return sums, found


@torch.no_grad()
def detections_of(detector: FasterRCNN, image: Tensor) -> Detections:
    """What a detector in evaluation mode finds in one image ``(3, H, W)``, RGB in [0, 1]."""
    resized, _ = detector.transform([image])
    return _detections(detector, resized, maps_of(detector, resized), image)


@torch.no_grad()
def parses_at(
    detector: FasterRCNN, image: Tensor, boxes: Tensor, labels: Tensor
) -> list[LeafScores]:
    """Parses of given boxes for given categories, with what each leaf adds.

    Args:
        detector: in evaluation mode, with a head that parses boxes.
        image: ``(3, H, W)``, RGB in [0, 1].
        boxes: ``(M, 4)``, in pixels of the image.
        labels: category index of each box, ``(M,)``.
    """
    pooled = _pooled_at(detector, image, boxes)
    found: list[LeafScores] = detector.roi_heads.box_head.leaf_scores(pooled, labels + 1)
    return found


@torch.no_grad()
def probabilities_at(detector: FasterRCNN, image: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Probability of given categories at given boxes ``(M, 4)`` of an image, ``(M,)``."""
    heads = detector.roi_heads
    logits, _ = heads.box_predictor(heads.box_head(_pooled_at(detector, image, boxes)))
    chosen: Tensor = logits.softmax(1).gather(1, labels[:, None] + 1)[:, 0]
    return chosen


def _pooled_at(detector: FasterRCNN, image: Tensor, boxes: Tensor) -> Tensor:
    """Features of boxes, pooled to the grid, ``(M, channels, grid, grid)``."""
    target = {"boxes": boxes, "labels": torch.zeros(len(boxes), dtype=torch.long)}
    resized, targets = detector.transform([image], [target])
    maps = maps_of(detector, resized)
    placed: Tensor = detector.roi_heads.box_roi_pool(
        maps, [targets[0]["boxes"]], resized.image_sizes
    )
    return placed


def _detections(
    detector: FasterRCNN, resized: Any, maps: Mapping[str, Tensor], image: Tensor
) -> Detections:
    proposals, _ = detector.rpn(resized, maps)
    (found,), _ = detector.roi_heads(maps, proposals, resized.image_sizes)
    trees: list[Any] = []
    values = torch.full_like(found["scores"], torch.nan)
    head = detector.roi_heads.box_head
    if isinstance(head, PartHead):
        # The box has moved since it was a proposal: it is parsed where it stands now.
        pooled = detector.roi_heads.box_roi_pool(maps, [found["boxes"]], resized.image_sizes)
        parses = head.parses(pooled, found["labels"])
        trees = [parse.tree for parse in parses]
        values = values.new_tensor([parse.score for parse in parses])
    (placed,) = detector.transform.postprocess(
        [found], resized.image_sizes, [tuple(image.shape[-2:])]
    )
    return Detections(placed["boxes"], found["scores"], found["labels"] - 1, trees, values)


def maps_of(detector: FasterRCNN, resized: Any) -> Mapping[str, Tensor]:
    """The maps of resized images, by name, also of a backbone that has one map."""
    maps: Tensor | Mapping[str, Tensor] = detector.backbone(resized.tensors)
    return {"0": maps} if isinstance(maps, Tensor) else maps


@contextlib.contextmanager
def _losses_asked(detector: FasterRCNN) -> Iterator[None]:
    """Let region proposals and box head put out losses; what lies inside them stays as it is."""
    detector.rpn.training = detector.roi_heads.training = True
    try:
        yield
    finally:
        detector.rpn.training = detector.roi_heads.training = False
