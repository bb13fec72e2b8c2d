"""Groups of filters that err between views are released from repulsion."""

import pytest
import torch

from interp_train.learning.filter_objectives.equivariant_parts.layers import GroupReliability
from tests.learning.filter_objectives.equivariant_parts.test_module import (
    LAYER,
    attached,
    terms_of,
    view_batch,
)


def test_rivals_share_a_category_and_are_not_its_first():
    _, objective = attached(num_groups=8)
    assert not objective._rivals(torch.zeros(1, 8, 2), LAYER).any()  # none has been tested
    objective.reliability[0].values.copy_(torch.arange(1, 9) / 10)
    rivals = objective._rivals(torch.zeros(1, 8, 2), LAYER)
    expected = {(g, h) for g in range(2, 8) for h in range(2, 8) if g != h and g % 2 == h % 2}
    assert {tuple(pair) for pair in rivals.nonzero().tolist()} == expected
    for g, h in expected:
        assert rivals[g, h].item() == pytest.approx((g + 1) * (h + 1) / 100)
    _, alike = attached(num_groups=8, error_limit=None)
    assert not alike.reliability
    assert torch.equal(alike._rivals(torch.zeros(1, 8, 2), LAYER), (rivals > 0).float())


def test_groups_that_err_between_views_are_released():
    """Four groups of two filters err by .1, .4, .8 and more of their variance; the limit is .8."""
    reliability = GroupReliability(4, 0.8, momentum=0.9)
    errors = torch.tensor([0.05, 0.4, 0.8, 3.0, 0.15, 0.4, 0.8, 1.0])
    assignment = torch.eye(4).repeat(2, 1)
    targets = torch.full((8,), 5.0)
    reliability.follow(torch.stack([errors * targets, targets]), assignment)
    torch.testing.assert_close(reliability.values, 0.1 * torch.tensor([0.875, 0.5, 0.0, 0.0]))
    for _ in range(200):
        reliability.follow(torch.stack([errors * targets, targets]), assignment)
    torch.testing.assert_close(reliability.values, torch.tensor([0.875, 0.5, 0.0, 0.0]))
    kept = reliability.values.clone()
    reliability.follow(torch.zeros(2, 8), assignment)  # no targets
    assert torch.equal(reliability.values, kept)


def test_reliability_is_learned_from_views_and_travels_with_the_weights():
    network, objective = attached(num_groups=8, error_limit=50.0, repulsion_radius=2.0)
    terms = terms_of(network, objective, view_batch())
    values = objective.reliability[0].values
    assert terms[f"{LAYER}/repulsion"].item() == 0  # before the first views
    assert values.any()
    assert (values <= 0.05).all()
    assert terms_of(network, objective, view_batch())[f"{LAYER}/repulsion"].item() > 0
    kept = values.clone()
    objective.eval()
    terms_of(network, objective, view_batch(seed=1))
    assert torch.equal(values, kept)
    _, again = attached(num_groups=8)
    again.load_state_dict(objective.state_dict())
    assert torch.equal(again.reliability[0].values, kept)
