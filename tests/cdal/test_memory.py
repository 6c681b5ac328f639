"""Freed memory is kept for the next tensors."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from cdal.memory import keep_freed_memory

def faults():  # of a tensor that fits where another one was
    torch.zeros(60_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(50_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
keep_freed_memory()
keep_freed_memory()
print(given_back, faults())
"""


@pytest.mark.long
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other habits")
def test_memory_that_was_had_once_is_not_asked_for_again() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert given_back > 90  # 200 MB in pages of 2 MB, which are the largest
    assert kept < given_back / 20
