"""How sure a ranking is, by intervals over cases and paired tests between trials, and what their masks cost.

    comparison(lake.cases(), lake.trials())                      # what `Lake.comparison` returns
    finalists(lake.cases(), lake.trials())                       # what `Lake.finalists` returns
    tradeoffs(lake.cases(["dice", "seconds"]), lake.trials())    # what `Lake.tradeoffs` returns

A case's figure is the mean over its classes, at the trial's full number of votes. Trials are compared where they were scored on the
same cases of the same dataset and split. The best of many owes its place to luck as well, so testing each against it as if it had
been named before would call equals worse in every other search. Instead there is a set of trials that cannot be told from the best,
which holds the truly best one with 95 % confidence (a model confidence set, Hansen, Lunde and Nason 2011); see `told_from_best`.

Finalists are compared with finalists. One that was trained several times counts once: a case's figure is then also the mean over
the trainings that were scored on it, so that cases are the pairs, and seeds do not pass for cases.

Where cases belong together (column `group`: the slices of a patient), groups are what is drawn, flipped and paired, so that slices
do not pass for patients; means stay means over cases.

A trial's cases are scored with one vote, with two, and so on (votes are prefixes of each other), so of Dice against the cost of a
mask a trial is a whole curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tune.lake.status import FALLEN

if TYPE_CHECKING:
    import pandas as pd

FloatArray = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

CONFIDENCE = 0.95
RESAMPLES = 10_000
_LESS_IS_BETTER = ("hd95", "assd", "seconds")
_TRIAL = ["experiment", "trial_id"]
_FINALIST = ["experiment", "finalist"]

_COLUMNS = pa.schema(
    {
        "experiment": pa.string(),
        "trial_id": pa.string(),  # null for a finalist, which has several
        "finalist": pa.string(),  # null for a trial of a search
        "dataset": pa.string(),
        "split": pa.string(),
        "cases": pa.int64(),  # how many
        "groups": pa.int64(),  # of cases that belong together; null where cases stand alone
        "mean": pa.float64(),
        "low": pa.float64(),  # ends of the 95 % interval of the mean; null for a single case or group
        "high": pa.float64(),
        "best": pa.bool_(),  # of those scored on the same cases
        "difference": pa.float64(),  # of the mean to the best one's
        "p": pa.float64(),  # that it is as good as the best, for all on these cases together; null for the best, and for one case
        "in_best_set": pa.bool_(),  # whether it cannot be told from the best, with 95 % confidence
    }
)

_FINALIST_COLUMNS = pa.schema(
    {
        "experiment": pa.string(),
        "finalist": pa.string(),  # the search's trial whose settings it has
        "kind": pa.string(),
        "dataset": pa.string(),
        "trainings": pa.int64(),  # that were scored on the test split
        "cases": pa.int64(),  # of the test splits of all folds
        "groups": pa.int64(),  # of cases that belong together; null where cases stand alone
        "test_dice": pa.float64(),  # mean over the cases of the mean over the trainings
        "low": pa.float64(),  # ends of its 95 % interval over the cases; null for a single case or group
        "high": pa.float64(),
        "seed_sd": pa.float64(),  # standard deviation of the seeds' test Dice; null for a single seed
        "final_dice": pa.float64(),  # full protocol on the validation split, mean over the trainings
        "search_dice": pa.float64(),  # what made it a finalist; null for a control that the search had not run
        "best": pa.bool_(),  # of those scored on the same test cases
        "difference": pa.float64(),  # of the test Dice to the best one's
        "p": pa.float64(),  # as in `comparison`, over the test cases
        "in_best_set": pa.bool_(),
        "test_evaluations": pa.int64(),  # times that these settings have been scored on the test split; 1 is as it should be
    }
)

_TRADEOFF_COLUMNS = pa.schema(
    {
        "experiment": pa.string(),
        "trial_id": pa.string(),
        "dataset": pa.string(),
        "split": pa.string(),
        "votes": pa.int64(),
        "dice": pa.float64(),  # mean over cases and classes
        "seconds": pa.float64(),  # for the masks of one case, mean over cases
        "on_front": pa.bool_(),  # of the dataset: no point has a higher Dice for no more time
    }
)


def comparison(cases: pa.Table, trials: pa.Table, *, metric: str = "dice", split: str = "validation") -> pa.Table:
    """One row per trial, and per finalist, that has figures on a split, the best of each group of the same cases first.

    Trials that diverged or failed are left out.

    Args:
        cases: the lake's table of cases; without a column `group`, cases stand alone.
        trials: the lake's table of trials, which tells each one's dataset.
        metric: a column of the cases; more is better, but of distances and times less is.
        split: `validation` or `test`.
    """
    columns = ["experiment", "trial_id", "split", "case", "group", "votes", metric]
    rows = cases.select([name for name in columns if name in cases.column_names]).to_pandas().reindex(columns=columns)
    rows = rows[(rows["split"] == split) & rows[metric].notna()]
    rows = rows[rows["votes"] == rows.groupby(_TRIAL)["votes"].transform("max")]
    per_case = rows.groupby([*_TRIAL, "case"], sort=True)[metric].mean().reset_index()
    wanted = [*_TRIAL, "dataset", "finalist", "status"]
    about = trials.select([name for name in wanted if name in trials.column_names]).to_pandas().reindex(columns=wanted)
    per_case = per_case.merge(about, on=_TRIAL, how="left")
    per_case["final"] = per_case["finalist"].notna()
    per_case = per_case[per_case["final"] | ~per_case["status"].isin(FALLEN)]
    per_case["name"] = per_case["finalist"].where(per_case["final"], per_case["trial_id"])
    unit = ["experiment", "final", "name"]
    per_case = per_case.groupby([*unit, "case"], sort=True).agg({metric: "mean", "dataset": "first"}).reset_index()
    owner = rows[rows["group"].notna()].drop_duplicates(["experiment", "case"])[["experiment", "case", "group"]]
    per_case = per_case.merge(owner, on=["experiment", "case"], how="left")

    together: dict[tuple[Any, ...], list[tuple[_Unit, FloatArray]]] = {}
    owners: dict[tuple[Any, ...], Labels | None] = {}
    for (experiment, final, name), own in per_case.groupby(unit):
        dataset = own["dataset"].iloc[0]
        member = _Unit(experiment, None if final else name, name if final else None, dataset if isinstance(dataset, str) else None)
        key = (member.dataset, final, *own["case"])
        together.setdefault(key, []).append((member, own[metric].to_numpy(np.float64)))
        if owners.get(key) is None:  # rows of older files have no groups
            owners[key] = labels_of(own)
    sign = -1 if metric in _LESS_IS_BETTER else 1
    return pa.Table.from_pylist(
        [row for key, members in together.items() for row in _compared(split, members, owners[key], sign)], schema=_COLUMNS
    )


def finalists(cases: pa.Table, trials: pa.Table) -> pa.Table:
    """One row per finalist, those that have been tested first, from the best test Dice on; finalists of one experiment together.

    The interval and the tests are over the test cases; how much a training depends on its seed is told by `seed_sd`.

    Args:
        cases: the lake's table of cases.
        trials: the lake's table of trials.
    """
    columns = [*_FINALIST, "kind", "dataset", "seed", "test_dice", "final_dice", "search_dice", "test_evaluations"]
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in trials.filter(pc.is_valid(trials["finalist"])).select(columns).to_pylist():
        groups.setdefault(row["experiment"], {}).setdefault(row["finalist"], []).append(row)
    found = []
    for experiment, trainings in groups.items():
        own = cases.filter(pc.equal(cases["experiment"], experiment))
        compared = {row["finalist"]: row for row in comparison(own, trials, split="test").to_pylist()}
        rows = [_finalist_row(of_one, compared.get(name, {})) for name, of_one in trainings.items()]
        found += sorted(rows, key=lambda row: (row["test_dice"] is None, -(row["test_dice"] or 0), row["finalist"]))
    return pa.Table.from_pylist(found, schema=_FINALIST_COLUMNS)


def _finalist_row(trainings: Sequence[dict[str, Any]], compared: dict[str, Any]) -> dict[str, Any]:
    """A finalist's row from those of its trainings, and from what `comparison` says of it."""
    tested = [row for row in trainings if row["test_dice"] is not None]
    by_seed: dict[int, list[float]] = {}
    for row in tested:
        by_seed.setdefault(row["seed"], []).append(row["test_dice"])
    final = [row["final_dice"] for row in tested if row["final_dice"] is not None]
    return (
        {name: trainings[0][name] for name in (*_FINALIST, "kind", "dataset", "search_dice")}
        | {name: compared.get(name) for name in ("cases", "groups", "low", "high", "best", "difference", "p", "in_best_set")}
        | {
            "trainings": len(tested),
            "test_dice": compared.get("mean"),
            "seed_sd": float(np.std([np.mean(values) for values in by_seed.values()], ddof=1)) if len(by_seed) > 1 else None,
            "final_dice": float(np.mean(final)) if final else None,
            "test_evaluations": max((row["test_evaluations"] or 0 for row in tested), default=0),
        }
    )


