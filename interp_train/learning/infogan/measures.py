"""What is measured of the codes at each validation: information, and clusters as categories."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from interp_train.evaluation.clustering import ClusterCounts, best_assignment, clustering_accuracy
from interp_train.learning.infogan.functional import Code


@final
class CodeMeasures(nn.Module):
    """L_I of every code, and the first categorical code as classifier.

    Args:
        codes: of the system.
        num_categories: of the data.

    Attributes:
        matching: category of each cluster, long ``(K,)``; -1 for none. Kept in checkpoints.
    """

    matching: Tensor

    def __init__(self, codes: Sequence[Code], num_categories: int) -> None:
        super().__init__()
        self.codes = tuple(codes)
        kinds = [code.kind for code in codes]
        self.place = kinds.index("categorical") if "categorical" in kinds else None
        clusters = 1 if self.place is None else codes[self.place].width
        self.num_categories = max(1, num_categories)
        self.register_buffer("matching", torch.full((clusters,), -1))
        self.training_counts = ClusterCounts(clusters, self.num_categories)
        self.counts = ClusterCounts(clusters, self.num_categories)
        self.information = nn.ModuleList(MeanMetric() for _ in codes)

    def cluster_logits(self, said: Tensor) -> Tensor:
        """Q's logits of the first categorical code, ``(N, K)``; of the first code without one."""
        return torch.split(said, [code.outputs for code in self.codes], 1)[self.place or 0]

    def category_logits(self, said: Tensor) -> Tensor:
        """Q's logits of each category's cluster, lowest for categories without one, ``(N, C)``."""
        logits = self.cluster_logits(said)
        columns = torch.where(self.matching >= 0, self.matching, self.num_categories)
        table = logits.new_full((len(logits), self.num_categories + 1), -1e4)
        return table.index_copy(1, columns, logits)[:, : self.num_categories]

    def count(self, said: Tensor, labels: Tensor) -> None:
        """Count images; Q's output ``(N, ...)`` and labels ``(N,)``."""
        if self.place is not None:
            counts = self.training_counts if self.training else self.counts
            counts.update(self.cluster_logits(said).argmax(1), labels)

    def add_information(self, bounds: Tensor, number: int) -> None:
        """L_I of each code ``(codes,)`` on `number` generated images."""
        mean: Any
        for mean, bound in zip(self.information, bounds, strict=True):
            mean.update(bound, number)

    def match(self) -> None:
        """Choose the matching by the training images counted so far, if there are any."""
        if self.training_counts.update_called:
            self.matching.copy_(best_assignment(self.training_counts.compute()))

    def summary(self) -> dict[str, Tensor]:
        """Quantities to log; the measures of the validation start anew."""
        found: dict[str, Tensor] = {}
        means: list[Any] = list(self.information)
        bounds = [mean.compute() for mean in means]
        for code, bound in zip(self.codes, bounds, strict=True):
            found[f"loss/validation/information/{code.name}"] = bound
        discrete = [place for place, code in enumerate(self.codes) if code.kind != "uniform"]
        if discrete:
            total = torch.stack([bounds[place] for place in discrete]).sum()
            found["loss/validation/information"] = total
            largest = sum(self.codes[place].entropy for place in discrete)
            found["loss/validation/information_maximum"] = total.new_tensor(largest)
        if self.place is not None:
            accuracy = clustering_accuracy(self.counts.compute(), self.matching)
            found["accuracy/clustering"] = accuracy
        for measure in (self.counts, *means):
            measure.reset()
        return found
