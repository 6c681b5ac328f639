"""A real search on a machine without a GPU: hippocampus, small models, a fixed time; what Dice does it reach?

    python benchmarks/hippocampus_cpu.py --data Task04_Hippocampus --time-budget 30m
    python benchmarks/hippocampus_cpu.py --data Task04_Hippocampus --time-budget 20m --compare --seeds 3

Runs `python tune/search.py`, then scores the best trial that the sampler proposed, by validation Dice, and the controls on the
fold's test volumes, which the search has not seen, with the same majority vote on whole volumes. Dice are means over volumes:
anterior / posterior / mean.

With --compare, the default strategy and random search without early stopping run at the same time, each on half of the CPUs, so
that whatever else the machine does meets both; printed is the best validation Dice of each over time.
"""

import argparse
import os
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

STRATEGIES = {
    "default": [],
    "random": ["--sampler", "random", "--scheduler", "none", "--min-improvement", "0"],
}
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Search, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the Medical Segmentation Decathlon's Task04_Hippocampus")
    parser.add_argument("--time-budget", default="30m")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--compare", action="store_true", help="default strategy against random search of equal time")
    parser.add_argument("--seeds", type=int, default=3, help="of the comparison, from --seed on")
    parser.add_argument("--storage", default=None, help="keep the results there (default: a temporary folder)")
    args = parser.parse_args()
    storage = Path(args.storage or tempfile.mkdtemp(prefix="hippocampus-")).absolute()
    command = [sys.executable, "tune/search.py", "--dataset", "hippocampus", "--data", str(Path(args.data).absolute())]
    command += ["--space", "hippocampus_cpu", "--time-budget", args.time_budget, "--storage", str(storage)]
    if args.compare:
        return compare(command, storage, range(int(args.seed), int(args.seed) + args.seeds))
    command += ["--seed", args.seed]
    started = time.monotonic()
    if subprocess.run([*command, "--name", f"hippocampus-cpu-{args.seed}"], cwd=ROOT, check=False).returncode:
        sys.exit(2)  # the search said why
    seconds = time.monotonic() - started

    trials = [row for row in load(storage).trials().to_pylist() if row["experiment"] == f"hippocampus-cpu-{args.seed}"]
    scored = [row for row in trials if row["final_dice"] is not None]
    searched = sorted((row for row in scored if row["kind"] == "searched"), key=lambda row: row["final_dice"])
    shown = searched[-1:] + [row for row in scored if row["kind"] != "searched"]
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
    return None


def compare(command: list[str], storage: Path, seeds: range) -> None:
    """Both strategies side by side for every seed, and their curves."""
    cpus = sorted(os.sched_getaffinity(0))
    halves = cpus[: len(cpus) // 2] or cpus, cpus[len(cpus) // 2 :]
    for seed in seeds:
        running = []
        for (name, options), half in zip(STRATEGIES.items(), halves, strict=True):
            own = [*command, *options, "--seed", str(seed), "--name", f"{name}-{seed}"]
            running.append(subprocess.Popen(["taskset", "-c", ",".join(map(str, half)), *own], cwd=ROOT))
        if any([process.wait() for process in running]):  # a list, to wait for both; whoever failed said why
            sys.exit(2)

    curves = {name: [best_over_time(storage, f"{name}-{seed}") for seed in seeds] for name in STRATEGIES}
    last = max(curve[-1][0] for found in curves.values() for curve in found)
    table = Table(title=f"best validation Dice so far, {len(seeds)} seeds (lowest - highest), {len(halves[0])} CPU each")
    for heading in ("minutes", *STRATEGIES):
        table.add_column(heading, justify="right")
    for minutes in [moment for moment in (1, 2, 4, 8, 12, 16, 20, 30, 60) if moment < last] + [last]:
        cells = []
        for found in curves.values():
            dice = [max((value for moment, value in curve if moment <= minutes), default=0.0) for curve in found]
            cells.append(f"{np.median(dice):.4f} ({min(dice):.4f} - {max(dice):.4f})")
        table.add_row(f"{minutes:.1f}", *cells)
    Console(width=140).print(table)
    for name in STRATEGIES:
        counts = [row["experiment"] for row in load(storage).trials().to_pylist()]
        print(f"{name}: {', '.join(str(counts.count(f'{name}-{seed}')) for seed in seeds)} trials")
    print(f"results: {storage}")


def best_over_time(storage: Path, experiment: str) -> list[tuple[float, float]]:
    """(minutes since the first trial was proposed, best validation Dice so far) after every epoch; the U-Net left out."""
    lake = load(storage)
    start = min(row["proposed_at"] for row in lake.trials().to_pylist() if row["experiment"] == experiment)
    unet = {row["trial_id"] for row in lake.trials().to_pylist() if row["experiment"] == experiment and row["kind"] == "unet"}
    rows = [row for row in lake.metrics(["dice"]).to_pylist() if row["experiment"] == experiment and row["trial_id"] not in unet]
    rows.sort(key=lambda row: row["recorded_at"])
    best = np.maximum.accumulate([row["dice"] for row in rows])
    minutes = [(row["recorded_at"] - start).total_seconds() / 60 for row in rows]
    return list(zip(minutes, best.tolist(), strict=True))


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
