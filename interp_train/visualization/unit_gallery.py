"""Galleries: the same units of a layer, pictured by several visualizers side by side."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from interp_train.checks import check_range
from interp_train.figures import unnormalised
from interp_train.layer_responses import responses_of_layer
from interp_train.protocols import UnitVisualizer
from interp_train.structures import Target


class UnitGallery(NamedTuple):
    """Pictures of units, or of images that a layer was asked to give back.

    Attributes:
        layer: dotted name or alias.
        rows: units, or places of images; one per row.
        columns: names of the visualizers; for images, ``"image"`` stands first.
        pictures: in [0, 1], ``(R, V, 3, size, size)``.
    """

    layer: str
    rows: tuple[int, ...]
    columns: tuple[str, ...]
    pictures: Tensor


def pictures_images(method: UnitVisualizer) -> bool:
    """Whether a visualizer pictures a whole layer, once per image, and no single units."""
    return bool(getattr(method, "of_images", False))


def normalised_like(
    method: UnitVisualizer, mean: Sequence[float], std: Sequence[float]
) -> UnitVisualizer:
    """The same visualizer for images with this normalisation; others than ours are left alone.

    Args:
        method: any; one of ours is a dataclass with the fields `mean` and `std`, or `std` alone.
        mean: per channel, that was subtracted.
        std: per channel, that was divided by.
    """
    subject: Any = method
    if not dataclasses.is_dataclass(subject) or isinstance(subject, type):
        return method
    known = {field.name for field in dataclasses.fields(subject)}
    wanted = {"mean": tuple(mean), "std": tuple(std)}
    changes = {name: value for name, value in wanted.items() if name in known}
    found: Any = dataclasses.replace(subject, **changes)
    return cast(UnitVisualizer, found)


def most_active_units(
    network: nn.Module, layer: str, images: Tensor, number: int, *, batch_size: int = 32
) -> list[int]:
    """Units with the highest mean peak over a sample of images.

    Args:
        network: puts out logits ``(N, C)``.
        layer: dotted name or alias.
        images: network input, ``(N, channels, H, W)``.
        number: of units; fewer if the layer has fewer.
        batch_size: images in one forward pass, at most.

    Raises:
        ValueError: if there is no such layer, or no image.
    """
    check_range("number", number, 1)
    target = Target(layer, torch.zeros(1, dtype=torch.long))
    total: Tensor | None = None
    with responses_of_layer(network, target, images) as responses, torch.no_grad():
        for part in torch.split(responses.images, batch_size):
            peaks = responses(part).amax((-2, -1)).double().sum(0)
            total = peaks if total is None else total + peaks
    assert total is not None  # there is an image
    return total.argsort(descending=True, stable=True)[:number].tolist()


def unit_gallery(
    network: nn.Module,
    layer: str,
    units: Sequence[int],
    images: Tensor,
    visualizers: Mapping[str, UnitVisualizer],
    *,
    size: int = 160,
    shown: Callable[[list[UnitVisualizer]], Iterable[UnitVisualizer]] = iter,
) -> UnitGallery | None:
    """Each unit, pictured by every visualizer that pictures units.

    Args:
        network: puts out logits ``(N, C)``; no trace is left on it.
        layer: dotted name or alias.
        units: whose pictures are made.
        images: the sample that visualizers choose from, network input, ``(N, channels, H, W)``.
        visualizers: name -> method; those that picture images are left out.
        size: side of a picture, in pixels; others are resized.
        shown: iterates over the methods and may show how far it is.

    Returns:
        None if no visualizer pictures units.
    """
    chosen = {name: m for name, m in visualizers.items() if not pictures_images(m)}
    if not chosen or not units:
        return None
    target = Target(layer, torch.tensor(list(units), device=images.device))
    drawn = [
        _squares(method(network, target, images), size) for method in shown([*chosen.values()])
    ]
    return UnitGallery(layer, tuple(units), tuple(chosen), torch.stack(drawn, 1))


def image_gallery(
    network: nn.Module,
    layer: str,
    images: Tensor,
    visualizers: Mapping[str, UnitVisualizer],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    size: int = 160,
) -> UnitGallery | None:
    """Images beside what every visualizer that inverts a layer gives back of them.

    Args:
        network: see `unit_gallery`, like `layer` and `size`.
        layer: see there.
        images: to invert, network input, ``(N, channels, H, W)``.
        visualizers: name -> method; those that picture units are left out.
        mean: per channel, that normalisation subtracted.
        std: per channel, that it divided by.
        size: see there.

    Returns:
        None if no visualizer pictures images.
    """
    chosen = {name: m for name, m in visualizers.items() if pictures_images(m)}
    if not chosen or not len(images):
        return None
    target = Target(layer, torch.zeros(1, dtype=torch.long, device=images.device))
    drawn = [unnormalised(images, mean, std)]
    drawn += [method(network, target, images) for method in chosen.values()]
    pictures = torch.stack([_squares(found, size) for found in drawn], 1)
    return UnitGallery(layer, tuple(range(len(images))), ("image", *chosen), pictures)


def _squares(pictures: Tensor, size: int) -> Tensor:
    """Pictures ``(R, 3, height, width)`` at one size on the CPU; longer sides are fitted in."""
    pictures = pictures.detach().float().cpu()
    height, width = pictures.shape[-2:]
    scale = size / max(height, width)
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    found = functional.interpolate(pictures, shape, mode="bilinear", antialias=True).clamp(0, 1)
    below, right = size - shape[0], size - shape[1]
    sides = (right // 2, right - right // 2, below // 2, below - below // 2)
    return functional.pad(found, sides, value=1.0)
