"""A compact ReLU network for images of 64 to 96 px that learns from scratch in seconds.

About 60 million multiplications and additions per 96-px image, up to a map of 12x12 cells
(8x8 at 64 px); for the synthetic data and for tests.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from interp_train.backbones.backbone import Backbone
from interp_train.backbones.weights import load_weights
from interp_train.checks import check_range

# Trained by `interp-train train experiment=species_trunk`; see tests/reference/backbones.
PACKAGED_WEIGHTS = {"creatures": Path(__file__).with_name("small_cnn_creatures.pt")}


def small_cnn(
    widths: Sequence[int] = (16, 32, 64, 96),
    batch_norm: bool = True,
    weights: str | None = None,
    cut: str | None = None,
    freeze: str | None = None,
    *,
    learning_rates: Mapping[str, float] | None = None,
    taps: Mapping[str, str] | None = None,
    image_size: int = 96,
    in_channels: int = 3,
) -> Backbone:
    """Four or more 3x3 convolutions; the first has stride 2, the 2nd and 3rd end in a max pooling.

    Layers are called ``features.convolution_i``, ``features.norm_i``, ``features.relu_i``,
    ``features.pool_i``. There is no classifier until a head is attached or `resize_classifier` is
    called.

    Args:
        widths: units of each convolution, at least three.
        batch_norm: normalise before each ReLU.
        weights: ``"creatures"``, which told ten species of synthetic creatures apart (only for
            the default `widths` and `batch_norm`), or the file of a state dict; None starts
            from random weights.
        cut: see `Backbone`.
        freeze: see `Backbone`.
        learning_rates: see `Backbone`.
        taps: see `Backbone`.
        image_size: side of the images, in pixels.
        in_channels: of the images.

    Raises:
        ValueError: if there are fewer than three widths, or as `Backbone`.
    """
    check_range("len(widths)", len(widths), low=3)
    chain = _layers(widths, batch_norm, in_channels)
    if weights is not None:
        file = str(PACKAGED_WEIGHTS.get(weights, weights))
        load_weights(Backbone(chain, image_size=image_size, in_channels=in_channels), file)
    return Backbone(
        chain,
        taps=taps,
        cut=cut,
        freeze=freeze,
        learning_rates=learning_rates,
        image_size=image_size,
        in_channels=in_channels,
    )


def _layers(widths: Sequence[int], batch_norm: bool, inputs: int) -> dict[str, nn.Module]:
    chain: dict[str, nn.Module] = {}
    for index, width in enumerate(widths, 1):
        stride = 2 if index == 1 else 1
        convolution = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=not batch_norm)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        chain[f"features.convolution_{index}"] = convolution
        if batch_norm:
            chain[f"features.norm_{index}"] = nn.BatchNorm2d(width)
        chain[f"features.relu_{index}"] = nn.ReLU()
        if index in (2, 3):
            chain[f"features.pool_{index}"] = nn.MaxPool2d(2)
        inputs = width
    return chain
