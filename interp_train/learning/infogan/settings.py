"""What an InfoGAN may be set to: weights of its loss, transforms of what is read, trainers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from interp_train.affine_transforms import AffineRanges, checked_ranges
from interp_train.checks import check_name, check_range
from interp_train.learning.infogan.functional import Code

WEIGHTS = {"discrete": 1.0, "continuous": 1.0, "r1": 0.0, "contrastive": 0.0}
TRANSFORMS = {"rotation": 0.0, "shear": 0.0, "scale": (1.0, 1.0), "shift": 0.0}


class Weights(NamedTuple):
    """Weights of the loss terms beside the adversarial one; they are `WEIGHTS` by default.

    Attributes:
        discrete: lambda of categorical and Bernoulli codes.
        continuous: lambda of uniform codes; smaller where codes are many and continuous.
        r1: of the gradient penalty; needs a trunk without batch normalisation.
        contrastive: of the contrastive term; needs at least two codes.
    """

    discrete: float
    continuous: float
    r1: float
    contrastive: float


def checked_weights(given: Mapping[str, float]) -> Weights:
    """`WEIGHTS` with those that are given.

    Raises:
        ValueError: for a name that is none, or a negative weight.
    """
    for name, weight in given.items():
        check_name("weights", name, WEIGHTS, "a weight of the loss")
        check_range(f"weights.{name}", weight, 0.0)
    return Weights(**{**WEIGHTS, **given})


def checked_transforms(given: Mapping[str, Any], codes: Sequence[Code]) -> AffineRanges | None:
    """`TRANSFORMS` with those that are given; None if they leave images as they are.

    Raises:
        ValueError: for a name that is none, a range that is none, or without a discrete code.
    """
    for name in given:
        check_name("transforms", name, TRANSFORMS, "a range of the transforms")
    settings: dict[str, Any] = {**TRANSFORMS, **given}
    ranges = checked_ranges(**settings)
    if ranges == checked_ranges(**dict[str, Any](TRANSFORMS)):
        return None
    if all(code.kind == "uniform" for code in codes):
        raise ValueError(
            "`transforms` are for categorical and Bernoulli codes, but `codes` holds uniform ones "
            "only. Leave learning.transforms as they are by default."
        )
    return ranges


def check_trainer(precision: str | None, strategy: object) -> None:
    """Raise ValueError for float16 with scaled losses, and strategies that spread the weights."""
    if precision == "16-mixed":
        raise ValueError(
            "`trainer.precision` must not be '16-mixed', because each network would need a scale "
            "of its own. Use bf16-mixed or 32-true."
        )
    if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        raise ValueError(
            f"`trainer.strategy` must be auto or ddp, but got {type(strategy).__name__}."
        )
