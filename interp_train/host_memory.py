"""Keep freed memory inside the process, so that each training step does not ask for it anew.

By default the C library of Linux hands large freed blocks back to the kernel at once. A network
on the CPU frees and takes hundreds of MB per step, and the page faults of taking them again cost
up to half of its time.
"""

import ctypes

# Parameters of mallopt, from malloc.h of the GNU C library.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let the allocator keep what is freed, for this process.

    Returns:
        Whether it does; False with another C library than GNU's, where nothing is changed.
    """
    try:
        library = ctypes.CDLL("libc.so.6")
        mallopt = library.mallopt
    except (OSError, AttributeError):
        return False
    largest = 2**31 - 1
    settings = ((_MMAP_THRESHOLD, 2**30), (_TRIM_THRESHOLD, largest), (_MMAP_MAX, 0))
    taken = [mallopt(parameter, value) for parameter, value in settings]
    return all(answer == 1 for answer in taken)
