"""Optimiser groups: learning rates by prefix of dotted names, and what decays."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from interp_train.checks import closest

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(
    network: nn.Module,
    lr: float,
    multipliers: Mapping[str, float],
    *,
    weight_decay: float | None = None,
    decay_biases_and_norms: bool = True,
) -> list[dict[str, Any]]:
    """Every trainable parameter of `network` once, in groups for an optimiser.

    Args:
        network: the network.
        lr: learning rate where no prefix fits.
        multipliers: prefix of dotted names -> multiplier of `lr`; the longest that fits counts.
        weight_decay: written into the groups; None leaves it to the optimiser.
        decay_biases_and_norms: False puts biases and normalisation layers into groups of weight
            decay 0.

    Returns:
        Groups with the keys ``params``, ``lr``, ``name`` and perhaps ``weight_decay``.

    Raises:
        ValueError: if a prefix fits no parameter at all; names the closest.
    """
    names = [name for name, _ in network.named_parameters()]
    for prefix in multipliers:
        if not any(is_inside(name, prefix) for name in names):
            raise ValueError(
                f"`learning_rates` must name parameters by a prefix of their dotted names, but "
                f"{prefix!r} fits none. Closest names: {closest(prefix, _prefixes(names))}."
            )
    exempt = set() if decay_biases_and_norms else biases_and_norms(network)
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            fitting = [prefix for prefix in multipliers if is_inside(name, prefix)]
            prefix = max(fitting, key=len, default="")
            groups.setdefault((prefix, name in exempt), []).append(parameter)
    result = []
    for (prefix, without_decay), parameters in groups.items():
        label = (prefix or "rest") + ("_without_decay" if without_decay else "")
        rate = lr * multipliers.get(prefix, 1.0)
        group: dict[str, Any] = {"params": parameters, "lr": rate, "name": label}
        if without_decay or weight_decay is not None:
            group["weight_decay"] = 0.0 if without_decay else weight_decay
        result.append(group)
    return result


def is_inside(name: str, prefix: str) -> bool:
    """Whether the module or parameter `name` is `prefix` or lies inside it."""
    return name == prefix or name.startswith(prefix + ".")


def biases_and_norms(network: nn.Module) -> set[str]:
    """Names of the parameters that customarily do not decay."""
    norms = {name for name, module in network.named_modules() if isinstance(module, _NORMS)}
    return {
        name
        for name, _ in network.named_parameters()
        if name.rpartition(".")[2] == "bias" or name.rpartition(".")[0] in norms
    }


def _prefixes(names: list[str]) -> list[str]:
    parts = [name.split(".") for name in names]
    return list(dict.fromkeys(".".join(part[: i + 1]) for part in parts for i in range(len(part))))
