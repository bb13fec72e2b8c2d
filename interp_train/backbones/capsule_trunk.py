"""The trunk of a capsule network: convolutions without padding, each followed by a ReLU.

With the defaults it is the first layer of Sabour, Frosst & Hinton, "Dynamic Routing Between
Capsules", NIPS 2017; with four layers and normalisation that of Mazzia, Salvetti & Chiaberge,
"Efficient-CapsNet", Scientific Reports 2021, who normalise after the ReLU.
"""

from collections.abc import Sequence

from torch import nn

from interp_train.backbones.backbone import Backbone
from interp_train.batch_normalisation import WholeBatchNorm
from interp_train.checks import check_range


def capsule_trunk(
    widths: Sequence[int] = (256,),
    kernel_sizes: Sequence[int] = (9,),
    strides: Sequence[int] = (1,),
    batch_norm: bool = False,
    *,
    initial_std: float | None = None,
    image_size: int = 28,
    in_channels: int = 1,
) -> Backbone:
    """Steps ``convolution_i``, ``relu_i`` and perhaps ``norm_i``; a head or classifier follows.

    Args:
        widths: units of each convolution.
        kernel_sizes: of each.
        strides: of each.
        batch_norm: normalise by the batch after each ReLU.
        initial_std: of the weights, truncated at two deviations (0.05 in the programme of Sabour
            et al.); None is He's rule.
        image_size: side of the images, in pixels.
        in_channels: of the images.

    Raises:
        ValueError: if the lists differ in length, or the images are too small.
    """
    check_range("len(widths)", len(widths), low=1)
    if not len(widths) == len(kernel_sizes) == len(strides):
        raise ValueError(
            f"`kernel_sizes` and `strides` must have one entry for each of the {len(widths)} "
            f"`widths`, but have {len(kernel_sizes)} and {len(strides)}."
        )
    chain: dict[str, nn.Module] = {}
    side, inputs = image_size, in_channels
    layers = zip(widths, kernel_sizes, strides, strict=True)
    for index, (width, kernel, stride) in enumerate(layers, 1):
        side = _next_side(side, kernel, stride, image_size)
        convolution = nn.Conv2d(inputs, width, kernel, stride)
        _initialise(convolution, initial_std)
        chain[f"convolution_{index}"] = convolution
        chain[f"relu_{index}"] = nn.ReLU()
        if batch_norm:
            chain[f"norm_{index}"] = WholeBatchNorm(width)
        inputs = width
    return Backbone(chain, image_size=image_size, in_channels=in_channels)


def _next_side(side: int, kernel: int, stride: int, image_size: int) -> int:
    if side < kernel:
        raise ValueError(
            f"`image_size` must be large enough for the convolutions without padding, but with "
            f"{image_size} pixels a kernel of {kernel} meets a map of {side}. Use larger images."
        )
    return (side - kernel) // stride + 1


def _initialise(convolution: nn.Conv2d, std: float | None) -> None:
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    if std is None:
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    else:
        nn.init.trunc_normal_(convolution.weight, std=std, a=-2 * std, b=2 * std)
