import pytest
import torch

from interp_train.evaluation.top_images import TopImages


@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_the_highest_peaks_are_kept_in_order(batch_size):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 9, (17, 5, 2, 3), generator=generator).float()  # with ties
    top = TopImages(4)
    for some, ids in zip(
        maps.split(batch_size), (torch.arange(17) + 50).split(batch_size), strict=True
    ):
        top.add(some, ids)
    for unit in range(5):
        peaks = [(float(maps[i, unit].max()), -i) for i in range(17)]
        expected = sorted(peaks, reverse=True)[:4]
        assert top.values[unit].tolist() == [value for value, _ in expected]
        assert top.places[unit].tolist() == [-place for _, place in expected]
        assert torch.equal(top.maps[unit], maps[top.places[unit], unit])
    assert torch.equal(top.sample_ids, top.places + 50)


def test_fewer_images_than_asked_for_are_all_kept():
    top = TopImages(6)
    top.add(torch.tensor([[[[1.0]]], [[[3.0]]]]), torch.tensor([7, 8]))
    assert top.values.tolist() == [[3.0, 1.0]]
    assert top.places.tolist() == [[1, 0]]


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="`number` must be"):
        TopImages(0)
    top = TopImages(2)
    top.add(torch.zeros(1, 3, 2, 2), torch.zeros(1))
    with pytest.raises(ValueError, match="`maps` must have shape"):
        top.add(torch.zeros(1, 4, 2, 2), torch.zeros(1))
