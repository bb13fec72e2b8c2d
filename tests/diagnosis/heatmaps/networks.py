"""Small networks in double precision, and targets, for the heatmap methods."""

import torch
from torch import nn

from interp_train.structures import Target


def small_network(seed=0, inplace=True):
    """For images of 8 x 8: cells of stride 2, then three logits."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.ReLU(inplace=inplace),
        nn.Flatten(),
        nn.Linear(5 * 4 * 4, 3),
    ).double()


def pixel_network(seed=0, side=5):
    """For images of `side` x `side`: one cell per pixel, so that nothing is upsampled."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * side**2, 3),
    ).double()


def pooled_network(seed=0):
    """Global average pooling and one linear layer; one cell per pixel."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 4),
    ).double()  # fmt: skip


def linear_network(channels=2, side=4, seed=0):
    """Three logits that are linear in the image."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * side**2, 3)).double()


def random_images(number, channels=3, side=8, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, channels, side, side, generator=generator, dtype=torch.float64)


def labels(*units):
    return Target(None, torch.tensor(units))


def score(network, image, unit):
    """Logit of one image ``(channels, H, W)``, a number."""
    with torch.no_grad():
        return network(image[None])[0, unit].item()


def slow_gradient(network, image, unit, step=1e-6):
    """Derivative of a logit by every value of its input, from central differences."""
    gradient = torch.zeros_like(image)
    flat = gradient.view(-1)
    for index in range(image.numel()):
        ends = []
        for sign in (1, -1):
            moved = image.clone()
            moved.view(-1)[index] += sign * step
            ends.append(score(network, moved, unit))
        flat[index] = (ends[0] - ends[1]) / (2 * step)
    return gradient