def tradeoffs(cases: pa.Table, trials: pa.Table, *, split: str = "validation") -> pa.Table:
    """One row per trial and number of votes, by dataset and seconds; on the front are those that none beats in both.

    Trials that diverged or failed are left out.

    Args:
        cases: the lake's table of cases.
        trials: the lake's table of trials, which tells each one's dataset.
        split: `validation` or `test`.
    """
    rows = cases.select([*_TRIAL, "split", "case", "votes", "dice", "seconds"]).to_pandas()
    rows = rows[(rows["split"] == split) & rows["dice"].notna() & rows["seconds"].notna()]
    points = rows.groupby([*_TRIAL, "votes"], sort=True)[["dice", "seconds"]].mean().reset_index()
    wanted = [*_TRIAL, "dataset", "status"]
    about = trials.select([name for name in wanted if name in trials.column_names]).to_pandas().reindex(columns=wanted)
    points = points.merge(about, on=_TRIAL, how="left")
    points = points[~points["status"].isin(FALLEN)]
    points = points.sort_values(["dataset", "seconds", "dice"], ascending=[True, True, False], kind="stable")
    best_before = points.groupby("dataset", dropna=False)["dice"].transform(lambda dice: dice.cummax().shift(fill_value=-1.0))
    points["on_front"] = points["dice"] > best_before
    return pa.Table.from_pandas(points.assign(split=split)[_TRADEOFF_COLUMNS.names], schema=_TRADEOFF_COLUMNS, preserve_index=False)


