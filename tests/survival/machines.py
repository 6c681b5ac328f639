"""Two machines on one: Ray's nodes in process groups of their own, each with a place for one trial and a name for accidents."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from socket import socket
from unittest import mock

import lean
from patience import end, run, wait_for

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
NODES = """
import json, sys
import ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
print(json.dumps({name: node["NodeID"] for node in ray.nodes() if node["Alive"] for name in node["Resources"]}))
"""


class Cluster:
    """Machines "a", the head, and "b"."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        with socket() as found:
            found.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{found.getsockname()[1]}"
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def nodes(self) -> dict[str, str]:
        """Ray's names of the machines that are alive, by ours."""
        done = run([sys.executable, "-c", NODES, self.address], env=os.environ | lean.ENVIRONMENT)
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
        return {name: node for name, node in found.items() if name in self._processes}

    def drain(self, name: str) -> None:
        """Tell a machine that it is going to be taken away."""
        reason = [
            "--reason",
            "DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message",
            "taken away",
            "--deadline-remaining-seconds",
            "100",
        ]
        done = run([*RAY, "drain-node", "--address", self.address, "--node-id", self.nodes()[name], *reason])
        assert done.returncode == 0, done.stderr

    def lose(self, name: str) -> None:
        """All of a machine's processes are gone."""
        if name in self._processes:
            end(self._processes[name])

    def start(self, name: str) -> None:
        """Switch a machine on."""
        before = self.nodes().get(name) if self._processes else None  # a dead one is believed to be alive for a while
        port = self.address.rpartition(":")[2]
        role = ["--head", f"--port={port}", *lean.HEAD] if name == "a" else [f"--address={self.address}", *lean.NODE]
        command = [
            *RAY,
            "start",
            "--block",
            *role,
            "--node-ip-address=127.0.0.1",
            "--num-cpus=1",
            f"--resources={json.dumps({name: 1})}",
        ]
        environment = os.environ | lean.ENVIRONMENT | {"CDAL_ACCIDENT_HOST": name, "RAY_TMPDIR": self._folder}
        self._processes[name] = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        wait_for(lambda: self.nodes().get(name, before) != before, every=1)


@contextmanager
def two_machines() -> Iterator[Cluster]:
    """Both are on; they are switched off in the end."""
    folders = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
    with folders as folder, mock.patch.dict(os.environ, TOKEN):
        cluster = Cluster(folder)
        try:
            for name in ("a", "b"):
                cluster.start(name)
            yield cluster
        finally:
            cluster.lose("b")
            cluster.lose("a")
