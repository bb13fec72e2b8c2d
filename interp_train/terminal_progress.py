"""Long loops outside of a training run: a bar in a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from interp_train.callbacks.progress import duration

T = TypeVar("T")


def shown_progress(
    entries: Iterable[T],
    description: str,
    total: int | None = None,
    *,
    console: Console | None = None,
    seconds_between_lines: float = 30.0,
) -> Iterator[T]:
    """`entries`, while the terminal shows how far the loop is.

    Args:
        entries: what is iterated over.
        description: what is being done.
        total: number of entries; None where nobody knows.
        console: where to write; None is the error output, which tables and paths leave free.
        seconds_between_lines: least time between two plain lines, where there is no terminal.
    """
    console = console or Console(stderr=True)
    if console.is_terminal:
        yield from track(entries, description, total, console=console, transient=True)
        return
    began = spoke = time.perf_counter()
    for number, entry in enumerate(entries):
        now = time.perf_counter()
        if number and now - spoke >= seconds_between_lines:
            spoke = now
            left = (now - began) / number * (total - number) if total else None
            place = f"{number}/{total}" if total else str(number)
            line = f"{description}: {place}, {duration(left)} left"
            console.print(line, highlight=False, soft_wrap=True)
        yield entry