def labels_of(cases: pd.DataFrame) -> Labels | None:
    """The group of every case as numbers (cases,), one without a group its own; None where all cases stand alone."""
    if "group" not in cases or (alone := cases["group"].isna()).all():
        return None
    names = ("case " + cases["case"].astype(str)).where(alone, "group " + cases["group"].astype(str))
    return np.asarray(np.unique(names.to_numpy(str), return_inverse=True)[1])


def mean_interval(values: FloatArray, groups: Labels | None = None, *, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Percentile bootstrap interval (Efron 1979) of the means of columns: values (cases, columns) -> low and high (columns,).

    Where cases belong together, whole groups are drawn: the mean over the cases of as many groups as there are. NaN where there is
    one case or group only.
    """
    sums, sizes = (values, np.ones(len(values))) if groups is None else _sums(values, groups)
    count = len(sums)
    if count < 2:
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(drawn @ sums / (drawn @ sizes)[:, None], [tail, 100 - tail], axis=0)
    return low, high


def wilcoxon(first: FloatArray, second: FloatArray, groups: Labels | None = None) -> float:
    """Two-sided p of the signed-rank test that paired values differ; cases that are equal say nothing, and 1 where all are.

    Where cases belong together, the means of groups are the pairs.
    """
    from scipy import stats  # here: whoever reads the lake without asking for p values need not wait for it

    differences = first - second
    if groups is not None:
        sums, sizes = _sums(differences[:, None], groups)
        differences = sums[:, 0] / sizes
    differences = differences[differences != 0]
    return float(stats.wilcoxon(differences).pvalue) if len(differences) else 1.0


def told_from_best(values: FloatArray, groups: Labels | None = None, *, seed: int = 0) -> FloatArray:
    """Values of p (trials,) that trials are as good as the best of them, although the best was chosen by the same figures.

    By chance the means of equal trials differ as much as they do with the signs of whole cases flipped, each case less the mean of
    its trials; variances and what trials share stay as they are. A trial is told from the best where it is further behind than the
    means spread in all but 5 % of the flips (all there are with up to 14 cases, else 10,000; with fewer than 6 nothing is told).
    Those that are told leave, and the rest is looked at again until none does; no p is below one that left earlier. Where cases
    belong together, the signs of whole groups are flipped.

    Args:
        values: figures (cases, trials) of the same cases, more is better.
        groups: what each case belongs to (cases,); None where cases stand alone.
        seed: of the flips.
    """
    if groups is not None:
        sums, _ = _sums(values, groups)
        values = sums * (len(sums) / len(values))  # a row per group; the means of columns are still those over cases
    count, trials = values.shape
    p, left, least = np.ones(trials), np.arange(trials), 0.0
    while len(left) > 1 and count > 1:
        centred = values[:, left] - values[:, left].mean(axis=1, keepdims=True)
        flipped = _signs(count, seed) @ centred / count
        spreads = np.sort(flipped.max(axis=1) - flipped.min(axis=1))
        means = values[:, left].mean(axis=0)
        exceeding = len(spreads) - np.searchsorted(spreads, means.max() - means - 1e-12)
        p[left] = np.maximum(exceeding / len(spreads), least)
        told = p[left] <= 1 - CONFIDENCE
        if not told.any():
            break
        least, left = p[left][told].max(), left[~told]
    return p


def _sums(values: FloatArray, groups: Labels) -> tuple[FloatArray, FloatArray]:
    """Sums over the cases of each group (groups, columns), and how many cases it has (groups,)."""
    sizes = np.bincount(groups).astype(np.float64)
    return np.stack([np.bincount(groups, column) for column in values.T], axis=1), sizes


def _signs(count: int, seed: int) -> FloatArray:
    """Flips (flips, cases), all or as many as `RESAMPLES`; the first flips nothing. The first case stays: all flipped are none."""
    if 2 ** (count - 1) <= RESAMPLES:
        flips = np.arange(2 ** (count - 1))[:, None] >> np.arange(count - 1) & 1
    else:
        flips = np.random.default_rng(seed).integers(2, size=(RESAMPLES, count - 1))
        flips[0] = 0
    return np.concatenate([np.ones((len(flips), 1)), 1.0 - 2 * flips], axis=1)


class _Unit(NamedTuple):
    """What is compared: a trial of a search, or all trainings of a finalist."""

    experiment: str
    trial_id: str | None
    finalist: str | None
    dataset: str | None


def _compared(split: str, members: Sequence[tuple[_Unit, FloatArray]], groups: Labels | None, sign: int) -> list[dict[str, Any]]:
    """Rows of those that share their cases; `sign` is -1 where less is better."""
    values = np.stack([figures for _, figures in members], axis=1)
    count = len(values) if groups is None else int(groups.max()) + 1
    low, high = mean_interval(values, groups)
    means = values.mean(axis=0)
    order = np.argsort(-sign * means, kind="stable")
    best = order[0]
    p = told_from_best(sign * values, groups)
    rows = []
    for rank, place in enumerate(order):
        unit, _ = members[place]
        rows.append(
            unit._asdict()
            | {
                "split": split,
                "cases": len(values),
                "groups": None if groups is None else count,
                "mean": means[place],
                "low": None if np.isnan(low[place]) else low[place],
                "high": None if np.isnan(high[place]) else high[place],
                "best": rank == 0,
                "difference": means[place] - means[best],
                "p": p[place] if rank and count > 1 else None,
                "in_best_set": p[place] > 1 - CONFIDENCE,
            }
        )
    return rows
