"""Guided backpropagation: the gradient through ReLUs that only let positive gradients back.

A ReLU passes a gradient back where its input was positive, as always, and only if the gradient is
positive as well. The heatmap is the largest absolute value over the colour channels of a pixel.

Its maps are crisp but depend little on the weights of late layers: it comes close to showing the
edges of the image (Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018). Judge it by
`interp_train.evaluation.weight_randomisation` before you believe it.

Reference: J. T. Springenberg, A. Dosovitskiy, T. Brox, M. Riedmiller, "Striving for Simplicity: The
All Convolutional Net", ICLR Workshop 2015, fig. 1 and sec. 3.4.

Deviates from the paper in ReLU6 modules, which are guided as well.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from interp_train.diagnosis.heatmaps.saliency import strongest_channel
from interp_train.structures import Target
from interp_train.target_scores import TargetScores, scores_of_target

_RECTIFIERS = (
    functional.relu,
    functional.relu_,
    functional.relu6,
    torch.relu,
    torch.relu_,
    Tensor.relu,
    Tensor.relu_,
)


def guided_gradients(scores: TargetScores) -> Tensor:
    """Derivative of each score with respect to the image, by the rule of guided backpropagation.

    Args:
        scores: of the images.

    Returns:
        Signed, ``(N, channels, H, W)``.

    Raises:
        ValueError: if the network applies ReLUs as functions, or none at all.
    """
    with _guided(scores.network) as rectifiers, rectifiers:
        gradients = scores.gradients()
    if rectifiers.functions or not rectifiers.modules:
        raise ValueError(
            f"`network` must apply its ReLUs as modules for guided backpropagation, but "
            f"{rectifiers.functions} are function calls and {rectifiers.modules} are modules. "
            f"Replace `functional.relu` by `nn.ReLU` modules; a function would silently give the "
            f"plain gradient."
        )
    return gradients


@final
class _Rectifiers(TorchFunctionMode):
    """Counts the ReLUs of a forward pass, modules and functions."""

    def __init__(self) -> None:
        super().__init__()
        self.modules, self.functions = 0, 0
        self._inside = False

    def enter(self, module: nn.Module, inputs: Any) -> None:
        self._inside = True

    def guide(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._inside = False
        self.modules += 1
        if output.requires_grad:
            # The ReLU's own backward then closes where its input was not positive.
            output.register_hook(_positive_part)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.functions += function in _RECTIFIERS and not self._inside
        return function(*args, **(kwargs or {}))


def _positive_part(gradient: Tensor) -> Tensor:
    return gradient.clamp(min=0)


@contextlib.contextmanager
def _guided(network: nn.Module) -> Iterator[_Rectifiers]:
    rectifiers = _Rectifiers()
    with contextlib.ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, nn.ReLU | nn.ReLU6):
                hooks.callback(module.register_forward_pre_hook(rectifiers.enter).remove)
                handle = module.register_forward_hook(rectifiers.guide, prepend=True)
                hooks.callback(handle.remove)
        yield rectifiers


@final
@dataclass(frozen=True)
class GuidedBackprop:
    """Guided backpropagation as a heatmap method."""

    shows = "guided gradient of the category's score"

    def __call__(self, network: nn.Module, images: Tensor, target: Target) -> Tensor:
        """Heatmap ``(N, 1, H, W)`` >= 0.

        Args:
            network: puts out logits ``(N, C)``; its ReLUs are modules.
            images: network input, ``(N, channels, H, W)``.
            target: the unit of each image.

        Raises:
            ValueError: if a ReLU is not a module, the target does not exist, or it does not
                depend on the images.
        """
        with scores_of_target(network, images, target) as scores:
            return strongest_channel(guided_gradients(scores))
