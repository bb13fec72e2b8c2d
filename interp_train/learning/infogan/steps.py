"""One optimiser step down named terms, without the hooks that a data-parallel wrapper puts up."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interp_train.collectives import num_processes, sum_over_processes

UPDATES = ("official", "generator_and_q", "separate_step", "untied")


def learners(update: str, parts: Mapping[str, nn.Module]) -> dict[str, list[nn.Module]]:
    """Name of each optimiser -> what it moves.

    Args:
        update: see `InfoGan`.
        parts: ``trunk``, ``scores``, ``codes`` (Q's head), ``generator`` and perhaps ``pairs``.
    """
    trunk, scores, codes = parts["trunk"], parts["scores"], parts["codes"]
    discriminator, generator = [trunk, scores], [parts["generator"]]
    groups = {"discriminator": discriminator, "generator": generator}
    if update == "official":
        groups["discriminator"] = [*discriminator, codes]
    elif update == "generator_and_q":
        groups["generator"] = [*generator, codes]
    elif update == "separate_step":
        groups["information"] = [*generator, trunk, codes]
    else:
        groups["information"] = [codes]
    return groups | ({"contrastive": [parts["pairs"]]} if "pairs" in parts else {})


def descend(
    terms: Mapping[str, Tensor],
    optimizers: Sequence[Any],
    *,
    counted: bool = False,
    largest_norm: float | None = None,
) -> dict[str, Tensor]:
    """One step of Lightning's optimisers down the sum of the terms; returns these, detached.

    Not with `backward`, so that no other weight gets a gradient, and a data-parallel wrapper,
    which expects one for every weight, does not wait for them.

    Args:
        terms: scalars.
        optimizers: as `LightningModule.optimizers` gives them.
        counted: whether Lightning counts this as a step; true once per batch, so that its
            `global_step` counts batches.
        largest_norm: of the gradient over all optimisers; None is no limit.
    """
    weights = [w for each in optimizers for group in each.param_groups for w in group["params"]]
    total = torch.stack(tuple(terms.values())).sum()
    gradients = agreed(torch.autograd.grad(total, weights), largest_norm)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    for place, each in enumerate(optimizers):
        (each if counted and place == 0 else each.optimizer).step()
    for weight in weights:
        weight.grad = None
    return {name: term.detach() for name, term in terms.items()}


def agreed(gradients: Sequence[Tensor], largest_norm: float | None) -> Sequence[Tensor]:
    """Gradients as means over processes, then scaled down together to `largest_norm`."""
    if num_processes() == 1 and largest_norm is None:
        return gradients
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    flat = sum_over_processes(flat) / num_processes()
    if largest_norm is not None:
        flat = flat * (largest_norm / flat.norm().clamp(min=1e-12)).clamp(max=1.0)
    pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
    return [piece.view_as(old) for piece, old in zip(pieces, gradients, strict=True)]


@torch.no_grad()
def follow(average: nn.Module, source: nn.Module, decay: float) -> None:
    """Move `average` towards the weights of `source`; statistics are copied."""
    for mean, weight in zip(average.parameters(), source.parameters(), strict=True):
        mean.lerp_(weight, 1 - decay)
    for kept, buffer in zip(average.buffers(), source.buffers(), strict=True):
        kept.copy_(buffer)
