"""How the process holds on to memory."""

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed for the next large tensor.

    By default it gives each back to the system and has the next one faulted in page by page, which costs passes over a small
    model a fifth of its time. Another C library goes on as it was.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_memory() -> None:
    """Return to the system what is free between allocations: after shapes of all sizes the heap is full of holes.

    For work that goes on for long; where the C library is not glibc, nothing happens.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
