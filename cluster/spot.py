"""Runs beside Ray on a machine of the spot market: hears two minutes before AWS takes the machine away, and tells Ray.

    python -m cluster.spot --address HEAD:6379

From then on Ray places nothing there, and what trains there leaves a checkpoint and goes on elsewhere. Anywhere but on AWS it hears
nothing and does no harm. Exit status: 0 Ray knows; 1 Ray could not be told.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cdal.command import DONE, WORK_FAILED, command_line, run

if TYPE_CHECKING:
    from rich.console import Console

_METADATA = "http://169.254.169.254"  # of the machine itself, on every machine of AWS
_ANSWER_SECONDS = 2.0
_TOKEN_SECONDS = 300
_NOTICE_SECONDS = 100  # of the two minutes: what is left when Ray has heard of it
_TRIES, _TRY_SECONDS = 5, 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = command_line(__doc__, "python -m cluster.spot")
    parser.add_argument("--address", required=True, metavar="HOST:PORT", help="of the cluster's head")
    parser.add_argument("--node-ip", metavar="IP", help="the address that this machine has in the cluster (default: found out)")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="how often AWS is asked (default: 5)")
    return run(watch, parser.parse_args(arguments))


def watch(given: argparse.Namespace, console: Console) -> int:
    """Wait for the notice, and drain this machine."""
    metadata = Metadata(os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _METADATA)
    while (notice := metadata.notice()) is None:
        time.sleep(given.every)
    console.print(f"AWS takes this machine away: {notice}", markup=False)
    for _ in range(_TRIES):
        try:
            drain(given.address, given.node_ip, f"spot notice: {notice}")
        except Exception as error:  # Ray's own, of many kinds
            console.print(f"Ray could not be told: {' '.join(str(error).split())[:200]}", markup=False)
            time.sleep(_TRY_SECONDS)
        else:
            console.print("Ray places nothing here any more", markup=False)
            return DONE
    return WORK_FAILED


class Metadata:
    """What a machine of AWS knows of itself, by the second version of its service, which asks for a token first."""

    def __init__(self, endpoint: str) -> None:
        self._root = endpoint.rstrip("/")
        self._token, self._until = "", 0.0

    def notice(self) -> str | None:
        """What is going to happen to this machine, and when; None where nothing is, or nobody answers."""
        try:
            if time.monotonic() > self._until:
                wanted = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
                self._token = self._ask("PUT", "latest/api/token", wanted)
                self._until = time.monotonic() + _TOKEN_SECONDS / 2
            found = json.loads(self._ask("GET", "latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": self._token}))
            return f"{found['action']} at {found['time']}"
        except urllib.error.HTTPError as error:
            if error.code == 401:  # the token is too old
                self._until = 0.0
            return None  # 404 as long as nothing is to happen
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(f"{self._root}/{path}", method=method, headers=headers)
        directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with directly.open(request, timeout=_ANSWER_SECONDS) as answer:
            return str(answer.read().decode())


def drain(address: str, ip: str | None, why: str) -> None:
    """Have Ray place nothing on the node of this machine, which is soon lost.

    Args:
        address: of the cluster's head.
        ip: of this machine in the cluster; None: found out.
        why: told to those who ask Ray.

    Raises:
        Exception: the cluster does not answer, has no such node, or refuses.
    """
    from ray._private.services import get_node_ip_address
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]
    from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]

    own = ip or get_node_ip_address(address)  # type: ignore[no-untyped-call]
    head = GcsClient(address=address)
    found = head.get_all_node_info(timeout=10.0)
    nodes = [id for id, node in found.items() if node.node_manager_address == own and node.state == GcsNodeInfo.ALIVE]
    if not nodes:
        raise LookupError(f"no node of {address} has the address {own}")
    until = int((time.time() + _NOTICE_SECONDS) * 1000)
    for node in nodes:
        accepted, refusal = head.drain_node(node.hex(), DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, why, until)
        if not accepted:
            raise RuntimeError(refusal)


if __name__ == "__main__":
    sys.exit(main())
