"""Starts a search on a cluster, or goes on with it: one command for job systems that start a job again after it was cut.

    python -m cluster.start --name lung --storage s3://bucket/results --gpus 8 --data s3://bucket/lung --trials 200

waits until the cluster has 8 GPUs (a cluster that grows by itself is asked for them) and becomes `python tune/search.py` with the
options it does not know itself. An experiment that is in the lake already goes on as it was begun, and those options do not count.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tune
from cdal.errors import InputError
from tune.command import WORK_FAILED, run

if TYPE_CHECKING:
    from rich.console import Console

_LOOK_SECONDS = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns only where no search could be started."""
    head, _, examples = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m cluster.start",
        description=head,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--name", required=True, help="of the experiment")
    parser.add_argument("--storage", required=True, metavar="ROOT", help="results lake: a folder that all nodes share, or s3://")
    parser.add_argument("--address", default="auto", help="Ray cluster (default: auto)")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="wait for so many nodes, the head included (default: 1)")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="wait for so many GPUs (default: 0)")
    parser.add_argument("--patience", type=float, default=1800, metavar="SECONDS", help="for nodes to join (default: 1800)")
    given, others = parser.parse_known_args(arguments)
    given.search = others
    return run(start, given)


def start(given: argparse.Namespace, console: Console) -> int:
    """Wait for the cluster, and become the search.

    Raises:
        InputError: there is no cluster at the address, or no such storage.
    """
    from tune.results import read_experiment

    try:
        read_experiment(given.storage, given.name)
        options = ["--resume", given.name]
        console.print(f"{given.name} is in {given.storage}: it goes on as it was begun", markup=False)
    except InputError as error:
        if "holds no experiment" not in str(error):
            raise
        options = ["--name", given.name, *given.search]
    if not _wait(given, console):
        return WORK_FAILED
    command = [sys.executable, str(Path(tune.__file__).with_name("search.py")), "--address", given.address]
    command += ["--storage", given.storage, *options]
    console.print(shlex.join(command), markup=False)
    os.execv(sys.executable, command)


def _wait(given: argparse.Namespace, console: Console) -> bool:
    """Wait until the nodes and GPUs have joined; False where they have not within the patience."""
    import ray
    from ray.autoscaler.sdk import request_resources

    from tune.session import connect

    connect(given.address, this=None)
    request_resources(bundles=[{"GPU": 1}] * given.gpus)  # heard by clusters that grow
    try:
        until, said = time.monotonic() + given.patience, ""
        while True:
            nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
            gpus = ray.cluster_resources().get("GPU", 0)
            if nodes >= given.nodes and gpus >= given.gpus:
                return True
            there = f"{nodes} of {given.nodes} nodes and {gpus:g} of {given.gpus} GPUs have joined"
            if time.monotonic() > until:
                console.print(f"{there} within {given.patience:g} s; no search is started", markup=False)
                return False
            if there != said:
                console.print(there, markup=False)
            said = there
            time.sleep(_LOOK_SECONDS)
    finally:
        request_resources(bundles=[])  # the search's trials hold the nodes from now on, and idle ones may go
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
