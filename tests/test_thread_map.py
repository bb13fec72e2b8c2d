import threading

import pytest
import torch

from interp_train.thread_map import thread_map

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_stand_in_order_and_each_thread_uses_one_core(two_threads):
    meet = threading.Barrier(2, timeout=20)  # both wait here: they run side by side

    def look(number):
        meet.wait()
        return number, torch.get_num_threads(), threading.get_ident()

    found = thread_map(look, range(4), CPU)
    assert [number for number, _, _ in found] == [0, 1, 2, 3]
    assert {threads for _, threads, _ in found} == {1}
    assert len({thread for _, _, thread in found}) == 2
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("threads", "items", "device"), [(1, 3, "cpu"), (2, 1, "cpu"), (2, 3, "meta")]
)
def test_nothing_runs_side_by_side_where_it_would_not_help(two_threads, threads, items, device):
    torch.set_num_threads(threads)
    own = threading.get_ident()
    found = thread_map(lambda _: threading.get_ident(), range(items), torch.device(device))
    assert found == [own] * items
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_modes_are_those_of_the_caller(two_threads, inference, gradients):
    def look(_):
        return torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
        assert set(thread_map(look, range(4), CPU)) == {look(None)}


def test_an_error_reaches_the_caller_and_the_number_of_threads_is_kept(two_threads):
    def fail(number):
        if number == 2:
            raise ValueError("two")
        return number

    with pytest.raises(ValueError, match="two"):
        thread_map(fail, range(4), CPU)
    assert torch.get_num_threads() == 2
    assert thread_map(str, [], CPU) == []
