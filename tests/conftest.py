"""Fixtures that all tests share."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.process_pool import ProcessPool

DATA_VARIABLE = "INTERP_TRAIN_DATA"


def pytest_configure(config):
    """Two threads at most, so that times and sums do not depend on the size of the machine.

    One in each of several workers: most tests are many small steps, which more threads slow down.
    """
    several = "PYTEST_XDIST_WORKER" in os.environ
    torch.set_num_threads(1 if several else min(torch.get_num_threads(), 2))


def pytest_collection_modifyitems(items):
    """Mark what needs the pool, and skip what needs an accelerator where there is none."""
    without_gpu = pytest.mark.skip(reason="needs a GPU, but torch sees none")
    for item in items:
        if "two_processes" in getattr(item, "fixturenames", ()):
            item.add_marker("processes")
        if "data_folder" in getattr(item, "fixturenames", ()):
            item.add_marker("data")
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(without_gpu)


@pytest.fixture(autouse=True)
def seeds():
    """Each test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (seeds what foreign code draws from)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_folder():
    """Function: name of a data set -> its folder; skips where the folder is missing.

    Example:
        def test_reads_all_crops(data_folder):
            data = CubData(root=data_folder("cub"))
    """

    def find(name=""):
        root = os.environ.get(DATA_VARIABLE)
        if not root:
            pytest.skip(f"{DATA_VARIABLE} is not set: it names the folder of the data sets")
        folder = Path(root, name)
        if not folder.is_dir():
            pytest.skip(f"{DATA_VARIABLE} has no folder {name!r}")
        return folder

    return find


@pytest.fixture
def data_root(data_folder):
    """Folder of the data sets; skips the test where there is none."""
    return data_folder()


@pytest.fixture(scope="session")
def process_pool():
    """The one pool of two gloo processes; a test asks for `two_processes` instead."""
    pool = ProcessPool()
    yield pool
    pool.close()


@pytest.fixture
def two_processes(process_pool):
    """Function: run a module-level function on two gloo ranks; returns both results.

    Example:
        def sum_over_ranks(values):
            mine = values[torch.distributed.get_rank()]
            torch.distributed.all_reduce(mine)
            return mine

        def test_sum(two_processes):
            first, second = two_processes(sum_over_ranks, torch.tensor([1.0, 2.0]))
    """
    return process_pool
