"""Squashing, losses and routings of capsules, as functions of tensors.

Symbols: N images, I input capsules of D atoms, J output capsules of O atoms. Weights are
``(I, D, J, O)``, or ``(T, D, J, O)`` if the input capsules are T types at I / T positions each,
type by type, and positions share weights. Softmax runs over output capsules, for each input
capsule: an input capsule shares itself out.

Predictions of one image of CapsNet (1152 input capsules, 10 output capsules of 16 atoms) take
0.7 MiB, so routings form them at most once, and dynamic routing not at all.
"""

import torch
from torch import Tensor, nn

from interp_train.coupled_products import coupled_agreement, coupled_sums
from interp_train.precision import at_least_float32

EPSILON = 1e-8  # of squared lengths: the zero capsule has a gradient, and it is 0
_LEAST_SPREAD = 1e-6  # variance of a cluster with one prediction (em)


def squash(capsules: Tensor) -> Tensor:
    """Lengths from [0, inf) to [0, 1), directions kept: |s|² / (1 + |s|²) * s / |s|.

    Sabour, Frosst & Hinton, "Dynamic Routing Between Capsules", NIPS 2017, eq. 1; in at least
    single precision.

    Args:
        capsules: ``(..., O)``.
    """
    capsules = at_least_float32(capsules)
    squared = capsules.square().sum(dim=-1, keepdim=True)
    return capsules * ((squared + EPSILON).rsqrt() * squared / (1 + squared))


def squash_exponentially(capsules: Tensor) -> Tensor:
    """(1 - exp(-|s|)) * s / |s|, steeper for short capsules.

    Mazzia, Salvetti & Chiaberge, "Efficient-CapsNet", Scientific Reports 2021.
    """
    capsules = at_least_float32(capsules)
    length = lengths(capsules)[..., None]
    return capsules * (-torch.expm1(-length) / length)


def lengths(capsules: Tensor) -> Tensor:
    """Length of each capsule, ``(..., O)`` -> ``(...)``; has a gradient at zero."""
    return (at_least_float32(capsules).square().sum(dim=-1) + EPSILON).sqrt()


def directions(capsules: Tensor) -> Tensor:
    """Capsules ``(..., O)`` of length 1; the zero capsule stays zero."""
    return at_least_float32(capsules) / lengths(capsules)[..., None]


def margin_loss(
    found: Tensor, targets: Tensor, *, present: float = 0.9, absent: float = 0.1, down: float = 0.5
) -> Tensor:
    """Sum over categories, mean over images, of Sabour et al. 2017, eq. 4.

    Args:
        found: lengths of the category capsules, ``(N, J)``.
        targets: 1 where a category is present, else 0, ``(N, J)``; several may be.
        present: length that a present category should exceed.
        absent: length that an absent one should stay below.
        down: weight of absent categories.
    """
    loss = targets * (present - found).clamp(min=0).square()
    loss = loss + down * (1 - targets) * (found - absent).clamp(min=0).square()
    return loss.sum(dim=1).mean()


