"""What pages say of boards and trials in figures and words, as plain values."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import pandas as pd

from dashboards.pages.words import digits, duration, moment
from dashboards.summaries import DASH, Board, Rows, Trial, counted, records

_FAILED = ("failed", "diverged", "infeasible")

Tile = tuple[str, str, str]
"""A large figure: its name, its value, and a note."""


def board_tiles(boards: Sequence[Board]) -> Iterator[Tile]:
    """The large figures of some boards."""
    for board in boards:
        best = board.trials.iloc[0] if len(board.trials) and pd.notna(board.trials["score"].iloc[0]) else None
        note = f"{board.dataset}: no trial scored yet" if best is None else f"{board.dataset}, trial {best['label']}"
        yield "Best validation Dice", digits(None if best is None else best["score"], 4), note
    tested = [row for board in boards for row in records(board.finalists.head(1)) if pd.notna(row["test_dice"])]
    if len(boards) == 1 and tested:
        cases = counted(f"{int(tested[0]['cases'])} test cases", tested[0]["groups"])
        note = f"best finalist, {cases}, {int(tested[0]['trainings'])} trainings"
        yield "Test Dice", digits(tested[0]["test_dice"], 4), note
    own = {id(frame): frame for board in boards for frame in (board.trials, board.trainings)}
    trials = pd.concat([frame for frame in own.values() if len(frame)]) if any(map(len, own.values())) else pd.DataFrame()
    trials = trials.drop_duplicates(["experiment", "trial_id"]) if len(trials) else trials
    counts = trials["status"].fillna("unknown").value_counts() if len(trials) else pd.Series(dtype=int)
    yield "Trials", str(len(trials)), ", ".join(f"{count} {status}" for status, count in counts.items()) or "none started yet"
    gpu, cpu, money = (float(trials[name].sum()) if len(trials) else 0.0 for name in ("gpu_seconds", "cpu_seconds", "cost"))
    other = f"and {duration(cpu)} of CPU time" if gpu > 0 and cpu > 0 else "added over all trials"
    name, seconds = ("GPU time", gpu) if gpu > 0 else ("CPU time", cpu)
    yield name, duration(seconds), other + (f", cost {money:.2f}" if money > 0 else "")


def trial_tiles(row: Mapping[str, Any]) -> Iterator[Tile]:
    """The large figures of a trial."""
    best = f"rank {int(row['rank'])}" if pd.notna(row["rank"]) else "no rank"
    if pd.notna(row["best_epoch"]) and pd.notna(row["epochs"]):
        best = f"epoch {int(row['best_epoch'])} of {int(row['epochs'])}, {best}"
    yield "Validation Dice", digits(row["score"], 4), best
    interval = f"95 % interval {row['low']:.3f} to {row['high']:.3f}" if pd.notna(row["low"]) else "full protocol, validation split"
    yield "Final Dice", digits(row["final_dice"], 4), interval
    if pd.notna(row["test_dice"]):
        yield "Test Dice", digits(row["test_dice"], 4), f"seed {row['seed']}, fold {row['fold']}"
    votes = f"{int(row['votes'])} votes" if pd.notna(row["votes"]) else "for the masks"
    yield "Seconds per case", digits(row["seconds_per_case"], 3), votes
    gpu = pd.notna(row["gpu_seconds"]) and row["gpu_seconds"] > 0
    money = f", cost {row['cost']:.2f}" if pd.notna(row["cost"]) and row["cost"] > 0 else ""
    used = duration(row["gpu_seconds"] if gpu else row["cpu_seconds"])
    yield "GPU time" if gpu else "CPU time", used, moment(row["started_at"]) + money


def experiments(rows: Rows, board: Board) -> Iterator[Mapping[str, Any]]:
    """A line per experiment of a board."""
    for name in board.experiments:
        about, own = rows.descriptions[name], rows.trials[rows.trials["experiment"] == name]
        own = own[own["dataset"] == board.dataset]
        arguments = _mapping(about.get("arguments"))
        how = ", ".join(str(arguments[key]) for key in ("sampler", "scheduler") if arguments.get(key))
        hours = own["gpu_seconds"].sum() or own["cpu_seconds"].sum()
        best = pd.to_numeric(own["validation_dice"], errors="coerce").max()
        line = {"name": name, "trials": len(own), "best": best, "how": "finalists" if "finalists" in about else how or DASH}
        yield line | {"began": own["started_at"].min() if len(own) else None, "seconds": hours or None}


def failures(board: Board) -> list[Mapping[str, Any]]:
    """Trials that failed, diverged or ran out of memory, and `why`, in order of proposal."""
    trials = board.trials[board.trials["status"].isin(_FAILED)].sort_values("number", kind="stable")
    return [{"label": row["label"], "status": row["status"], "why": _why(row)} for row in records(trials)]


def _why(row: Mapping[str, Any]) -> str:
    texts = (row["error"], row["reason"])
    return next((str(words) for words in texts if pd.notna(words) and str(words).strip()), "no reason was recorded")


def how_it_was_run(about: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What an experiment's description says, by name."""
    arguments, space, versions = (_mapping(about.get(name)) for name in ("arguments", "space", "versions"))
    facts = [(name.replace("_", " "), about.get(name)) for name in ("dataset", "fold_name", "source", "created_at")]
    facts += [(name.replace("_", " "), arguments.get(name)) for name in ("sampler", "scheduler", "trials", "time_budget", "seed")]
    facts += [("space", PurePath(str(space["source"])).name if space.get("source") else None), ("preset", space.get("preset"))]
    for name, values in (("cases", about.get("split_sizes")), ("resources", about.get("resources")), ("versions", versions)):
        facts.append((name, ", ".join(f"{key} {value}" for key, value in _mapping(values).items())))
    facts += [("groups of cases", about.get("groups")), ("git commit", about.get("git_commit"))]
    return [(name, value) for name, value in facts if value not in (None, "", {})]


def where_it_ran(trial: Trial) -> list[tuple[str, Any]]:
    """What is known of the machine and the course of a trial, by name."""
    row, about = trial.row, trial.description
    versions = _mapping(about.get("versions"))
    facts: list[tuple[str, Any]] = [
        ("trial id", row["trial_id"]),
        *((name, row[name]) for name in ("host", "device", "workers")),
        ("memory", f"{row['memory_bytes'] / 2**30:.2f} GiB at most" if pd.notna(row["memory_bytes"]) else None),
        ("parameters of the network", f"{int(row['parameters']):,}" if pd.notna(row["parameters"]) else None),
        *((name, row[name]) for name in ("seed", "fold")),
        ("started", moment(row["started_at"])),
        ("ended", moment(row["ended_at"])),
        ("time on the device", duration(row["seconds"])),
        ("time to the first step", duration(row.get("startup_seconds"))),
        ("restarts", row["restarts"]),
        ("copy of trial", row["parent"]),
        ("checkpoint, within the lake", row["checkpoint"]),
        ("git commit", about.get("git_commit")),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items()) if versions else None),
    ]
    return [
        (name, int(value) if isinstance(value, float) and value.is_integer() else value)
        for name, value in facts
        if value is not None and value == value and value != DASH
    ]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
