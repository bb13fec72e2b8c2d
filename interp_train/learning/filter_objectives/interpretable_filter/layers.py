"""What one layer of interpretable filters remembers, and the mask that it puts on its output."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from interp_train.collectives import num_processes, sum_over_processes
from interp_train.label_counts import membership_of
from interp_train.learning.filter_objectives.interpretable_filter.functional import (
    argmax_centre,
    centroid_centre,
    learned_declines,
    mask_maps,
    paper_declines,
)

CENTRES: dict[str, Callable[[Tensor], Tensor]] = {
    "argmax": argmax_centre,
    "centroid": centroid_centre,
}
# A filter is scaled up to at most 20 times the layer's mean, so that dying filters stay finite.
_SCALE_FLOOR = 0.05


class FilterLayer(nn.Module):
    """State of the K filters of one layer; applies their masks as a forward hook.

    Args:
        num_filters: K.
        num_categories: C.
        center: ``"argmax"`` or ``"centroid"``.
        beta: template slope of the paper; a learned slope starts at beta / 2.
        learned_slope: whether masks use the buffer `slopes` instead of `beta`.
        mask: whether the hook masks; it measures the task's gradient in any case.
        masks_at_once: False lets the hook mask only after `start_masking`; a buffer keeps that,
            so that a checkpoint is evaluated as it was trained.
        momentum: of all running statistics.
        shared_gradient_norm: whether the task's gradient norm is needed in training, so that
            it must be equal over processes.
    """

    slopes: Tensor
    activation_scale: Tensor
    strength: Tensor
    seen: Tensor
    started: Tensor
    task_gradient: Tensor
    without_positives: Tensor
    masking: Tensor

    def __init__(
        self,
        num_filters: int,
        num_categories: int,
        *,
        center: str,
        beta: float,
        learned_slope: bool,
        mask: bool,
        masks_at_once: bool = True,
        momentum: float,
        shared_gradient_norm: bool,
    ) -> None:
        super().__init__()
        self.center, self.beta, self.mask = center, beta, mask
        self.masks_at_once = masks_at_once
        self.learned_slope, self.momentum = learned_slope, momentum
        self.shared_gradient_norm = shared_gradient_norm
        self.loss_scale: Tensor | None = None  # what the loss was multiplied with before backward
        self.register_buffer("slopes", torch.full((num_filters,), beta / 2))
        self.register_buffer("activation_scale", torch.zeros(num_filters))
        self.register_buffer("strength", torch.zeros(num_filters, num_categories))
        self.register_buffer("seen", torch.zeros(num_categories, dtype=torch.bool))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self.register_buffer("task_gradient", torch.zeros(()))
        self.register_buffer("without_positives", torch.zeros((), dtype=torch.long))
        self.register_buffer("masking", torch.tensor(masks_at_once), persistent=not masks_at_once)

    def centres(self, activations: Tensor) -> Tensor:
        """Template positions, ``(N, K, h, w)`` -> ``(N, K, 2)``."""
        return CENTRES[self.center](activations)

    def declines(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of template height per cell along rows and columns, for maps like `like`."""
        size = (like.shape[2], like.shape[3])
        if self.learned_slope:
            return learned_declines(self.slopes.to(like.dtype), size)
        return paper_declines(self.beta, size, like)

    # Its gradient hook and buffers are not for a compiled graph.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def mask_output(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Forward hook of the tapped layer: the masked activations.

        The mask is a constant in the backward pass: nothing flows to its centre or slope.
        """
        if output.is_meta:  # a layer is being looked up, without data
            return output
        through = output.view_as(output)  # receives what comes from above, not our own gradient
        if self.training and through.requires_grad:
            through.register_hook(self.measure_gradient)  # type: ignore[no-untyped-call]
        if not self.mask:
            return through
        with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
            exact = in_full_precision(output)
            size = (output.shape[2], output.shape[3])
            masks = mask_maps(self.centres(exact), self.declines(exact), size)
            if not self.masks_at_once:  # decided on the device: asking would wait for it
                masks = torch.where(self.masking, masks, 1.0)
        return through * masks.to(output.dtype)

    def start_masking(self) -> None:
        """Mask from the next forward pass on."""
        self.masking.fill_(True)

    @torch.no_grad()
    def measure_gradient(self, gradient: Tensor) -> None:
        """Follow the norm of the gradient that arrives at the layer from above."""
        square = in_full_precision(gradient).square().sum()
        if self.shared_gradient_norm:
            square = sum_over_processes(square) / num_processes() ** 2
        norm = square.sqrt()
        if self.loss_scale is not None:  # gradient accumulation and loss scaling divide out
            norm = norm / self.loss_scale
        norm = norm.to(self.task_gradient.dtype)
        mixed = self.task_gradient.lerp(norm, 1 - self.momentum)
        mixed = torch.where(self.task_gradient > 0, mixed, norm)
        self.task_gradient.copy_(torch.where(mixed.isfinite(), mixed, self.task_gradient))

    @torch.no_grad()
    def update_statistics(self, activations: Tensor, labels: Tensor, assignment: str) -> None:
        """Running scale of each filter and its strength per category, over all processes.

        Args:
            activations: ``(N, K, h, w)``.
            labels: ``(N,)``.
            assignment: strength of a map is its ``"sum"`` or its ``"max"``.
        """
        peaks = activations.amax((2, 3))
        strengths = peaks if assignment == "max" else activations.sum((2, 3))
        member = membership_of(labels, self.seen.shape[0], peaks)
        totals = torch.cat([strengths.T @ member, peaks.sum(0)[:, None]], dim=1)
        counts = torch.cat([member, torch.ones_like(member[:, :1])], dim=1).sum(0)
        # One collective: a row per filter, and the numbers of images below.
        reduced = sum_over_processes(torch.cat([totals, counts[None]]))
        totals, counts = reduced[:-1], reduced[-1]
        means = (totals / counts.clamp(min=1)).to(self.strength.dtype)
        present = counts[:-1] > 0
        self._follow(self.strength, means[:, :-1], start=~self.seen, follow=present)
        self._follow(self.activation_scale, means[:, -1], start=~self.started)
        self.seen |= present
        self.started.fill_(True)
        self.without_positives += ~present.any()

    def _follow(
        self, running: Tensor, value: Tensor, *, start: Tensor, follow: Tensor | None = None
    ) -> None:
        """Exponential mean that starts at the first value; only where `follow`."""
        updated = torch.where(start, value, running.lerp(value, 1 - self.momentum))
        running.copy_(updated if follow is None else torch.where(follow, updated, running))

    def move_slopes(self, targets: Tensor, rate: float) -> None:
        """Move each learned slope towards its target by `rate`; NaN targets stay."""
        targets = targets.to(self.slopes.dtype)
        moved = self.slopes + rate * (targets - self.slopes)
        self.slopes.copy_(torch.where(targets.isfinite(), moved, self.slopes))

    def assigned_categories(self) -> Tensor:
        """Category of each filter: where it is strongest among those seen, long ``(K,)``."""
        return self.strength.masked_fill(~self.seen, -torch.inf).argmax(1)

    def scales(self, normalisation: str) -> Tensor:
        """Typical largest activation of each filter, ``(K,)``.

        Args:
            normalisation: ``"filter"``, ``"layer"`` (the mean over filters), or ``"none"`` (1).
        """
        if normalisation == "none":
            return torch.ones_like(self.activation_scale)
        mean = self.activation_scale.mean().clamp(min=1e-6)
        if normalisation == "layer":
            return mean.expand_as(self.activation_scale)
        return self.activation_scale.clamp(min=_SCALE_FLOOR * mean)


def in_full_precision(tensor: Tensor) -> Tensor:
    """The detached tensor in float32, or in float64 if it has that already."""
    tensor = tensor.detach()
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class _GradientInjection(torch.autograd.Function):
    """A scalar with a given value and a given gradient with respect to the activations."""

    @staticmethod
    def forward(
        ctx: Any, activations: Tensor, gradient: Tensor, value: Tensor, layer: FilterLayer
    ) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.layer, ctx.dtype = layer, activations.dtype
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        ctx.layer.loss_scale = gradients[0].detach()
        return (gradients[0] * gradient).to(ctx.dtype), None, None, None


def inject_gradient(
    activations: Tensor, gradient: Tensor, value: Tensor, layer: FilterLayer
) -> Tensor:
    """A loss term with `value` whose gradient at the activations is `gradient`.

    Same gradients as ``(activations * gradient).sum()``, without its meaningless value.
    """
    term: Tensor = _GradientInjection.apply(activations, gradient, value, layer)
    return term
