"""Average precision of detections as PASCAL VOC 2007 measures it.

Detections of a category, surest first, claim the object of the same image and category that they
overlap most; a claim is right if the IoU reaches the threshold and the object is not claimed yet.
Precision is averaged over the recalls 0, 0.1, ..., 1, at each of which it is the highest precision
at that recall or a higher one. COCO's `map_50` averages over 101 recalls and gives other numbers.

Reference: M. Everingham, L. Van Gool, C. K. I. Williams, J. Winn, A. Zisserman, "The PASCAL Visual
Object Classes (VOC) Challenge", IJCV 2010.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torchmetrics import Metric
from torchvision.ops import box_iou

from interp_train.checks import check_range
from interp_train.evaluation.row_gathering import gather_rows
from interp_train.structures import Detections

_RIGHT, _WRONG = 1.0, 0.0


def claims(found: Tensor, objects: Tensor, ignored: Tensor, threshold: float) -> Tensor:
    """What detections of one category in one image claim.

    Args:
        found: boxes, surest first, ``(D, 4)``.
        objects: boxes of the category, ``(M, 4)``.
        ignored: objects that make a claim count neither as right nor as wrong, bool ``(M,)``.
        threshold: least IoU of a claim.

    Returns:
        1 (right), 0 (wrong) or NaN (not counted), ``(D,)``.
    """
    result = torch.full((len(found),), _WRONG, dtype=torch.float64)
    if not (len(found) and len(objects)):
        return result
    overlaps, chosen = box_iou(found.double(), objects.double()).max(dim=1)
    claimed: set[int] = set()
    skipped = ignored.tolist()
    for row, (overlap, index) in enumerate(zip(overlaps.tolist(), chosen.tolist(), strict=True)):
        if overlap < threshold:
            continue
        if skipped[index]:
            result[row] = torch.nan
        elif index not in claimed:
            claimed.add(index)
            result[row] = _RIGHT
    return result


def average_precision(scores: Tensor, right: Tensor, num_objects: int) -> Tensor:
    """Mean over the recalls 0, 0.1, ..., 1 of the highest precision at that recall or above.

    Args:
        scores: of the detections, in any order, ``(D,)``.
        right: 1 or 0, ``(D,)``.
        num_objects: number of objects to find; NaN without any.
    """
    if num_objects == 0:
        return torch.tensor(torch.nan, dtype=torch.float64)
    order = scores.argsort(descending=True, stable=True)
    hits = right[order].double().cumsum(0)
    precisions = hits / torch.arange(1, len(hits) + 1)
    # Whole numbers, so that a recall of exactly 0.3 is not rounded below it.
    levels = [precisions[10 * hits >= tenth * num_objects] for tenth in range(11)]
    best = [level.max() if len(level) else level.new_zeros(()) for level in levels]
    return torch.stack(best).mean()


@final
class VocAveragePrecision(Metric):
    """Average precision of each category over a data set, by the rules of VOC 2007.

    Args:
        num_categories: C.
        threshold: least IoU of a right detection.
    """

    full_state_update = False
    rows: list[Tensor]
    num_objects: Tensor

    def __init__(self, num_categories: int, threshold: float = 0.5) -> None:
        super().__init__(dist_sync_fn=gather_rows)
        check_range("num_categories", num_categories, 1)
        check_range("threshold", threshold, 0.0, 1.0)
        self.num_categories, self.threshold = num_categories, threshold
        self.add_state("rows", [], "cat")  # category, score, right
        self.add_state("num_objects", torch.zeros(num_categories, dtype=torch.long), "sum")

    def update(
        self,
        detections: Sequence[Detections],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        ignored: Sequence[Tensor],
    ) -> None:
        """Add images.

        Args:
            detections: one per image.
            boxes: objects of each image, ``(M, 4)``.
            labels: their categories, ``(M,)``.
            ignored: which of them do not count, bool ``(M,)``.
        """
        for found, objects, kinds, skipped in zip(detections, boxes, labels, ignored, strict=True):
            counted = kinds[~skipped]
            self.num_objects += torch.bincount(counted, minlength=self.num_categories)
            for kind in range(self.num_categories):
                self._add(found, kind, objects[kinds == kind].cpu(), skipped[kinds == kind].cpu())

    def _add(self, found: Detections, kind: int, objects: Tensor, skipped: Tensor) -> None:
        scores = found.scores[found.labels == kind].detach().double().cpu()
        order = scores.argsort(descending=True, stable=True)
        boxes = found.boxes[found.labels == kind].detach().cpu()[order]
        right = claims(boxes, objects, skipped, self.threshold)
        rows = torch.stack([torch.full_like(right, kind), scores[order], right], dim=1)
        self.rows.append(rows[~right.isnan()].to(self.num_objects.device))

    def compute(self) -> Tensor:
        """Average precision of each category, float64 ``(C,)``; NaN without objects."""
        rows: list[Tensor] | Tensor = self.rows  # one tensor once processes have been merged
        listed = [rows] if isinstance(rows, Tensor) else rows
        empty = torch.zeros(0, 3, dtype=torch.float64)
        merged = torch.cat([empty, *(entry.cpu().reshape(-1, 3) for entry in listed)])
        found = []
        for kind, number in enumerate(self.num_objects.tolist()):
            of_kind = merged[merged[:, 0] == kind]
            found.append(average_precision(of_kind[:, 1], of_kind[:, 2], number))
        return torch.stack(found)
