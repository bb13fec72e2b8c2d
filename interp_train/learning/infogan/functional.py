"""Latent codes: their prior, what Q says about them, and the losses of the two networks."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from interp_train.checks import check_choice, check_range
from interp_train.counter_random import normal_numbers, uniform_numbers, whole_numbers

KINDS = ("categorical", "uniform", "bernoulli")
_LOG_VARIANCES = (-6.0, 2.0)  # bounds of a learned one, against codes hidden in the texture


class Code(NamedTuple):
    """One latent code.

    Attributes:
        name: place and kind, e.g. ``"0_categorical"``.
        kind: one of `KINDS`.
        width: entries of the generator's input: number of categories, else 1.
        outputs: entries of Q's output.
    """

    name: str
    kind: str
    width: int
    outputs: int

    @property
    def entropy(self) -> float:
        """H(c) in nats: log of the number of values; of the uniform code's density on (-1, 1)."""
        return math.log(self.width) if self.kind == "categorical" else math.log(2)


class Prior(NamedTuple):
    """Where latents come from.

    Attributes:
        codes: in the order of the generator's input, after the noise.
        noise_size: entries of noise.
        noise: ``"uniform"`` on (-1, 1), or ``"normal"``.
    """

    codes: tuple[Code, ...]
    noise_size: int
    noise: str

    @property
    def size(self) -> int:
        """Entries of the generator's input."""
        return self.noise_size + sum(code.width for code in self.codes)


class Latents(NamedTuple):
    """Drawn latents.

    Attributes:
        noise: ``(N, noise_size)``.
        values: one column per code: category, number in (-1, 1), or 0 and 1; float
            ``(N, codes)``.
    """

    noise: Tensor
    values: Tensor


def parsed_codes(written: Sequence[str], *, fixed_deviation: bool = True) -> tuple[Code, ...]:
    """Codes from ``"categorical_10"``, ``"uniform"`` and ``"bernoulli"``.

    Args:
        written: one entry per code.
        fixed_deviation: whether Q's standard deviation of uniform codes is 1, not learned.

    Raises:
        ValueError: naming the entry that is wrong.
    """
    codes = []
    for place, entry in enumerate(written):
        match = re.fullmatch(r"categorical_(\d+)|uniform|bernoulli", str(entry))
        if match is None or (match[1] and not 2 <= int(match[1]) <= 2**20):
            raise ValueError(
                f"`codes` must be entries 'categorical_<2 or more>', 'uniform' or 'bernoulli', but "
                f"got {entry!r}. For example codes=[categorical_10,uniform,uniform]."
            )
        kind = entry.partition("_")[0]
        width = int(match[1]) if match[1] else 1
        outputs = 2 if kind == "uniform" and not fixed_deviation else width
        codes.append(Code(f"{place}_{kind}", kind, width, outputs))
    if not codes:
        raise ValueError(
            "`codes` must hold at least one code, but is empty. For example codes=[categorical_10]."
        )
    return tuple(codes)


def drawn_latents(prior: Prior, ids: Tensor, *key: int) -> Latents:
    """Latents that follow from (key, id) alone.

    Args:
        prior: where they come from.
        ids: one per sample, long ``(N,)``.
        key: further whole numbers, such as seed, epoch and what the latents are for.
    """
    check_choice("noise", prior.noise, ("uniform", "normal"))
    if prior.noise == "normal":
        noise = normal_numbers(ids, prior.noise_size, *key, 0)
    else:
        noise = 2 * uniform_numbers(ids, prior.noise_size, *key, 0) - 1
    columns = []
    for place, code in enumerate(prior.codes, 1):
        if code.kind == "uniform":
            columns.append(2 * uniform_numbers(ids, 1, *key, place) - 1)
        else:
            count = code.width if code.kind == "categorical" else 2
            columns.append(whole_numbers(ids, 1, count, *key, place).float())
    return Latents(noise, torch.cat(columns, 1))


def generator_input(latents: Latents, codes: Sequence[Code]) -> Tensor:
    """Noise, then each code (categories one-hot), ``(N, Prior.size)``."""
    parts = [latents.noise]
    for column, code in zip(latents.values.unbind(1), codes, strict=True):
        if code.kind == "categorical":
            parts.append(functional.one_hot(column.long(), code.width).to(latents.noise))
        else:
            parts.append(column[:, None].to(latents.noise))
    return torch.cat(parts, 1)


