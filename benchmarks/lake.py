"""How fast a large results lake is read, and whether it slows its writer down.

    python benchmarks/lake.py                                   # 10,000 trials of 100 epochs in a temporary folder
    python benchmarks/lake.py --trials 1000 --keep lake         # smaller, and kept

Prints, measured in a process of its own: seconds (on the wall and of processor) and growth of the resident memory for the tables
that a leaderboard needs; then the seconds of processor per durable append of an epoch, beside a tenth of the lake and beside all.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from tune.lake import SCHEMAS, Store, write_file
from tune.results import Writer, create_experiment

NAME = "large"
FINISHED = 10  # one trial in ten gets to its end and is scored
CASES, CLASSES, VOTES = 20, ("anterior", "posterior"), (1, 2, 3, 4, 5)
PICTURES = 6
AT_ONCE = 64  # trials that run side by side
MOST_SECONDS, MOST_BYTES, MOST_RATIO = 1.5, 2**30, 1.2

_START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1e6)
_CONSTANT = 30  # settings that the search does not vary


def make_lake(root: str | Path, trials: int, epochs: int, seed: int = 0) -> None:
    """Write a lake in the shape that a search leaves, in bulk: files of many sizes, and rows that newer ones replaced.

    Dice rises with the epochs towards a top that depends on the settings. Every tenth trial is finished and has cases and pictures.
    """
    random = np.random.default_rng(seed)
    create_experiment(root, NAME, {"dataset": "hippocampus", "fold": 0, "searched": [f"loss.weight_{n}" for n in range(4)]})
    settings = random.uniform(size=(trials, 4))
    tops = 0.88 - 0.3 * ((settings - 0.6) ** 2).sum(1)
    number = np.arange(trials)
    curves = tops[:, None] * (1 - np.exp(-(1 + np.arange(epochs)) / 8)) + random.normal(0, 0.005, (trials, epochs))
    # Trials run side by side: batches of them write their epochs in turn.
    order = np.argsort((np.repeat(number // AT_ONCE, epochs) * epochs + np.tile(np.arange(epochs), trials)), kind="stable")
    _write_metrics(root, curves, order, random)
    _write_trials(root, settings, curves, random)
    _write_scores(root, number[::FINISHED], tops, random)


def _write_metrics(root: str | Path, curves: np.ndarray, order: np.ndarray, random: np.random.Generator) -> None:
    trials, epochs = curves.shape
    count = curves.size
    epoch = np.tile(1 + np.arange(epochs), trials)[order]
    columns: dict[str, Any] = {
        "trial_id": _ids(np.repeat(np.arange(trials), epochs)[order]),
        "epoch": epoch,
        "step": epoch * 50,
        "images": epoch * 400,
        "dice": curves.ravel()[order],
        "iou": curves.ravel()[order] * 0.8,
        "class_dice": pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(curves.ravel()[order], 2)), 2).cast(
            pa.list_(pa.float64())
        ),
        "train_seconds": random.uniform(10, 12, count),
        "validation_seconds": random.uniform(1, 2, count),
        "images_per_second": random.uniform(30, 40, count),
        "memory_bytes": np.full(count, 3 * 10**9),
        "lr_generator": np.full(count, 1e-3),
        "lr_discriminator": np.full(count, 1e-3),
        "loss_generator": random.gamma(2.0, size=count),
        "loss_discriminator": random.gamma(2.0, size=count),
    }
    _write(root, "metrics", _table("metrics", columns, _START + 100_000 * np.arange(count)))


def _write_trials(root: str | Path, settings: np.ndarray, curves: np.ndarray, random: np.random.Generator) -> None:
    trials, epochs = curves.shape
    number = np.arange(trials)
    versions = []
    batch_end = (1 + number // AT_ONCE) * AT_ONCE * epochs * 100_000
    for place, status in enumerate(("pending", "running", "stopped")):
        ended = status == "stopped"
        finished = ended & (number % FINISHED == 0)
        columns: dict[str, Any] = {
            "trial_id": _ids(number),
            "number": number,
            "dataset": ["hippocampus"] * trials,
            "fold": np.zeros(trials, np.int64),
            "kind": np.where(number == 0, "published", np.where(number == 1, "unet", "searched")),
            "status": np.where(finished, "finished", status),
            "seed": number,
            "started_at": pa.array(_START + batch_end - 6 * 10**8).cast(pa.timestamp("us", tz="UTC")),
            "host": ["node"] * trials,
            "device": ["NVIDIA H100"] * trials,
            "workers": np.ones(trials, np.int64),
        }
        if ended:
            columns |= {"epochs": np.full(trials, epochs), "validation_dice": curves.max(1), "validation_iou": curves.max(1) * 0.8}
            columns |= {"best_epoch": 1 + curves.argmax(1), "final_dice": pa.array(curves.max(1), mask=~finished)}
            columns |= {"seconds": random.uniform(1000, 1200, trials), "gpu_seconds": random.uniform(1000, 1200, trials)}
            columns |= {"seconds_per_case": random.uniform(0.1, 1, trials), "cost": random.uniform(1, 2, trials)}
        columns |= {f"config.loss.weight_{place}": settings[:, place] for place in range(settings.shape[1])}
        columns |= {f"config.model.constant_{place}": np.full(trials, place) for place in range(_CONSTANT)}
        versions.append(_table("trials", columns, _START + batch_end + (place - 2) * 5 * 10**8 + number))
    _write(root, "trials", pa.concat_tables(versions))


def _write_scores(root: str | Path, finished: np.ndarray, tops: np.ndarray, random: np.random.Generator) -> None:
    names = np.array([f"hippocampus_{case:03d}" for case in range(CASES)])
    shape = (len(finished), CASES, len(CLASSES), len(VOTES))
    trial, case, kind, votes = (axis.ravel() for axis in np.indices(shape))
    dice = np.clip(tops[finished][trial] + random.normal(0, 0.03, (len(finished), CASES))[trial, case] + 0.002 * votes, 0, 1)
    columns: dict[str, Any] = {"trial_id": _ids(finished[trial]), "split": ["validation"] * len(trial), "case": names[case]}
    columns |= {"class": np.array(CLASSES)[kind], "votes": np.array(VOTES)[votes], "dice": dice, "iou": dice * 0.8}
    columns |= {"hd95": 5 * (1 - dice), "seconds": 0.2 * (1 + votes)}
    _write(root, "cases", _table("cases", columns, _START + 10**9 * (1 + trial) + np.arange(len(trial))))
    pictures = [_picture(random, colours) for colours in (256, 3, 3)]
    trial, case = (axis.ravel() for axis in np.indices((len(finished), PICTURES)))
    columns = {"trial_id": _ids(finished[trial]), "split": ["validation"] * len(trial), "case": names[case]}
    columns |= {"votes": np.full(len(trial), VOTES[-1]), "dice": np.clip(tops[finished][trial] + 0.01 * case, 0, 1)}
    columns |= {name: [picture] * len(trial) for name, picture in zip(("image", "truth", "prediction"), pictures, strict=True)}
    _write(root, "gallery", _table("gallery", columns, _START + 10**9 * (1 + trial) + np.arange(len(trial))))


def _ids(numbers: np.ndarray) -> pa.Array:
    return pa.DictionaryArray.from_arrays(numbers, [f"{number:05d}" for number in range(numbers.max() + 1)]).cast(pa.string())


def _picture(random: np.random.Generator, colours: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(random.integers(0, colours, (32, 32), np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def _table(table: str, columns: dict[str, Any], stamps: np.ndarray) -> pa.Table:
    """Rows with the columns in the order in which a writer has them."""
    count, known = len(stamps), SCHEMAS[table]
    own = {"experiment": [NAME] * count, "recorded_at": pa.array(stamps).cast(pa.timestamp("us", tz="UTC"))} | columns
    missing = {field.name: pa.nulls(count, field.type) for field in known if field.name not in own}
    return pa.table(own | missing).select([*known.names, *(name for name in own if name not in known.names)])


def _write(root: str | Path, table: str, rows: pa.Table) -> None:
    """Files as a writer's merges leave them: each an eighth of those before, seven of a size."""
    rows = rows.sort_by("recorded_at")
    for start, stop, level in _parts(rows.num_rows):
        write_file(Store(root), f"{NAME}/{table}", rows.slice(start, stop - start), level)


