"""What the dashboards say, computed from the lake as plain data frames. Knows nothing of Plotly or HTML.

rows = read(load("results"))           # the lake, read once
for board in boards(rows): ...         # all searches on one dataset together
board_of(rows, "first")                # one experiment
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dashboards.importance import importances
from tune.lake import significance
from tune.lake.tradeoffs import tradeoffs
from tune.results import Lake

MAX_TRIALS = 1000  # of a board that are looked at in detail: listed, tested, drawn as points
MAX_PARALLEL_ROWS = 1000  # parallel coordinates are sluggish beyond
MAX_SLICE_POINTS = 6000  # in all slices together; beyond some 10,000 SVG marks a page is sluggish
MAX_CURVES = 200
MAX_CURVE_POINTS = 500
MAX_BARS = 1000  # of the timeline
HIGHLIGHTED_CURVES = 6
COMPARED = 10  # trials whose cases are compared in pairs
GALLERY_CASES = 3  # best, and as many worst
REDUCTION = 3  # successive halving: of so many trials, one goes on

_CONFIG = "config."
_KEY = ["experiment", "trial_id"]
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


@dataclass(frozen=True, eq=False)
class Rows:
    """A lake, read once."""

    descriptions: Mapping[str, Mapping[str, Any]]
    """By experiment: what its experiment.json says."""
    trials: pd.DataFrame
    """All trials, without the settings that do not matter to them."""
    metrics: pa.Table
    cases: pa.Table
    gallery: pa.Table
    """Without the pictures' bytes."""
    finalists: pd.DataFrame

    def dataset(self, experiment: str) -> str:
        """Name of an experiment's dataset."""
        return str(self.descriptions[experiment].get("dataset") or "unknown dataset")


@dataclass(frozen=True, eq=False)
class Board:
    """Everything that is shown of one dataset, or of one experiment."""

    dataset: str
    experiments: tuple[str, ...]
    descriptions: Mapping[str, Mapping[str, Any]]
    trials: pd.DataFrame
    """Ranked, best first, with the added columns `rank`, `label` and `score` (NaN where a trial has no Dice yet), and those of
    `tune.lake.significance`, which say how sure the final Dice is: `low`, `high`, `best`, `p_holm`. Finalists' trainings are not
    among them, unless there is nothing else."""
    trainings: pd.DataFrame
    """Of finalists, ranked likewise."""
    finalists: pd.DataFrame
    """One row per finalist, see `tune.lake.significance`."""
    searched: tuple[str, ...]
    """Config columns that the searches varied."""
    metrics: pd.DataFrame
    """Of the best trials' epochs."""
    tradeoffs: pd.DataFrame
    """Dice and seconds per case of every trial at every number of votes, see `tune.lake.tradeoffs`, with the trials' labels."""
    cases: pd.DataFrame
    """Dice of every validation case of the best trials that were scored on the same ones, with `place` and `label`."""
    gallery: pd.DataFrame
    """Pictured cases of the best trial that has any, without the pictures' bytes."""
    rungs: tuple[int, ...]
    """Epochs after which successive halving stopped trials; empty where the searches had other rules, or differ."""

    @property
    def protocol(self) -> str:
        """How the dataset is split and scored, in words, where an experiment says so."""
        texts = (self.descriptions[name].get("protocol") for name in self.experiments)
        return next((str(text) for text in texts if text), "")

    @property
    def published_settings(self) -> Mapping[str, Any]:
        """The settings of the trial with the published ones; empty where there is none."""
        own = self.trials[self.trials["kind"] == "published"]
        return records(own.head(1))[0] if len(own) else {}

    @cached_property
    def importances(self) -> pd.DataFrame:
        """How much each searched parameter matters to the Dice, see `dashboards.importance`."""
        return importances(self.trials, self.searched)


