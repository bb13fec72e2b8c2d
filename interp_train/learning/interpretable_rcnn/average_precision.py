"""COCO's average precision by torchmetrics, with the package that counts it fastest.

T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
"""

import importlib.util
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric

from interp_train.structures import DetectionBatch, Detections

BACKENDS = ("faster_coco_eval", "pycocotools")


def coco_average_precision() -> Metric:
    """Mean average precision over IoU thresholds from 0.5 to 0.95.

    Raises:
        ModuleNotFoundError: if no package that counts it is installed.
    """
    backend = next((name for name in BACKENDS if importlib.util.find_spec(name)), None)
    if backend is None:
        raise ModuleNotFoundError(
            "COCO's average precision needs the package faster-coco-eval, which is not installed. "
            "Install it with: pip install 'interp-train[detection]'."
        )
    from torchmetrics.detection import MeanAveragePrecision

    options: Any = {"box_format": "xyxy", "iou_type": "bbox", "backend": backend}
    metric = MeanAveragePrecision(**options)
    metric.warn_on_many_detections = False  # a hundred per image count, as in COCO
    return metric


def coco_records(
    detections: Sequence[Detections], batch: DetectionBatch
) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Detections and objects as the measure takes them; ignored objects are crowds."""
    found = [
        {"boxes": entry.boxes, "scores": entry.scores, "labels": entry.labels}
        for entry in detections
    ]
    objects = [
        {"boxes": boxes, "labels": labels, "iscrowd": ignored.long()}
        for boxes, labels, ignored in zip(batch.boxes, batch.labels, batch.ignored, strict=True)
    ]
    return found, objects
