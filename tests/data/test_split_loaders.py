import torch

from interp_train.data.split_loaders import training_loader, validation_loader


class Numbers:
    """Batches are lists of (epoch, index)."""

    def __init__(self, length):
        self.length, self.epoch = length, 0

    def __len__(self):
        return self.length

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitems__(self, indices):
        return [(self.epoch, index) for index in indices]


def test_training_batches_follow_from_seed_and_epoch():
    loader = training_loader(Numbers(10), batch_size=4, num_workers=0, seed=3)
    loader.sampler.set_epoch(2)
    found = [index for batch in loader for epoch, index in batch]
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3 * 1_000_003 + 2))
    assert found == order[:8].tolist()
    assert {epoch for batch in loader for epoch, _ in batch} == {2}


def test_validation_shows_every_sample_once():
    loader = validation_loader(Numbers(10), batch_size=4, num_workers=0)
    assert [[index for _, index in batch] for batch in loader] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9]
    ]  # fmt: skip
