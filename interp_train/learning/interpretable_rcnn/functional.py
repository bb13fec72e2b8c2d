"""Functions of an And-Or head: its schedule, pooling by leaves, and leaves as boxes.

Wu et al., "Towards Interpretable R-CNN by Unfolding Latent Structures" (arXiv 1711.05226), built
from its description; no programme of its authors is public.
"""

import math

import torch
from torch import Tensor

from interp_train.and_or_graph import ParseTree
from interp_train.checks import check_range


def sharpness_at(progress: float, folding: float, smooth: float) -> float:
    """Sharpness of the Or nodes in the course of training.

    Folding trains all parts alike, so that unfolding later selects among comparable ones. The
    smooth stage between them is ours: its sharpness grows from 0.1 to 100 by equal factors.

    Args:
        progress: share of the training steps that are done, in [0, 1].
        folding: share of the steps with folding, from the first on.
        smooth: share of the steps, after them, on the smooth path.

    Returns:
        0 (folding), a finite number, or infinity (unfolding).

    Raises:
        ValueError: if a share is out of range, or their sum above 1.
    """
    check_range("progress", progress, 0, 1)
    check_range("folding", folding, 0, 1)
    check_range("smooth", smooth, 0, 1 - folding)
    if progress < folding:
        return 0.0
    if progress < folding + smooth:
        return float(0.1 * 1000 ** ((progress - folding) / smooth))
    return math.inf


def leaf_pooling(cells: Tensor, leaf_weights: Tensor, cell_shares: Tensor) -> Tensor:
    """Give every cell the mean over its leaf, or over its leaves as they share the root.

    Args:
        cells: features of the boxes' grids, ``(N, K, M)``, M cells.
        leaf_weights: share of each terminal node in the root of each box, ``(T, N)``, see
            `AndOrParsing.leaf_weights`.
        cell_shares: share of each cell in the mean of each terminal node, ``(T, M)``.

    Returns:
        ``(N, K, M)``.
    """
    # 1 / area stands in `cell_shares`; a leaf with half of the area has half of the root.
    number, num_cells = cells.shape[0], cells.shape[2]
    spread = (cell_shares > 0).to(cell_shares.dtype) * (num_cells * cell_shares.amax(1))[:, None]
    means = (spread[:, :, None] * cell_shares[:, None]).flatten(1)  # T, M to * M from
    mixing = (leaf_weights.t().to(means.dtype) @ means).view(number, num_cells, num_cells)
    # Overlapping parts cover some cells twice.
    mixing = mixing / mixing.sum(dim=2, keepdim=True).clamp(min=1e-12)
    return torch.bmm(cells, mixing.transpose(1, 2).to(cells.dtype))


def leaf_boxes(tree: ParseTree, box: Tensor, grid: tuple[int, int]) -> Tensor:
    """Leaves of a box's parse tree, in pixels.

    Args:
        tree: a parse tree over the grid of the box.
        box: ``(4,)``, x_min, y_min, x_max, y_max.
        grid: height and width of the grid, in cells.

    Returns:
        ``(number of leaves, 4)``.
    """
    corners = torch.tensor(
        [(x, y, x + width, y + height) for x, y, width, height in tree.leaves()],
        dtype=box.dtype,
        device=box.device,
    )
    cell = (box[2:] - box[:2]) / torch.tensor(
        [grid[1], grid[0]], dtype=box.dtype, device=box.device
    )
    return corners * cell.repeat(2) + box[:2].repeat(2)
