"""Fréchet distance of generated to real images, in the features of a network that is named.

``fd_<name>``: the distance between two normal distributions with the means and covariances of the
features (M. Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
Equilibrium", NeurIPS 2017). Values of different feature networks cannot be compared, and it is
FID only with the Inception network of that paper.
"""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from interp_train.checks import check_shape


def frechet_distance(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Squared Fréchet distance of two normal distributions.

    Args:
        first: mean ``(F,)`` and covariance ``(F, F)``.
        second: the same.
    """
    (mean, covariance), (other_mean, other) = first, second
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    # The eigenvalues of root @ other @ root are those of covariance @ other, but real.
    mixed = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    shift = (mean - other_mean).square().sum()
    total: Tensor = shift + covariance.trace() + other.trace() - 2 * mixed
    return total


@final
class FrechetDistance(Metric):
    """The distance of streamed images, exact over processes.

    Args:
        extractor: images in [0, 1] -> features ``(N, F)``; is not trained or moved.
        features: F.
        name: of the extractor; the value is called ``fd_<name>``.
    """

    full_state_update = False
    numbers: Tensor
    sums: Tensor
    products: Tensor

    def __init__(self, extractor: Callable[[Tensor], Tensor], features: int, name: str) -> None:
        super().__init__()
        if isinstance(extractor, nn.Module):
            extractor.eval().requires_grad_(False)
        self.__dict__["extractor"] = extractor  # not a submodule: it belongs to somebody else
        self.name = f"fd_{name}"
        zeros = torch.zeros(2, features, features, dtype=torch.float64)
        self.add_state("numbers", zeros[:, 0, 0].clone(), "sum")
        self.add_state("sums", zeros[:, 0].clone(), "sum")
        self.add_state("products", zeros, "sum")
        self.set_dtype(torch.float64)

    def update(self, images: Tensor, *, real: bool) -> None:
        """Add images ``(N, C, H, W)`` in [0, 1], real or generated ones."""
        with torch.no_grad():
            rows = self.__dict__["extractor"](images).double()
        check_shape("features", rows, (len(images), self.sums.shape[1]))
        side = 0 if real else 1
        self.numbers[side] += len(rows)
        self.sums[side] += rows.sum(0)
        self.products[side] += rows.T @ rows

    def compute(self) -> Tensor:
        """The squared distance, float64.

        Raises:
            ValueError: with fewer than two images on a side.
        """
        if bool((self.numbers < 2).any()):
            raise ValueError(
                f"`{self.name}` must see at least two real and two generated images, but saw "
                f"{self.numbers.long().tolist()}."
            )
        sides = []
        for number, total, products in zip(self.numbers, self.sums, self.products, strict=True):
            mean = total / number
            scatter = products - number * torch.outer(mean, mean)
            sides.append((mean, scatter / (number - 1)))
        return frechet_distance(sides[0], sides[1])