def spread_loss(activations: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Sum over the other categories of max(0, margin - (a_label - a_other))², mean over images.

    Hinton, Sabour & Frosst, "Matrix capsules with EM routing", ICLR 2018, eq. 3; `margin` grows
    from 0.2 to 0.9 in the course of training.

    Args:
        activations: ``(N, J)``.
        labels: ``(N,)``.
        margin: see above.
    """
    own = activations.gather(1, labels[:, None])
    loss = (margin - (own - activations)).clamp(min=0).square()
    others = torch.ones_like(loss).scatter_(1, labels[:, None], 0)
    return (loss * others).sum(dim=1).mean()


def predictions(inputs: Tensor, weights: Tensor) -> Tensor:
    """What each input capsule predicts for each output capsule, by one batched product.

    Args:
        inputs: ``(N, I, D)``.
        weights: see above.

    Returns:
        ``(I, N, J, O)``.
    """
    types, atoms, *outputs = weights.shape
    number, capsules = inputs.shape[:2]
    by_type = inputs.view(number, types, capsules // types, atoms).permute(1, 2, 0, 3)
    found = by_type.flatten(1, 2) @ weights.flatten(2)
    return found.view(capsules, number, *outputs)


def dynamic_routing(
    inputs: Tensor,
    weights: Tensor,
    iterations: int = 3,
    *,
    bias: Tensor | None = None,
    detach: bool = False,
    leaky: bool = False,
) -> tuple[Tensor, Tensor]:
    """Routing by agreement, Sabour et al. 2017, procedure 1.

    Args:
        inputs: ``(N, I, D)``.
        weights: see above.
        iterations: at least 1.
        bias: added before squashing, ``(J, O)``; the authors' programme has one.
        detach: no gradients through all but the last iteration, which halves the time. The outputs
            are the same.
        leaky: let an input capsule belong to none of the output capsules, as the authors'
            programme offers.

    Returns:
        Output capsules ``(N, J, O)`` and coupling coefficients of the last iteration
        ``(N, I, J)``, which sum to 1 over J (with `leaky`, to at most 1).
    """
    routed = _routed(inputs, weights)
    gradients, share = torch.is_grad_enabled(), 1 / (weights.shape[2] + leaky)
    outputs = inputs
    for iteration in range(iterations):
        kept = gradients and (iteration == iterations - 1 or not detach)
        if iteration:
            with torch.set_grad_enabled(gradients and not detach):
                routed.agree(outputs, leaky)
        with torch.set_grad_enabled(kept):
            if iteration:
                sums = routed.weighted_sums()
            else:
                sums = share * _plain_sums(routed, inputs, weights)
            outputs = squash(sums if bias is None else sums + bias)
    if iterations == 1:
        coupling = torch.full_like(at_least_float32(inputs[..., :1]), share)
        return outputs, coupling.detach().expand(-1, -1, weights.shape[2])
    return outputs, routed.coupling.permute(2, 1, 0)


class _Inputs:
    """Input capsules, routed without predictions: coefficients times inputs are smaller.

    Args:
        inputs: ``(N, I, D)``.
        weights: ``(I, D, J, O)``.
    """

    def __init__(self, inputs: Tensor, weights: Tensor) -> None:
        self.inputs = inputs.permute(2, 1, 0).contiguous()
        self.weights = weights.permute(2, 1, 0, 3).flatten(1, 2)
        self.logits: Tensor | None = None

    def agree(self, outputs: Tensor, leaky: bool) -> None:
        """Set coefficients ``(J, I, N)`` by what predictions have in common with `outputs`."""
        outputs = outputs.to(self.weights.dtype).permute(1, 2, 0)
        found = coupled_agreement(outputs, self.inputs, self.weights)
        self.logits = found if self.logits is None else self.logits + found
        self.coupling = _shared_out(self.logits, leaky)

    def weighted_sums(self) -> Tensor:
        """``(N, J, O)``."""
        coupling = self.coupling.to(self.inputs.dtype)
        return coupled_sums(coupling, self.inputs, self.weights).permute(2, 0, 1)


class _Predictions:
    """All input capsules, routed by predictions, if positions share weights."""

    def __init__(self, inputs: Tensor, weights: Tensor) -> None:
        self.predictions = predictions(inputs, weights)  # I, N, J, O
        self.logits: Tensor | None = None

    def agree(self, outputs: Tensor, leaky: bool) -> None:
        """Set coefficients ``(J, I, N)``."""
        outputs = outputs.to(self.predictions.dtype)
        found = torch.einsum("injo,njo->jin", self.predictions, outputs)
        self.logits = found if self.logits is None else self.logits + found
        self.coupling = _shared_out(self.logits, leaky)

    def weighted_sums(self) -> Tensor:
        """``(N, J, O)``."""
        coupling = self.coupling.to(self.predictions.dtype)
        return torch.einsum("jin,injo->njo", coupling, self.predictions)


def _routed(inputs: Tensor, weights: Tensor) -> _Inputs | _Predictions:
    """The input capsules, with weights in the precision of the products."""
    if len(weights) != inputs.shape[1]:
        return _Predictions(inputs, weights)
    kind = inputs.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    if autocast and weights.dtype != torch.float64:
        weights = weights.to(torch.get_autocast_dtype(kind))
    return _Inputs(inputs, weights)


def _plain_sums(routed: _Inputs | _Predictions, inputs: Tensor, weights: Tensor) -> Tensor:
    """Sum of all predictions, ``(N, J, O)``; without any, one dense product."""
    if isinstance(routed, _Predictions):
        return routed.predictions.sum(dim=0)
    return (inputs.flatten(1) @ weights.flatten(2).flatten(0, 1)).view(-1, *weights.shape[2:])


def _shared_out(logits: Tensor, leaky: bool) -> Tensor:
    """Softmax over output capsules, ``(J, I, N)``; leaky: beside a zero for none of them."""
    logits = at_least_float32(logits)
    if not leaky:
        return logits.softmax(dim=0)
    return torch.cat([logits, torch.zeros_like(logits[:1])]).softmax(dim=0)[:-1]


def self_routing(
    inputs: Tensor, activations: Tensor, weights: Tensor, routing: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Each input capsule decides by itself where it belongs; no iterations.

    Hahn, Pyeon & Kim, "Self-Routing Capsule Networks", NeurIPS 2019.

    Args:
        inputs: poses, ``(N, I, D)``.
        activations: in [0, 1], ``(N, I)``.
        weights: see above.
        routing: weights ``(I, D, J)`` and biases ``(I, J)``, zero at the start.

    Returns:
        Poses ``(N, J, O)``, activations ``(N, J)`` and coefficients ``(N, I, J)``.
    """
    logits = torch.einsum("nid,idj->nij", inputs, routing[0]) + routing[1]
    coupling = at_least_float32(logits).softmax(dim=2)
    shares = coupling * activations[..., None]
    mass = shares.sum(dim=1)
    found = mass / activations.sum(dim=1, keepdim=True).clamp(min=EPSILON)
    scaled = predictions(inputs, weights)
    sums = torch.einsum("nij,injo->njo", shares.to(scaled.dtype), scaled)
    return sums / mass.clamp(min=EPSILON)[..., None], found, coupling


def inverted_routing(
    inputs: Tensor, weights: Tensor, norm: nn.Module, iterations: int = 2
) -> tuple[Tensor, Tensor]:
    """Inverted dot-product attention: output capsules ask, layer norm takes the place of squash.

    Tsai, Srivastava, Goh & Salakhutdinov, "Capsules with Inverted Dot-Product Attention Routing",
    ICLR 2020.

    Args:
        inputs: ``(N, I, D)``.
        weights: see above.
        norm: layer normalisation over O.
        iterations: after the first, in which coefficients are equal.

    Returns:
        Output capsules ``(N, J, O)`` and coefficients ``(N, I, J)``.
    """
    votes = predictions(inputs, weights)
    outputs = norm(votes.mean(dim=0) * (votes.shape[0] / votes.shape[2]))
    coupling = torch.full_like(at_least_float32(votes[..., 0]), 1 / votes.shape[2])
    for _ in range(iterations):
        agreement = torch.einsum("injo,njo->inj", votes, outputs.to(votes.dtype))
        coupling = at_least_float32(agreement / votes.shape[3] ** 0.5).softmax(dim=2)
        outputs = norm(torch.einsum("inj,injo->njo", coupling.to(votes.dtype), votes))
    return outputs, coupling.transpose(0, 1)


def attention_routing(inputs: Tensor, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Input capsules that agree with the others count more; no iterations.

    Mazzia, Salvetti & Chiaberge, "Efficient-CapsNet", Scientific Reports 2021. The sum of scalar
    products with all predictions is one with their sum, so the cost is linear in I.

    Args:
        inputs: ``(N, I, D)``.
        weights: see above.
        bias: added to the coefficients, ``(I, J)``, zero at the start.

    Returns:
        Output capsules ``(N, J, O)`` and coefficients ``(N, I, J)``; without bias they sum to 1
        over J.
    """
    votes = predictions(inputs, weights)
    agreement = torch.einsum("injo,njo->inj", votes, votes.sum(dim=0))
    coupling = at_least_float32(agreement / votes.shape[3] ** 0.5).softmax(dim=2)
    coupling = coupling + bias[:, None]
    sums = torch.einsum("inj,injo->njo", coupling.to(votes.dtype), votes)
    return squash_exponentially(sums), coupling.transpose(0, 1)


def em_routing(
    inputs: Tensor,
    activations: Tensor,
    weights: Tensor,
    costs: tuple[Tensor, Tensor],
    *,
    iterations: int = 3,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output capsules as clusters of predictions, found by expectation and maximisation.

    Hinton, Sabour & Frosst, "Matrix capsules with EM routing", ICLR 2018, procedure 1. Deviates
    from it in what follows A. Gritzman, "Avoiding Implementation Pitfalls of Matrix Capsules with
    EM Routing", 2019: the amount of data of an output capsule is divided by its mean, I / J, so
    that the inverse temperature, 1 - 0.95^t in iteration t, need not depend on their number.

    Args:
        inputs: poses, ``(N, I, D)``.
        activations: in [0, 1], ``(N, I)``.
        weights: see above.
        costs: of describing an atom, beta_u, and of leaving a capsule off, beta_a; each ``(J,)``.
        iterations: at least 1.

    Returns:
        Poses ``(N, J, O)``, activations ``(N, J)`` and coefficients ``(N, I, J)``, which sum to 1
        over J.
    """
    votes = at_least_float32(predictions(inputs, weights))  # I, N, J, O
    present = activations.to(votes.dtype).t()[..., None]
    capsules, _, outputs, atoms = votes.shape
    coupling = torch.full_like(votes[..., 0], 1 / outputs)
    for iteration in range(iterations):
        shares = coupling * present
        mass = shares.sum(0)
        portions = shares / mass.clamp(min=EPSILON)
        poses = torch.einsum("inj,injo->njo", portions, votes)
        squares = (votes - poses).square()
        spread = torch.einsum("inj,injo->njo", portions, squares) + _LEAST_SPREAD
        cost = atoms * costs[0] + 0.5 * spread.log().sum(2)
        rise = 1 - 0.95 ** (iteration + 1)
        logits = rise * (costs[1] - mass * (outputs / capsules) * cost)
        if iteration < iterations - 1:
            fit = -0.5 * ((squares / spread).sum(3) + spread.log().sum(2))
            coupling = (nn.functional.logsigmoid(logits) + fit).softmax(2)
    return poses, logits.sigmoid(), coupling.transpose(0, 1)


def vote_maps(coupling: Tensor, activity: Tensor, categories: Tensor) -> Tensor:
    """Where the input capsules lie that vote for a category: coefficient times length.

    Args:
        coupling: coefficients, ``(N, I, J)``.
        activity: lengths of the input capsules, ``(N, T, h, w)``, I = T h w.
        categories: one per image, ``(N,)``.

    Returns:
        Sum over types, ``(N, 1, h, w)`` >= 0.
    """
    chosen = coupling.gather(2, categories.view(-1, 1, 1).expand(-1, coupling.shape[1], 1))
    votes = chosen.view_as(activity).clamp(min=0) * activity
    return votes.sum(1, keepdim=True)
