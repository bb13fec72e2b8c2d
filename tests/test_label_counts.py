import pytest
import torch

from interp_train.label_counts import LabelCounts, membership_of
from interp_train.structures import BACKGROUND

LABELS = torch.tensor([0, 0, 0, 1, BACKGROUND])


def test_shares_are_even_at_first_and_then_counted():
    counts = LabelCounts(2)
    assert counts.shares().tolist() == [0.5, 0.5]
    counts.update(LABELS)
    counts.update(torch.tensor([0, 0, 0, 0, 0]))
    assert counts.shares().tolist() == pytest.approx([0.8, 0.1])  # a tenth is background


def test_the_background_is_a_member_of_nothing():
    member = membership_of(LABELS, 2, torch.empty(0))
    assert member.tolist() == [[1, 0], [1, 0], [1, 0], [0, 1], [0, 0]]


def test_an_image_of_several_objects_is_a_member_of_each_category():
    labels = torch.tensor([[2, 0], [1, 2], [BACKGROUND, 1]])
    member = membership_of(labels, 3, torch.empty(0))
    assert member.tolist() == [[1, 0, 1], [0, 1, 1], [0, 1, 0]]
    counts = LabelCounts(3)
    counts.update(labels)
    assert counts.shares().tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3])


def shares_of_share():
    counts = LabelCounts(3)
    counts.update(LABELS[:2] if torch.distributed.get_rank() == 0 else LABELS[2:])
    return counts.shares()


def test_two_processes_count_what_one_counts(two_processes):
    counts = LabelCounts(3)
    counts.update(LABELS)
    for shares in two_processes(shares_of_share):
        assert torch.equal(shares, counts.shares())
