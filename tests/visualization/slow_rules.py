"""The ReLU rules applied layer by layer, for sequences of convolutions, ReLUs and max-pooling."""

import torch
from torch import nn


def slow_backprojection(layers, image, unit, cell, rule):
    """From one cell (column, row) of the last layer down to the image ``(channels, H, W)``."""
    with torch.no_grad():
        inputs = [image[None]]
        for layer in layers:
            inputs.append(layer(inputs[-1].clone()))
        gradient = torch.zeros_like(inputs[-1])
        gradient[0, unit, cell[1], cell[0]] = 1.0
        for layer, value in zip(reversed(layers), reversed(inputs[:-1]), strict=True):
            gradient = _one_layer(layer, value, gradient, rule)
    return gradient[0]


def _one_layer(layer, value, gradient, rule):
    if isinstance(layer, nn.ReLU):
        found = gradient.clone().view(-1)
        for index in range(found.numel()):
            closed = rule == "guided" and value.view(-1)[index] <= 0
            if closed or found[index] <= 0:
                found[index] = 0
        return found.view(gradient.shape)
    if isinstance(layer, nn.MaxPool2d):
        found = torch.zeros_like(value)
        side = layer.kernel_size
        for k, y, x in torch.cartesian_prod(*map(torch.arange, gradient.shape[1:])).tolist():
            window = value[0, k, y * side : (y + 1) * side, x * side : (x + 1) * side]
            best = int(window.argmax())
            found[0, k, y * side + best // side, x * side + best % side] = gradient[0, k, y, x]
        return found
    return nn.grad.conv2d_input(value.shape, layer.weight, gradient, layer.stride, layer.padding)


def pooled_layers(seed=0, inplace=True):
    """For images of 12 x 12: 3 x 3 cells of stride 4 after "4"."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=inplace), nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3, stride=2, padding=1), nn.ReLU(inplace=inplace),
        nn.Conv2d(5, 4, 3, padding=1), nn.ReLU(inplace=inplace),
        nn.Flatten(), nn.Linear(36, 2),
    ).double()  # fmt: skip
