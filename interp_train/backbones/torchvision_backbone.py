"""Any torchvision classification network that is a chain of convolutional steps."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import nn
from torchvision import models
from torchvision.models.googlenet import BasicConv2d as GoogLeNetConvolution
from torchvision.models.inception import BasicConv2d as InceptionConvolution

from interp_train.backbones.backbone import Backbone
from interp_train.backbones.chains import chain_of, split_readout, without_in_place
from interp_train.backbones.dilation import replace_strides
from interp_train.backbones.weights import load_weights
from interp_train.checks import check_name

# A dense block puts out sums before normalisation and ReLU; the next transition's ReLU has the
# same units as activations. Steps are looked up by stride everywhere else.
_TAPS = {
    "densenet": {"early": "features.transition1.relu", "mid": "features.transition3.relu"},
}


def torchvision_backbone(
    name: str = "resnet18",
    weights: str | None = None,
    cut: str | None = None,
    freeze: str | None = None,
    *,
    dilate: str | None = None,
    learning_rates: Mapping[str, float] | None = None,
    taps: Mapping[str, str] | None = None,
    classifier: bool = True,
    image_size: int = 224,
) -> Backbone:
    """A torchvision network as backbone, with torchvision's own state-dict keys and outputs.

    Every ReLU is a module and none works in place, so that recorded activations stay as they were.

    Args:
        name: torchvision's name, e.g. ``"vgg16_bn"``.
        weights: torchvision's name of weights (``"DEFAULT"``, ``"IMAGENET1K_V1"``), or the path of
            a state-dict file, also relative to ``$INTERP_TRAIN_DATA/weights``; None starts from
            random weights.
        cut: alias or dotted name of the last step that is kept; the classifier goes.
        freeze: alias or dotted name of the last step of the frozen prefix.
        dilate: dotted name of the first step whose windows move by one cell, those behind dilated:
            finer maps with the same weights; see `interp_train.backbones.dilation`.
        learning_rates: prefix of dotted names (or alias) -> multiplier of the learning rate.
        taps: further aliases for dotted names.
        classifier: False leaves the network's own classifier out, and its weights in the file;
            a head takes its place.
        image_size: side of the images, in pixels.

    Raises:
        ValueError: if the name is unknown, the network is not a chain of convolutional steps, or
            as `load_weights`, `replace_strides` and `Backbone`.
    """
    network = _build(name)
    chain = chain_of(network)
    spatial, readout = split_readout(chain or {})
    if not spatial or not readout:
        raise ValueError(
            f"`name` must be a torchvision network that is a chain of convolutional steps, but "
            f"{name!r} is not. Use `backbone=custom` for its layers without cut and freeze."
        )
    if weights is not None:
        dropped = tuple(readout) if cut is not None or not classifier else ()
        load_weights(network, weights, model=name, left_out=dropped)
    if dilate is not None:
        replace_strides(network, spatial, dilate, image_size)
    family = next((taps for prefix, taps in _TAPS.items() if name.startswith(prefix)), {})
    return Backbone(
        spatial,
        classifier=readout if classifier else None,
        taps={**family, **(taps or {})},
        cut=cut,
        freeze=freeze,
        learning_rates=learning_rates,
        image_size=image_size,
    )


def _build(name: str) -> nn.Module:
    """The network with random weights, ReLUs as modules, nothing in place."""
    names = models.list_models(module=models)
    check_name("name", name, names, "a torchvision classification model")
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": True, "aux_logits": False}
    network: nn.Module = models.get_model(name, weights=None, **options)
    modules_for_functions(network)
    without_in_place(network)
    return network


def modules_for_functions(network: nn.Module) -> None:
    """Give the convolutions of GoogLeNet and Inception, which call ``F.relu``, a ReLU module."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, GoogLeNetConvolution | InceptionConvolution):
                steps = OrderedDict(conv=child.conv, bn=child.bn, relu=nn.ReLU())
                setattr(module, name, nn.Sequential(steps))
