"""Freed memory is kept for the next tensors."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from cdal.devices.memory import keep_freed_memory

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


PEAKS = """
import threading
import torch
from cdal.devices.memory import keep_freed_memory, peak_memory, reset_peak

def work(size):  # many blocks, of which none is the last one of the heap
    kept = [torch.ones(size // 64) for _ in range(16)]
    peaks.append(peak_memory(torch.device("cpu")))

peaks = []
keep_freed_memory()
for size in (100_000_000, 1_000_000, 50_000_000):  # 400, 4 and 200 MB of tensors
    reset_peak(torch.device("cpu"))
    trial = threading.Thread(target=work, args=(size * 4,))
    trial.start()
    trial.join()
print(*peaks)
"""


def test_the_peak_of_a_small_piece_of_work_is_its_own_whatever_the_process_did_before() -> None:
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    large, small, middle = (int(text) / 2**20 for text in done.stdout.split())
    assert small < large - 300
    assert small + 120 < middle < large - 120
