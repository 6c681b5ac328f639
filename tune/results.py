"""The results lake: plain Parquet that keeps every trial, epoch, case and picture of every search.

    <root>/<experiment>/experiment.json      what was searched, how, by which versions
    <root>/<experiment>/trials/*.parquet     one row per trial: status, config.* columns, figures, cost, error, checkpoint
    <root>/<experiment>/metrics/*.parquet    one row per trial and epoch
    <root>/<experiment>/cases/*.parquet      one row per trial, split, case, class and number of votes
    <root>/<experiment>/gallery/*.parquet    one row per pictured case: image, truth and prediction as PNG
    <root>/<experiment>/splits/*.parquet     one row per fold and case: the part it is in, and its group

Write (a search does this):

    create_experiment("results", "first", {"dataset": "phantom", "fold": 0})
    with Writer("results", "first") as writer:
        writer.append("trials", {"trial_id": "a1", "number": 0, "status": "running", "config.diffusion.timesteps": 4})
        writer.append("metrics", {"trial_id": "a1", "epoch": 1, "dice": 0.71})

Read (anyone may; DuckDB, Polars and pandas can as well, without this module):

    lake = load("results")                   # or "s3://bucket/prefix"
    lake.trials(), lake.metrics(), lake.cases(), lake.gallery(), lake.splits()      # Arrow tables
    lake.comparison()                        # confidence intervals and paired tests between trials
    lake.tradeoffs()                         # Dice against seconds per case, for every number of votes
    lake.finalists()                         # trained again with several seeds: test figures beside what the search had said

Look after it (docs/lake.md says more):

    python -m tune.results show --storage results            # also verify, compact, prune, send, export

A row replaces the older row of the same key as a whole, so a repeated write is harmless. Files are immutable and appear whole.
Times are UTC timestamps, durations seconds, memory bytes, Dice and IoU fractions.
"""

import sys
from collections.abc import Sequence

from cdal.command import print_anything
from cdal.errors import InputError
from tune.lake import (
    KEYS,
    SCHEMA_VERSION,
    SCHEMAS,
    Experiment,
    Lake,
    LakeWarning,
    RemoteError,
    Store,
    Writer,
    check_writable,
    compact,
    create_experiment,
    load,
    prune,
    read_experiment,
    read_log,
    send,
)
from tune.lake.status import FALLEN
from tune.steering import answer_in, ask, worded


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command on a lake; returns 0 done, 1 something is wrong with the lake, 2 the input is wrong, 130 interrupted."""
    from tune.lake import commands

    return commands.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
