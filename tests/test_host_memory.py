"""Freed memory stays in the process: measured by page faults in processes of their own."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from interp_train.host_memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(12):
    if turn == 2:
        start = faults()
    block = bytearray(40_000_000)
    block[::4096] = b"1" * len(block[::4096])
    del block
print(kept, faults() - start)
"""


def faults(mode):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True
    )
    kept, count = done.stdout.split()
    return kept, int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="an option of GNU's C library")
def test_memory_that_is_taken_again_costs_no_page_faults():
    kept, few = faults("keep")
    if kept != "True":
        pytest.skip("this Linux has another C library than GNU's")
    _, many = faults("leave")
    assert few < many / 5
