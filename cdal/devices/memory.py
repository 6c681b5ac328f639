"""What a process does with the memory that tensors free on a CPU, and the most that a piece of work had in use.

reset_peak(device)
...                             # the work
peak_memory(device)             # bytes
"""

import ctypes
import functools
import os
import platform
import resource
import sys
from pathlib import Path

import torch

# Numbers of the options in glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4

_TOO_SMALL = ("can't allocate memory", "CUDA error: out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")

_FORGET = Path("/proc/self/clear_refs")
"""Whoever writes a 5 there makes the peak of the process what is resident now, see proc_pid_clear_refs(5)."""


@functools.cache
def keep_freed_memory() -> None:
    """Keep what tensors free for the tensors after them; the process keeps the most that it had since `reset_peak`.

    glibc gives every block above 32 MiB back to the system as soon as it is freed, and the system clears each page of the next one.
    Under another C library nothing happens. It holds for the whole process, so that calling it again does nothing.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_MMAP_MAX, 0)  # no block in pages of its own, whatever its size
        libc.mallopt(_TRIM_THRESHOLD, -1)
        libc.mallopt(_TOP_PAD, 2**26)  # a thread's memory comes in regions of 64 MiB; none is given back while another is in use


def reset_peak(device: torch.device) -> None:
    """Begin to measure anew: earlier work in this process counts no more. What it freed and the process kept is given back."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
    if _forgets():
        _FORGET.write_text("5")


def peak_memory(device: torch.device) -> int:
    """Most bytes in use since `reset_peak`: allocated on a GPU, or resident in the process, libraries included.

    Where the system does not let a process begin anew, what is resident now stands for it: freed memory is kept. Without /proc it
    is the most since the process began.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        of_process = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return 1024 * int(of_process["VmHWM" if _forgets() else "VmRSS"].split()[0])
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory was too small. PyTorch has a class of its own for GPUs, and only for some of them."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in said for words in _TOO_SMALL)


def _forgets() -> bool:
    """Whether the system lets this process forget its peak; some kernels of containers do not."""
    return os.access(_FORGET, os.W_OK)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
