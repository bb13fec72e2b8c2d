"""Batch normalisation whose statistics are those of the whole batch, on any number of processes.

Torch's `SyncBatchNorm` does this on accelerators only. Two passes, mean first, as the difference of
two large sums would lose the variance in float32.
"""

from typing import final

import torch
from torch import Tensor, nn

from interp_train.collectives import num_processes, sum_over_processes


@final
class WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Normalises unit by unit, ``(N, K)`` or ``(N, K, H, W)``; arguments are those of torch's.

    In training every process must call it equally often. Its gradients are right for losses that
    are means over equal shares and whose gradients are averaged over processes. Gradients of
    gradients are not defined over several processes.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(
                f"`input` must be (N, K) or (N, K, H, W), but got {tuple(input.shape)}."
            )

    def forward(self, input: Tensor) -> Tensor:
        """Normalised activations, of the same shape."""
        alone = num_processes() == 1 or input.is_meta  # without values where layers are traced
        if alone or not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        with torch.autocast(input.device.type, enabled=False):
            exact = input if input.dtype == torch.float64 else input.float()
            return self._over_processes(exact).to(input.dtype)

    def _over_processes(self, values: Tensor) -> Tensor:
        axes = (0, *range(2, values.dim()))
        shape = (1, -1, *[1] * (values.dim() - 2))
        count = values.numel() // values.shape[1] * num_processes()
        mean = sum_over_processes(values.sum(axes)) / count
        centred = values - mean.view(shape)
        variance = sum_over_processes(centred.square().sum(axes)) / count
        self._follow(mean.detach(), variance.detach() * count / max(1, count - 1))
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        return normal * self.weight.view(shape) + self.bias.view(shape)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """The running statistics, as torch keeps them."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)