def log_likelihoods(outputs: Tensor, values: Tensor, codes: Sequence[Code]) -> Tensor:
    """Log Q(c | x) of every code of every sample, ``(N, codes)``.

    Args:
        outputs: Q's output, ``(N, sum of Code.outputs)``: logits of a categorical or Bernoulli
            code, mean (and log variance) of a uniform one.
        values: of the codes, ``(N, codes)``.
        codes: in order.
    """
    columns = []
    pieces = torch.split(outputs, [code.outputs for code in codes], 1)
    for said, value, code in zip(pieces, values.unbind(1), codes, strict=True):
        if code.kind == "categorical":
            chosen = value.long()[:, None]
            columns.append(functional.log_softmax(said, 1).gather(1, chosen)[:, 0])
        elif code.kind == "bernoulli":
            columns.append(functional.logsigmoid((2 * value.to(said) - 1) * said[:, 0]))
        else:
            variance = said[:, 1].clamp(*_LOG_VARIANCES) if said.shape[1] > 1 else said[:, 0] * 0
            squares = (value.to(said) - said[:, 0]).square() * torch.exp(-variance)
            columns.append(-0.5 * (squares + variance + math.log(2 * math.pi)))
    return torch.stack(columns, 1)


def information_bounds(likelihoods: Tensor, codes: Sequence[Code]) -> Tensor:
    """L_I of each code in nats, ``H(c) + mean log Q(c | x)``, at most I(c; x); ``(codes,)``.

    Chen et al. 2016, eq. 5. The maximum of a categorical code is its entropy.
    """
    means = likelihoods.mean(0).unbind()  # no tensor of entropies, whose copy a GPU would wait for
    return torch.stack([mean + code.entropy for mean, code in zip(means, codes, strict=True)])


def code_estimates(outputs: Tensor, codes: Sequence[Code]) -> Tensor:
    """What Q thinks the codes are, ``(N, codes)``.

    The most probable category, the mean of a uniform code, the probability that a Bernoulli code
    is 1.
    """
    pieces = torch.split(outputs, [code.outputs for code in codes], 1)
    columns = []
    for said, code in zip(pieces, codes, strict=True):
        if code.kind == "categorical":
            columns.append(said.argmax(1).to(said))
        else:
            columns.append(said[:, 0].sigmoid() if code.kind == "bernoulli" else said[:, 0])
    return torch.stack(columns, 1)


def discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Cross-entropy of telling real images from generated ones: mean over each, then their sum.

    Args:
        real: scores (logits of being real), ``(N,)``.
        generated: the same for generated images, ``(N,)``.
    """
    return functional.softplus(-real).mean() + functional.softplus(generated).mean()


def generator_loss(generated: Tensor) -> Tensor:
    """The non-saturating loss ``-log D(G(z))`` of scores ``(N,)``, mean."""
    return functional.softplus(-generated).mean()


def gradient_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """R1: half the mean squared norm of each score's gradient at its image.

    Mescheder, Geiger & Nowozin, "Which Training Methods for GANs do actually Converge?", ICML
    2018, eq. 9, without its weight. Needs networks in which images do not influence each other.

    Args:
        scores: of real images, ``(N,)``.
        images: which they were computed from, with gradients, ``(N, C, H, W)``.
    """
    (gradients,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return 0.5 * gradients.square().flatten(1).sum(1).mean()


def partners(latents: Latents, others: Latents, shared: Tensor) -> Latents:
    """Second images of contrastive pairs: all of `others` but one code, which is the same.

    Args:
        latents: of the first images.
        others: drawn independently.
        shared: place of the code that both images of a pair have, long ``(N,)``.
    """
    same = functional.one_hot(shared, latents.values.shape[1]).bool()
    return Latents(others.noise, torch.where(same, latents.values, others.values))


def shared_codes(ids: Tensor, count: int, *key: int) -> Tensor:
    """Which of `count` codes the pair of each id shares, long ``(N,)``."""
    check_range("number of codes", count, 2)
    return whole_numbers(ids, 1, count, *key)[:, 0]
