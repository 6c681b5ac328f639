"""Several trainings of a small model on one device at once: how many images a second do they make together?

    python benchmarks/packing.py                                         # 1 and 2 on the CPU, which they share out
    python benchmarks/packing.py --device cuda --trainings 1 2 4 8

Every training is a process with steps of the preset `hippocampus_fast` on a batch that is at hand. They begin together, after all
have warmed up, and run for the same time. On a CPU each takes its share of the cores as threads, as trials of a search do.
"""

import argparse
import os
import subprocess
import sys
import time

import torch
from rich.console import Console
from rich.table import Table
from step import Side

from cdal.config import preset


def work(options: argparse.Namespace) -> None:
    """One training: warm up, say so, wait for a line, count steps, print images per second and bytes."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    config = preset("hippocampus_fast").replace({"training.precision": options.precision})
    side = Side("ours", config, device)
    for _ in range(3):
        side.step()
    print("ready", flush=True)
    sys.stdin.readline()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < options.seconds:
        side.step()
        steps += 1
    rate = steps * config.training.batch_size / (time.perf_counter() - start)
    print(rate, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0)


def together(number: int, options: argparse.Namespace) -> tuple[float, int]:
    """Images per second of all trainings, and the bytes that they allocated on a GPU."""
    threads = max(1, len(os.sched_getaffinity(0)) // number)
    command = [sys.executable, __file__, "--work", "--device", options.device, "--precision", options.precision]
    command += ["--seconds", str(options.seconds), "--threads", str(threads)]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(number)]
    for process in running:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [process.communicate()[0].split() for process in running]
    return sum(float(rate) for rate, _ in found), sum(int(memory) for _, memory in found)


def main() -> None:
    """Print a row per number of trainings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--trainings", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options)
    table = Table(title=f"hippocampus_fast on {options.device}, {options.precision}")
    for heading in ("trainings", "images/s together", "of one alone", "GPU memory"):
        table.add_column(heading, justify="right")
    alone = 0.0
    for number in options.trainings:
        rate, memory = together(number, options)
        alone = alone or rate / number
        table.add_row(str(number), f"{rate:.1f}", f"{rate / alone:.2f}", f"{memory / 2**30:.2f} GiB" if memory else "-")
    Console(width=100).print(table)
    return None


if __name__ == "__main__":
    main()
