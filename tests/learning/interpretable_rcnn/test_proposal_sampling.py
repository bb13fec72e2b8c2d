"""Sampled boxes follow from seed, epoch and image."""

import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from interp_train.learning.interpretable_rcnn.proposal_sampling import ProposalSampler


def kinds(number, seed):
    return torch.randint(-1, 3, (number,), generator=torch.Generator().manual_seed(seed))


def drawn(sample_ids, seed=0, epoch=1, number=20, size=8):
    sampler = ProposalSampler(size, 0.5)
    sampler.begin(seed, epoch, sample_ids)
    found = sampler([kinds(number, key) for key in sample_ids])
    return sampler, found


def test_counts_are_those_of_torchvision():
    for number in (3, 20, 200):
        matched = [kinds(number, seed) for seed in (4, 5)]
        sampler, found = drawn([4, 5], number=number)
        expected = BalancedPositiveNegativeSampler(8, 0.5)(matched)
        for ours, theirs in zip(found, expected, strict=True):
            assert [int(mask.sum()) for mask in ours] == [int(mask.sum()) for mask in theirs]
            assert [mask.dtype for mask in ours] == [mask.dtype for mask in theirs]
        assert sampler.number == sum(int(mask.sum()) for masks in found for mask in masks)
        for index, matched_kinds in enumerate(matched):
            assert (matched_kinds[found[0][index] == 1] >= 1).all()
            assert (matched_kinds[found[1][index] == 1] == 0).all()


def test_an_image_draws_the_same_boxes_beside_any_other():
    _, together = drawn([4, 5])
    _, alone = drawn([5])
    for masks, single in zip(together, alone, strict=True):
        assert torch.equal(masks[1], single[0])
    _, wide = drawn([5], number=200)
    for other in (drawn([5], seed=1, number=200), drawn([5], epoch=2, number=200)):
        assert not torch.equal(other[1][1][0], wide[1][0])


def test_the_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    drawn([4])
    assert torch.equal(state, torch.get_rng_state())


def test_no_candidates():
    sampler = ProposalSampler(8, 0.5)
    sampler.begin(0, 0, [1])
    chosen, others = sampler([torch.full((5,), -1)])
    assert int(chosen[0].sum()) == int(others[0].sum()) == sampler.number == 0
