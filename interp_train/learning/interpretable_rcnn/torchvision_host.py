"""A head that parses boxes, inside a detector that torchvision or somebody else has built.

Any Faster R-CNN of torchvision can be the host: those of its builders (``fasterrcnn_resnet50_fpn``
and so on, with or without weights), Mask R-CNN, or one put together from parts.
"""

from typing import Any

from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.ops import MultiScaleRoIAlign

from interp_train.checks import check_choice
from interp_train.learning.interpretable_rcnn.detector import (
    DetectorSettings,
    PartSettings,
    add_colours,
    box_head_of,
    box_predictor_of,
)
from interp_train.learning.interpretable_rcnn.part_head import PartHead
from interp_train.learning.interpretable_rcnn.position_sensitive import (
    PositionSensitiveHead,
    SensitiveRoIAlign,
)


def add_part_head(
    detector: FasterRCNN,
    kind: str = "and_or",
    *,
    parts: PartSettings | None = None,
    representation_size: int = 1024,
    num_classes: int | None = None,
) -> PartHead:
    """Put a head that parses boxes in the place of a detector's box head and predictor.

    Grid, channels and categories stay those of the detector, whose backbone and region proposals
    keep their weights. The new layers have yet to learn; fold first by the head's `sharpness`.

    Example:
        detector = fasterrcnn_resnet50_fpn(weights="DEFAULT")
        head = add_part_head(detector, num_classes=4)
        for step, (images, targets) in enumerate(batches):
            head.sharpness = sharpness_at(step / len(batches), folding=0.5, smooth=0.1)
            losses = detector(images, targets)
            ...
        found = detections_of(detector.eval(), image)  # boxes with their parse trees

    Args:
        detector: is changed.
        kind: ``"and_or"`` or ``"position_sensitive"``.
        parts: see `PartSettings`, whose `folding` and `smooth` are not used; None takes its
            defaults.
        representation_size: units of the two linear layers of the And-Or head.
        num_classes: with the background; None keeps the number of the detector's predictor.

    Returns:
        The head, on the device of the layers it replaces.

    Raises:
        ValueError: if `detector` is no Faster R-CNN, its grid is not square, it has a head of
            ours already, or `kind` is unknown.
    """
    check_choice("kind", kind, ("and_or", "position_sensitive"))
    heads = _roi_heads(detector)
    pool, device = heads.box_roi_pool, next(detector.parameters()).device
    number = num_classes or heads.box_predictor.cls_score.out_features
    settings = DetectorSettings(
        channels=detector.backbone.out_channels,
        grid=pool.output_size[0],
        representation_size=representation_size,
    )
    head = box_head_of(kind, number, settings, parts or PartSettings()).to(device)
    assert isinstance(head, PartHead)
    if isinstance(head, PositionSensitiveHead):
        channels = (settings.channels, head.in_channels)
        sensitive = SensitiveRoIAlign(pool.featmap_names, settings.grid, *channels, pool)
        heads.box_roi_pool = sensitive.to(device)
    heads.box_head, heads.box_predictor = head, box_predictor_of(head, number).to(device)
    add_colours(detector)
    return head


def _roi_heads(detector: nn.Module) -> Any:
    """What a detector does with boxes."""
    heads: Any = getattr(detector, "roi_heads", None)
    pool = getattr(heads, "box_roi_pool", None)
    size = getattr(pool, "output_size", ())
    logits = getattr(getattr(heads, "box_predictor", None), "cls_score", None)
    fits = isinstance(pool, MultiScaleRoIAlign) and isinstance(logits, nn.Linear)
    if not fits or len(set(size)) != 1 or isinstance(heads.box_head, PartHead):
        raise ValueError(
            f"`detector` must be a Faster R-CNN of torchvision with the heads that it was built "
            f"with and a square grid, but got {type(detector).__name__} with box_head "
            f"{type(getattr(heads, 'box_head', None)).__name__} and grid {size}. Choose one of "
            f"torchvision.models.detection.fasterrcnn_*."
        )
    return heads
