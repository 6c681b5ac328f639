"""Dice as the search and its trainings go on: trial after trial, epoch after epoch."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from dashboards.summaries.trials import KEY

MAX_CURVES = 200
MAX_CURVE_POINTS = 500
HIGHLIGHTED_CURVES = 6
_REDUCTION = 3  # successive halving: of so many trials, one goes on


def history(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials with a Dice in the order in which they started: `position` from 1 and the running `best`."""
    ordered = trials.sort_values(["started_at", "number"], na_position="last", kind="stable")
    ordered = ordered.assign(position=np.arange(1, len(ordered) + 1))
    scored = ordered[ordered["score"].notna()]
    return scored.assign(best=scored["score"].cummax())


def improvements(trials: pd.DataFrame) -> pd.DataFrame:
    """The steps of the running best: the trials that beat all before them."""
    steps = history(trials)
    return steps[steps["best"] > steps["best"].shift(fill_value=-np.inf)]


def curves(trials: pd.DataFrame, metrics: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Dice by epoch of the best `MAX_CURVES` trials, with their `place` (0 = best) and `label`; and how many were left out."""
    places = trials[[*KEY, "label"]].assign(place=np.arange(len(trials)))
    scored = metrics[np.isfinite(pd.to_numeric(metrics["dice"], errors="coerce"))]
    joined = scored.merge(places, on=KEY).sort_values(["place", "epoch"], kind="stable")
    drawn = joined["place"].drop_duplicates()
    kept = joined[joined["place"].isin(drawn.iloc[:MAX_CURVES])]
    thinned = [thin(curve) for _, curve in kept.groupby("place", sort=True)]
    with_score = int(trials["score"].notna().sum())
    return (pd.concat(thinned, ignore_index=True) if thinned else kept), max(with_score - MAX_CURVES, 0)


def thin(curve: pd.DataFrame, limit: int = MAX_CURVE_POINTS) -> pd.DataFrame:
    """At most `limit` points of one curve: of each stretch of epochs the lowest and the highest Dice, and both ends."""
    if len(curve) <= limit:
        return curve
    stretch = np.arange(len(curve)) * (limit // 2 - 1) // len(curve)
    dice = curve["dice"].reset_index(drop=True)
    groups = dice.groupby(stretch)
    keep = sorted({0, len(curve) - 1, *groups.idxmin(), *groups.idxmax()})
    return curve.iloc[keep]


def loss_columns(metrics: pd.DataFrame) -> list[str]:
    """The losses that were recorded, whatever their names."""
    return [str(column) for column in metrics if str(column).startswith("loss_") and metrics[column].notna().any()]


def rungs(trials: pd.DataFrame, descriptions: Iterable[Mapping[str, Any]]) -> tuple[int, ...]:
    """Epochs after which successive halving stops trials: as many as are certain, three times that, and so on."""
    found: set[tuple[int, ...]] = set()
    epochs = pd.to_numeric(trials["config.training.epochs"], errors="coerce").max() if "config.training.epochs" in trials else 0
    for description in descriptions:
        arguments = description.get("arguments")
        scheduler = arguments.get("scheduler") if isinstance(arguments, Mapping) else None
        if scheduler not in ("asha", "hedged") or not epochs > 1:
            return ()
        rung, own = _grace(description, int(epochs)), []
        while rung < epochs:
            own.append(rung)
            rung *= _REDUCTION
        found.add(tuple(own))
    return found.pop() if len(found) == 1 else ()


def _grace(description: Mapping[str, Any], epochs: int) -> int:
    """Epochs before the first rung; older searches do not say it, and had an eighth of all."""
    said = description.get("grace_epochs")
    return said if isinstance(said, int) and said > 0 else max(1, epochs // 8)
