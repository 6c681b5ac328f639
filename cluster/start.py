"""Starts a search on a cluster, or goes on with it: one command for job systems that start a job again after it was cut.

    python -m cluster.start --name lung --storage s3://bucket/results --gpus 8 --data s3://bucket/lung --trials 200

waits until the cluster has 8 GPUs (one that grows by itself is asked for them), checks it as `python -m cluster.check` does, and
becomes `python tune/search.py` with all further options. Where the lake holds the experiment already, it goes on as it was begun.
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
from cdal.command import WORK_FAILED, command_line, run
from cdal.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

_LOOK_SECONDS = 2.0


def parser() -> argparse.ArgumentParser:
    """The command line, without the search's options."""
    found = command_line(__doc__, "python -m cluster.start")
    found.add_argument("--name", required=True, help="of the experiment")
    found.add_argument(
        "--storage", required=True, metavar="ROOT", help="results lake: a folder that all nodes share, or s3://bucket/prefix"
    )
    found.add_argument("--data", metavar="ROOT", help="the dataset's files: a folder that all nodes have, or s3://bucket/prefix")
    found.add_argument("--address", default="auto", help="Ray cluster (default: auto)")
    found.add_argument("--nodes", type=int, default=1, metavar="N", help="wait for so many nodes, the head included (default: 1)")
    found.add_argument("--gpus", type=int, default=0, metavar="N", help="wait for so many GPUs (default: 0)")
    found.add_argument("--wait", type=float, default=1800, metavar="SECONDS", help="no longer than that (default: 1800)")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns only where no search could be started."""
    given, given_to_search = parser().parse_known_args(arguments)
    given.search = given_to_search
    return run(start, given)


def start(given: argparse.Namespace, console: Console) -> int:
    """Wait for the cluster, check it, and become the search.

    Raises:
        InputError: there is no cluster at the address, or the storage or the data are no place.
    """
    from cluster.check import check_places, inspect
    from tune.running import connect

    check_places(given)
    connect(given.address, this=None)
    if not (_wait(given, console) and inspect(console, storage=given.storage, data=given.data, gpus=given.gpus)):
        console.print("no search is started", markup=False)
        return WORK_FAILED
    command = [sys.executable, str(Path(tune.__file__).with_name("search.py")), "--address", given.address]
    command += ["--storage", given.storage]
    if _begun(given):
        command += ["--resume", given.name]
    else:
        command += ["--name", given.name, *(["--data", given.data] if given.data else []), *given.search]
    console.print(shlex.join(command[1:]), markup=False)
    os.execv(sys.executable, command)


def _begun(given: argparse.Namespace) -> bool:
    from tune.results import read_experiment

    try:
        read_experiment(given.storage, given.name)
    except InputError:
        return False
    return True


def _wait(given: argparse.Namespace, console: Console) -> bool:
    """Wait until the nodes and GPUs have joined; False where they have not in time."""
    import ray
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[{"GPU": 1}] * given.gpus)  # heard by clusters that grow
    try:
        until, said = time.monotonic() + given.wait, ""
        while True:
            nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
            gpus = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
            if nodes >= given.nodes and gpus >= given.gpus:
                return True
            there = f"{nodes} of {given.nodes} nodes and {gpus:g} of {given.gpus} GPUs have joined"
            if there != said:
                console.print(there, markup=False)
                said = there
            if time.monotonic() > until:
                console.print(f"the others have not within {given.wait:g} s", markup=False)
                return False
            time.sleep(_LOOK_SECONDS)
    finally:
        request_resources(bundles=[])  # from now on the search's trials hold the nodes, and those without work may go


if __name__ == "__main__":
    sys.exit(main())
