"""Dice over time of the published recipe and of the cheaper one, at equal wall time on the same machine.

    python benchmarks/recipes.py --data Task04_Hippocampus                        # 3 seeds of 15 minutes
    python benchmarks/recipes.py --data Task04_Hippocampus --minutes 3 --seeds 1

For every seed both presets train at the same time, each on half of the CPUs, so that whatever else the machine does meets both.
Time is that of training alone. Every minute or so the model is validated as after an epoch of a search: mean Dice of whole volumes,
the first eight of the fold's validation split, one vote. Work is counted from the operations of a step.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from operations import Operations
from rich.console import Console
from rich.table import Table

from cdal.config import Config, preset
from cdal.data import open_dataset
from cdal.trainer import Draws, Trainer
from cdal.training import train

NAMES = ("hippocampus", "hippocampus_fast")
STEPS = {"hippocampus": 2, "hippocampus_fast": 150}  # between two validations, about a minute on one core
MOMENTS = (1, 2, 4, 8, 15)  # minutes


def flop_per_step(config: Config) -> float:
    """Operations of a step, averaged over those with and without R1 and with and without an update of the discriminator."""
    model, batch = config.model, 4
    trainer = Trainer(config, torch.device("cpu"))
    masks = (batch, model.mask_channels, model.image_size, model.image_size)
    image, mask = torch.randn(batch, model.image_channels, *masks[2:]), torch.randn(masks).sign()
    draws = Draws.random(masks, config.diffusion.timesteps, model.latent_size, torch.Generator().manual_seed(0))
    period = config.optimiser.discriminator_interval * config.loss.r1_interval
    with Operations() as count:
        for _ in range(period):
            trainer.step(image, mask, draws)
    return count.total / period * config.training.batch_size / batch


def run(name: str, options: argparse.Namespace) -> None:
    """Train one preset with one seed; a line of JSON per validation."""
    torch.set_num_threads(options.threads)
    dataset = open_dataset("hippocampus", options.data)
    changes = {"training.steps_per_epoch": STEPS[name], "training.seed": options.seed, "training.epochs": 100_000}
    config = preset(name).replace(changes | {"evaluation.validation_votes": 1, "evaluation.validation_cases": 8})
    work, seconds = flop_per_step(config), 0.0
    with tempfile.TemporaryDirectory() as folder:
        for report in train(config, dataset, Path(folder)):
            seconds += report.values["train_seconds"]
            point = {"minutes": seconds / 60, "step": report.step, "gflop": report.step * work / 1e9, "dice": report.values["dice"]}
            print(json.dumps(point), flush=True)
            if seconds >= 60 * options.minutes:
                return


def best_until(curve: list[dict[str, Any]], minutes: float) -> dict[str, Any] | None:
    """The best validation up to a moment; None where there was none yet."""
    return max((point for point in curve if point["minutes"] <= minutes), key=lambda point: point["dice"], default=None)


def main() -> None:
    """Start the runs, print the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the Medical Segmentation Decathlon's Task04_Hippocampus")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write all curves there, JSON")
    parser.add_argument("--run", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=max(1, len(os.sched_getaffinity(0)) // len(NAMES)), help="of each training")
    options = parser.parse_args()
    if options.run:
        return run(options.run, options)

    curves: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in NAMES}
    for seed in range(options.seeds):
        command = [sys.executable, __file__, "--data", options.data, "--minutes", str(options.minutes), "--seed", str(seed)]
        command += ["--threads", str(options.threads), "--run"]
        running = {name: subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in NAMES}
        for name, process in running.items():
            curves[name].append([json.loads(line) for line in process.communicate()[0].splitlines()])
            assert process.returncode == 0, f"{name} ended with {process.returncode}"
        if options.out:
            options.out.write_text(json.dumps(curves))

    table = Table(
        title=f"hippocampus, fold 0, {options.seeds} seeds, {options.threads} thread(s) each: best validation Dice so far"
    )
    for heading in ("minutes", *(f"{name}: {what}" for name in NAMES for what in ("Dice (lowest - highest)", "TFLOP"))):
        table.add_column(heading, justify="right")
    for moment in sorted({*(minute for minute in MOMENTS if minute < options.minutes), options.minutes}):
        cells = [f"{moment:g}"]
        for name in NAMES:
            known = [best for curve in curves[name] if (best := best_until(curve, moment * 1.02)) is not None]
            dice = [point["dice"] for point in known]
            cells.append(f"{np.mean(dice):.4f} ({min(dice):.4f} - {max(dice):.4f})" if dice else "-")
            cells.append(f"{np.mean([point['gflop'] for point in known]) / 1000:.1f}" if known else "-")
        table.add_row(*cells)
    Console(width=130).print(table)
    return None


if __name__ == "__main__":
    main()
