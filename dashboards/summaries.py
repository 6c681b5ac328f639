"""What the leaderboard says, computed from the lake as plain data frames. Knows nothing of Plotly or HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tune.results import Lake

MAX_PARALLEL_ROWS = 1000  # parallel coordinates are sluggish beyond
MAX_CURVES = 200
MAX_CURVE_POINTS = 500
HIGHLIGHTED_CURVES = 6
GALLERY_CASES = 3  # best, and as many worst

_CONFIG = "config."
_UNUSED_BY_UNET = (
    "config.diffusion.",
    "config.model.latent",
    "config.model.discriminator",
    "config.model.attention_tap",
    "config.loss.adversarial",
    "config.loss.attention",
    "config.loss.r1",
    "config.optimiser.lr_discriminator",
)


@dataclass(frozen=True)
class Board:
    """Everything the leaderboard shows of one dataset."""

    dataset: str
    trials: pd.DataFrame
    """Ranked, best first, with the added columns `rank`, `label` and `score` (NaN where a trial has no Dice yet), and those of
    `tune.significance` that say how sure the final Dice is: `low`, `high`, `best`, `p_holm`."""
    searched: tuple[str, ...]
    """Config columns that the searches varied."""
    metrics: pd.DataFrame
    tradeoffs: pd.DataFrame
    """Dice and seconds per case of every trial at every number of votes, see `tune.tradeoffs`, with the trials' labels."""
    gallery: pd.DataFrame
    """Pictured cases of the best trial that has any, without the pictures' bytes."""
    experiments: tuple[str, ...]
    protocol: str
    """How the dataset is split and scored, in words, where an experiment says so."""


def boards(lake: Lake) -> list[Board]:
    """One board per dataset, by name."""
    trials = lake.trials().to_pandas()
    descriptions = {experiment.name: experiment.description for experiment in lake.experiments}
    known = {experiment.name: experiment.dataset or "unknown dataset" for experiment in lake.experiments}
    trials["dataset"] = trials["dataset"].fillna(trials["experiment"].map(known)).astype(str)
    trials = with_final_scores(without_unused(trials), lake.cases(["dice", "iou"]).to_pandas())
    certainty = lake.comparison().select(["experiment", "trial_id", "low", "high", "best", "p_holm"]).to_pandas()
    trials = trials.merge(certainty, on=["experiment", "trial_id"], how="left")
    metrics = lake.metrics(["dice"]).to_pandas()
    tradeoffs = lake.tradeoffs().to_pandas()
    gallery = lake.gallery(["dice", "votes"]).to_pandas()
    found = []
    for dataset in sorted({*known.values(), *trials["dataset"]}):
        ranked = rank(trials[trials["dataset"] == dataset])
        experiments = tuple(sorted({*ranked["experiment"], *(name for name in known if known[name] == dataset)}))
        if ranked.empty and not any(known[name] == dataset for name in experiments):
            continue
        found.append(
            Board(
                dataset,
                ranked,
                searched_columns(ranked, [descriptions.get(name, {}) for name in experiments]),
                _of_trials(metrics, ranked),
                labelled(_of_trials(tradeoffs, ranked), ranked),
                pictured(_of_trials(gallery, ranked), ranked),
                experiments,
                next((str(text) for name in experiments if (text := descriptions.get(name, {}).get("protocol"))), ""),
            )
        )
    return found


