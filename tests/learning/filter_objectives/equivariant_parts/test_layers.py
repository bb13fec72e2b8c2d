"""What is learned beside the network: where objects are, and what groups look like."""

import torch
from torch import nn

from interp_train.learning.filter_objectives.equivariant_parts import functional
from interp_train.learning.filter_objectives.equivariant_parts.layers import (
    GroupAppearance,
    ObjectAttention,
)


def test_the_attention_finds_the_object_and_moves_nothing_else():
    """Bright cells occur in images of the category alone, dim ones everywhere."""
    attention = ObjectAttention(2, 1).train()
    optimizer = torch.optim.Adam(attention.parameters(), lr=0.1)
    labels = torch.tensor([1.0, 1.0, 0.0, 0.0])[:, None, None]
    for step in range(60):
        torch.manual_seed(step)
        maps = torch.randn(4, 2, 6, 6) * 0.1
        maps[:2, :, :3] += 1.0
        maps.requires_grad_()
        logits = attention(maps, (6, 6))
        member = labels.expand_as(logits)
        loss = functional.presence(logits, member, 1 - member)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert maps.grad is None
    seen = functional.object_attention(logits).view(4, 6, 6)
    assert seen[:2, :3].min() > 0.5
    assert seen[:2, 3:].max() < 0.3
    assert attention(maps, (12, 12)).shape == (4, 1, 144)


def test_groups_move_to_places_that_look_different_and_alike_in_all_images():
    """A red and a green dot at random places; two groups that begin alike part company."""
    appearance = GroupAppearance(3, 2, 1)
    generator = torch.Generator().manual_seed(0)
    pull = nn.Parameter(0.1 * torch.randn(2, 3, generator=generator))  # what each group looks for
    optimizer = torch.optim.Adam([pull, *appearance.parameters()], lr=0.1)
    for _ in range(80):
        maps = torch.rand(8, 3, 36, generator=generator) * 0.1
        places = torch.rand(8, 36, generator=generator).topk(2).indices
        rows = torch.arange(8)
        maps[rows, 0, places[:, 0]] = maps[rows, 1, places[:, 1]] = 1.0
        maps.requires_grad_()
        weights = (20 * torch.einsum("gu,nuc->ngc", pull, maps.detach())).softmax(2)
        loss = functional.appearance(
            appearance(maps.view(8, 3, 6, 6), weights, (6, 6)), torch.ones(8, 2)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert maps.grad is None
    assert loss < 0.01
    on_dots = torch.stack([weights[rows, :, places[:, dot]] for dot in (0, 1)], 2)  # (8, G, dot)
    assert on_dots.sum((1, 2)).min() > 1.8
    assert on_dots.mean(0).argmax(1).unique().numel() == 2
    assert appearance(torch.rand(8, 3, 3, 3), weights, (6, 6)).shape == (8, 2, 2)


def test_groups_of_different_categories_are_not_told_apart():
    appearance = GroupAppearance(3, 5, 2)
    scores = appearance(torch.rand(2, 3, 4, 4), torch.full((2, 5, 16), 1 / 16), (4, 4))
    allowed = scores[0].isfinite()
    assert {tuple(pair) for pair in allowed.nonzero().tolist()} == {
        (g, h) for g in range(5) for h in range(5) if g % 2 == h % 2
    }
