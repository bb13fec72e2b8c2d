"""Two gloo processes that stay alive for the whole test session.

Starting a process costs seconds (it imports torch), so all equality tests share one pool. A
function is run on both ranks at once; whatever it raises on either rank fails the test.
"""

import contextlib
import datetime
import multiprocessing
import multiprocessing.connection
import os
import pickle
import socket
import time
import traceback

import torch
import torch.distributed

WORLD_SIZE = 2
COLLECTIVE_TIMEOUT = 60  # seconds until a lonely collective gives up


class ProcessPool:
    """Runs picklable functions on ranks 0 and 1; starts at first use, restarts after a failure.

    Args:
        timeout: seconds that one call may take.
    """

    def __init__(self, timeout=120.0):
        self.timeout = timeout
        self._workers = []  # (process, connection), in rank order

    def __call__(self, function, *args, timeout=None):
        """Run ``function(*args)`` on both ranks; return ``[result of rank 0, of rank 1]``.

        Raises:
            AssertionError: with the traceback of the rank that failed, or on time-out.
        """
        task = pickle.dumps((function, args))
        if not self._workers:
            self._start()
        for _, connection in self._workers:
            connection.send_bytes(task)
        answers = self._collect(time.monotonic() + (timeout or self.timeout))
        failed = [f"Rank {rank}: {text}" for rank, (ok, text) in answers.items() if not ok]
        silent = [rank for rank in range(WORLD_SIZE) if rank not in answers]
        if failed or silent:
            # A rank may still wait in a collective: the pool is not usable any more.
            self.close()
            failed += [f"Rank {rank} gave no answer." for rank in silent]
            raise AssertionError("\n".join(failed))
        return [answers[rank][1] for rank in range(WORLD_SIZE)]

    def close(self):
        """End both processes."""
        for process, connection in self._workers:
            connection.close()
            process.terminate()
            process.join(10)
        self._workers = []

    def _start(self):
        context = multiprocessing.get_context("spawn")
        port = free_port()
        for rank in range(WORLD_SIZE):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(rank, port, theirs), daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, ours))

    def _collect(self, deadline):
        """Answers by rank, until all have come, time is up, or one has failed."""
        answers = {}
        waiting = dict(enumerate(connection for _, connection in self._workers))
        while waiting and time.monotonic() < deadline:
            multiprocessing.connection.wait(list(waiting.values()), timeout=1.0)
            for rank, connection in list(waiting.items()):
                if connection.poll():
                    answers[rank] = receive(connection)
                    del waiting[rank]
                    if not answers[rank][0]:  # the other rank may wait for this one in vain
                        deadline = min(deadline, time.monotonic() + 2.0)
        return answers


def receive(connection):
    """``(ok, result or traceback)`` from one rank."""
    try:
        return pickle.loads(connection.recv_bytes())
    except EOFError:
        return False, "the process died."


def free_port():
    """A TCP port of this machine that nobody uses."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(rank, port, connection):
    """Main loop of one rank."""
    # What a launcher would set, so that a Trainer inside a call starts no further processes.
    environment = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(WORLD_SIZE),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    os.environ.update(environment)
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=WORLD_SIZE,
        timeout=datetime.timedelta(seconds=COLLECTIVE_TIMEOUT),
    )
    while True:
        try:
            task = connection.recv_bytes()
        except (EOFError, OSError):
            return
        os.environ.update(environment)
        torch.manual_seed(0)
        try:
            function, args = pickle.loads(task)
            answer = pickle.dumps((True, function(*args)))
        except BaseException:  # reported to the test, which fails
            answer = pickle.dumps((False, traceback.format_exc()))
        connection.send_bytes(answer)
