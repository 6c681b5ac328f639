"""Dice against the cost of a mask: every trial at every number of votes, and the front of those that none beats in both.

    tradeoffs(lake.cases(["dice", "seconds"]), lake.trials())        # what `Lake.tradeoffs` returns

A trial's cases are scored with one vote, with two, and so on (votes are prefixes of each other), so a trial is a whole curve.
"""

import pyarrow as pa

_TRIAL = ["experiment", "trial_id"]
_COLUMNS = pa.schema(
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


def tradeoffs(cases: pa.Table, trials: pa.Table, *, split: str = "validation") -> pa.Table:
    """One row per trial and number of votes, by dataset and seconds.

    Args:
        cases: the lake's table of cases.
        trials: the lake's table of trials, which tells each one's dataset.
        split: `validation` or `test`.
    """
    rows = cases.select([*_TRIAL, "split", "case", "votes", "dice", "seconds"]).to_pandas()
    rows = rows[(rows["split"] == split) & rows["dice"].notna() & rows["seconds"].notna()]
    points = rows.groupby([*_TRIAL, "votes"], sort=True)[["dice", "seconds"]].mean().reset_index()
    points = points.merge(trials.select([*_TRIAL, "dataset"]).to_pandas(), on=_TRIAL, how="left")
    points = points.sort_values(["dataset", "seconds", "dice"], ascending=[True, True, False], kind="stable")
    best_before = points.groupby("dataset", dropna=False)["dice"].transform(lambda dice: dice.cummax().shift(fill_value=-1.0))
    points["on_front"] = points["dice"] > best_before
    return pa.Table.from_pandas(points.assign(split=split)[_COLUMNS.names], schema=_COLUMNS, preserve_index=False)
