"""A real search on a machine without a GPU: hippocampus, small models, a fixed time; what Dice does it reach?

    python benchmarks/hippocampus_cpu.py --data Task04_Hippocampus --time-budget 30m

Runs `python tune/search.py`, then scores the best trial by validation Dice and the controls on the fold's test volumes, which
the search has not seen, with the same majority vote on whole volumes. Dice are means over volumes: anterior / posterior / mean.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from cdal.checkpoint import load_model
from cdal.data import open_dataset
from cdal.predict import full_protocol
from tune.results import load

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Search, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the Medical Segmentation Decathlon's Task04_Hippocampus")
    parser.add_argument("--time-budget", default="30m")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--storage", default=None, help="keep the results there (default: a temporary folder)")
    args = parser.parse_args()
    storage = Path(args.storage or tempfile.mkdtemp(prefix="hippocampus-")).absolute()
    command = [sys.executable, "tune/search.py", "--dataset", "hippocampus", "--data", str(Path(args.data).absolute())]
    command += ["--space", "hippocampus_cpu", "--time-budget", args.time_budget, "--seed", args.seed]
    started = time.monotonic()
    subprocess.run([*command, "--storage", str(storage), "--name", f"hippocampus-cpu-{args.seed}"], cwd=ROOT, check=True)
    seconds = time.monotonic() - started

    trials = [row for row in load(storage).trials().to_pylist() if row["experiment"] == f"hippocampus-cpu-{args.seed}"]
    scored = [row for row in trials if row["final_dice"] is not None]
    best = max(scored, key=lambda row: row["final_dice"])
    shown = [best] + [row for row in scored if row["kind"] != "searched" and row is not best]
    table = Table(title=f"hippocampus, fold 0, {len(trials)} trials in {seconds / 60:.1f} minutes (majority vote, whole volumes)")
    for heading in ("trial", "kind", "T", "latent", "epochs", "validation", "test fold", "test volumes", "s / volume"):
        table.add_column(heading, justify="right")
    for row in shown:
        validation = _validation_dice(storage, row)
        test = _test_dice(args.data, storage / row["checkpoint"])
        table.add_row(
            f"#{row['number']}",
            row["kind"],
            "-" if row["kind"] == "unet" else str(row["config.diffusion.timesteps"]),
            "-" if row["kind"] == "unet" else str(row["config.model.latent_size"]),
            str(row["epochs"]),
            _triple(validation),
            _triple(test[0]),
            str(test[1]),
            f"{row['seconds_per_case']:.2f}",
        )
    Console(width=140).print(table)
    print(f"results: {storage}")


def _validation_dice(storage: Path, row: dict[str, Any]) -> list[float]:
    """Mean Dice of each class on the validation volumes, from the lake."""
    cases = load(storage).cases()
    mine = pc.and_(pc.equal(cases["experiment"], row["experiment"]), pc.equal(cases["trial_id"], row["trial_id"]))
    cases = cases.filter(mine)
    cases = cases.filter(pc.equal(cases["votes"], pc.max(cases["votes"]))).to_pylist()
    classes = list(dict.fromkeys(case["class"] for case in cases))
    return [float(np.mean([case["dice"] for case in cases if case["class"] == name])) for name in classes]


def _test_dice(data: str, checkpoint: Path) -> tuple[list[float], int]:
    """Mean Dice of each class on the fold's test volumes, and how many there are."""
    config, generator = load_model(checkpoint)
    dataset = open_dataset("hippocampus", data)
    results = full_protocol(config, generator, dataset, dataset.split(0).test)
    last = [[score.dice for score in result.scores if score.votes == result.scores[-1].votes] for result in results]
    return np.mean(last, axis=0).tolist(), len(last)


def _triple(dice: list[float]) -> str:
    return " / ".join(f"{value:.4f}" for value in [*dice, float(np.mean(dice))])


if __name__ == "__main__":
    main()
