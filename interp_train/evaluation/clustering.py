"""How well clusters that nobody named agree with categories, after the best one-to-one matching.

The matching is chosen on training images and counted on others; choosing it on the images that
are counted, or letting several clusters stand for one category (majority vote), flatters.

References: H. W. Kuhn, "The Hungarian Method for the Assignment Problem", 1955; the form with
potentials and shortest augmenting paths is that of Jonker & Volgenant, 1987.
"""

from typing import final

import torch
from torch import Tensor
from torchmetrics import Metric

from interp_train.checks import check_range, check_shape
from interp_train.structures import BACKGROUND


def best_assignment(gains: Tensor) -> Tensor:
    """The one-to-one matching of rows and columns with the largest sum of gains; exact.

    Args:
        gains: finite, ``(R, C)``; on any device, read once.

    Returns:
        Column of each row, long ``(R,)``; -1 for rows that are left over (R > C).
    """
    check_shape("gains", gains, ("R", "C"))
    costs = -gains.detach().double().cpu()
    if costs.shape[0] <= costs.shape[1]:
        return torch.tensor(_columns_of(costs), dtype=torch.long, device=gains.device)
    found = torch.full((costs.shape[0],), -1)
    found[_columns_of(costs.T)] = torch.arange(costs.shape[1])
    return found.to(gains.device)


def _columns_of(costs: Tensor) -> list[int]:
    """Column of each row with the least sum of costs; not more rows than columns."""
    rows, columns = costs.shape
    row_of = [-1] * (columns + 1)  # the last column is a seat for the row that is being added
    potentials = costs.new_zeros(rows), costs.new_zeros(columns + 1)
    for row in range(rows):
        row_of[columns] = row
        column, before = _free_column(costs, row_of, *potentials)
        while column != columns:  # every row on the path moves on by one column
            row_of[column] = row_of[before[column]]
            column = before[column]
    found = [-1] * rows
    for column, row in enumerate(row_of[:columns]):
        if row >= 0:
            found[row] = column
    return found


def _free_column(
    costs: Tensor, row_of: list[int], row_potential: Tensor, column_potential: Tensor
) -> tuple[int, list[int]]:
    """The end of the shortest augmenting path, and the column before each; moves potentials."""
    columns = costs.shape[1]
    unseen, distance = (
        costs.new_ones(columns, dtype=torch.bool),
        costs.new_full((columns,), torch.inf),
    )
    before, path, column = torch.full((columns,), columns), [columns], columns
    while row_of[column] >= 0:
        row = row_of[column]
        reduced = costs[row] - row_potential[row] - column_potential[:columns]
        closer = unseen & (reduced < distance)
        distance[closer], before[closer] = reduced[closer], column
        column = int(torch.where(unseen, distance, torch.inf).argmin())
        step = distance[column].clone()
        for seen in path:
            row_potential[row_of[seen]] += step
            column_potential[seen] -= step
        distance[unseen] -= step
        unseen[column] = False
        path.append(column)
    return column, before.tolist()


@final
class ClusterCounts(Metric):
    """How often cluster k met category c, ``(K, C)``; images of no category are left out.

    Args:
        clusters: K.
        categories: C.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, clusters: int, categories: int) -> None:
        super().__init__()
        check_range("clusters", clusters, 1)
        check_range("categories", categories, 1)
        self.add_state("counts", torch.zeros(clusters, categories, dtype=torch.long), "sum")

    def update(self, clusters: Tensor, labels: Tensor) -> None:
        """Count images with cluster ``(N,)`` and category or `BACKGROUND` ``(N,)``."""
        known = labels != BACKGROUND
        rows, columns = self.counts.shape
        places = torch.where(known, clusters.long() * columns + labels, 0)
        counted = torch.zeros(rows * columns, dtype=torch.long, device=labels.device)
        self.counts += counted.scatter_add_(0, places, known.long()).view(rows, columns)

    def compute(self) -> Tensor:
        """The counts over all processes."""
        return self.counts


def clustering_accuracy(counts: Tensor, matching: Tensor) -> Tensor:
    """Share of images whose cluster is matched with their category; NaN without images.

    Args:
        counts: of the images that are judged, ``(K, C)``.
        matching: category of each cluster, chosen on other images, -1 for none, ``(K,)``.
    """
    right = counts.gather(1, matching.clamp(min=0)[:, None])[:, 0] * (matching >= 0)
    return right.sum() / counts.sum()
