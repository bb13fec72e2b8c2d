import os
import time

import pytest
import torch
import torch.distributed
from lightning.pytorch import LightningModule, Trainer

from tests.process_pool import ProcessPool


def sum_over_ranks(values):
    mine = values[torch.distributed.get_rank()].clone()
    torch.distributed.all_reduce(mine)
    return mine, os.getpid()


def fail_on_rank_1():
    if torch.distributed.get_rank() == 1:
        raise ValueError("rank 1 dislikes this")
    torch.distributed.barrier()  # waits for a rank that never comes


def die_on_rank_0_and_hang_on_rank_1():
    if torch.distributed.get_rank() == 0:
        os._exit(3)
    time.sleep(60)


def random_number():
    return torch.rand(())


class RankMean(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return (self.weight - batch.mean() - self.global_rank) ** 2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def train_one_step(folder):
    system = RankMean()
    trainer = Trainer(
        accelerator="cpu",
        strategy="ddp",
        devices=2,
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    trainer.fit(system, torch.utils.data.DataLoader(torch.ones(1, 1)))
    return trainer.world_size, system.weight.item()


def test_both_ranks_answer_and_the_processes_are_kept(two_processes):
    values = torch.tensor([1.0, 2.0])
    first = two_processes(sum_over_ranks, values)
    second = two_processes(sum_over_ranks, values)
    assert [result.item() for result, _ in first] == [3.0, 3.0]
    assert [pid for _, pid in first] == [pid for _, pid in second]
    assert len({pid for _, pid in first}) == 2


def test_random_state_starts_anew_in_each_call(two_processes):
    assert two_processes(random_number) == two_processes(random_number)


def test_a_trainer_inside_the_pool_uses_its_two_ranks(two_processes, tmp_path):
    # Mean target over ranks is (1 + 2) / 2; one step of 0.5 with gradient 2 (w - t) lands on it.
    for _ in range(2):
        assert two_processes(train_one_step, str(tmp_path)) == [(2, 1.5), (2, 1.5)]
    assert two_processes(sum_over_ranks, torch.tensor([1.0, 2.0]))[0][0] == 3.0


def test_failures_carry_the_traceback_and_the_pool_recovers():
    pool = ProcessPool(timeout=60)
    try:
        with pytest.raises(AssertionError, match="rank 1 dislikes this"):
            pool(fail_on_rank_1)
        with pytest.raises(AssertionError, match="Rank 0: the process died") as died:
            pool(die_on_rank_0_and_hang_on_rank_1)
        assert "Rank 1 gave no answer" in str(died.value)
    finally:
        pool.close()
