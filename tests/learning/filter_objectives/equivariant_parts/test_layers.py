"""What is learned beside the network: where objects are."""

import torch

from interp_train.learning.filter_objectives.equivariant_parts import functional
from interp_train.learning.filter_objectives.equivariant_parts.contrast import around
from interp_train.learning.filter_objectives.equivariant_parts.layers import ObjectAttention


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
        logits = attention(around(maps), (6, 6))
        member = labels.expand_as(logits)
        loss = functional.presence(logits, member, 1 - member)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert maps.grad is None
    seen = functional.object_attention(logits).view(4, 6, 6)
    assert seen[:2, :2].min() > 0.5
    assert seen[:2, 4:].max() < 0.3  # the row in between sees both
    assert attention(maps, (12, 12)).shape == (4, 1, 144)


def test_statistics_move_in_training_alone():
    attention = ObjectAttention(2, 1).train()
    attention(torch.randn(4, 2, 6, 6), (6, 6))
    before = attention.mean.clone()
    attention.eval()(torch.randn(4, 2, 6, 6), (6, 6))
    assert torch.equal(attention.mean, before)
    attention.train()(torch.randn(4, 2, 6, 6), (6, 6))
    assert not torch.equal(attention.mean, before)
