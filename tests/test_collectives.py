import pytest
import torch
import torch.distributed as dist

from interp_train.collectives import (
    gather_over_processes,
    max_over_processes,
    num_processes,
    process_index,
    sum_over_processes,
)


def test_one_process_changes_nothing():
    tensor = torch.randn(3, 2, requires_grad=True)
    assert num_processes() == 1
    assert process_index() == 0
    assert sum_over_processes(tensor) is tensor
    torch.testing.assert_close(max_over_processes(tensor), tensor.detach())
    torch.testing.assert_close(gather_over_processes(tensor), tensor.detach())


def reduced(values):
    mine = values[dist.get_rank()].clone().requires_grad_()
    total = sum_over_processes(mine)
    (gradient,) = torch.autograd.grad((total**2).sum(), mine)
    return total.detach(), gradient, max_over_processes(mine), gather_over_processes(mine)


def test_two_processes_see_the_same(two_processes):
    values = torch.tensor([[1.0, 5.0], [2.0, 3.0]])
    for total, gradient, largest, gathered in two_processes(reduced, values):
        assert total.tolist() == [3.0, 8.0]
        # d(t²)/dx = 2t, from the copy of the loss on each of the two processes.
        assert gradient.tolist() == [2 * 6.0, 2 * 16.0]
        assert largest.tolist() == [2.0, 5.0]
        assert gathered.tolist() == [1.0, 5.0, 2.0, 3.0]


def gather_unequal():
    with pytest.raises(ValueError, match=r"equally many rows .* they hold \[1, 2\].*drop_last"):
        gather_over_processes(torch.zeros(dist.get_rank() + 1, 3))


def test_unequal_batches_are_named(two_processes):
    two_processes(gather_unequal)