@dataclass(frozen=True, eq=False)
class Trial:
    """Everything that is shown of one trial."""

    row: Mapping[str, Any]
    """Its row of the board."""
    settings: pd.DataFrame
    """`field`, `value`, the `published` value, and whether it is `searched` and has `changed`."""
    metrics: pd.DataFrame
    cases: pd.DataFrame
    gallery: pd.DataFrame
    rungs: tuple[int, ...]
    description: Mapping[str, Any]
    """Of its experiment."""


# ------------------------------------------------------------------------------------------------------------------- from the lake


def read(lake: Lake) -> Rows:
    """Read what the dashboards show."""
    descriptions = {experiment.name: experiment.description for experiment in lake.experiments}
    trials = lake.trials().to_pandas()
    known = {name: str(about.get("dataset") or "unknown dataset") for name, about in descriptions.items()}
    trials["dataset"] = trials["dataset"].fillna(trials["experiment"].map(known)).astype(str)
    trials = without_unused(trials)
    for name, about in descriptions.items():
        trials = without_inactive(trials, name, about)
    return Rows(
        descriptions,
        trials,
        lake.metrics(),
        lake.cases(["dice", "iou", "hd95", "assd", "seconds"]),
        lake.gallery(["dice", "votes"]),
        lake.finalists().to_pandas(),
    )


def boards(rows: Rows, known: Iterable[Board] = ()) -> list[Board]:
    """One board per dataset, by name; where that is one of the `known` ones of single experiments, the same."""
    of_dataset: dict[str, set[str]] = {}
    for name in rows.descriptions:
        own = set(rows.trials.loc[rows.trials["experiment"] == name, "dataset"])
        for dataset in own or {rows.dataset(name)}:
            of_dataset.setdefault(dataset, set()).add(name)
    there = {(board.dataset, board.experiments): board for board in known}
    named = [(dataset, tuple(sorted(names))) for dataset, names in sorted(of_dataset.items())]
    return [there.get(key) or _board(rows, *key) for key in named]


def board_of(rows: Rows, experiment: str) -> Board:
    """The board of one experiment."""
    own = rows.trials.loc[rows.trials["experiment"] == experiment, "dataset"]
    return _board(rows, str(own.iloc[0]) if len(own) else rows.dataset(experiment), [experiment])


def _board(rows: Rows, dataset: str, experiments: Sequence[str]) -> Board:
    own = rows.trials[(rows.trials["dataset"] == dataset) & rows.trials["experiment"].isin(experiments)]
    is_training = own["finalist"].notna()
    trainings = rank(own[is_training])
    ranked = rank(own[~is_training]) if not is_training.all() else trainings
    shown = ranked.head(MAX_TRIALS)
    cases = of_trials(rows.cases, shown)
    ranked = with_final_scores(ranked, cases.to_pandas())
    certainty = significance.comparison(cases, pa.Table.from_pandas(shown[[*_KEY, "dataset"]], preserve_index=False))
    certainty = certainty.select([*_KEY, "low", "high", "best", "p_holm"]).to_pandas()
    ranked = ranked.merge(certainty, on=_KEY, how="left")
    points = tradeoffs(cases, pa.Table.from_pandas(shown[[*_KEY, "dataset"]], preserve_index=False)).to_pandas()
    scored = ranked[ranked["score"].notna()]
    descriptions = {name: rows.descriptions[name] for name in experiments}
    finalists = rows.finalists[(rows.finalists["dataset"] == dataset) & rows.finalists["experiment"].isin(experiments)]
    return Board(
        dataset,
        tuple(experiments),
        descriptions,
        ranked,
        trainings,
        finalists.reset_index(drop=True),
        searched_columns(ranked, list(descriptions.values())),
        of_trials(rows.metrics, scored.head(MAX_CURVES)).to_pandas(),
        labelled(points, shown),
        compared_cases(cases.to_pandas(), ranked),
        pictured(of_trials(rows.gallery, shown).to_pandas(), ranked),
        rungs(ranked, descriptions.values()),
    )


