"""The same training with one process and with two: are the losses equal, and how much faster is it?

    python benchmarks/workers.py --data Task04_Hippocampus             # 8 epochs of hippocampus_fast, gloo on the CPU
    python benchmarks/workers.py                                       # the same on generated images

Runs `python -m cdal.train` twice with the same global batch: one process with one thread, then two processes of one thread each.
Times are of all steps of all epochs, by the first process's clock, without its start and validation; two cores must be idle.
Efficiency is the time of one process, divided by twice the time of two.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cdal.training import Report, history


def train(workers: int, options: argparse.Namespace, folder: Path) -> list[Report]:
    """The reports of a training with a number of processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers), "-m", "cdal.train"]
    command += ["--preset", "hippocampus_fast", "--device", "cpu", "--out", str(folder)]
    command += ["--dataset", "hippocampus", "--data", options.data] if options.data else ["--dataset", "phantom"]
    settings = {"training.epochs": options.epochs, "training.steps_per_epoch": options.steps, "evaluation.validation_cases": 4}
    for name, value in (settings | {"evaluation.validation_votes": 1}).items():
        command += ["--set", f"{name}={value}"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return history(folder)


def main() -> None:
    """Train twice, print both loss curves and the efficiency."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the Medical Segmentation Decathlon's Task04_Hippocampus")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="of an epoch (default: 20)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        one, two = (train(workers, options, Path(root, str(workers))) for workers in (1, 2))
    table = Table(title=f"{options.epochs} epochs of {options.steps} steps, one process and two")
    for heading in ("epoch", "generator, 1", "generator, 2", "discriminator, 1", "discriminator, 2", "Dice, 1", "Dice, 2"):
        table.add_column(heading, justify="right")
    for a, b in zip(one, two, strict=True):
        cells = [f"{report.values[name]:.5f}" for name in ("loss_generator", "loss_discriminator", "dice") for report in (a, b)]
        table.add_row(str(a.epoch), *cells)
    Console(width=120).print(table)
    worst = max(
        abs(a.values[name] - b.values[name]) / abs(a.values[name])
        for a, b in zip(one, two, strict=True)
        for name in ("loss_generator", "loss_discriminator")
    )
    seconds = [sum(report.values["train_seconds"] for report in reports) for reports in (one, two)]
    print(f"largest relative difference of a loss: {worst:.1e}")
    print(f"seconds of training: {seconds[0]:.1f} and {seconds[1]:.1f}; efficiency {seconds[0] / (2 * seconds[1]):.0%}")


if __name__ == "__main__":
    main()
