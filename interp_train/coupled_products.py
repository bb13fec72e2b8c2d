"""Sums of linear maps with a coefficient for each pair of input and output, without the images.

Symbols: N samples, I inputs of D numbers, J outputs of O numbers; input i is mapped for output j by
weights of its own, D x O. Here inputs are ``(D, I, N)`` and weights ``(J, D * I, O)``, so that
products with coefficients ``(J, I, N)`` run along memory. Both functions and all their gradients
are derivatives of one number, linear in coefficients, inputs, weights and outputs: two or three
batched products of matrices.

No product of coefficients and inputs, ``(J, D * I, N)``, is kept for the backward pass, which makes
it again. It is made for some inputs at a time, in one piece of memory that stays in the cache of a
processor: new memory for all of it takes longer than the arithmetic.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from interp_train.precision import at_least_float32

_BLOCK_BYTES = (2**28, 2**21)  # of products at a time: on a GPU, on the CPU
_LEAST_BLOCK = 16  # inputs


def coupled_sums(coefficients: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
    """Sum over inputs of coefficient times image, ``(J, O, N)`` in the precision of `weights`.

    Args:
        coefficients: ``(J, I, N)``.
        inputs: ``(D, I, N)``.
        weights: ``(J, D * I, O)``.
    """
    found: Tensor = _CoupledSums.apply(coefficients, inputs, weights)
    return found


def coupled_agreement(outputs: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
    """Scalar product of each input's image with the output, ``(J, I, N)``.

    Args:
        outputs: ``(J, O, N)``, in the precision of `weights`.
        inputs: ``(D, I, N)``.
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
        sums = _zeros(len(weights), weights.shape[2], inputs.shape[2], like=weights)
        for block in _blocks(inputs, weights):
            sums += torch.bmm(block.weights.transpose(1, 2), block.scaled(coefficients))
        return sums.to(weights.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all three."""
        coefficients, inputs, weights = ctx.saved_tensors
        agreement = torch.empty_like(coefficients) if ctx.needs_input_grad[0] else None
        for_inputs, for_weights = torch.empty_like(inputs), torch.empty_like(weights)
        for block in _blocks(inputs, weights):
            back = block.back(gradient)
            if agreement is not None:
                block.of(agreement).copy_((back * block.inputs).sum(1))
            block.of(for_inputs).copy_(back.mul_(block.of(coefficients)[:, None]).sum(0))
            product = torch.bmm(block.scaled(coefficients), gradient.transpose(1, 2))
            block.of_weights(for_weights).copy_(block.apart(product))
        return agreement, for_inputs, for_weights


class _CoupledAgreement(torch.autograd.Function):
    """See `coupled_agreement`."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
        """See `coupled_agreement`."""
        ctx.save_for_backward(outputs, inputs, weights)
        found = inputs.new_empty(len(weights), *inputs.shape[1:])
        for block in _blocks(inputs, weights):
            block.of(found).copy_(block.back(outputs).mul_(block.inputs).sum(1))
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradients of all three."""
        outputs, inputs, weights = ctx.saved_tensors
        for_outputs = _zeros(*outputs.shape, like=outputs)
        for_inputs, for_weights = torch.empty_like(inputs), torch.empty_like(weights)
        for block in _blocks(inputs, weights):
            scaled = block.scaled(gradient)
            for_outputs += torch.bmm(block.weights.transpose(1, 2), scaled)
            product = torch.bmm(scaled, outputs.transpose(1, 2))
            block.of_weights(for_weights).copy_(block.apart(product))
            back = block.back(outputs).mul_(block.of(gradient)[:, None])
            block.of(for_inputs).copy_(back.sum(0))
        return for_outputs.to(outputs.dtype), for_inputs, for_weights


def _zeros(*shape: int, like: Tensor) -> Tensor:
    """To sum up blocks in; in at least single precision."""
    return at_least_float32(like.new_zeros(shape))


class _Block:
    """Some of the inputs, and memory for their products with coefficients.

    Args:
        chosen: which inputs.
        inputs: of all, ``(D, I, N)``.
        weights: of all, ``(J, D * I, O)``.
        memory: in the precision of `weights`, at least ``J * D * k * N`` numbers.
    """

    def __init__(self, chosen: slice, inputs: Tensor, weights: Tensor, memory: Tensor) -> None:
        self.chosen, self.inputs, self.atoms = chosen, inputs[:, chosen], len(inputs)
        self.weights = self.of_weights(weights).flatten(1, 2)  # J, D * k, O
        size = (len(weights), *self.inputs.shape)
        self.memory = memory[: len(weights) * self.inputs.numel()].view(size)

    def of(self, values: Tensor) -> Tensor:
        """The block's part of values ``(..., I, N)``."""
        return values[:, self.chosen]

    def of_weights(self, weights: Tensor) -> Tensor:
        """The block's part of all weights, ``(J, D, k, O)``."""
        return self.apart(weights)[:, :, self.chosen]

    def apart(self, weights: Tensor) -> Tensor:
        """Weights ``(J, D * k, O)`` as ``(J, D, k, O)``."""
        return weights.view(len(weights), self.atoms, -1, weights.shape[2])

    def scaled(self, coefficients: Tensor) -> Tensor:
        """Coefficients times inputs, ``(J, D * k, N)``, until the next use of the memory."""
        torch.mul(self.of(coefficients)[:, None], self.inputs, out=self.memory)
        return self.memory.flatten(1, 2)

    def back(self, outputs: Tensor) -> Tensor:
        """What the weights make of outputs ``(J, O, N)``, per atom of the inputs.

        ``(J, D, k, N)`` in the precision of the inputs, until the next use of the memory.
        """
        torch.bmm(self.weights, outputs, out=self.memory.flatten(1, 2))
        return self.memory.to(self.inputs.dtype)


def _blocks(inputs: Tensor, weights: Tensor) -> Iterator[_Block]:
    """The inputs, block by block; all in one on the meta device and where it is compiled."""
    atoms, number, samples = inputs.shape
    per_input = len(weights) * atoms * samples
    limit = _BLOCK_BYTES[inputs.device.type == "cpu"] // weights.element_size()
    size = max(_LEAST_BLOCK, limit // max(1, per_input))
    if torch.compiler.is_compiling() or inputs.is_meta:
        size = number
    memory = weights.new_empty(per_input * min(size, number))
    for start in range(0, number, size):
        yield _Block(slice(start, start + size), inputs, weights, memory)