def trials_of(rows: Rows, board: Board, chosen: pd.DataFrame) -> Iterator[Trial]:
    """Some trials of a board, each with all that is known of it."""
    metrics, cases, gallery = (
        _by_trial(of_trials(table, chosen).to_pandas()) for table in (rows.metrics, rows.cases, rows.gallery)
    )
    for row in records(chosen):
        key = (row["experiment"], row["trial_id"])
        yield Trial(
            row,
            settings(row, board),
            metrics[key].sort_values("epoch", kind="stable").reset_index(drop=True),
            worst_first(cases[key]),
            placed(gallery[key].assign(label=row["label"])),
            board.rungs,
            board.descriptions[row["experiment"]],
        )


def _by_trial(frame: pd.DataFrame) -> Mapping[Any, pd.DataFrame]:
    """The rows of every trial; none for those that are not there."""
    nothing = frame.iloc[:0]
    return defaultdict(lambda: nothing, {key: own for key, own in frame.groupby(_KEY)})


def settings(row: Mapping[str, Any], board: Board) -> pd.DataFrame:
    """A trial's settings beside the published ones, see `Trial`; searched ones first."""
    published = board.published_settings
    found = [
        {
            "field": name.removeprefix(_CONFIG),
            "value": value,
            "published": published.get(name),
            "searched": name in board.searched,
            "changed": bool(published) and _listed(value) is not None and _listed(value) != _listed(published.get(name)),
        }
        for name, value in row.items()
        if name.startswith(_CONFIG)
    ]
    columns = ["field", "value", "published", "searched", "changed"]
    ordered = [item for item in found if item["searched"]] + [item for item in found if not item["searched"]]
    return pd.DataFrame(ordered, columns=columns, dtype=object)


