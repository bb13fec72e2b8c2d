"""Whether all of several objects in an image are found, for images of overlapping objects."""

import torch
from torch import Tensor
from torchmetrics import Metric


class ObjectAccuracy(Metric):
    """The M highest scores of an image against the M categories that it shows.

    As Sabour, Frosst & Hinton, "Dynamic Routing Between Capsules", NIPS 2017, sec. 6: an image
    of two digits is right if the two longest capsules are theirs.
    """

    full_state_update = False
    found: Tensor
    objects: Tensor
    complete: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("found", "objects", "complete", "images"):
            self.add_state(name, torch.zeros((), dtype=torch.long), "sum")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Count images: scores ``(N, C)``, and categories, all different, ``(N, M)``."""
        highest = scores.topk(labels.shape[1], 1).indices
        hits = (highest[:, :, None] == labels[:, None, :]).any(1)
        self.found += hits.sum()
        self.objects += hits.numel()
        self.complete += hits.all(1).sum()
        self.images += len(hits)

    def compute(self) -> dict[str, Tensor]:
        """``all_objects``, share of images of which all are found, and ``objects``, of objects."""
        return {
            "all_objects": self.complete / self.images.clamp(min=1),
            "objects": self.found / self.objects.clamp(min=1),
        }
