"""Work that consists of many small operations, spread over the cores of the CPU.

An operation on a small tensor gains nothing from several threads, so that a series of them keeps
one core busy. Series that do not depend on one another can run side by side instead, each with one
thread; PyTorch releases the interpreter's lock inside its operations.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def thread_map(
    function: Callable[[Item], Result], items: Sequence[Item], device: torch.device
) -> list[Result]:
    """``[function(item) for item in items]``, with one thread per core on the CPU.

    Gradient and inference mode are those of the caller; autocasting is off in the threads. The
    number of threads of the caller's own operations stays what it was.

    Args:
        function: called in several threads at a time; must not communicate with other processes.
        items: what it is called with.
        device: of the tensors; elsewhere than on the CPU nothing runs side by side.
    """
    threads = torch.get_num_threads()
    number = min(threads, len(items))
    if device.type != "cpu" or number < 2:
        return [function(item) for item in items]
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def call(item: Item) -> Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return function(item)

    try:
        with ThreadPoolExecutor(number, initializer=_use_one_thread) as pool:
            return list(pool.map(call, items))
    finally:
        torch.set_num_threads(threads)  # also what threads that begin later take


def _use_one_thread() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread takes the common number at its first look: before others do
