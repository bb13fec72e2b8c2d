"""Small networks in double precision, and images, for the unit visualizers."""

import torch
from torch import nn

from interp_train.structures import Target


def two_layers(seed=0, inplace=True):
    """For images of 12 x 12: 6 x 6 cells of stride 2 after "3", then three logits."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.ReLU(inplace=inplace),
        nn.Flatten(),
        nn.Linear(5 * 36, 3),
    ).double()


def random_images(number, channels=3, side=12, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, channels, side, side, generator=generator, dtype=torch.float64)


def units(layer, *indices):
    return Target(layer, torch.tensor(indices))


PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
