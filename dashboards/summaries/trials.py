"""Trials of a lake: ranked, named, sampled, with the scores that their cases give them."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tune.results import FALLEN

_CODES, _LINE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]"), 500  # letters of a line of a log

KEY = ["experiment", "trial_id"]
"""Columns that tell a trial from all others of a lake."""


def rank(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials by validation Dice, best first; equal Dice shares a rank.

    Trials without Dice come last, without a rank, and so do those that diverged or failed, whatever their Dice was before.
    """
    ranked = trials.copy()
    dice = pd.to_numeric(ranked["validation_dice"], errors="coerce")
    ranked["score"] = dice.where(np.isfinite(dice) & ~ranked["status"].isin(FALLEN))
    ranked["rank"] = ranked["score"].rank(ascending=False, method="min")
    ranked["label"] = labels(ranked)
    return ranked.sort_values(["score", "number"], ascending=[False, True], na_position="last", kind="stable").reset_index(
        drop=True
    )


def labels(trials: pd.DataFrame) -> pd.Series:
    """A short name for every trial: its number, with the experiment's name where there are several."""
    several = trials["experiment"].nunique() > 1
    names = [
        f"#{int(number)}" if pd.notna(number) else str(trial_id)
        for number, trial_id in zip(trials["number"], trials["trial_id"], strict=True)
    ]
    if several:
        names = [f"{experiment} {name}" for experiment, name in zip(trials["experiment"], names, strict=True)]
    return pd.Series(names, index=trials.index, dtype=object)


def with_final_scores(trials: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """Fill missing `final_*` and `test_*` figures from the cases: at the most votes, mean over cases, then over classes."""
    if trials.empty or cases.empty:
        return trials
    most = cases.groupby([*KEY, "split"])["votes"].transform("max")
    by_class = cases[cases["votes"] == most].groupby([*KEY, "split", "class"])[["dice", "iou"]].mean()
    means = by_class.groupby([*KEY, "split"]).mean()
    filled = trials.copy()
    for split, prefix in (("validation", "final"), ("test", "test")):
        if split not in means.index.get_level_values("split"):
            continue
        of_split = means.xs(split, level="split")
        positions = pd.MultiIndex.from_frame(filled[KEY])
        for name in ("dice", "iou"):
            column = f"{prefix}_{name}"
            filled[column] = filled[column].fillna(pd.Series(of_split[name].reindex(positions).to_numpy(), index=filled.index))
    return filled


def sample(trials: pd.DataFrame, limit: int) -> pd.DataFrame:
    """At most so many of ranked trials: the better half of them whole, the rest a random sample."""
    if len(trials) <= limit:
        return trials
    half = limit // 2
    return pd.concat([trials.iloc[:half], trials.iloc[half:].sample(limit - half, random_state=0)])


def of_trials(table: pa.Table, trials: pd.DataFrame) -> pa.Table:
    """The rows of a table that belong to some trials."""
    chosen = pa.array(np.zeros(len(table), dtype=bool))
    for experiment, own in trials.groupby("experiment", sort=False):
        of_experiment = pc.equal(table["experiment"], str(experiment))
        one_of_them = pc.is_in(table["trial_id"], value_set=pa.array(own["trial_id"], table.schema.field("trial_id").type))
        chosen = pc.or_(chosen, pc.and_(of_experiment, one_of_them))
    return table.filter(chosen)


def last_lines(log: str, lines: int = 200) -> str:
    """The last lines of a log, each of bounded length, without the codes that colour a terminal and what it overwrote."""
    kept = [_CODES.sub("", line.rstrip("\r").rpartition("\r")[2])[:_LINE] for line in log.rstrip().split("\n")[-lines:]]
    return "\n".join("".join(letter if letter.isprintable() or letter == "\t" else "\ufffd" for letter in line) for line in kept)


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """One dictionary per row."""
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]
