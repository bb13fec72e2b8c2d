import pytest
import torch
import torch.distributed

from interp_train.evaluation.row_gathering import gather_rows


def gathered(rows):
    return gather_rows(rows[torch.distributed.get_rank()])


def test_rows_of_any_number_and_type(two_processes):
    for dtype in (torch.float16, torch.int64, torch.uint8, torch.bool):
        rows = (torch.ones(3, 2).to(dtype), torch.zeros(1, 2).to(dtype))
        for result in two_processes(gathered, rows):
            assert [torch.equal(a, b) for a, b in zip(result, rows, strict=True)] == [True, True]


def test_a_process_without_rows_takes_part(two_processes):
    rows = (torch.empty(0), torch.arange(6).view(3, 2))
    for first, second in two_processes(gathered, rows):
        assert first.shape == (0, 2)
        assert torch.equal(second, rows[1])
    assert all(not len(r) for r in two_processes(gathered, (torch.empty(0),) * 2)[0])


def test_different_rows_are_an_error(two_processes):
    with pytest.raises(AssertionError, match="`rows` must have one shape and type"):
        two_processes(gathered, (torch.zeros(1, 2), torch.zeros(1, 3)))
