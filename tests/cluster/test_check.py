"""The check before a search, on a cluster of two nodes on this machine, with what really goes wrong."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import lean
import pytest
from patience import finish, run, wait_for
from s3 import Bucket, S3Service

from cluster.findings import FINE, WARNING, WRONG, gpus, room, shared_memory, token, versions
from cluster.nodes import Node
from cluster.probe import Facts, Probe

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30


@dataclass
class TwoNodes:
    """Two nodes of Ray, each in a folder of its own, that ask for a token; `/proc/self/cwd` is another place on each."""

    address: str
    folders: tuple[Path, Path]
    processes: list[subprocess.Popen[str]]
    environment: dict[str, str]
    longest: float = 15
    """Seconds that any command took, which tells how busy the machine is."""

    def run(self, module: str, *arguments: object) -> tuple[int, str]:
        """A command that knows the token, from the project's folder; its status and output."""
        command = [sys.executable, "-m", module, "--address", self.address, *arguments]
        begun = time.monotonic()
        done = run(command, cwd=ROOT, env=self.environment)
        self.longest = max(self.longest, time.monotonic() - begun)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def two_nodes(_s3_service: S3Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4, "PYTHONPATH": str(ROOT), "COLUMNS": "400"}
    known |= {"RAY_health_check_failure_threshold": "1000"}  # Ray itself does not give up a node that hangs
    environment = os.environ | _s3_service.environment | lean.ENVIRONMENT | known
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = (tmp_path_factory.mktemp("head"), tmp_path_factory.mktemp("worker"))
    scratch = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # names of sockets must be short
    small = [
        "--block",
        "--num-cpus=1",
        "--num-gpus=0",
        "--object-store-memory=80000000",
        "--min-worker-port=0",
        "--max-worker-port=0",
    ]
    head = ["--head", "--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={scratch}", *lean.HEAD]
    nodes = TwoNodes(f"127.0.0.1:{port}", folders, [], environment)

    def start(folder: Path, *options: str) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", *options, *small]
        nodes.processes.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, text=True))

    try:
        start(folders[0], *head)
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        start(folders[1], f"--address={nodes.address}", *lean.NODE)
        yield nodes
    finally:
        for process in nodes.processes[::-1]:
            process.terminate()
            finish(process)
        shutil.rmtree(scratch, ignore_errors=True)


def row(output: str, check: str) -> tuple[str, str]:
    """State of a check, and the rest of its line."""
    match = re.search(rf"^ +(ok|warning|wrong) +{re.escape(check)} +(.*)$", output, re.MULTILINE)
    assert match, output
    return match[1], match[2].rstrip()


@pytest.mark.ray
def test_a_search_waits_for_the_nodes_and_is_not_started_where_they_do_not_share_the_results(two_nodes: TwoNodes) -> None:
    (two_nodes.folders[0] / "data").mkdir()
    (two_nodes.folders[0] / "data" / "a.png").write_bytes(b"12345")
    status, output = two_nodes.run(
        "cluster.start", "--nodes", 2, "--name", "lung", "--storage", "/proc/self/cwd/results", "--data", "/proc/self/cwd/data"
    )
    assert status == 1, output
    assert row(output, "nodes") == ("ok", "2 answer")
    assert row(output, "versions")[0] == "ok"
    assert row(output, "clocks")[0] == "ok"
    assert "not the same folder everywhere" in row(output, "storage")[1]
    state, text = row(output, "data")
    assert state == "wrong"
    assert "is no folder here" in text
    assert "copy it to every node" in text
    assert len(re.findall(r"/[0-9a-f]{6}: ", text)) == 1  # of the worker alone
    assert output.rstrip().endswith("no search is started")


@pytest.mark.ray
def test_a_node_that_hangs_is_not_waited_for_and_what_is_missing_is_told_with_the_way_to_mend_it(
    two_nodes: TwoNodes, s3: Bucket
) -> None:
    (raylet,) = [
        child
        for child in children(two_nodes.processes[1].pid)
        if "raylet/raylet" in Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
    ]
    patience = f"{two_nodes.longest:.0f}"
    os.kill(raylet, signal.SIGSTOP)
    try:
        status, output = two_nodes.run(
            "cluster.check", "--patience", patience, "--gpus", 1000, "--storage", "s3://no-such-bucket/results"
        )
    finally:
        os.kill(raylet, signal.SIGCONT)
    assert status == 1, output
    state, text = row(output, "nodes")
    assert state == "wrong"
    assert f"no answer within {patience} s" in text
    assert "0 in all, 1000 are wanted" in row(output, "GPUs")[1]
    assert "bucket" in row(output, "storage")[1]
    assert "AWS_ENDPOINT_URL" in row(output, "storage")[1]
    assert re.search(r"^3 to mend", output, re.MULTILINE)


