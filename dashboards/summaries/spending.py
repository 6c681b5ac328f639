"""Time and money: who ran when, and what it took."""

import pandas as pd

from dashboards.summaries.trials import records

MAX_BARS = 1000  # of the timeline


def timeline(trials: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Who ran where and when: `lane`, `begin` and `end` in hours since the experiment's first start; and how many were left out.

    Trials that ran side by side on one machine have lanes of their own. A trial that still runs ends at the latest time known.
    """
    started = trials[trials["started_at"].notna()].sort_values("started_at", kind="stable")
    left_out = max(len(started) - MAX_BARS, 0)
    started = started.tail(MAX_BARS)
    if started.empty:
        return started.assign(lane=[], begin=[], finish=[]), 0
    latest = trials[["started_at", "ended_at", "recorded_at"]].max().max()
    ends = started["ended_at"].fillna(latest)
    zero = started.groupby("experiment")["started_at"].transform("min")
    begin, finish = ((times - zero).dt.total_seconds() / 3600 for times in (started["started_at"], ends))
    several = started["experiment"].nunique() > 1
    lanes, free = [], dict[str, list[float]]()
    for row, start, end in zip(records(started), begin, finish, strict=True):
        machine = " · ".join(str(row[name]) for name in ("host", "device") if isinstance(row[name], str)) or "unknown machine"
        machine = f"{row['experiment']}: {machine}" if several else machine
        ends_of = free.setdefault(machine, [])
        place = next((place for place, until in enumerate(ends_of) if until <= start), len(ends_of))
        ends_of[place : place + 1] = [end]
        lanes.append((machine, place))
    width = {machine: len(ends_of) for machine, ends_of in free.items()}
    names = [machine if width[machine] == 1 else f"{machine} ({place + 1})" for machine, place in lanes]
    return started.assign(lane=names, begin=begin, finish=finish), left_out


def costs(trials: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Trials in the order of their end with their `hours`, the `total` so far and the `best` Dice so far; and the hours' unit."""
    for column, unit in (("gpu_seconds", "GPU-hours"), ("cpu_seconds", "CPU-hours"), ("seconds", "hours")):
        if trials[column].fillna(0).gt(0).any():
            ordered = trials[trials[column].fillna(0) > 0].sort_values(["ended_at", "number"], na_position="last", kind="stable")
            hours = ordered[column] / 3600
            return ordered.assign(hours=hours, total=hours.cumsum(), best=ordered["score"].cummax().ffill()), unit
    return trials.iloc[:0].assign(hours=[], total=[], best=[]), "hours"
