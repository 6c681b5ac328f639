"""Scores and pictures of single cases, and what they say of trials: how sure a Dice is, what time buys, which of two is better."""

import numpy as np
import pandas as pd
import pyarrow as pa

from dashboards.summaries.progress import MAX_CURVES
from dashboards.summaries.trials import KEY
from tune.lake import statistics

_COMPARED = 10  # trials whose cases are compared in pairs
_GALLERY_CASES = 3  # best, and as many worst


def certainty(cases: pa.Table, trials: pd.DataFrame) -> pd.DataFrame:
    """How sure the final Dice of each trial is: `groups`, `low`, `high`, `best`, `p`, `in_best_set`, see `tune.lake.statistics`."""
    found: pd.DataFrame = statistics.comparison(cases, _key(trials)).to_pandas()
    return found[[*KEY, "groups", "low", "high", "best", "p", "in_best_set"]]


def counted(words: str, groups: float | None) -> str:
    """Words for cases, with the number of their groups where they belong together: `40 cases`, or `40 cases of 10 groups`."""
    return words if groups is None or pd.isna(groups) else f"{words} of {int(groups)} group{'s' * (groups != 1)}"


def tradeoffs(cases: pa.Table, ranked: pd.DataFrame) -> pd.DataFrame:
    """Dice and seconds per case of ranked trials at every number of votes, see `tune.lake.statistics`, the best trials first.

    As many trials as charts can show, with their `label`, `kind` and `place`.
    """
    points: pd.DataFrame = statistics.tradeoffs(cases, _key(ranked)).to_pandas()
    known = ranked[[*KEY, "label", "kind"]].assign(place=range(len(ranked)))
    found = points.merge(known, on=KEY).sort_values(["place", "votes"], kind="stable")
    kept = found["on_front"] | (found["place"].rank(method="dense") <= MAX_CURVES)
    return found[kept].reset_index(drop=True)


def _key(trials: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(trials[[*KEY, "dataset", "status"]], preserve_index=False)


def compared(cases: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Dice per validation case, mean over classes at the most votes, of the best trials that have the same cases as the first.

    With the `group` of every case, missing where cases stand alone.
    """
    rows = cases[(cases["split"] == "validation") & cases["dice"].notna()]
    rows = rows[rows["votes"] == rows.groupby(KEY)["votes"].transform("max")]
    places = trials[[*KEY, "label"]].assign(place=np.arange(len(trials)))
    means = rows.groupby([*KEY, "case"], sort=True)["dice"].mean().reset_index().merge(places, on=KEY)
    owner = rows[["experiment", "case", "group"]].drop_duplicates(["experiment", "case"])
    means = means.merge(owner, on=["experiment", "case"], how="left")
    means = means.sort_values(["place", "case"], kind="stable")
    kept: list[pd.DataFrame] = []
    for _, own in means.groupby("place", sort=True):
        if not kept or list(own["case"]) == list(kept[0]["case"]):
            kept.append(own)
        if len(kept) == _COMPARED:
            break
    return pd.concat(kept, ignore_index=True) if kept else means


def pairs(cases: pd.DataFrame) -> pd.DataFrame:
    """Every pair of compared trials: mean `difference` of the Dice, first less second, with its 95 % interval and Wilcoxon's p.

    Where cases belong together, both count groups.
    """
    values = {int(own["place"].iloc[0]): own["dice"].to_numpy(np.float64) for _, own in cases.groupby("place", sort=True)}
    chosen = [(first, second) for first in values for second in values if first < second]
    if not chosen:
        return pd.DataFrame(columns=["first", "second", "difference", "low", "high", "p"])
    differences = np.stack([values[first] - values[second] for first, second in chosen], axis=1)
    groups = next((found for _, own in cases.groupby("place") if (found := statistics.labels_of(own)) is not None), None)
    low, high = statistics.mean_interval(differences, groups)
    p = [statistics.wilcoxon(values[first], values[second], groups) for first, second in chosen]
    columns = {"first": [pair[0] for pair in chosen], "second": [pair[1] for pair in chosen]}
    return pd.DataFrame(columns | {"difference": differences.mean(axis=0), "low": low, "high": high, "p": p})


def worst_first(cases: pd.DataFrame) -> pd.DataFrame:
    """One trial's cases at the most votes, by Dice."""
    most = cases.groupby("split")["votes"].transform("max")
    return cases[cases["votes"] == most].sort_values(["dice", "case"], na_position="last", kind="stable").reset_index(drop=True)


def pictured(gallery: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Pictured cases of the best trial that has any: best, median and worst by Dice, best first, told apart by `place`."""
    places = trials[[*KEY, "label"]].assign(order=np.arange(len(trials)))
    joined = gallery.merge(places, on=KEY)
    if joined.empty:
        return joined.assign(place=pd.Series(dtype=object))
    own = joined[joined["order"] == joined["order"].min()]
    return placed(own)


def placed(gallery: pd.DataFrame) -> pd.DataFrame:
    """One trial's pictured cases, best first; `place` is best, median or worst. Older lakes have no median case."""
    own = gallery.sort_values(["dice", "case"], ascending=[False, True], na_position="last", kind="stable")
    best = own.head(min(_GALLERY_CASES, (len(own) + 1) // 2))
    worst = own.drop(best.index).tail(_GALLERY_CASES)
    median = own.drop([*best.index, *worst.index]).head(1)
    parts = [(best, "best"), (median, "median"), (worst, "worst")]
    chosen: pd.DataFrame = pd.concat([part.assign(place=place) for part, place in parts], ignore_index=True)
    return chosen
