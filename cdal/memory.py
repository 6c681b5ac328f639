"""What a process does with the memory that tensors free on a CPU."""

import ctypes
import functools
import platform

# Numbers of the options in glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


@functools.cache
def keep_freed_memory() -> None:
    """Keep what tensors free for the tensors after them; the process keeps the most that it ever had.

    glibc gives every block above 32 MiB back to the system as soon as it is freed, and the system clears each page of the next one.
    Under another C library nothing happens. It holds for the whole process, so that calling it again does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)  # no block in pages of its own, whatever its size
    libc.mallopt(_TRIM_THRESHOLD, -1)
    libc.mallopt(_TOP_PAD, 2**26)  # a thread's memory comes in regions of 64 MiB; none is given back while another is in use
