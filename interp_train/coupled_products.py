"""Sums of linear maps with a coefficient for each pair of input and output, without the images.

Symbols: N samples, I inputs of D numbers, J outputs of O numbers; input i is mapped for output j by
weights of its own, D x O. Here inputs are ``(N, D, I)`` and weights ``(J, D * I, O)``, so that
products with coefficients run along memory. Both functions and all their gradients are derivatives
of one number, linear in coefficients, inputs, weights and outputs: two or three batched products of
matrices. No product of coefficients and inputs, ``(J, N, D * I)``, is kept for the backward pass,
which makes it again.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def coupled_sums(coefficients: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
    """Sum over inputs of coefficient times image, ``(J, N, O)`` in the precision of `weights`.

    Args:
        coefficients: ``(J, N, I)``.
        inputs: ``(N, D, I)``.
        weights: ``(J, D * I, O)``.
    """
    found: Tensor = _CoupledSums.apply(coefficients, inputs, weights)
    return found


def coupled_agreement(outputs: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
    """Scalar product of each input's image with the output, ``(J, N, I)``.

    Args:
        outputs: ``(J, N, O)``, in the precision of `weights`.
        inputs: ``(N, D, I)``.
        weights: ``(J, D * I, O)``.
    """
    found: Tensor = _CoupledAgreement.apply(outputs, inputs, weights)
    return found


class _CoupledSums(torch.autograd.Function):
    """See `coupled_sums`."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
        """See `coupled_sums`."""
        ctx.save_for_backward(coefficients, inputs, weights)
        return torch.bmm(_scaled(coefficients, inputs, weights), weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all three."""
        coefficients, inputs, weights = ctx.saved_tensors
        back = _back(gradient, inputs, weights)
        agreement = (back * inputs).sum(2) if ctx.needs_input_grad[0] else None
        product = _scaled(coefficients, inputs, weights).transpose(1, 2)
        return agreement, (back * coefficients[:, :, None]).sum(0), torch.bmm(product, gradient)


class _CoupledAgreement(torch.autograd.Function):
    """See `coupled_agreement`."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
        """See `coupled_agreement`."""
        ctx.save_for_backward(outputs, inputs, weights)
        return (_back(outputs, inputs, weights) * inputs).sum(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradients of all three."""
        outputs, inputs, weights = ctx.saved_tensors
        scaled = _scaled(gradient, inputs, weights)
        back = _back(outputs, inputs, weights) * gradient[:, :, None]
        return (
            torch.bmm(scaled, weights),
            back.sum(0),
            torch.bmm(scaled.transpose(1, 2), outputs),
        )


def _scaled(coefficients: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
    """Coefficients times inputs, ``(J, N, D * k)``."""
    return (coefficients[:, :, None] * inputs).flatten(2).to(weights.dtype)


def _back(outputs: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
    """What the weights make of outputs ``(J, N, O)``, per atom of the inputs, ``(J, N, D, k)``."""
    return torch.bmm(outputs, weights.transpose(1, 2)).view(-1, *inputs.shape)
