"""Features of images from a network, for distances between sets of images."""

from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from interp_train.checks import check_range

_INCEPTION_SIDE = 299


@final
class PenultimateFeatures(nn.Module):
    """What enters the last linear layer of a classifier.

    Args:
        network: puts out logits of normalised images.
        mean: that normalisation subtracts, per channel.
        std: that it divides by.

    Attributes:
        width: number of features.

    Raises:
        ValueError: if the network has no linear layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
        if not layers:
            raise ValueError(
                "`network` must have a linear layer, whose input are the features, but has none. "
                "Use a classifier, such as a checkpoint of learning=classifier."
            )
        self.network = network
        self.width = layers[-1].in_features
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self._found: Tensor | None = None
        layers[-1].register_forward_pre_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._found = inputs[0].flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(N, width)`` of images in [0, 1], ``(N, C, H, W)``."""
        check_range("channels of `images`", images.shape[1], len(self.mean), len(self.mean))
        self.network((images - self.mean) / self.std)
        found, self._found = self._found, None
        assert found is not None
        return found


def inception_features(path: str | Path) -> PenultimateFeatures:
    """The 2,048 features of torchvision's Inception v3, from a local file of its weights.

    Not the network of published FID values, which was trained otherwise: distances in these
    features compare runs with each other only.

    Args:
        path: state dict of ``torchvision.models.inception_v3``.

    Raises:
        FileNotFoundError: if there is no file; nothing is downloaded.
    """
    from torchvision.models import Inception3

    if not Path(path).is_file():
        raise FileNotFoundError(
            f"`path` must be a file with the weights of torchvision's inception_v3, but got "
            f"{str(path)!r}. Download it beforehand."
        )
    network = Inception3(aux_logits=True, transform_input=False, init_weights=False)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    half = (0.5, 0.5, 0.5)
    return PenultimateFeatures(nn.Sequential(_Resized(), network.eval()), half, half)


@final
class _Resized(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        size = (_INCEPTION_SIDE, _INCEPTION_SIDE)
        return functional.interpolate(images, size, mode="bilinear", antialias=True)
