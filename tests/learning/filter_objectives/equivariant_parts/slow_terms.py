"""Slow oracles of the terms that ask where the object is, with loops over images and cells."""

import numpy as np
import torch
from torch import nn

from interp_train.learning.filter_objectives.equivariant_parts import functional

FILTERS, SIDE, CATEGORIES = 8, 12, 2


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


def slow_object_terms(objective, before, labels, weights):
    """Object and what the attention learns, with loops over images and cells."""
    places = [(n, i, j) for n in range(len(labels)) for i in range(SIDE) for j in range(SIDE)]
    logits = slow_attention(objective, before, places)
    there, gone, beside = [], [], []
    for n, label in enumerate(labels.tolist()):
        seen = (2 * logits[n].sigmoid() - 1).relu()
        for c in range(CATEGORIES):
            sign = -1 if c == label else 1
            (there if c == label else gone).append(
                nn.functional.softplus(sign * logits[n, c]).mean()
            )
        if label >= 0:
            outside = 1 - seen[label]
            beside += [(weights[n, k].view(SIDE, SIDE) * outside).sum() for k in range(FILTERS)]
    return {
        "object": sum(beside) / len(beside),
        "attention": (sum(there) / len(there) + sum(gone) / len(gone)) / 2,
    }


def slow_division(objective, maps, ranges, before, batch):
    """Who owns each cell of each image, its mass, the claims, and the attention there."""
    places = [(n, i, j) for n in range(len(maps)) for i in range(SIDE) for j in range(SIDE)]
    attention = (2 * slow_attention(objective, before, places).sigmoid() - 1).relu()
    contrast = functional.local_contrast(before, functional.around(before))
    found = []
    for n, label in enumerate(batch.labels.tolist()):
        if label < 0:
            found.append(None)
            continue
        masses = (attention[n, label].sqrt() * contrast[n]).flatten()
        masses = masses / masses.sum()
        scaled = 10 * maps[n] / ranges[:, None, None]
        claims = torch.stack([(scaled[g] + scaled[g + 4]).flatten() / 2 for g in range(4)])
        shares = functional.territories(claims[None], masses[None], torch.ones(1, 4))[0]
        found.append((shares, masses, claims, attention[n, label]))
    return found


def bilinear(image, x, y):
    """Value between the cells of `image` (SIDE x SIDE) at column x, row y; 0 beyond."""
    total = 0.0
    for i in (int(np.floor(y)), int(np.floor(y)) + 1):
        for j in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= i < SIDE and 0 <= j < SIDE:
                total += (1 - abs(y - i)) * (1 - abs(x - j)) * float(image[i, j])
    return total


def slow_competition(division, batch):
    """Cross-entropy of claims with the shares at the same place of the other view."""
    change = batch.view_transforms.double()
    total = weight = 0.0
    for first in range(0, len(batch.labels), 2):
        if division[first] is None:
            continue
        for start, end in ((first, first + 1), (first + 1, first)):
            _, masses, claims, _ = division[start]
            shares, _, _, attention = division[end]
            for c in range(SIDE * SIDE):
                pixel = torch.tensor([c % SIDE, c // SIDE]).double()
                photo = torch.linalg.solve(change[start, :, :2], pixel - change[start, :, 2])
                x, y = (change[end, :, :2] @ photo + change[end, :, 2]).tolist()
                if not (-0.5 <= x <= SIDE - 0.5 and -0.5 <= y <= SIDE - 0.5):
                    continue
                targets = {g: bilinear(shares[g].view(SIDE, SIDE), x, y) for g in range(4)}
                counted = float(masses[c]) * bilinear(attention, x, y)
                whole = claims[:, c].exp().sum()
                for g in range(4):
                    share = targets[g] / max(sum(targets.values()), 1e-12)
                    total -= counted * share * float((claims[g, c].exp() / whole).log())
                weight += counted
    return total / weight


def slow_territory(division, batch, weights):
    """Share of the responses of groups in cells of others."""
    outside = []
    for n, label in enumerate(batch.labels.tolist()):
        for g in range(4) if label >= 0 else ():
            where = (weights[n, g] + weights[n, g + 4]) / 2
            outside.append(1 - float((where * division[n][0][g]).sum()))
    return sum(outside) / len(outside)