def _parts(count: int) -> Iterator[tuple[int, int, int]]:
    start, level = 0, 4
    while start < count:
        size = max((count - start) // 8, 1) if level else count - start
        for _ in range(7 if level else 1):
            yield start, min(start + size, count), level
            start += size
        level -= 1


_READ = """
import json, resource, sys, time
from tune.results import load
def memory():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
wanted = {"trials": [None], "metrics": [["dice"]], "cases": [["dice", "iou"], ["dice", "seconds"]], "gallery": [["dice", "votes"]]}
before, peak, report = memory(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
wall, cpu = time.perf_counter(), time.process_time()
lake = load(sys.argv[1])
for table, chosen in wanted.items():
    start = time.perf_counter(), time.process_time()
    for columns in chosen:
        rows = lake.trials() if columns is None else getattr(lake, table)(columns)
    report[table] = [rows.num_rows, time.perf_counter() - start[0], time.process_time() - start[1]]
report["all"] = [0, time.perf_counter() - wall, time.process_time() - cpu]
report["bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
print(json.dumps(report))
"""


def append_seconds(root: Path, repeats: int = 60) -> float:
    """Median over means of eight: processor seconds until a row is durable, merging included. The rows are removed again."""
    store, taken = Store(root), []
    before = store.files(f"{NAME}/metrics")
    with Writer(root, NAME, flush_seconds=0) as writer:
        for repeat in range(repeats):
            start = time.process_time()
            writer.append("metrics", {"trial_id": "appended", "epoch": repeat, "dice": 0.5})
            taken.append(time.process_time() - start)
    store.delete(set(store.files(f"{NAME}/metrics")) - set(before))
    return float(np.median(np.mean(np.reshape(taken[: repeats // 8 * 8], (-1, 8)), 1)))


def main() -> int:
    """Print the figures; 1 where one is beyond its bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="make the lake here, and leave it there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root, small = given.keep or Path(temporary, "lake"), Path(temporary, "small")
        make_lake(root, given.trials, given.epochs)
        make_lake(small, max(given.trials // 10, 1), given.epochs)
        sizes = [path.stat().st_size for path in root.rglob("*.parquet")]
        print(f"{given.trials:,} trials of {given.epochs} epochs: {len(sizes)} files, {sum(sizes) / 2**20:.0f} MiB")
        done = subprocess.run([sys.executable, "-c", _READ, str(root)], capture_output=True, text=True, check=True)
        report = json.loads(done.stdout)
        growth = report.pop("bytes")
        for table, (rows, wall, cpu) in report.items():
            print(f"  {table:8} {rows or '':>9} rows {wall:7.2f} s {cpu:7.2f} s of processor")
        seconds = report["all"][2]
        print(f"seconds of processor {seconds:.2f} (bar {MOST_SECONDS})")
        print(f"growth of the resident memory {growth / 2**20:.0f} MiB (bar {MOST_BYTES / 2**20:.0f})")
        few, many = append_seconds(small), append_seconds(root)
        print(f"append {few * 1e3:.2f} ms, {many * 1e3:.2f} ms: ratio {many / few:.2f} (bar {MOST_RATIO})")
    return int(seconds > MOST_SECONDS or growth > MOST_BYTES or many / few > MOST_RATIO)


if __name__ == "__main__":
    sys.exit(main())
