r"""A real search on a machine without a GPU: hippocampus, small models, a fixed time; what Dice does it reach?

    python benchmarks/hippocampus_cpu.py --data Task04_Hippocampus --time-budget 30m
    python benchmarks/hippocampus_cpu.py --data Task04_Hippocampus --time-budget 60m --compare ray --seeds 3
    python benchmarks/hippocampus_cpu.py --data Task04_Hippocampus --space benchmarks/spaces/hippocampus-long.yaml \
        --time-budget 12m --compare ray

Runs `python tune/search.py`, then scores the best trial that the sampler proposed, by validation Dice, and the controls on the
fold's test volumes, which the search has not seen, with the same majority vote on whole volumes. Dice are means over volumes:
anterior / posterior / mean.

With --compare, the default strategy runs beside another, each on half of the CPUs, so that whatever else the machine does meets
both; printed is the best validation Dice of each over time. `random` is random search without early stopping, `ray` is Ray Tune as
it comes on the same trials (plain_tune.py). The default's time holds its two controls and the scoring of whole trials.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from cdal.checkpoint import load_model
from cdal.data import open_dataset
from cdal.predict import full_protocol
from tune.results import load

RANDOM = ["--sampler", "random", "--scheduler", "none", "--min-improvement", "0"]
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Search, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the Medical Segmentation Decathlon's Task04_Hippocampus")
    parser.add_argument("--space", default="hippocampus_cpu")
    parser.add_argument("--time-budget", default="30m")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--compare", choices=("random", "ray"), help="the default strategy with another of equal time")
    parser.add_argument("--seeds", type=int, default=3, help="of the comparison, from --seed on")
    parser.add_argument("--storage", default=None, help="keep the results there (default: a temporary folder)")
    args = parser.parse_args()
    storage = Path(args.storage or tempfile.mkdtemp(prefix="hippocampus-")).absolute()
    given = ["--data", str(Path(args.data).absolute()), "--space", args.space, "--time-budget", args.time_budget]
    command = [sys.executable, "tune/search.py", *given, "--storage", str(storage)]
    if args.compare:
        return compare(given, command, args.compare, storage, range(int(args.seed), int(args.seed) + args.seeds))
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


def compare(given: list[str], command: list[str], other: str, storage: Path, seeds: range) -> None:
    """Both strategies side by side for every seed, and their curves."""
    cpus = sorted(os.sched_getaffinity(0))
    halves = cpus[: len(cpus) // 2] or cpus, cpus[len(cpus) // 2 :]
    storage.mkdir(parents=True, exist_ok=True)
    courses: dict[str, list[Course]] = {"default": [], other: []}
    for seed in seeds:
        ours, theirs = f"default-{seed}", f"{other}-{seed}"
        book = storage / f"{theirs}.jsonl"
        commands = [[*command, "--seed", str(seed), "--name", ours], [*command, *RANDOM, "--seed", str(seed), "--name", theirs]]
        if other == "ray":
            commands[1] = [sys.executable, "benchmarks/plain_tune.py", *given, "--seed", str(seed), "--out", str(book)]
        running = [
            subprocess.Popen(["taskset", "-c", ",".join(map(str, half)), *own], cwd=ROOT)
            for own, half in zip(commands, halves, strict=True)
        ]
        if any([process.wait() for process in running]):  # a list, to wait for both; whoever failed said why
            sys.exit(2)
        courses["default"].append(course_of(storage, ours))
        courses[other].append(course_in(book) if other == "ray" else course_of(storage, theirs))

    last = max(course.dice[-1][0] for found in courses.values() for course in found)
    table = Table(title=f"best validation Dice so far, {len(seeds)} seeds (lowest - highest), {len(halves[0])} CPU each")
    for heading in ("minutes", *courses):
        table.add_column(heading, justify="right")
    for minutes in [moment for moment in (1, 2, 4, 8, 12, 16, 20, 30, 60) if moment < last] + [last]:
        cells = []
        for found in courses.values():
            dice = [max((value for moment, value in course.dice if moment <= minutes), default=0.0) for course in found]
            cells.append(f"{np.median(dice):.4f} ({min(dice):.4f} - {max(dice):.4f})")
        table.add_row(f"{minutes:.1f}", *cells)
    Console(width=140).print(table)
    for name, found in courses.items():
        print(f"{name}: {', '.join(str(course.trials) for course in found)} trials")
    print(f"results: {storage}")


class Course(NamedTuple):
    """How a search went."""

    dice: list[tuple[float, float]]
    """(minutes since it began, best validation Dice so far) after every epoch."""
    trials: int


def course_of(storage: Path, experiment: str) -> Course:
    """Of a search in the lake, from when the first trial was proposed; the U-Net left out."""
    lake = load(storage)
    trials = [row for row in lake.trials().to_pylist() if row["experiment"] == experiment]
    start = min(row["proposed_at"] for row in trials)
    unet = {row["trial_id"] for row in trials if row["kind"] == "unet"}
    rows = [row for row in lake.metrics(["dice"]).to_pylist() if row["experiment"] == experiment and row["trial_id"] not in unet]
    rows.sort(key=lambda row: row["recorded_at"])
    minutes = [(row["recorded_at"] - start).total_seconds() / 60 for row in rows]
    return Course(_best([*zip(minutes, (row["dice"] for row in rows), strict=True)]), len(trials))


def course_in(book: Path) -> Course:
    """Of a search that wrote down its epochs."""
    rows = [json.loads(line) for line in book.read_text().splitlines()]
    return Course(_best([(minutes, dice) for minutes, _, dice in rows]), len({trial for _, trial, _ in rows}))


def _best(dice: list[tuple[float, float]]) -> list[tuple[float, float]]:
    best = np.maximum.accumulate([value for _, value in dice]).tolist()
    return [(moment, value) for (moment, _), value in zip(dice, best, strict=True)]


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
