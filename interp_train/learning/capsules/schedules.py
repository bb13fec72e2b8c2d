"""Learning rates that fall exponentially, not below a floor."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from interp_train.checks import check_range


def exponential_decay(
    optimizer: Optimizer, rate: float = 0.96, steps: int = 2000, floor: float = 1e-6
) -> LambdaLR:
    """Learning rates times ``rate ** (t / steps)`` after t steps, at least `floor`.

    The defaults are those of the authors' programme of CapsNet, for steps of one batch.

    Args:
        optimizer: whose groups follow, each from its own rate.
        rate: factor.
        steps: after so many steps, which `learning.scheduler_interval` says.
        floor: lowest learning rate; groups that start below it stay where they are.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_range("rate", rate, 0.0, 1.0)
    check_range("steps", steps, 1)
    check_range("floor", floor, 0.0)

    def factor_for(first: float) -> "_Decay":
        return _Decay(rate, steps, min(1.0, floor / first) if first > 0 else 1.0)

    return LambdaLR(optimizer, [factor_for(group["lr"]) for group in optimizer.param_groups])


class _Decay:
    """Step -> factor; plain numbers, so that a checkpoint can hold it."""

    def __init__(self, rate: float, steps: int, least: float) -> None:
        self.rate, self.steps, self.least = rate, steps, least

    def __call__(self, step: int) -> float:
        return max(self.least, float(self.rate ** (step / self.steps)))