def without_unused(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials without the settings that a plain U-Net has no use for, such as its time steps."""
    columns = [column for column in trials.columns if column.startswith(_UNUSED_BY_UNET)]
    return trials.assign(**{column: trials[column].mask(trials["kind"] == "unet") for column in columns})


def rank(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials by validation Dice, best first; equal Dice shares a rank, and trials without Dice come last, without a rank."""
    ranked = trials.copy()
    ranked["score"] = pd.to_numeric(ranked["validation_dice"], errors="coerce").where(lambda dice: np.isfinite(dice))
    ranked["rank"] = ranked["score"].rank(ascending=False, method="min")
    ranked["label"] = labels(ranked)
    return ranked.sort_values(["score", "number"], ascending=[False, True], na_position="last", kind="stable").reset_index(
        drop=True
    )


def labelled(points: pd.DataFrame, ranked: pd.DataFrame) -> pd.DataFrame:
    """Points of trials with the labels and kinds of these, the best trials first; as many trials as charts can show."""
    known = ranked[["experiment", "trial_id", "label", "kind"]].assign(place=range(len(ranked)))
    found = points.merge(known, on=["experiment", "trial_id"]).sort_values(["place", "votes"], kind="stable")
    kept = found["on_front"] | (found["place"].rank(method="dense") <= MAX_CURVES)
    return found[kept].reset_index(drop=True)


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
    most = cases.groupby(["experiment", "trial_id", "split"])["votes"].transform("max")
    by_class = cases[cases["votes"] == most].groupby(["experiment", "trial_id", "split", "class"])[["dice", "iou"]].mean()
    means = by_class.groupby(["experiment", "trial_id", "split"]).mean()
    filled = trials.copy()
    for split, prefix in (("validation", "final"), ("test", "test")):
        if split not in means.index.get_level_values("split"):
            continue
        of_split = means.xs(split, level="split")
        positions = pd.MultiIndex.from_frame(filled[["experiment", "trial_id"]])
        for name in ("dice", "iou"):
            column = f"{prefix}_{name}"
            filled[column] = filled[column].fillna(pd.Series(of_split[name].reindex(positions).to_numpy(), index=filled.index))
    return filled


def searched_columns(trials: pd.DataFrame, descriptions: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Config columns that the experiments name as `searched` or as the keys of `space`; else all that differ between trials."""
    named = {f"{_CONFIG}{path}" for description in descriptions for path in _declared(description)}
    columns = [column for column in trials.columns if column.startswith(_CONFIG)]
    declared = tuple(column for column in columns if column in named)
    return declared or tuple(column for column in columns if trials[column].dropna().map(str).nunique() > 1)


def _declared(description: Mapping[str, Any]) -> list[str]:
    for name in ("searched", "space"):
        value = description.get(name)
        if isinstance(value, Mapping):
            inner = next((value[key] for key in ("parameters", "search") if isinstance(value.get(key), Mapping)), value)
            return [str(path) for path in inner]
        if isinstance(value, (list, tuple)):
            return [str(path) for path in value]
    return []


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
    places = trials[["experiment", "trial_id", "label"]].assign(place=np.arange(len(trials)))
    scored = metrics[np.isfinite(pd.to_numeric(metrics["dice"], errors="coerce"))]
    joined = scored.merge(places, on=["experiment", "trial_id"]).sort_values(["place", "epoch"], kind="stable")
    drawn = joined["place"].drop_duplicates()
    kept = joined[joined["place"].isin(drawn.iloc[:MAX_CURVES])]
    thinned = [thin(curve) for _, curve in kept.groupby("place", sort=True)]
    return (pd.concat(thinned, ignore_index=True) if thinned else kept), max(len(drawn) - MAX_CURVES, 0)


def thin(curve: pd.DataFrame, limit: int = MAX_CURVE_POINTS) -> pd.DataFrame:
    """At most `limit` points of one curve: of each stretch of epochs the lowest and the highest Dice, and both ends."""
    if len(curve) <= limit:
        return curve
    stretch = np.arange(len(curve)) * (limit // 2 - 1) // len(curve)
    dice = curve["dice"].reset_index(drop=True)
    groups = dice.groupby(stretch)
    keep = sorted({0, len(curve) - 1, *groups.idxmin(), *groups.idxmax()})
    return curve.iloc[keep]


def parallel(trials: pd.DataFrame, searched: Sequence[str]) -> tuple[pd.DataFrame, list[str], int]:
    """Rows and the varying columns for parallel coordinates, and how many scored trials were left out.

    Trials that lack a Dice or one of the values are left out; beyond `MAX_PARALLEL_ROWS` the better half stays whole and the rest
    is a random sample.
    """
    scored = trials[trials["score"].notna()]
    varying = [column for column in searched if scored[column].dropna().map(str).nunique() > 1]
    rows = scored.dropna(subset=varying)
    if len(rows) > MAX_PARALLEL_ROWS:
        half = MAX_PARALLEL_ROWS // 2
        rows = pd.concat([rows.iloc[:half], rows.iloc[half:].sample(MAX_PARALLEL_ROWS - half, random_state=0)])
    return rows, varying, len(scored) - len(rows)


def pictured(gallery: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Pictured cases of the best trial that has any: the best and the worst by Dice, best first, told apart by `place`."""
    places = trials[["experiment", "trial_id", "label"]].assign(order=np.arange(len(trials)))
    joined = gallery.merge(places, on=["experiment", "trial_id"])
    if joined.empty:
        return joined.assign(place=pd.Series(dtype=object))
    own = joined[joined["order"] == joined["order"].min()]
    own = own.sort_values(["dice", "case"], ascending=[False, True], na_position="last", kind="stable")
    best = own.head(min(GALLERY_CASES, (len(own) + 1) // 2))
    worst = own.drop(best.index).tail(GALLERY_CASES)
    chosen: pd.DataFrame = pd.concat([best.assign(place="best"), worst.assign(place="worst")], ignore_index=True)
    return chosen


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """One dictionary per row."""
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def _of_trials(rows: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    of_trials: pd.DataFrame = rows.merge(trials[["experiment", "trial_id"]], on=["experiment", "trial_id"])
    return of_trials
