"""The score that a target asks about: how strongly a network answers with one unit, per image.

The score is the unit's logit, or its highest activation where the target is a layer with maps.
`scores_of_target` asks in evaluation mode, also inside inference mode, and leaves no trace on the
network: no hook, no entry in the weights' ``.grad``, no cast of a weight in autocast's cache.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from interp_train.activations import gradients_enabled, unwrapped
from interp_train.checks import check_name, check_range, check_shape
from interp_train.precision import at_least_float32
from interp_train.structures import Target

# Which images, which of their variants -> the variants, (n, V, channels, H, W).
Variants = Callable[[slice, slice], Tensor]


@final
class TargetScores:
    """Scores of images and of variants of them; made by `scores_of_target`.

    The forward passes run under the autocast that surrounds `scores_of_target`; arithmetic on what
    they give runs without.

    Attributes:
        network: without wrappers, in evaluation mode.
        images: a copy of the images, ``(N, channels, H, W)``.
        target: its layer as a dotted name.

    Args:
        network: without wrappers.
        images: network input.
        target: the unit of each image.
        link: from the response ``(N, C)`` to what is scored, such as a softmax; None scores the
            response itself.
    """

    def __init__(
        self,
        network: nn.Module,
        images: Tensor,
        target: Target,
        link: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        check_shape("target.units", target.units, (len(images),))
        self.network = network
        self.images = images.detach().clone()
        # A tensor made in inference mode cannot be saved for a gradient, its copy can.
        units = target.units.to(images.device, copy=True).long()
        layer = None if target.layer is None else resolved_layer(network, target.layer)
        self.target = Target(layer, units)
        self._link = link
        # Read once: to compare units on the device would wait for it in every forward pass.
        self._units = target.units.tolist()
        device = images.device.type
        self._autocast = (
            device,
            torch.get_autocast_dtype(device),
            torch.is_autocast_enabled(device),
        )

    def __call__(self, images: Tensor | None = None, rows: slice = slice(None)) -> Tensor:
        """Score of each image, for the unit of its row.

        Args:
            images: ``(n, channels, H, W)``, or V variants of each, ``(n, V, channels, H, W)``;
                None stands for the images of the question.
            rows: which images of the question they are or were made of, n of them.

        Returns:
            ``(n,)`` or ``(n, V)``, at least float32.

        Raises:
            ValueError: if the target's layer does not run, or a unit does not exist.
        """
        images = self.images if images is None else images
        response = self._response(images.flatten(0, -4))
        units = self.target.units[rows]
        copies = len(response) // max(1, len(units))
        scores = response.gather(1, units.repeat_interleave(copies)[:, None])
        return scores.view(images.shape[:-3])

    def above(
        self, layer: str, change: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """What a layer puts out, before a mask, and the scores ``(N,)`` as a function of it alone.

        Args:
            layer: dotted name.
            change: from what the layer puts out to what takes its place; None changes nothing.

        Returns:
            A leaf, cut off from what lies below, of any shape; the scores.

        Raises:
            ValueError: if the layer does not run, or as `__call__`.
        """
        kept: list[Tensor] = []

        def cut(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            values = output.detach()
            values = values if change is None else change(values)
            # What follows works on a copy: a ReLU in place must not change the leaf.
            kept.append(values.clone().requires_grad_())
            return kept[-1].clone()

        response = self._response(self.images, {layer: cut})
        _require_run("layer", layer, kept)
        return kept[-1], response.gather(1, self.target.units[:, None])[:, 0]

    def gradients(self, images: Tensor | None = None, rows: slice = slice(None)) -> Tensor:
        """Derivative of each image's score with respect to the image, in the shape of `images`.

        Args:
            images: see `__call__`.
            rows: see `__call__`.

        Raises:
            ValueError: if the score does not depend on the images, or as `__call__`.
        """
        leaf = (self.images if images is None else images).detach().requires_grad_()
        # The network works on a copy: a ReLU in place must not change the leaf.
        scores = self(leaf.clone(), rows)
        return gradient_of(scores, leaf, "images", "Let gradients pass through all its layers.")

    def of_variants(self, variants: Variants, count: int, batch_size: int) -> Tensor:
        """Scores ``(N, count)`` of `count` variants of each image, without gradients.

        Args:
            variants: makes the variants of some images.
            count: variants per image.
            batch_size: images in one forward pass, at most.
        """
        parts: list[list[Tensor]] = []
        with torch.no_grad():
            for rows, chosen in variant_chunks(len(self.images), count, batch_size):
                if chosen.start == 0:
                    parts.append([])
                parts[-1].append(self(variants(rows, chosen), rows))
        return torch.cat([torch.cat(part, 1) for part in parts])

    def mean_gradients(self, variants: Variants, count: int, batch_size: int) -> Tensor:
        """Mean of the gradients at `count` variants of each image, ``(N, channels, H, W)``.

        Args:
            variants: see `of_variants`.
            count: see `of_variants`.
            batch_size: see `of_variants`.
        """
        total = torch.zeros_like(self.images)
        for rows, chosen in variant_chunks(len(self.images), count, batch_size):
            total[rows] += self.gradients(variants(rows, chosen), rows).sum(1)
        return total / count

    def _forward(self, images: Tensor) -> Tensor:
        """Logits of a forward pass under the surrounding autocast."""
        device, dtype, enabled = self._autocast
        # Without the cache, so that no cast of a weight outlives this pass, in whatever mode.
        with torch.autocast(device, dtype, enabled=enabled, cache_enabled=False):
            logits: Tensor = self.network(images)
        return logits

    def _response(
        self, images: Tensor, watched: Mapping[str, Callable[..., Tensor]] | None = None
    ) -> Tensor:
        kept: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            kept.append(output.clone())

        layer = self.target.layer
        hooks = [(layer, keep)] if layer is not None else []
        # Each stands in front of those before it: what is kept is downstream of what is watched.
        with _hung(self.network, [*hooks, *(watched or {}).items()]):
            response = self._forward(images)
        if layer is not None:
            _require_run("target.layer", layer, kept)
            response = kept[-1]
        response = response.amax((-2, -1)) if response.dim() == 4 else response
        check_shape("response", response, ("N", "C"))
        if self._units and not 0 <= min(self._units) <= max(self._units) < response.shape[1]:
            raise ValueError(
                f"`target.units` must be >= 0 and < {response.shape[1]}, but got {self._units}."
            )
        response = at_least_float32(response)
        return response if self._link is None else self._link(response)


@contextlib.contextmanager
def _hung(network: nn.Module, hooks: Sequence[tuple[str, Callable[..., Any]]]) -> Iterator[None]:
    """Forward hooks on named layers inside the block, each in front of all others."""
    with contextlib.ExitStack() as stack:
        for layer, hook in hooks:
            module = network.get_submodule(layer)
            stack.callback(module.register_forward_hook(hook, prepend=True).remove)
        yield


def _require_run(argument: str, layer: str, kept: Sequence[Tensor]) -> None:
    if not kept:
        raise ValueError(
            f"`{argument}` must run in the forward pass, but {layer!r} did not. "
            f"Name a layer that the network calls."
        )


@contextlib.contextmanager
def scores_of_target(
    network: nn.Module,
    images: Tensor,
    target: Target,
    link: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[TargetScores]:
    """Scores of a network for the units that a target names, while the block runs.

    Example:
        with scores_of_target(network, images, Target(None, labels)) as scores:
            gradients = scores.gradients()

    Args:
        network: puts out logits ``(N, C)``; wrappers are taken off.
        images: network input, ``(N, channels, H, W)``.
        target: the unit of each image.
        link: see `TargetScores`.

    Raises:
        ValueError: if the target does not fit the images or the network.
    """
    inner = unwrapped(network)
    check_shape("images", images, ("N", "channels", "H", "W"))
    with gradients_enabled(), evaluation_mode(inner):
        scores = TargetScores(inner, images, target, link)
        with torch.autocast(images.device.type, enabled=False):
            yield scores


def variant_chunks(num_images: int, count: int, batch_size: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of images and of their variants, at most `batch_size` variants in each.

    Raises:
        ValueError: if `batch_size` is not positive.
    """
    check_range("batch_size", batch_size, 1)
    for first in range(0, num_images, batch_size):
        rows = slice(first, min(first + batch_size, num_images))
        step = max(1, batch_size // (rows.stop - rows.start))
        for start in range(0, count, step):
            yield rows, slice(start, min(start + step, count))


def gradient_of(scores: Tensor, leaf: Tensor, name: str, way_out: str) -> Tensor:
    """Derivative of the sum of `scores` with respect to `leaf`, without touching the weights.

    Args:
        scores: of any shape.
        leaf: what they are differentiated by.
        name: of the leaf, for the error.
        way_out: what the user can do, for the error.

    Raises:
        ValueError: if the scores do not depend on the leaf.
    """
    gradient = None
    if scores.requires_grad:
        # autograd.grad: `backward` would add to the gradients of the weights.
        (gradient,) = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"`network` must let gradients pass from the target down to where they are asked for, "
            f"but the score does not depend on {name!r}. {way_out}"
        )
    return gradient


def resolved_layer(network: nn.Module, layer: str | None) -> str:
    """The dotted name of a layer or alias; None is the network's last tap.

    Raises:
        ValueError: for an unknown name, or for None where the network names no taps.
    """
    taps: dict[str, str] = getattr(network, "taps", {})
    if layer is None:
        layer = taps.get("last", taps.get("top"))
    if layer is None:
        raise ValueError(
            f"`layer` must be given for a network without taps, but got None for "
            f"{type(network).__name__}. Name the module whose maps are to be weighted."
        )
    names = [name for name, _ in network.named_modules() if name]
    dotted = taps.get(layer, layer)
    check_name("layer", dotted, (*names, *taps), "a module of the network")
    return dotted


@contextlib.contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; every module gets its own mode back."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
