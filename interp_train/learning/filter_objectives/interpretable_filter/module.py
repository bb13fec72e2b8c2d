"""Interpretable filters: template masks and a loss that ties each filter to one part.

Zhang, Wu & Zhu, "Interpretable Convolutional Neural Networks", CVPR 2018 (arXiv 1710.00935).
"""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from interp_train.backbones.attachment import checked_backbone
from interp_train.checks import check_choice, check_range
from interp_train.collectives import (
    gather_over_processes,
    num_processes,
    process_index,
    sum_over_processes,
)
from interp_train.label_counts import LabelCounts
from interp_train.learning.filter_objectives.interpretable_filter import functional
from interp_train.learning.filter_objectives.interpretable_filter.layers import (
    CENTRES,
    FilterLayer,
    in_full_precision,
    inject_gradient,
)

LOSSES = ("exact_mutual_information", "paper_approximation", "released_gradient")
SCHEDULES = ("paper", "inverse_epoch", "constant")
_MANY_CATEGORIES = 10  # beyond this the released programme takes every category as equally rare


@final
class InterpretableFilter(nn.Module):
    """Masks the output of layers with part templates and pulls their filters towards them.

    **Scale.** Losses see ``kappa * x / m`` with m the running mean of a filter's largest
    activation, since the paper's constants fit 0-255 inputs only. The chain rule brings the
    factor kappa / m back, so that the gradient at the map is
    ``weight * schedule * kappa / m * dLoss/dx``; the schedule ``"paper"`` contains m.

    **Relative weight.** The term adds to a task loss that is a mean over images, and sums over
    filters. The released programme sums its task loss and adds a gradient per image; both are
    divided by N here, which leaves their ratio as it was.

    **Losses.** ``"exact_mutual_information"`` is the paper's loss by autograd; it takes no
    labels. ``"paper_approximation"`` is its eq. 4. ``"released_gradient"`` is what the authors'
    programme adds. The last two have no loss value: their terms are 0 and carry a gradient.

    Deviates from Zhang et al. 2018, eq. 4: the sign is reversed (see
    `functional.paper_gradient`). Deviates from the released programme: unrelated templates are
    paired in an order drawn from the digits of the activations instead of the order of the
    batch, so that 1 and 2 processes agree; a learned slope is a running statistic that moves by
    `slope_rate` per step, the programme's long-run rate, whatever the optimiser; a filter
    starts with the category of its first batch instead of with all; background images never
    name a category. With a learned slope, the templates of the two losses of the paper keep
    `beta`.

    In evaluation mode statistics rest, nothing is exchanged between processes, and the exact
    loss is that of the local batch.

    Args:
        taps: tap aliases or dotted names of the layers, after ReLU.
        loss: one of `LOSSES`.
        weight: factor of the gradient; with `relative_to_task` the ratio of the norms of this
            gradient and the task's gradient at the map.
        schedule: ``"paper"``: m / epoch; ``"inverse_epoch"``: 1 / epoch; ``"constant"``: 1.
            With `relative_to_task` the factor m is left out. Epochs count from `start_epoch`.
        start_epoch: first epoch (from 1) with mask and loss; the network trains as its ordinary
            twin until then. A network from scratch needs it: before its filters mean anything,
            a mask only fixes them to where they happen to peak.
        relative_to_task: scale by the running norm of the gradient from above; the first
            step, where it is unknown, has no term.
        center: position of the template, ``"argmax"`` (paper) or ``"centroid"`` (released).
        slope: ``"fixed"`` (paper) or ``"learned"`` (released), of the mask and of the released
            gradient.
        slope_rate: part of the way to its target that a learned slope moves per step.
        mask: whether to mask the output; the ordinary twin has neither mask nor loss.
        tau: height of a template times the number of cells (paper 0.5; released 2).
        alpha: probability of the positive templates; None is n² / (1 + n²).
        beta: template slope; a learned slope starts at beta / 2 in the programme's coordinates.
        normalisation: what m is measured on: ``"filter"``, ``"layer"``, or ``"none"`` (m = 1).
        kappa: typical largest activation that the losses see; with activations of about 1,
            ``exp(tr)`` is nearly flat and the losses hardly tell images apart.
        scale_free: take out the part of the gradient that lets a filter's activations grow.
            The losses see ``x / m`` with m constant, so growth would seem to help for ever.
        assignment: a filter's category has the largest mean ``"sum"`` (paper) or ``"max"``
            (released) of its map.
        balance: weight positive and negative images of a category inversely to their share,
            as released; without effect for one category.
        momentum: of the running scale, strengths and gradient norm.

    Raises:
        ValueError: for an option or number out of its range.
    """

    def __init__(
        self,
        taps: Sequence[str] = ("last",),
        *,
        loss: str = "exact_mutual_information",
        weight: float = 0.2,
        schedule: str = "paper",
        start_epoch: int = 1,
        relative_to_task: bool = False,
        center: str = "centroid",
        slope: str = "fixed",
        slope_rate: float = 0.016,
        mask: bool = True,
        tau: float = 0.5,
        alpha: float | None = None,
        beta: float = 4.0,
        normalisation: str = "layer",
        kappa: float = 20.0,
        scale_free: bool = True,
        assignment: str = "sum",
        balance: bool = False,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        self.taps: Sequence[str] = tuple(taps)
        self.loss, self.weight, self.schedule = loss, weight, schedule
        self.start_epoch = start_epoch
        self.relative_to_task = relative_to_task
        self.center, self.slope, self.slope_rate, self.mask = center, slope, slope_rate, mask
        self.tau, self.alpha, self.beta = tau, alpha, beta
        self.normalisation, self.kappa, self.scale_free = normalisation, kappa, scale_free
        self.assignment, self.balance, self.momentum = assignment, balance, momentum
        self._check_options()
        self.layers: list[str] = []
        self.filter_layers = nn.ModuleList()
        self.label_counts: LabelCounts | None = None
        self._latest: dict[str, tuple[Tensor, Tensor]] = {}

    def _check_options(self) -> None:
        if not self.taps:
            raise ValueError("`taps` must name at least one layer, but got none.")
        check_choice("loss", self.loss, LOSSES)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("center", self.center, tuple(CENTRES))
        check_choice("slope", self.slope, ("fixed", "learned"))
        check_choice("normalisation", self.normalisation, ("filter", "layer", "none"))
        check_choice("assignment", self.assignment, ("sum", "max"))
        for name in ("weight", "tau", "beta", "kappa"):
            check_range(name, getattr(self, name), 0.0)
        check_range("start_epoch", self.start_epoch, 1)
        for name in ("slope_rate", "alpha", "momentum"):
            value = getattr(self, name)
            check_range(name, 0.0 if value is None else value, 0.0, 1.0)

    def attach(self, network: nn.Module, num_categories: int) -> None:
        """Create the state of each layer and hang its mask behind it."""
        network = checked_backbone(network, self.layers)
        self.layers = [network.resolve(tap) for tap in self.taps]
        self.label_counts = LabelCounts(num_categories)
        for name in self.layers:
            layer = FilterLayer(
                network.num_channels(name),
                num_categories,
                center=self.center,
                beta=self.beta,
                learned_slope=self.slope == "learned",
                mask=self.mask,
                masks_at_once=self.start_epoch == 1,
                momentum=self.momentum,
                shared_gradient_norm=self.relative_to_task,
            )
            self.filter_layers.append(layer)
            network.get_submodule(name).register_forward_hook(layer.mask_output)

    def loss_terms(
        self, activations: Mapping[str, Tensor], labels: Tensor, logits: Tensor, epoch: int
    ) -> dict[str, Tensor]:
        """One term per layer, under the layer's dotted name; see `FilterObjective`."""
        self._latest.clear()
        if self.training and self.label_counts is not None:
            self.label_counts.update(labels)
        with torch.autocast(logits.device.type, enabled=False):
            return {
                name: self._term(name, layer, activations[name], labels, epoch)
                for name, layer in self._states()
            }

    def measurements(self) -> dict[str, Tensor]:
        """What happened in the latest training step, per layer, of this process's images.

        ``mutual_information`` (nats, mean over filters, with the templates of the paper),
        ``effective_images`` (how many carry the gradient, mean over filters),
        ``gradient_ratio`` (norm of the injected gradient / norm of the task's, which is a
        running mean), ``activation_scale``, ``slope``, ``dead_filters`` (share that no image
        activates), ``batches_without_positives`` (so far).
        """
        found: dict[str, Tensor] = {}
        for name, layer in self._states():
            if name not in self._latest:
                continue
            maps, gradient = self._latest[name]
            # Shared, the task's norm is that of all processes; this gradient is one's own.
            share = num_processes() ** -0.5 if self.relative_to_task else 1.0
            measured = {
                "mutual_information": self._information(maps).mean(),
                "effective_images": functional.effective_images(gradient).mean(),
                "gradient_ratio": share * gradient.norm() / layer.task_gradient.clamp(min=1e-30),
                "activation_scale": layer.activation_scale.mean(),
                "slope": layer.slopes.mean(),
                "dead_filters": (maps.amax((0, 2, 3)) <= 0).float().mean(),
                "batches_without_positives": layer.without_positives.float(),
            }
            found.update({f"{name}/{key}": value.detach() for key, value in measured.items()})
        return found

    def filter_categories(self, layer: str) -> Tensor:
        """Category that each filter of a layer (dotted name) is assigned to, long ``(K,)``."""
        return dict(self._states())[layer].assigned_categories()

    def _states(self) -> list[tuple[str, FilterLayer]]:
        pairs = zip(self.layers, self.filter_layers, strict=True)
        return [(name, layer) for name, layer in pairs if isinstance(layer, FilterLayer)]

    def _term(
        self, name: str, layer: FilterLayer, activations: Tensor, labels: Tensor, epoch: int
    ) -> Tensor:
        maps = in_full_precision(activations)
        if self.training:
            layer.update_statistics(maps, labels, self.assignment)
            if epoch >= self.start_epoch:
                layer.start_masking()
        factor = (self.kappa / layer.scales(self.normalisation)).to(maps.dtype)
        maps = maps * factor[:, None, None]
        differentiable = activations.requires_grad and torch.is_grad_enabled()
        if not (self.training and differentiable and epoch >= self.start_epoch):
            return self._weight(layer, epoch) * self._value(maps)
        value, gradient = self._objective(layer, maps, labels)
        if self.scale_free:
            gradient = functional.without_growth(gradient, maps, across=True)
        gradient.mul_(factor[:, None, None])
        weight = self._weight(layer, epoch)
        if self.relative_to_task:
            weight = weight * self._task_ratio(layer, gradient)
        gradient.mul_(weight)
        self._latest[name] = (maps, gradient)
        return inject_gradient(activations, gradient, weight * value, layer)

    def _weight(self, layer: FilterLayer, epoch: int) -> Tensor:
        elapsed = epoch - self.start_epoch + 1
        if elapsed < 1:
            return torch.zeros_like(layer.task_gradient)
        decay = 1.0 if self.schedule == "constant" else 1.0 / elapsed
        weight = torch.full_like(layer.task_gradient, self.weight * decay)
        if self.schedule == "paper" and not self.relative_to_task:
            weight = weight * layer.activation_scale.mean()
        return weight

    def _task_ratio(self, layer: FilterLayer, gradient: Tensor) -> Tensor:
        """Norm of the task's gradient over that of `gradient`, over all processes."""
        norm = sum_over_processes(gradient.square().sum()).sqrt() / num_processes()
        return layer.task_gradient / norm.clamp(min=1e-30)

    def _value(self, maps: Tensor) -> Tensor:
        """The loss of the local batch; 0 for losses that are only a gradient."""
        if self.loss != "exact_mutual_information":
            return maps.new_zeros(())
        return -self._information(maps).sum()

    def _objective(self, layer: FilterLayer, maps: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Value of the loss, and its gradient at the scaled maps, ``(N, K, h, w)``.

        The gradient is `num_processes` times that of one process with the whole batch, because
        it will be averaged over processes.
        """
        if self.loss == "exact_mutual_information":
            with torch.enable_grad():
                leaf = maps.detach().requires_grad_()
                value = -self._information(leaf, across=True).sum()
                (gradient,) = torch.autograd.grad(value, leaf)
            return value.detach(), gradient
        with torch.no_grad():
            positive = labels[:, None] == layer.assigned_categories()
            if self.loss == "paper_approximation":
                gradient = self._paper_gradient(layer, maps, positive)
            else:
                gradient = self._released_gradient(layer, maps, positive)
        return maps.new_zeros(()), gradient

    def _scores(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """tr(x T) ``(N, K, T)`` as one product of matrices, the templates, and their prior."""
        size = (maps.shape[2], maps.shape[3])
        templates = functional.filter_templates(size, self.tau, self.beta, maps)
        prior = functional.template_prior(size[0] * size[1], self.alpha, maps)
        return maps.flatten(2) @ templates.flatten(1).T, templates, prior

    def _information(self, maps: Tensor, across: bool = False) -> Tensor:
        scores, _, prior = self._scores(maps)
        return functional.mutual_information(scores, prior, across)

    def _paper_gradient(self, layer: FilterLayer, maps: Tensor, positive: Tensor) -> Tensor:
        scores, templates, prior = self._scores(maps)
        centres = layer.centres(maps).long()
        own = centres[..., 0] * maps.shape[3] + centres[..., 1]
        chosen = torch.where(positive, own, templates.shape[0] - 1)
        gradient = functional.paper_gradient(scores, prior, templates, chosen, across=True)
        weights = torch.where(positive, *self._image_weights(layer, maps))
        return gradient.mul_((weights * num_processes())[..., None, None])

    def _released_gradient(self, layer: FilterLayer, maps: Tensor, positive: Tensor) -> Tensor:
        size = (maps.shape[2], maps.shape[3])
        centres, declines = layer.centres(maps), layer.declines(maps)
        templates = functional.template_maps(centres, declines, size)
        flipped = (declines[0].flip(0), declines[1].flip(0)) if declines[0].dim() else declines
        partners = partner_centres(centres, maps)
        unrelated = functional.template_maps(partners, flipped, size)
        if self.slope == "learned":
            match = (maps * templates).mean((2, 3))
            spread = functional.spread_around(maps, centres)
            targets = functional.slope_targets(match, spread, positive, across=True)
            layer.move_slopes(targets, self.slope_rate)
        gradient = functional.released_gradient(
            maps,
            templates,
            unrelated,
            positive,
            tau=self.tau,
            weights=self._image_weights(layer, maps),
            across=True,
        )
        return gradient.div_(maps.shape[0])  # the local number: processes are averaged

    def _image_weights(self, layer: FilterLayer, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of each filter's positive and negative images, each ``(K,)``."""
        assert self.label_counts is not None  # attach came first
        shares = self.label_counts.shares().to(maps.dtype)
        if not self.balance or shares.shape[0] == 1:
            ones = maps.new_ones(maps.shape[1])
            return ones, ones
        if shares.shape[0] > _MANY_CATEGORIES:
            shares = torch.full_like(shares, 1 / shares.shape[0])
        share = shares[layer.assigned_categories()]
        return 0.5 / share.clamp(min=1e-6), 0.5 / (1 - share).clamp(min=1e-6)


def partner_centres(centres: Tensor, maps: Tensor) -> Tensor:
    """Centres of unrelated filters and images: filters reversed, images paired at random.

    The pairs follow from the digits of each image's mean activation: as good as random, and
    the same however the images are spread over processes.

    Args:
        centres: of the local images, ``(N, K, 2)``.
        maps: ``(N, K, h, w)``.

    Returns:
        ``(N, K, 2)``.
    """
    digits = (maps.mean((1, 2, 3)) * 1e4).frac()
    order = gather_over_processes(digits).argsort()
    partner = torch.empty_like(order)
    partner[order] = order.flip(0)
    first = process_index() * len(maps)
    everyone = gather_over_processes(centres)
    return everyone[partner[first : first + len(maps)]].flip(1)
