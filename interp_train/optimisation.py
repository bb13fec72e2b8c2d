"""Optimisers and schedulers as partials: what learning systems that take them have in common."""

from collections.abc import Callable
from typing import Any

import torch


def learning_rate_of(make_optimizer: Callable[..., torch.optim.Optimizer]) -> float:
    """The learning rate that a partial of an optimiser states.

    Raises:
        ValueError: if it states none.
    """
    rate: float | None = getattr(make_optimizer, "keywords", {}).get("lr")
    if rate is None:
        raise ValueError(
            f"`optimizer` must be a partial with a learning rate, but got {make_optimizer!r}. Use "
            f"functools.partial(torch.optim.Adam, lr=1e-3)."
        )
    return rate


def with_scheduler(
    optimizer: torch.optim.Optimizer, make_scheduler: Callable[..., Any] | None, interval: str
) -> Any:
    """What `configure_optimizers` returns for one optimiser.

    Args:
        optimizer: to be scheduled.
        make_scheduler: partial of a torch scheduler, called with the optimiser; None for none.
        interval: whether it steps per ``"step"`` or per ``"epoch"``.
    """
    if make_scheduler is None:
        return optimizer
    scheduler = {"scheduler": make_scheduler(optimizer), "interval": interval}
    return {"optimizer": optimizer, "lr_scheduler": scheduler}
