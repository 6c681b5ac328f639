"""The notice that a spot machine is going to be taken away, from a service as AWS has it to a node that Ray drains."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import lean
import pytest
from patience import finish, wait_for

from cluster.spot import Metadata

ROOT = Path(__file__).resolve().parents[2]
ACTION = "/latest/meta-data/spot/instance-action"
LOOK = """
import sys, ray
from ray._private.state import state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
node, = [node["NodeID"] for node in ray.nodes() if node["NodeManagerAddress"] == "127.0.0.2"]
@ray.remote(num_cpus=1, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
class Work:  # without it the node would end at once
    def here(self): return True
work = Work.remote()
assert ray.get(work.here.remote(), timeout=60)
print("works", flush=True)
sys.stdin.readline()
print("draining" if node in state.get_draining_nodes() else "as before", flush=True)
"""


class Service:
    """What a machine of AWS asks about itself; wants a token, which it may forget."""

    def __init__(self) -> None:
        self.notice: dict[str, str] | None = None
        self.tokens: list[str] = []
        self.asked: list[str] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def answer(self, status: int, text: str = "") -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def do_PUT(self) -> None:
                assert self.path == "/latest/api/token"
                assert 0 < int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600
                service.tokens.append(f"token-{len(service.tokens)}-{time.monotonic_ns()}")
                self.answer(200, service.tokens[-1])

            def do_GET(self) -> None:
                service.asked.append(self.path)
                if self.headers["X-aws-ec2-metadata-token"] not in service.tokens[-1:]:
                    self.answer(401)
                elif self.path == ACTION and service.notice is not None:
                    self.answer(200, json.dumps(service.notice))
                else:
                    self.answer(404)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    found = Service()
    yield found
    found.close()


def test_a_notice_is_heard_when_there_is_one_and_the_token_is_renewed(service: Service) -> None:
    metadata = Metadata(service.address)
    assert metadata.notice() is None
    assert metadata.notice() is None
    assert len(service.tokens) == 1
    service.tokens.append("another")  # the first one is forgotten
    assert metadata.notice() is None
    service.notice = {"action": "terminate", "time": "2026-01-01T00:02:00Z"}
    assert metadata.notice() == "terminate at 2026-01-01T00:02:00Z"
    assert len(service.tokens) == 3


def test_what_is_no_machine_of_aws_hears_nothing() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # nobody listens
        assert Metadata(f"http://127.0.0.1:{silent.getsockname()[1]}").notice() is None


@pytest.mark.ray
@pytest.mark.long
def test_on_a_notice_ray_drains_the_machine_and_no_other(service: Service) -> None:
    known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4, "PYTHONPATH": str(ROOT)}
    environment = os.environ | lean.ENVIRONMENT | known | {"AWS_EC2_METADATA_SERVICE_ENDPOINT": service.address}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, scratch = f"127.0.0.1:{port}", tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # names of sockets must be short
    small = [
        "--block",
        "--num-cpus=1",
        "--num-gpus=0",
        "--object-store-memory=80000000",
        "--min-worker-port=0",
        "--max-worker-port=0",
    ]
    head = ["--head", "--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={scratch}", *lean.HEAD]
    processes: list[subprocess.Popen[str]] = []

    def start(*command: str) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes))  # type: ignore[call-overload]
        return processes[-1]

    ray = str(Path(sys.executable).with_name("ray"))
    try:
        start(ray, "start", *head, *small)
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        worker = start(ray, "start", f"--address={address}", "--node-ip-address=127.0.0.2", *lean.NODE, *small)
        assert worker.stdout is not None
        wait_for(lambda: "Ray runtime started" in str(worker.stdout.readline()))
        looking = start(sys.executable, "-c", LOOK, address)
        assert looking.stdout is not None
        assert "works" in looking.stdout.readline()
        watching = start(sys.executable, "-m", "cluster.spot", "--address", address, "--node-ip", "127.0.0.2", "--every", "0.2")
        wait_for(lambda: len(service.asked) > 2)
        assert watching.poll() is None
        service.notice = {"action": "terminate", "time": "2026-01-01T00:02:00Z"}
        said = finish(watching)
        assert watching.returncode == 0, said
        assert "Ray places nothing here any more" in said
        assert looking.communicate("now\n", timeout=60)[0].strip() == "draining"
    finally:
        for process in processes[::-1]:
            process.terminate()
        for process in processes:
            finish(process)
        shutil.rmtree(scratch, ignore_errors=True)
