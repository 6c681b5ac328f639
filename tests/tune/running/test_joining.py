"""An --address where no search can run: one sentence within half a minute, and none of Ray's own lines."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lean
import pytest
from patience import finish, wait_for

from cdal.errors import InputError
from tune.running import joining

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "0123456789abcdef" * 4
OTHER_RAY = """
import json, sys, ray
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
key = b"CLUSTER_METADATA"
known = json.loads(_internal_kv_get(key, namespace=b"cluster"))
_internal_kv_put(key, json.dumps(known | {"ray_version": "1.2.3"}).encode(), overwrite=True, namespace=b"cluster")
"""
WRONG = {
    "ray://127.0.0.1:10001": "no search runs through Ray's client.*--address auto",
    "head": "write auto, or HOST:PORT",
    "head:ssh": "write auto, or HOST:PORT",
    "http://127.0.0.1:8265": "write auto, or HOST:PORT",
    "127.0.0.1:1": r"no Ray cluster answers at --address 127.0.0.1:1 \(.*refused\); is its head up",
    "[::1]:1": r"no Ray cluster answers at --address \[::1\]:1 \(",
    "127.0.0.1:99999": "no Ray cluster answers at --address 127.0.0.1:99999",
    "no-such-host.invalid:6379": "no Ray cluster answers at --address no-such-host.invalid:6379",
}


@pytest.mark.parametrize("address", WRONG)
def test_where_no_cluster_can_be(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=WRONG[address]) as told:
        joining.knock(address)
    assert "\n" not in str(told.value)
    assert capfd.readouterr() == ("", "")


def test_what_listens_but_is_not_ray_is_given_up(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert sum(seconds for word, seconds in joining._STEPS.items() if word != "ready") <= 25  # and to import Ray takes two
    monkeypatch.setitem(joining._STEPS, "joined", 6.0)  # Ray's first lines of complaint come after five
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(InputError, match=f"no Ray cluster lets this machine in at --address {address}; is that the port"):
            joining.knock(address)
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a head that asks for a token."""
    environment = os.environ | lean.ENVIRONMENT | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scratch = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # names of sockets must be short
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}", *lean.HEAD]
    small = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0"]
    command += ["--node-ip-address=127.0.0.1", f"--temp-dir={scratch}", *small]
    head = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert head.stdout is not None
        wait_for(lambda: "Ray runtime started" in str(head.stdout and head.stdout.readline()))
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        finish(head)
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.mark.ray
@pytest.mark.long
def test_a_cluster_that_can_be_joined_and_why_it_cannot(cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    joining.knock(cluster)
    monkeypatch.setitem(joining._STEPS, "joined", 3.0)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN[::-1])
    with pytest.raises(InputError, match=f"the Ray cluster at --address {cluster} does not know this user's token"):
        joining.knock(cluster)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))  # where there is none either
    with pytest.raises(InputError, match=f"the Ray cluster at --address {cluster} does not know this user's token"):
        joining.knock(cluster)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    subprocess.run([sys.executable, "-c", OTHER_RAY, cluster], check=True, timeout=60)
    with pytest.raises(InputError, match=r"cannot be joined: Version mismatch.*1\.2\.3"):
        joining.knock(cluster)
