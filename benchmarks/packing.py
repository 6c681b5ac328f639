"""Several trainings of a small model on one device at once: how many images a second do they make together?

    python benchmarks/packing.py                                         # 1 and 2 on the CPU, which they share out
    python benchmarks/packing.py --device cuda --precision bf16          # 1, 2, 4 and 8 on the GPU

Every training is a process with steps of the preset `hippocampus_fast` on a batch that is at hand. They begin together, after all
have warmed up, and run for the same time. Each takes its share of the cores as threads and of a GPU's memory, as trials of a search
do. They go through NVIDIA's MPS where it runs: `nvidia-cuda-mps-control -d` before, `echo quit | nvidia-cuda-mps-control` after.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from batches import noise
from rich.console import Console
from rich.table import Table

from cdal.config import preset
from cdal.trainer import Trainer

NUMBERS = {"cuda": (1, 2, 4, 8), "cpu": (1, 2)}
_SHARED_OUT = 0.95  # of a GPU's memory, as in a search; the rest is what CUDA itself takes in every process


def measure(numbers: Sequence[int], device: str, precision: str, seconds: float) -> list[dict[str, Any]]:
    """A row for each number of trainings, up to the first that does not run: images per second, those of one, bytes.

    Args:
        numbers: of trainings, ascending.
        device: cpu or cuda.
        precision: fp32 or bf16.
        seconds: that each row is measured for.
    """
    rows: list[dict[str, Any]] = []
    for number in numbers:
        found = together(number, device, precision, seconds)
        if found is None:
            break
        rate, memory = found
        alone = rows[0]["images_per_second"] / rows[0]["trainings"] if rows else rate / number
        rows.append({"trainings": number, "images_per_second": rate, "of_one": rate / alone, "memory_bytes": memory})
    return rows


def together(number: int, device: str, precision: str, seconds: float) -> tuple[float, int] | None:
    """Images per second of all trainings, and the bytes that they allocated on a GPU; None where one of them does not run."""
    command = [sys.executable, __file__, "--work", str(number), "--device", device, "--precision", precision]
    command += ["--seconds", str(seconds)]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(number)]
    try:
        if any(process.stdout.readline() != "ready\n" for process in running if process.stdout):
            return None
        for process in running:
            if process.stdin:
                process.stdin.write("go\n")
                process.stdin.flush()
        found = [process.communicate()[0].split() for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    if not all(found):
        return None
    return sum(float(rate) for rate, _ in found), sum(int(memory) for _, memory in found)


def work(number: int, device: torch.device, precision: str, seconds: float) -> None:
    """One of so many trainings: warm up, say so, wait for a line, count steps, print images per second and bytes."""
    on_gpu = device.type == "cuda"
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // number))
    if on_gpu and number > 1:
        torch.cuda.set_per_process_memory_fraction(_SHARED_OUT / number)
    config = preset("hippocampus_fast").replace({"training.precision": precision})
    trainer, batch = Trainer(config, device), noise(config, device)
    period = config.optimiser.discriminator_interval * config.loss.r1_interval
    for _ in range(2 * period + 2 if on_gpu else 3):  # on a GPU what recurs is recorded at its second time
        loss = next(iter(trainer.step(*batch).values()))
    loss.item()
    print("ready", flush=True)
    sys.stdin.readline()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        before, loss = loss, next(iter(trainer.step(*batch).values()))
        before.item()  # no more than one step ahead of the device
        steps += 1
    loss.item()
    rate = steps * config.training.batch_size / (time.perf_counter() - start)
    print(rate, torch.cuda.max_memory_allocated(device) if on_gpu else 0)


def mps_serves() -> bool:
    """Whether NVIDIA's MPS has served processes of this user."""
    try:
        asked = subprocess.run(["nvidia-cuda-mps-control"], input="get_server_list\n", capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0 and bool(asked.stdout.strip())


def main() -> None:
    """Print a row per number of trainings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=NUMBERS, default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--trainings", type=int, nargs="+", help="default: 1 2, on a GPU 1 2 4 8")
    parser.add_argument("--seconds", type=float, default=30, help="of each row (default: 30)")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work, torch.device(options.device), options.precision, options.seconds)
    rows = measure(options.trainings or NUMBERS[options.device], options.device, options.precision, options.seconds)
    through = "" if options.device == "cpu" else f", {'with' if mps_serves() else 'without'} MPS"
    table = Table(title=f"hippocampus_fast on {options.device}, {options.precision}{through}")
    for heading in ("trainings", "images/s together", "of one alone", "GPU memory"):
        table.add_column(heading, justify="right")
    for row in rows:
        memory = f"{row['memory_bytes'] / 2**30:.2f} GiB" if row["memory_bytes"] else "-"
        table.add_row(str(row["trainings"]), f"{row['images_per_second']:.1f}", f"{row['of_one']:.2f}", memory)
    Console(width=100).print(table)
    return None


if __name__ == "__main__":
    main()
