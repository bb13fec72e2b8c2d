"""Small networks that the tests of this folder share; some are named by their import path."""

import torch
from torch import nn
from torch.nn import functional
from torchvision import models

from interp_train.backbones.backbone import Backbone


class Residual(nn.Module):
    """A block with a side branch, and a ReLU module that is called twice."""

    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, maps):
        return self.relu(maps + self.conv2(self.relu(self.conv1(maps))))


class Functional(nn.Module):
    """The usual tutorial network: functions, one pooling used twice, a view."""

    def __init__(self, classes=5):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(6 * 4 * 4, classes)

    def forward(self, images):
        maps = self.pool(functional.relu(self.conv1(images)))
        maps = self.pool(functional.relu(self.conv2(maps), inplace=True))
        return self.fc(maps.view(maps.size(0), -1))


class TwoPaths(nn.Module):
    """Not a chain: two paths through the whole network."""

    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.right = nn.Conv2d(3, 4, 5, stride=2, padding=2)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 2)

    def forward(self, images):
        maps = self.relu(self.left(images) + self.right(images))
        return self.fc(maps.mean([2, 3]))


class TwoPathMaps(TwoPaths):
    """The same without its classifier."""

    def forward(self, images):
        return self.relu(self.left(images) + self.right(images))


def sequential(classes=2):
    """A plain `nn.Sequential` classifier."""
    layers = (nn.Conv2d(3, 4, 3, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(classes))
    network = nn.Sequential(*layers)
    network(torch.zeros(1, 3, 16, 16))
    return network


def tiny_backbone(**options):
    """Ten steps with BatchNorm, a residual block in a container, and a linear classifier."""
    chain = {
        "conv": nn.Conv2d(3, 4, 3, stride=2, padding=1),
        "norm": nn.BatchNorm2d(4),
        "relu": nn.ReLU(),
        "pool": nn.MaxPool2d(2),
        "blocks": nn.Sequential(Residual(4), Residual(4)),
        "features.0": nn.Conv2d(4, 6, 1),
        "features.1": nn.BatchNorm2d(6),
        "features.2": nn.ReLU(),
    }
    classifier = {
        "avgpool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(1),
        "fc": nn.Linear(6, 5),
    }
    return Backbone(chain, **{"classifier": classifier, "image_size": 32, **options})


def torchvision_network(name):
    """torchvision's own network, filled with random numbers much faster than its constructor."""
    with torch.device("meta"):
        network = models.get_model(name, weights=None)
    network = network.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            fan_in = tensor[0].numel() if tensor.dim() > 1 else 4
            tensor.uniform_(-1, 1, generator=generator).mul_((3 / fan_in) ** 0.5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.num_batches_tracked.zero_()
            module.weight.data.add_(1)
    return network
