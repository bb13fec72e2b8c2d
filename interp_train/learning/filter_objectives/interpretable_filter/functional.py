"""Templates, masks and losses of interpretable filters, as functions of tensors.

Zhang, Wu & Zhu, "Interpretable Convolutional Neural Networks", CVPR 2018 (arXiv 1710.00935),
and the programme that its authors released (``zqs1022/interpretableCNN``), which differs.

Symbols: N images, K filters, map of h x w cells, T = h * w + 1 templates (one per position and
the negative one, last), C categories. Positions are ``(row, column)`` in cells. `across` says
whether statistics of the batch run over all processes; every process must then call.
"""

import torch
from torch import Tensor

from interp_train.collectives import max_over_processes, sum_over_processes

_TINY = 1e-12  # below this, a denominator counts as zero


def argmax_centre(activations: Tensor) -> Tensor:
    """Position of the largest activation (the paper's mu), ``(N, K, h, w)`` -> ``(N, K, 2)``."""
    width = activations.shape[3]
    peak = activations.flatten(2).argmax(2)
    return torch.stack([peak // width, peak % width], dim=2).to(activations.dtype)


def centroid_centre(activations: Tensor) -> Tensor:
    """Rounded centre of mass, as in the released programme; (0, 0) for an empty map.

    Args:
        activations: >= 0, ``(N, K, h, w)``.

    Returns:
        Whole cells, ``(N, K, 2)``, in the dtype of `activations`.
    """
    rows, columns = activations.sum(3), activations.sum(2)
    total = rows.sum(2).clamp(min=1e-9)
    row = (rows @ _cells(rows.shape[2], rows)) / total
    column = (columns @ _cells(columns.shape[2], columns)) / total
    return torch.stack([row, column], dim=2).add_(0.5).floor_()  # halves round up


def template_maps(
    centres: Tensor, declines: tuple[Tensor, Tensor], size: tuple[int, int]
) -> Tensor:
    """Templates ``max(1 - decline * distance, -1)`` around given centres, without tau.

    Args:
        centres: ``(..., 2)``, rows and columns.
        declines: loss of height per cell along rows and columns, each broadcast against
            ``(...)``; see `paper_declines` and `learned_declines`.
        size: ``(h, w)``.

    Returns:
        Values in [-1, 1], ``(..., h, w)``.
    """
    return _slopes(centres, declines, size).clamp_(min=-1.0)


def mask_maps(centres: Tensor, declines: tuple[Tensor, Tensor], size: tuple[int, int]) -> Tensor:
    """The positive part of `template_maps`: what an activation map is multiplied with.

    For activations >= 0, ``x * mask`` equals the paper's ``max(x * template, 0)`` / tau.
    """
    return _slopes(centres, declines, size).clamp_(min=0.0)


def paper_declines(beta: float, size: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """The paper's slope: ``beta / n`` per cell; each axis is measured by its own length."""
    return like.new_tensor(beta / size[0]), like.new_tensor(beta / size[1])


def learned_declines(slopes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The released programme's slope: coordinates run from -1 to 1, so a cell is 2 / (n - 1).

    Args:
        slopes: ``(K,)``; 2 is close to the paper's ``beta = 4``.
        size: ``(h, w)``.
    """
    return slopes * (2 / max(size[0] - 1, 1)), slopes * (2 / max(size[1] - 1, 1))


def filter_templates(
    size: tuple[int, int], tau: float, beta: float, like: Tensor | None = None
) -> Tensor:
    """All templates of the paper, one per position in row-major order, the negative one last.

    Args:
        size: ``(h, w)``.
        tau: height of a template times the number of cells; the paper's tau is 0.5 / n².
        beta: slope, in heights per side of the map.
        like: gives dtype and device.

    Returns:
        ``(h * w + 1, h, w)``.
    """
    like = torch.empty(0) if like is None else like
    rows = torch.arange(size[0], dtype=like.dtype, device=like.device)
    columns = torch.arange(size[1], dtype=like.dtype, device=like.device)
    centres = torch.cartesian_prod(rows, columns)
    positive = template_maps(centres, paper_declines(beta, size, like), size)
    negative = like.new_full((1, *size), -1.0)
    return torch.cat([positive, negative]) * (tau / (size[0] * size[1]))


def template_prior(num_positions: int, alpha: float | None, like: Tensor) -> Tensor:
    """p(T): `alpha` shared by the positions, the rest for the negative template, ``(T,)``.

    Args:
        num_positions: h * w.
        alpha: None is the paper's n² / (1 + n²), equal probability for every template.
        like: gives dtype and device.
    """
    share = num_positions / (1 + num_positions) if alpha is None else alpha
    prior = like.new_full((num_positions + 1,), share / num_positions)
    prior[-1] = 1 - share
    return prior


def mutual_information(scores: Tensor, prior: Tensor, across: bool = False) -> Tensor:
    """Mutual information of activation maps and templates, from the batch, exactly (eq. 3).

    ``p(x|T)`` is the softmax of the scores over the images; nothing is held constant, so
    autograd gives the full gradient, with the term ``-KL`` that eq. 4 leaves out.

    Args:
        scores: tr(x T), ``(N, K, T)``.
        prior: p(T), ``(T,)``.
        across: see the module.

    Returns:
        In nats, >= 0, ``(K,)``; 0 for a single image.
    """
    log_likelihood = scores - _log_sum_exp(scores, across)
    likelihood = log_likelihood.exp()
    joint = (likelihood * log_likelihood).sum(0) @ prior
    marginal = likelihood @ prior
    entropy: Tensor = -torch.special.xlogy(marginal, marginal).sum(0)
    information = joint + entropy
    if across:
        # `joint` and the marginal's entropy are sums over images, so they add up.
        information = sum_over_processes(information)
    return information


def paper_gradient(
    scores: Tensor, prior: Tensor, templates: Tensor, chosen: Tensor, across: bool = False
) -> Tensor:
    """The paper's approximate gradient of the loss with respect to the maps (eq. 4).

    Deviates from Zhang et al. 2018, eq. 4: the sign is reversed. As printed, the expression
    is the gradient of the mutual information, not of the loss -MI; descent along it would
    lower the mutual information.

    Z_T is the sum over the batch, as in `mutual_information`; it is held constant.

    Args:
        scores: tr(x T), ``(N, K, T)``.
        prior: p(T), ``(T,)``.
        templates: ``(T, h, w)``.
        chosen: index of the one template that counts for a map, long ``(N, K)``.
        across: see the module.

    Returns:
        ``(N, K, h, w)``.
    """
    log_partition = _log_sum_exp(scores, across)
    log_marginal = ((scores - log_partition).exp_() @ prior).log()
    log_likelihood = (
        scores.gather(2, chosen[..., None])[..., 0]
        - log_partition[torch.arange(scores.shape[1], device=scores.device), chosen]
    )
    weights = prior[chosen] * log_likelihood.exp() * (log_likelihood - log_marginal)
    # `embedding` copies whole rows, several times faster than indexing.
    selected = torch.nn.functional.embedding(chosen, templates.flatten(1))
    return selected.mul_(-weights[..., None]).view(*chosen.shape, *templates.shape[1:])


def released_gradient(
    activations: Tensor,
    templates: Tensor,
    unrelated: Tensor,
    positive: Tensor,
    *,
    tau: float,
    weights: tuple[Tensor, Tensor],
    across: bool = False,
) -> Tensor:
    """The gradient that the released programme adds at a masked layer, for one image each.

    Positive images are pulled towards their own template, with weights
    ``r = exp(s) (s - log Z + 1)`` normalised to mean 1 (`tau` = 2 is its ``alpha_`` = 0.5);
    negative images are pushed down everywhere. Z of the positive templates is estimated by
    pairing maps with unrelated templates. Divide by N if the task loss is a mean.

    Args:
        activations: ``(N, K, h, w)``.
        templates: of each map, in [-1, 1], ``(N, K, h, w)``.
        unrelated: templates of other filters and images, ``(N, K, h, w)``.
        positive: whether the image is of the filter's category, bool ``(N, K)``.
        tau: factor of the mean of map times template in the exponent.
        weights: of positive and of negative images, each ``(K,)``.
        across: see the module.

    Returns:
        ``(N, K, h, w)``.
    """
    match = (activations * templates).mean((2, 3)) * tau
    log_partition = _log_mean_exp((activations * unrelated).mean((2, 3)) * tau, across)
    absence = activations.mean((2, 3)) * -tau
    log_absence = _log_mean_exp(absence, across)
    pull = weights[0] * image_weights(match, log_partition, positive, across)
    push = weights[1] * image_weights(absence, log_absence, ~positive, across)
    return push[..., None, None] - templates * pull[..., None, None]


def image_weights(
    scores: Tensor, log_partition: Tensor, chosen: Tensor, across: bool = False
) -> Tensor:
    """``exp(s) (s - log Z + 1)`` divided by its mean over the chosen images; 0 elsewhere.

    Args:
        scores: s, ``(N, K)``.
        log_partition: log Z, ``(K,)``.
        chosen: bool ``(N, K)``.
        across: see the module.

    Returns:
        ``(N, K)``; all 0 for a filter without chosen images, or whose mean is 0.
    """
    shift = scores.amax(0)  # cancels in the ratio
    shift = max_over_processes(shift) if across else shift
    raw = torch.where(chosen, (scores - shift).exp() * (scores - log_partition + 1), 0.0)
    sums = torch.stack([raw.sum(0), chosen.sum(0).to(raw.dtype)])
    sums = sum_over_processes(sums) if across else sums
    mean = sums[0] / sums[1].clamp(min=1)
    usable = mean.abs() > _TINY
    return torch.where(usable, raw / torch.where(usable, mean, 1.0), 0.0)


def without_growth(gradient: Tensor, activations: Tensor, across: bool = False) -> Tensor:
    """The part of a gradient that leaves the scale of each filter's activations as it is.

    Orthogonal to the activations over images and positions: to first order, a step along it
    does not change their sum of squares.

    Args:
        gradient: ``(N, K, h, w)``; changed in place.
        activations: ``(N, K, h, w)``.
        across: see the module.

    Returns:
        `gradient`.
    """
    along = torch.einsum("nkhw,nkhw->k", gradient, activations)
    square = torch.einsum("nkhw,nkhw->k", activations, activations)
    sums = torch.stack([along, square])
    sums = sum_over_processes(sums) if across else sums
    share = sums[0] / sums[1].clamp(min=1e-30)
    return gradient.addcmul_(activations, share[:, None, None], value=-1)


def spread_around(activations: Tensor, centres: Tensor) -> Tensor:
    """Root mean squared distance of the activation from its centre, in cells, ``(N, K)``."""
    row = (_cells(activations.shape[2], centres) - centres[..., :1]).square()
    column = (_cells(activations.shape[3], centres) - centres[..., 1:]).square()
    moment = (activations.sum(3) * row).sum(2) + (activations.sum(2) * column).sum(2)
    return (moment / activations.sum((2, 3)).clamp(min=1e-9)).sqrt()


def slope_targets(match: Tensor, spread: Tensor, positive: Tensor, across: bool = False) -> Tensor:
    """The slope that fits the spread of each filter's activations, from 1.5 to 3.

    The released programme: 3 cells / mean spread over positive images, weighted by match.

    Args:
        match: how well each map fits its template, ``(N, K)``.
        spread: see `spread_around`, ``(N, K)``.
        positive: bool ``(N, K)``.
        across: see the module.

    Returns:
        ``(K,)``; NaN for a filter without positive images, or whose matches cancel.
    """
    match = torch.where(positive, match, 0.0)
    sums = torch.stack([(match * spread).sum(0), match.sum(0)])
    sums = sum_over_processes(sums) if across else sums
    targets = (3 * sums[1] / sums[0]).clamp(1.5, 3.0)  # matches may be negative
    return torch.where(sums[1].abs() > _TINY, targets, torch.nan)


def effective_images(gradient: Tensor) -> Tensor:
    """Number of images that carry each filter's gradient: (Σg)² / Σg² of its norms g.

    Args:
        gradient: ``(N, K, h, w)``.

    Returns:
        From 1 to N, ``(K,)``; 0 without gradient.
    """
    norms = gradient.flatten(2).norm(dim=2)
    squares = norms.square().sum(0)
    return torch.where(squares > 0, norms.sum(0).square() / squares.clamp(min=1e-30), 0.0)


def _cells(length: int, like: Tensor) -> Tensor:
    return torch.arange(length, dtype=like.dtype, device=like.device)


def _slopes(centres: Tensor, declines: tuple[Tensor, Tensor], size: tuple[int, int]) -> Tensor:
    """``1 - decline * distance``, not yet clamped; separable, so that it is one subtraction."""
    row = (_cells(size[0], centres) - centres[..., :1]).abs() * declines[0][..., None]
    column = (_cells(size[1], centres) - centres[..., 1:]).abs() * declines[1][..., None]
    return (1 - row)[..., :, None] - column[..., None, :]


def _log_sum_exp(scores: Tensor, across: bool) -> Tensor:
    """Over the images, ``(N, ...)`` -> ``(...)``."""
    if not across:
        return scores.logsumexp(0)
    shift = max_over_processes(scores.detach().amax(0))
    return sum_over_processes((scores - shift).exp().sum(0)).log() + shift


def _log_mean_exp(scores: Tensor, across: bool) -> Tensor:
    number = scores.new_tensor(float(scores.shape[0]))
    number = sum_over_processes(number) if across else number
    return _log_sum_exp(scores, across) - number.log()
