"""An AWS whose instances are hosts of namespaces (hosts.py): the interface is moto's, the machines behind it are real.

    python data_centre.py '[17, 23, 31]'    # first processes of the hosts that become instances; run in the hosts' network

Every running instance gets a free host, on which its private and its public address and its key are then valid, and which has
nothing of the project. A terminated instance's host loses all its processes and addresses at once.
"""

import json
import subprocess
import sys
import time
from typing import Any

import boto3
from hosts import BRIDGE, HOME, NETWORK
from moto.server import ThreadedMotoServer

PORT = 5557
ENVIRONMENT = {
    "AWS_ENDPOINT_URL": f"http://{NETWORK}.1:{PORT}",
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
INSIDE = "172.31.0.0/16"  # the default network of an account, where it gives private addresses


def run(*command: str, check: bool = True) -> None:
    subprocess.run(command, check=check, capture_output=True, text=True)


class Centre:
    """Hosts, numbered from 1 on, and who has them."""

    def __init__(self, first_processes: list[int]) -> None:
        self._first = dict(enumerate(first_processes, start=1))
        self._free, self._placed = list(self._first), dict[str, int]()
        self._ec2 = boto3.client("ec2")
        run("ip", "route", "replace", INSIDE, "dev", BRIDGE)
        run("ip", "-n", "host0", "route", "replace", INSIDE, "dev", "eth0")

    def look(self) -> None:
        """Do what instances' states ask for."""
        for reservation in self._ec2.describe_instances()["Reservations"]:
            for instance in reservation["Instances"]:
                name, state = instance["InstanceId"], instance["State"]["Name"]
                if state == "running" and name not in self._placed and self._free:
                    self._placed[name] = self._free.pop(0)
                    self._attach(instance, self._placed[name])
                elif state in ("shutting-down", "terminated") and self._placed.get(name, 0) > 0:
                    host = self._placed[name]
                    self._placed[name] = 0
                    self._detach(instance, host)
                    self._free.append(host)

    def _on(self, host: int, script: str) -> None:
        run("nsenter", "--target", str(self._first[host]), "--mount", "--pid", "--net", "bash", "-c", script, check=False)

    def _attach(self, instance: dict[str, Any], host: int) -> None:
        (pair,) = self._ec2.describe_key_pairs(KeyNames=[instance["KeyName"]], IncludePublicKey=True)["KeyPairs"]
        private, public = instance["PrivateIpAddress"], instance["PublicIpAddress"]
        self._on(
            host, f"cd {HOME} && rm -rf cdal-search .bashrc ray_bootstrap* && echo '{pair['PublicKey']}' > .ssh/authorized_keys"
        )
        for address in (private, public):
            run("ip", "-n", f"host{host}", "address", "add", f"{address}/32", "dev", "eth0")
        run("ip", "-n", f"host{host}", "route", "replace", INSIDE, "dev", "eth0", "src", private)
        run("ip", "-n", f"host{host}", "route", "replace", "default", "via", f"{NETWORK}.1", "src", private)
        run("ip", "-n", "host0", "route", "replace", f"{public}/32", "dev", "eth0")

    def _detach(self, instance: dict[str, Any], host: int) -> None:
        for address in (instance.get("PrivateIpAddress"), instance.get("PublicIpAddress")):
            if address:
                run("ip", "-n", f"host{host}", "address", "del", f"{address}/32", "dev", "eth0", check=False)
        run("ip", "-n", f"host{host}", "address", "flush", "dev", "eth0", "to", INSIDE, check=False)
        self._on(host, "kill -9 -1")


def main() -> None:
    server = ThreadedMotoServer(ip_address=f"{NETWORK}.1", port=PORT, verbose=False)
    server.start()
    centre = Centre(json.loads(sys.argv[1]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        centre.look()
        time.sleep(1)


if __name__ == "__main__":
    main()