def children(parent: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


@pytest.mark.ray
def test_this_machine_alone_is_well(s3: Bucket, tmp_path: Path) -> None:
    """Two nodes that are well are those of test_slurm.py."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"12345")
    command = [sys.executable, "-m", "cluster.check", "--storage", f"{s3.address}/results", "--data", "images"]
    done = run(command, cwd=tmp_path, env=os.environ | lean.ENVIRONMENT | {"PYTHONPATH": str(ROOT), "COLUMNS": "400"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrong" not in done.stdout
    assert row(done.stdout, "storage")[1].startswith(f"{s3.address}/results: written, read and deleted by 1 node")
    assert row(done.stdout, "data") == ("ok", f"{tmp_path}/images: 1 files, 5 bytes")
    assert row(done.stdout, "all-reduce")[1].startswith("not run")
    assert "Contents" not in s3.service.client.list_objects_v2(Bucket=s3.name)  # nothing stays behind


def test_a_node_cannot_write_below_a_file_nor_read_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/results: Not a directory"):
        Probe().write(f"{tmp_path}/file/results", "name")
    with pytest.raises(FileNotFoundError, match="nothing is no folder here"):
        Probe().data(f"{tmp_path}/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no files"):
        Probe().data(f"{tmp_path}/empty")


@pytest.mark.ray
@pytest.mark.parametrize("missing", ["optuna", "ray.tune", "torch"])
def test_a_node_that_lacks_what_trials_need_does_not_pass(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from cluster.probe import Probe; Probe().about()"
    done = run([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith("ModuleNotFoundError: "), done.stderr
    assert missing in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "-1"], "--gpus is -1; it must be 0 or more"),
        (["--storage", "gs://bucket"], "--storage is gs://bucket; it must be a folder, or s3://bucket/prefix"),
        (["--patience", "nan"], "--patience is nan; it must be above 0"),
        (["--address", "127.0.0.1:1"], "no Ray cluster answers at --address 127.0.0.1:1 ("),
    ],
)
def test_wrong_input_is_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    from cluster.check import main

    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


FACTS = Facts(
    versions={"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0", "commit": "0" * 40},
    gpus=[], gpu_problem="", cache="/cache", free=50 * GIB, shared_memory=4 * GIB, token=True,
)  # fmt: skip


def test_versions_that_differ_are_named_with_their_nodes() -> None:
    other = replace(FACTS, versions=FACTS.versions | {"ray": "2.59.0", "commit": "1" * 40})
    rows = versions({"a": FACTS, "b": other, "c": FACTS})
    assert [(found.state, found.result) for found in rows] == [
        (WRONG, f"commit: {'0' * 40} on a, c; {'1' * 40} on b"),
        (WRONG, "ray: 2.60.0 on a, c; 2.59.0 on b"),
    ]
    assert versions({"a": FACTS, "b": FACTS})[0].state == FINE


def test_gpus_that_pytorch_cannot_use_or_ray_does_not_hand_out() -> None:
    h100 = replace(FACTS, gpus=["NVIDIA H100", "NVIDIA H100"])
    nodes = [Node(name, 8, count, name) for name, count in (("a", 2.0), ("b", 2.0), ("c", 2.0), ("d", 0.0))]
    facts = {"a": h100, "b": FACTS, "c": replace(FACTS, gpu_problem="no kernel image is available"), "d": h100}
    rows = gpus(facts, nodes, 8)
    assert [(found.state, found.result) for found in rows] == [
        (WRONG, "b: Ray has 2, PyTorch sees 0"),
        (WRONG, "c: no kernel image is available"),
        (WARNING, "d: PyTorch sees 2, Ray has none"),
        (WRONG, "6 in all, 8 are wanted"),
    ]
    assert gpus({"a": h100}, nodes[:1], 2)[0].result == "2: NVIDIA H100"


def test_room_shared_memory_and_open_doors() -> None:
    tight = replace(FACTS, free=5 * GIB, shared_memory=64 * 2**20, token=False)
    assert [found.state for found in room({"a": FACTS, "b": tight}, 0)] == [WARNING]
    assert [found.state for found in room({"a": FACTS, "b": tight}, 20 * GIB)] == [WRONG]
    assert room({"a": FACTS}, 20 * GIB)[0].state == FINE
    nodes = [Node("a", 8, 4, "a"), Node("b", 8, 0, "b")]
    assert [found.result for found in shared_memory({"a": FACTS, "b": tight}, nodes)] == [
        "b: /dev/shm has 0.062 GiB, 1 GiB are advised"
    ]
    assert [found.state for found in token({"a": FACTS, "b": tight})] == [WARNING]
