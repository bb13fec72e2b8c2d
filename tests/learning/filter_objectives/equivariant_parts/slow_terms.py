"""Slow oracles of the terms that ask where the object is, with loops over images and cells."""

import torch
from torch import nn

from interp_train.learning.filter_objectives.equivariant_parts import functional

FILTERS, SIDE, CATEGORIES = 8, 12, 2


def object_of(logits):
    """0 where the object is as likely as not, 1 where it is 6 to 4 or more, linear between."""
    likely = 1 / (1 + (-logits).exp())
    return ((likely - 0.5) / 0.1).clamp(0, 1)


def slow_attention(objective, maps, places):
    """Logits of the latest batch, from its own mean and variance, cell by cell."""
    score = objective.attention[0].score
    maps = torch.stack(
        [
            maps[:, :, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean((2, 3))
            for i in range(SIDE)
            for j in range(SIDE)
        ],
        dim=2,
    ).view(maps.shape)
    mean, deviation = maps.mean((0, 2, 3)), maps.var((0, 2, 3), correction=0)
    logits = torch.zeros(len(maps), CATEGORIES, SIDE, SIDE)
    for n, i, j in places:
        cell = (maps[n, :, i, j] - mean) / (deviation + 1e-5).sqrt()
        logits[n, :, i, j] = score.weight[:, :, 0, 0] @ cell + score.bias
    return logits.detach()


def slow_contrast(maps):
    """Squared difference from the mean of the cells around, mean over units."""
    contrast = torch.zeros(len(maps), SIDE, SIDE)
    for i in range(SIDE):
        for j in range(SIDE):
            near = maps[:, :, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean((2, 3))
            contrast[:, i, j] = (maps[:, :, i, j] - near).square().mean(1)
    return contrast


def slow_object_terms(objective, before, labels, weights, groups):
    """Object, coverage and what the attention learns, with loops over images and cells."""
    places = [(n, i, j) for n in range(len(labels)) for i in range(SIDE) for j in range(SIDE)]
    logits = slow_attention(objective, before, places)
    there, gone, beside, distances = [], [], [], []
    contrast = slow_contrast(before)
    for n, label in enumerate(labels.tolist()):
        seen = object_of(logits[n])
        for c in range(CATEGORIES):
            sign = -1 if c == label else 1
            (there if c == label else gone).append(
                nn.functional.softplus(sign * logits[n, c]).mean()
            )
        if label >= 0:
            standard = float((seen[label] * contrast[n]).sum() / seen[label].sum())
            outside = 1 - seen[label] * (contrast[n] / (1.5 * standard)).clamp(max=1)
            beside += [(weights[n, k].view(SIDE, SIDE) * outside).sum() for k in range(FILTERS)]
            distances.append(
                slow_distance(seen[label] * contrast[n], groups[n], objective.sideways)
            )
    return {
        "object": sum(beside) / len(beside),
        "coverage": sum(distances) / len(distances),
        "attention": (sum(there) / len(there) + sum(gone) / len(gone)) / 2,
    }


def slow_territory(objective, maps, ranges, before, labels, weights):
    """Share of the responses of groups in cells of others."""
    places = [(n, i, j) for n in range(len(maps)) for i in range(SIDE) for j in range(SIDE)]
    attention = object_of(slow_attention(objective, before, places))
    contrast = slow_contrast(before)
    outside = []
    for n, label in enumerate(labels.tolist()):
        if label < 0:
            continue
        masses = (attention[n, label].clamp(min=0.03) * contrast[n]).flatten()
        scaled = 10 * maps[n] / ranges[:, None, None]
        claims = torch.stack([(scaled[g] + scaled[g + 4]).flatten() / 2 for g in range(4)])
        shares = functional.territories(
            claims[None], (masses / masses.sum())[None], torch.ones(1, 4)
        )[0]
        for g in range(4):
            where = (weights[n, g] + weights[n, g + 4]) / 2
            outside.append(1 - float((where * shares[g]).sum()))
    return sum(outside) / len(outside)


def slow_distance(seen, groups, sideways):
    """Mean squared distance of cells from the nearest group, by what is seen."""
    factors = torch.tensor([sideways, 1.0])
    total = 0.0
    for i in range(SIDE):
        for j in range(SIDE):
            cell = torch.tensor([(j + 0.5) / SIDE, (i + 0.5) / SIDE])
            nearest = min(float((factors * (cell - group) ** 2).sum()) for group in groups)
            total += float(seen[i, j]) * nearest
    return total / float(seen.sum())
