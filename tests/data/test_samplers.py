"""Samplers: the same global batches for any number of processes, nothing padded or repeated."""

import pytest
import torch
import torch.distributed as dist

from interp_train.data import samplers
from interp_train.data.samplers import ShardedTrainSampler, ShardedValidationSampler


def on_each_process(monkeypatch, world_size, make):
    """What `make()` gives on each of `world_size` pretended processes."""
    results = []
    for rank in range(world_size):
        monkeypatch.setattr(samplers, "num_processes", lambda: world_size)
        monkeypatch.setattr(samplers, "process_index", lambda rank=rank: rank)
        results.append(make())
    return results


def global_batches(monkeypatch, world_size, size, global_batch, epoch):
    batch_size = global_batch // world_size

    def indices():
        sampler = ShardedTrainSampler(range(size), batch_size, seed=3)
        sampler.set_epoch(epoch)
        assert len(sampler) == len(list(sampler))
        return list(sampler)

    per_process = on_each_process(monkeypatch, world_size, indices)
    assert len({len(mine) for mine in per_process}) == 1
    return [
        sorted(i for mine in per_process for i in mine[start : start + batch_size])
        for start in range(0, len(per_process[0]), batch_size)
    ]


@pytest.mark.parametrize("size", [24, 25, 29])
@pytest.mark.parametrize("epoch", [0, 7])
def test_global_batches_do_not_depend_on_the_number_of_processes(monkeypatch, size, epoch):
    one, two, three = (global_batches(monkeypatch, n, size, 6, epoch) for n in (1, 2, 3))
    assert one == two == three
    assert len(one) == size // 6
    seen = [index for batch in one for index in batch]
    assert len(seen) == len(set(seen)) == 6 * (size // 6)


def test_order_follows_from_seed_and_epoch():
    orders = {}
    for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        sampler = ShardedTrainSampler(range(50), 5, seed=seed)
        sampler.set_epoch(epoch)
        orders[seed, epoch] = tuple(sampler)
        assert tuple(sampler) == orders[seed, epoch]
    assert len(set(orders.values())) == 4


def test_data_sets_learn_of_the_epoch():
    class Data(list):
        def set_epoch(self, epoch):
            self.epoch = epoch

    data = Data(range(10))
    ShardedTrainSampler(data, 2).set_epoch(4)
    assert data.epoch == 4


@pytest.mark.parametrize("size", [1, 5, 6, 7])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_samples_come_exactly_once(monkeypatch, size, world_size):
    def indices():
        sampler = ShardedValidationSampler(range(size))
        assert len(sampler) == len(list(sampler))
        return list(sampler)

    per_process = on_each_process(monkeypatch, world_size, indices)
    assert sorted(i for mine in per_process for i in mine) == list(range(size))
    assert max(map(len, per_process)) - min(map(len, per_process)) <= 1


def indices_of_this_process():
    batch_size = 6 // dist.get_world_size()
    train = list(ShardedTrainSampler(range(25), batch_size, seed=3))
    return train, list(ShardedValidationSampler(range(25)))


def test_two_real_processes_share_the_batches_of_one(two_processes):
    (train_0, val_0), (train_1, val_1) = two_processes(indices_of_this_process)
    expected = torch.tensor(list(ShardedTrainSampler(range(25), 6, seed=3))).view(4, 6)
    both = torch.cat([torch.tensor(train_0).view(4, 3), torch.tensor(train_1).view(4, 3)], dim=1)
    assert both.tolist() == expected.tolist()
    assert sorted(val_0 + val_1) == list(range(25))


def test_too_large_a_batch():
    with pytest.raises(ValueError, match=r"but got 8 x 1 > 7\. Make the batch smaller"):
        len(ShardedTrainSampler(range(7), 8))
    with pytest.raises(ValueError, match="`batch_size` must be >= 1, but got 0"):
        ShardedTrainSampler(range(7), 0)
