"""Whether a lake's books balance after a search, whatever befell it."""

from pathlib import Path
from typing import Any

import pandas as pd
from searches import trials

from tune.lake.status import ENDED, FALLEN, FINISHED, INPUT, MACHINE, SETTING, STOPPED, STORE
from tune.results import load


def faults_in(storage: Path | str, experiment: str, count: int) -> list[str]:
    """What is wrong, in sentences: trials lost or doubled, without an end or a cause; epochs missing; hours that do not add up."""
    table = trials(storage, experiment)
    metrics = load(storage).metrics().to_pandas().query("experiment == @experiment")
    cases = load(storage).cases().to_pandas().query("experiment == @experiment")
    found = []
    if sorted(table["number"]) != list(range(count)):
        found.append(f"the trials are {sorted(table['number'])}, not 0 to {count - 1}")
    if metrics.duplicated(["trial_id", "epoch"]).any():
        found.append("epochs are there twice")
    for row in table.to_dict("records"):
        own = metrics[metrics["trial_id"] == row["trial_id"]]
        scored = (cases["trial_id"] == row["trial_id"]).any()
        found += [f"trial {row['number']} ({row['status']}: {row['reason']}) {wrong}" for wrong in _wrong_in(row, own, scored)]
    return found


def _wrong_in(row: dict[str, Any], metrics: pd.DataFrame, scored: bool) -> list[str]:
    status, cause, found = row["status"], row["cause"], []
    if status not in ENDED or not row["reason"]:
        found.append("has no end")
    if status in FALLEN and cause not in (SETTING, MACHINE, INPUT, STORE):
        found.append(f"has the cause {cause}")
    if status in (FINISHED, STOPPED) and pd.notna(cause):
        found.append(f"ended well, and has the cause {cause}")
    epochs = 0 if pd.isna(row["epochs"]) else int(row["epochs"])
    if sorted(metrics["epoch"]) != list(range(1, epochs + 1)):
        found.append(f"has the epochs {sorted(metrics['epoch'])} of {epochs}")
    if status == FINISHED and not (scored and pd.notna(row["final_dice"])) and "not scored" not in row["reason"]:
        found.append("is not scored")
    trained = metrics["train_seconds"].sum() + metrics["validation_seconds"].sum()
    if epochs and not row["seconds"] >= trained - 0.1:
        found.append(f"is booked with {row['seconds']:.1f} s, but its epochs took {trained:.1f} s")
    scored_later = status == STOPPED and pd.notna(row["final_dice"])
    if pd.notna(row["seconds"]) and not scored_later and row["seconds"] > (row["ended_at"] - row["started_at"]).total_seconds() + 1:
        found.append(f"is booked with {row['seconds']:.1f} s, more than passed")
    return found