def _listed(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    return None if value is None or value is pd.NA or value != value else value


def worst_first(cases: pd.DataFrame) -> pd.DataFrame:
    """One trial's cases at the most votes, by Dice."""
    most = cases.groupby("split")["votes"].transform("max")
    return cases[cases["votes"] == most].sort_values(["dice", "case"], na_position="last", kind="stable").reset_index(drop=True)


def of_trials(table: pa.Table, trials: pd.DataFrame) -> pa.Table:
    """The rows of a table that belong to some trials."""
    chosen = pa.array(np.zeros(len(table), dtype=bool))
    for experiment, own in trials.groupby("experiment", sort=False):
        of_experiment = pc.equal(table["experiment"], str(experiment))
        one_of_them = pc.is_in(table["trial_id"], value_set=pa.array(own["trial_id"], table.schema.field("trial_id").type))
        chosen = pc.or_(chosen, pc.and_(of_experiment, one_of_them))
    return table.filter(chosen)


# ----------------------------------------------------------------------------------------------------------------------- settings


def without_unused(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials without the settings that a plain U-Net has no use for, such as its time steps."""
    columns = [column for column in trials.columns if column.startswith(_UNUSED_BY_UNET)]
    return trials.assign(**{column: trials[column].mask(trials["kind"] == "unet") for column in columns})


def without_inactive(trials: pd.DataFrame, experiment: str, description: Mapping[str, Any]) -> pd.DataFrame:
    """Trials without the values of searched parameters whose condition does not hold; the lake has the published ones there."""
    conditions = {
        f"{_CONFIG}{path}": rule["condition"]
        for path, rule in _declared(description).items()
        if isinstance(rule, Mapping) and isinstance(rule.get("condition"), Mapping) and f"{_CONFIG}{path}" in trials
    }
    if not conditions:
        return trials
    changed = trials.copy()
    own = changed["experiment"] == experiment
    for _ in conditions:  # an inactive parameter makes those inactive that depend on it
        for column, condition in conditions.items():
            for other, allowed in condition.items():
                if f"{_CONFIG}{other}" in changed:
                    met = [_allows(allowed, value) for value in changed[f"{_CONFIG}{other}"]]
                    changed[column] = changed[column].mask(own & ~np.array(met))
    return changed


def _allows(allowed: Any, value: Any) -> bool:
    value = value.tolist() if hasattr(value, "tolist") else value
    if value is None or value != value:
        return False
    if isinstance(allowed, Mapping):
        is_number = isinstance(value, (int, float))
        return is_number and allowed.get("min", -math.inf) <= value <= allowed.get("max", math.inf)
    return value in allowed if isinstance(allowed, list) else bool(value == allowed)


def searched_columns(trials: pd.DataFrame, descriptions: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Config columns that the experiments name as `searched` or as the keys of `space`; else all that differ between trials."""
    named = {f"{_CONFIG}{path}" for description in descriptions for path in _declared(description)}
    columns = [column for column in trials.columns if column.startswith(_CONFIG)]
    declared = tuple(column for column in columns if column in named)
    return declared or tuple(column for column in columns if trials[column].dropna().map(str).nunique() > 1)


def _declared(description: Mapping[str, Any]) -> Mapping[str, Any]:
    """The searched fields with their rules, as far as the description tells."""
    for name in ("searched", "space"):
        value = description.get(name)
        if isinstance(value, Mapping):
            inner = next((value[key] for key in ("parameters", "search") if isinstance(value.get(key), Mapping)), value)
            return {str(path): rule for path, rule in inner.items()}
        if isinstance(value, (list, tuple)):
            return {str(path): None for path in value}
    return {}


def rungs(trials: pd.DataFrame, descriptions: Iterable[Mapping[str, Any]]) -> tuple[int, ...]:
    """Epochs after which successive halving stops trials: a grace of an eighth of the epochs, three times that, and so on."""
    found: set[tuple[int, ...]] = set()
    epochs = pd.to_numeric(trials["config.training.epochs"], errors="coerce").max() if "config.training.epochs" in trials else 0
    for description in descriptions:
        arguments = description.get("arguments")
        scheduler = arguments.get("scheduler") if isinstance(arguments, Mapping) else None
        if scheduler not in ("asha", "hedged") or not epochs > 1:
            return ()
        rung, own = max(1, int(epochs) // 8), []
        while rung < epochs:
            own.append(rung)
            rung *= REDUCTION
        found.add(tuple(own))
    return found.pop() if len(found) == 1 else ()


# -------------------------------------------------------------------------------------------------------------------------- trials


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
    known = ranked[[*_KEY, "label", "kind"]].assign(place=range(len(ranked)))
    found = points.merge(known, on=_KEY).sort_values(["place", "votes"], kind="stable")
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
    most = cases.groupby([*_KEY, "split"])["votes"].transform("max")
    by_class = cases[cases["votes"] == most].groupby([*_KEY, "split", "class"])[["dice", "iou"]].mean()
    means = by_class.groupby([*_KEY, "split"]).mean()
    filled = trials.copy()
    for split, prefix in (("validation", "final"), ("test", "test")):
        if split not in means.index.get_level_values("split"):
            continue
        of_split = means.xs(split, level="split")
        positions = pd.MultiIndex.from_frame(filled[_KEY])
        for name in ("dice", "iou"):
            column = f"{prefix}_{name}"
            filled[column] = filled[column].fillna(pd.Series(of_split[name].reindex(positions).to_numpy(), index=filled.index))
    return filled


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


def sample(trials: pd.DataFrame, limit: int) -> pd.DataFrame:
    """At most so many of ranked trials: the better half of them whole, the rest a random sample."""
    if len(trials) <= limit:
        return trials
    half = limit // 2
    return pd.concat([trials.iloc[:half], trials.iloc[half:].sample(limit - half, random_state=0)])


def curves(trials: pd.DataFrame, metrics: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Dice by epoch of the best `MAX_CURVES` trials, with their `place` (0 = best) and `label`; and how many were left out."""
    places = trials[[*_KEY, "label"]].assign(place=np.arange(len(trials)))
    scored = metrics[np.isfinite(pd.to_numeric(metrics["dice"], errors="coerce"))]
    joined = scored.merge(places, on=_KEY).sort_values(["place", "epoch"], kind="stable")
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


def varying(trials: pd.DataFrame, searched: Sequence[str]) -> list[str]:
    """The searched columns that differ between trials that have a Dice."""
    scored = trials[trials["score"].notna()]
    return [column for column in searched if scored[column].dropna().map(str).nunique() > 1]


def parallel(trials: pd.DataFrame, searched: Sequence[str]) -> tuple[pd.DataFrame, list[str], int]:
    """Rows and the varying columns for parallel coordinates, and how many scored trials were left out.

    Beyond `MAX_PARALLEL_ROWS` the better half stays whole and the rest is a random sample.
    """
    scored = trials[trials["score"].notna()]
    rows = sample(scored, MAX_PARALLEL_ROWS)
    return rows, varying(rows, searched), len(scored) - len(rows)


# ---------------------------------------------------------------------------------------------------------------- time and money


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


# -------------------------------------------------------------------------------------------------------------------------- cases


def compared_cases(cases: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Dice per validation case, mean over classes at the most votes, of the best trials that have the same cases as the first."""
    rows = cases[(cases["split"] == "validation") & cases["dice"].notna()]
    rows = rows[rows["votes"] == rows.groupby(_KEY)["votes"].transform("max")]
    places = trials[[*_KEY, "label"]].assign(place=np.arange(len(trials)))
    means = rows.groupby([*_KEY, "case"], sort=True)["dice"].mean().reset_index().merge(places, on=_KEY)
    means = means.sort_values(["place", "case"], kind="stable")
    kept: list[pd.DataFrame] = []
    for _, own in means.groupby("place", sort=True):
        if not kept or list(own["case"]) == list(kept[0]["case"]):
            kept.append(own)
        if len(kept) == COMPARED:
            break
    return pd.concat(kept, ignore_index=True) if kept else means


def pairs(cases: pd.DataFrame) -> pd.DataFrame:
    """Every pair of compared trials: mean `difference` of the Dice, first less second, with its 95 % interval and Wilcoxon's p."""
    values = {int(own["place"].iloc[0]): own["dice"].to_numpy(np.float64) for _, own in cases.groupby("place", sort=True)}
    chosen = [(first, second) for first in values for second in values if first < second]
    if not chosen:
        return pd.DataFrame(columns=["first", "second", "difference", "low", "high", "p"])
    differences = np.stack([values[first] - values[second] for first, second in chosen], axis=1)
    low, high = significance.mean_interval(differences)
    p = [significance.wilcoxon(values[first], values[second]) for first, second in chosen]
    columns = {"first": [pair[0] for pair in chosen], "second": [pair[1] for pair in chosen]}
    return pd.DataFrame(columns | {"difference": differences.mean(axis=0), "low": low, "high": high, "p": p})


def pictured(gallery: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Pictured cases of the best trial that has any: best, median and worst by Dice, best first, told apart by `place`."""
    places = trials[[*_KEY, "label"]].assign(order=np.arange(len(trials)))
    joined = gallery.merge(places, on=_KEY)
    if joined.empty:
        return joined.assign(place=pd.Series(dtype=object))
    own = joined[joined["order"] == joined["order"].min()]
    return placed(own)


def placed(gallery: pd.DataFrame) -> pd.DataFrame:
    """One trial's pictured cases, best first; `place` is best, median or worst. Older lakes have no median case."""
    own = gallery.sort_values(["dice", "case"], ascending=[False, True], na_position="last", kind="stable")
    best = own.head(min(GALLERY_CASES, (len(own) + 1) // 2))
    worst = own.drop(best.index).tail(GALLERY_CASES)
    median = own.drop([*best.index, *worst.index]).head(1)
    parts = [(best, "best"), (median, "median"), (worst, "worst")]
    chosen: pd.DataFrame = pd.concat([part.assign(place=place) for part, place in parts], ignore_index=True)
    return chosen


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """One dictionary per row."""
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]
