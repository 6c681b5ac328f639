"""How sure a ranking is: bootstrap intervals over cases, and paired tests between trials that were scored on the same cases.

    comparison(lake.cases(), lake.trials())       # what `Lake.comparison` returns

A case's figure is the mean over its classes, at the trial's full number of votes. Trials are compared where they were scored on the
same cases of the same dataset and split: each with the best of them, by the two-sided Wilcoxon signed-rank test over the cases
(Wilcoxon 1945), whose p values are corrected for the number of comparisons (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

FloatArray = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 10_000
_LESS_IS_BETTER = ("hd95", "assd", "seconds")
_TRIAL = ["experiment", "trial_id"]

_COLUMNS = pa.schema(
    {
        "experiment": pa.string(),
        "trial_id": pa.string(),
        "dataset": pa.string(),
        "split": pa.string(),
        "cases": pa.int64(),  # how many
        "mean": pa.float64(),
        "low": pa.float64(),  # ends of the 95 % interval of the mean; null for a single case
        "high": pa.float64(),
        "best": pa.bool_(),  # of those scored on the same cases
        "difference": pa.float64(),  # of the mean to the best one's
        "p": pa.float64(),  # paired Wilcoxon test against the best; null for the best itself
        "p_holm": pa.float64(),  # the same, corrected for all comparisons on these cases
    }
)


def comparison(cases: pa.Table, trials: pa.Table, *, metric: str = "dice", split: str = "validation") -> pa.Table:
    """One row per trial that has figures on a split, the best of each group of the same cases first.

    Args:
        cases: the lake's table of cases.
        trials: the lake's table of trials, which tells each one's dataset.
        metric: a column of the cases; more is better, but of distances and times less is.
        split: `validation` or `test`.
    """
    rows = cases.select(["experiment", "trial_id", "split", "case", "votes", metric]).to_pandas()
    rows = rows[(rows["split"] == split) & rows[metric].notna()]
    rows = rows[rows["votes"] == rows.groupby(_TRIAL)["votes"].transform("max")]
    per_case = rows.groupby([*_TRIAL, "case"], sort=True)[metric].mean().reset_index()
    datasets = trials.select([*_TRIAL, "dataset"]).to_pandas()
    per_case = per_case.merge(datasets, on=_TRIAL, how="left")

    groups: dict[tuple[Any, ...], list[tuple[tuple[str, str], FloatArray]]] = {}
    for (experiment, trial_id), own in per_case.groupby(_TRIAL):
        dataset = own["dataset"].iloc[0]
        key = (dataset if isinstance(dataset, str) else None, *own["case"])
        groups.setdefault(key, []).append(((experiment, trial_id), own[metric].to_numpy(np.float64)))
    found = [
        row for key, members in groups.items() for row in _group(key[0], split, members, -1 if metric in _LESS_IS_BETTER else 1)
    ]
    return pa.Table.from_pylist(found, schema=_COLUMNS)


def mean_interval(values: FloatArray, *, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Percentile bootstrap interval (Efron 1979) of the means of columns: values (cases, columns) -> low and high (columns,).

    NaN where there is one case only.
    """
    count = len(values)
    if count < 2:
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(drawn @ values / count, [tail, 100 - tail], axis=0)
    return low, high


def wilcoxon(first: FloatArray, second: FloatArray) -> float:
    """Two-sided p of the signed-rank test that paired values differ; cases that are equal say nothing, and 1 where all are."""
    from scipy import stats  # here: whoever reads the lake without asking for p values need not wait for it

    differences = first - second
    differences = differences[differences != 0]
    return float(stats.wilcoxon(differences).pvalue) if len(differences) else 1.0


def holm(p_values: Sequence[float]) -> FloatArray:
    """Values of p, corrected for their number by Holm's step-down method, in the order given."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(factors * np.asarray(p_values, np.float64)[order]), 1)
    return corrected


def _group(
    dataset: str | None, split: str, members: Sequence[tuple[tuple[str, str], FloatArray]], sign: int
) -> list[dict[str, Any]]:
    """Rows of the trials that share their cases; `sign` is -1 where less is better."""
    values = np.stack([figures for _, figures in members], axis=1)
    low, high = mean_interval(values)
    means = values.mean(axis=0)
    order = np.argsort(-sign * means, kind="stable")
    best = order[0]
    p_values = [wilcoxon(values[:, best], values[:, place]) for place in order[1:]]
    corrected = holm(p_values)
    rows = []
    for rank, place in enumerate(order):
        (experiment, trial_id), _ = members[place]
        rows.append(
            {
                "experiment": experiment,
                "trial_id": trial_id,
                "dataset": dataset,
                "split": split,
                "cases": len(values),
                "mean": means[place],
                "low": None if np.isnan(low[place]) else low[place],
                "high": None if np.isnan(high[place]) else high[place],
                "best": rank == 0,
                "difference": means[place] - means[best],
                "p": p_values[rank - 1] if rank else None,
                "p_holm": corrected[rank - 1] if rank else None,
            }
        )
    return rows
