"""Tells what a cluster lacks, before money is spent on it. Nothing is trained, and what is written is deleted again.

    python -m cluster.check                                              # this machine alone
    python -m cluster.check --address auto --gpus 8 --storage s3://bucket/results --data s3://bucket/Task04_Hippocampus

Exit status: 0 all is well, warnings allowed; 1 something must be mended; 2 the input is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cdal.command import DONE, WORK_FAILED, command_line, run
from cdal.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.findings import Row

PATIENCE = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = command_line(__doc__, "python -m cluster.check")
    parser.add_argument("--address", help="Ray cluster to look at, such as auto (default: this machine alone)")
    parser.add_argument("--storage", metavar="ROOT", help="results lake: a folder, or s3://bucket/prefix")
    parser.add_argument("--data", metavar="ROOT", help="the dataset's files: a folder, or s3://bucket/prefix")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="how many the search is going to use (default: 0)")
    parser.add_argument("--patience", type=float, default=PATIENCE, metavar="SECONDS", help="for a node's answer (default: 120)")
    return run(check, parser.parse_args(arguments))


def check(given: argparse.Namespace, console: Console) -> int:
    """Look at this machine or at a cluster.

    Raises:
        InputError: there is no such cluster, or an option makes no sense.
    """
    from tune.running import connect, this_machine

    if given.gpus < 0:
        raise InputError(f"--gpus is {given.gpus}; it must be 0 or more")
    if not given.patience > 0:
        raise InputError(f"--patience is {given.patience:g}; it must be above 0")
    check_places(given)
    connect(given.address, this=None if given.address else this_machine())
    well = inspect(console, storage=given.storage, data=given.data, gpus=given.gpus, patience=given.patience)
    return DONE if well else WORK_FAILED


def inspect(console: Console, *, storage: str | None, data: str | None, gpus: int, patience: float = PATIENCE) -> bool:
    """Ask all nodes of the cluster that Ray is connected to, and show what they say; False where something must be mended.

    Args:
        console: where the table is shown.
        storage: the results lake, a folder or s3://bucket/prefix; None: not looked at.
        data: the dataset's files, likewise.
        gpus: how many the search is going to use.
        patience: seconds that a node may take for an answer.
    """
    from cluster.findings import WARNING, WRONG, findings
    from cluster.nodes import Cluster
    from tune.running import absolute

    roots = [root and absolute(root) for root in (storage, data)]
    rows = findings(Cluster(patience), storage_root=roots[0], data_root=roots[1], wanted=gpus)
    console.print(_table(rows))
    wrong = sum(row.state == WRONG for row in rows)
    warnings = sum(row.state == WARNING for row in rows)
    console.print(f"{wrong} to mend, {warnings} to know about" if wrong or warnings else "all is well", markup=False)
    return wrong == 0


def check_places(given: argparse.Namespace) -> None:
    """Raises InputError where --storage or --data is nothing that a search can use."""
    for name in ("storage", "data"):
        root = getattr(given, name)
        if root is not None and "://" in root and not root.startswith("s3://"):
            raise InputError(f"--{name} is {root}; it must be a folder, or s3://bucket/prefix")


def _table(rows: Sequence[Row]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from cluster.findings import FINE, WARNING, WRONG

    table = Table(box=box.SIMPLE)
    for title in ("", "check", "result", "fix"):
        table.add_column(title, overflow="fold")
    colours = {FINE: "green", WARNING: "yellow", WRONG: "red"}
    for row in rows:
        table.add_row(Text(row.state, style=colours[row.state]), Text(row.check), Text(row.result), Text(row.fix))
    return table


if __name__ == "__main__":
    sys.exit(main())
