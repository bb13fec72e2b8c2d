"""How often each category occurs in training, counted while training."""

import torch
from torch import Tensor, nn

from interp_train.collectives import sum_over_processes


def membership_of(labels: Tensor, num_categories: int, like: Tensor) -> Tensor:
    """Which categories an image shows, ``(N, C)`` of 0 and 1; all 0 for the background.

    Args:
        labels: of images ``(N,)``, or of several objects in each ``(N, M)``.
        num_categories: C.
        like: of the wanted type.
    """
    categories = torch.arange(num_categories, device=labels.device)
    return (labels.view(len(labels), -1, 1) == categories).any(1).to(like.dtype)


class LabelCounts(nn.Module):
    """Counts training images per category, over all processes; travels in the checkpoint.

    Args:
        num_categories: C; background images count in the total only.
    """

    counts: Tensor
    total: Tensor

    def __init__(self, num_categories: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(num_categories, dtype=torch.long))
        self.register_buffer("total", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, labels: Tensor) -> None:
        """Count a training batch, labels as `membership_of` takes; a collective over processes."""
        member = membership_of(labels, self.counts.shape[0], self.counts)
        ones = torch.ones_like(member[:, :1])
        added = sum_over_processes(torch.cat([member, ones], dim=1).sum(0))
        self.counts += added[:-1]
        self.total += added[-1]

    def shares(self) -> Tensor:
        """Share of each category among the images so far, ``(C,)``; 1 / C before the first."""
        shares = self.counts / self.total.clamp(min=1)
        return torch.where(self.total > 0, shares, 1 / self.counts.shape[0])
