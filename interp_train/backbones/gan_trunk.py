"""The trunk of a GAN's discriminator: strided convolutions, then one layer of shared features.

With the defaults it is the MNIST network of Chen et al., "InfoGAN: Interpretable Representation
Learning by Information Maximizing Generative Adversarial Nets", NIPS 2016, appendix; the slope is
that of the released code. It puts out features instead of logits; the system adds the heads.
"""

from collections.abc import Sequence

from torch import nn
from torch.nn.utils import parametrizations

from interp_train.backbones.backbone import Backbone
from interp_train.batch_normalisation import WholeBatchNorm
from interp_train.checks import check_choice, check_range

NORMALISATIONS = ("batch", "instance", "none")


def gan_trunk(
    widths: Sequence[int] = (64, 128),
    hidden: int = 1024,
    *,
    slope: float = 0.01,
    normalisation: str = "batch",
    spectral_norm: bool = False,
    image_size: int = 28,
    in_channels: int = 1,
) -> Backbone:
    """4x4 convolutions of stride 2 with leaky ReLUs; all but the first are normalised.

    Args:
        widths: units of each convolution; each halves the map.
        hidden: units of the layer after the last map.
        slope: of the leaky ReLUs below 0; 0.01 in the released code, 0.1 in the paper.
        normalisation: ``"batch"``, ``"instance"`` (maps only) or ``"none"``.
        spectral_norm: divide every weight by its largest singular value (Miyato et al., ICLR 2018).
        image_size: side of the images, in pixels.
        in_channels: of the images.

    Raises:
        ValueError: if an argument is out of its range, or the images are too small.
    """
    chain = strided_convolutions(
        widths, in_channels, slope=slope, normalisation=normalisation, spectral=spectral_norm
    )
    side = image_size >> len(widths)
    check_range("image_size", image_size, low=2 ** len(widths))
    check_range("hidden", hidden, low=1)
    linear = initialised(nn.Linear(widths[-1] * side**2, hidden))
    readout: dict[str, nn.Module] = {
        "flatten": nn.Flatten(1),
        "features": parametrizations.spectral_norm(linear) if spectral_norm else linear,
    }
    if normalisation == "batch":
        readout["features_norm"] = initialised(WholeBatchNorm(hidden))
    readout["features_activation"] = nn.LeakyReLU(slope)
    return Backbone(chain, classifier=readout, image_size=image_size, in_channels=in_channels)


def strided_convolutions(
    widths: Sequence[int], inputs: int, *, slope: float, normalisation: str, spectral: bool
) -> dict[str, nn.Module]:
    """Steps ``convolution_i``, ``norm_i``, ``activation_i``; see `gan_trunk`."""
    check_choice("normalisation", normalisation, NORMALISATIONS)
    check_range("len(widths)", len(widths), low=1)
    check_range("slope", slope, 0.0, 1.0)
    steps: dict[str, nn.Module] = {}
    for index, width in enumerate(widths, 1):
        convolution = initialised(nn.Conv2d(inputs, width, 4, stride=2, padding=1))
        steps[f"convolution_{index}"] = (
            parametrizations.spectral_norm(convolution) if spectral else convolution
        )
        if index > 1 and normalisation == "batch":
            steps[f"norm_{index}"] = initialised(WholeBatchNorm(width))
        elif index > 1 and normalisation == "instance":
            steps[f"norm_{index}"] = nn.InstanceNorm2d(width, affine=True)
        steps[f"activation_{index}"] = nn.LeakyReLU(slope)
        inputs = width
    return steps


def initialised(module: nn.Module) -> nn.Module:
    """`module` with the GAN's first weights: N(0, 0.02), gains N(1, 0.02), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, WholeBatchNorm):
            nn.init.normal_(layer.weight, 1.0, 0.02)
        if isinstance(getattr(layer, "bias", None), nn.Parameter):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return module
