"""Instruments of benchmarks: rounds in turn, ratios within rounds, peak memory."""

import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch


def timed(work: Callable[[], object], device: str = "cpu") -> tuple[float, float]:
    """Wall and processor seconds of a function; a GPU is waited for."""
    gc.collect()
    waits = torch.device(device).type == "cuda"
    if waits:
        torch.cuda.synchronize(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    work()
    if waits:
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, time.process_time() - cpu_start


def time_ratios(
    measured: Sequence[tuple[float, float]], ordinary: Sequence[tuple[float, float]]
) -> dict[str, float]:
    """How much longer steps take than the ordinary steps of the same rounds.

    Args:
        measured: seconds of wall and of processor time, per round.
        ordinary: the same, of the step without objective.
    """
    walls, cpus = zip(*measured, strict=True)
    other_walls, other_cpus = zip(*ordinary, strict=True)
    ratios = [mine / other for mine, other in zip(walls, other_walls, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "seconds": statistics.median(walls),
        "seconds_without": statistics.median(other_walls),
        "time_ratio": middle,
        "time_ratio_low": low,
        "time_ratio_high": high,
        "processor_ratio": statistics.median(
            mine / other for mine, other in zip(cpus, other_cpus, strict=True)
        ),
    }


def interleaved(
    steps: Mapping[str, Callable[[], tuple[float, float]]], repetitions: int, warm_up: int = 2
) -> dict[str, list[tuple[float, float]]]:
    """Times of each step, one of each per round; the order turns from round to round.

    Args:
        steps: name -> function that makes a step and returns its times.
        repetitions: rounds that count.
        warm_up: steps of each before the first that counts.
    """
    names = list(steps)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for step in steps.values():
        for _ in range(warm_up):
            step()
    for turn in range(repetitions):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(steps[name]())
    return seconds


def peak_in_process(module: str, task: str) -> int:
    """The number that ``print_peak(task)`` of a module of this package prints, in a new process."""
    code = f"import sys; from {module} import print_peak; print_peak(sys.argv[1])"
    # Freed tensors go back to the system at once, so that resident size is what tensors need.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, task]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"The process that measures memory failed:\n{done.stderr}")
    return int(done.stdout.split()[-1])


def peak_of_steps(make: Callable[[], Callable[[], object]], number: int, device: str) -> int:
    """Bytes at the peak of making a step and repeating it.

    On a GPU what torch allocates; on the CPU what the process holds more than before.
    """
    before = resident_peak()
    step = make()
    for _ in range(number):
        step()
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resident_peak() - before


def resident_peak() -> int:
    """Largest resident size of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # unlike getrusage, this does not remember the parent's size
        lines = status.read_text(encoding="utf-8").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
