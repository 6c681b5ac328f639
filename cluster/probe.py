"""What one node of a cluster finds out about itself when it is asked; Ray runs this on every node."""

import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_LOOK_AT_GPUS = """
import torch
for number in range(torch.cuda.device_count()):
    torch.ones(8, 8, device=f"cuda:{number}").mm(torch.ones(8, 8, device=f"cuda:{number}")).sum().item()
    print(torch.cuda.get_device_name(number))
"""


@dataclass(frozen=True)
class Facts:
    """What there is on a node, without asking anybody else."""

    versions: dict[str, str]
    """Of Python and of the packages that figures depend on; `commit` of the project, where it is known."""
    gpus: list[str]
    """Names of the GPUs that PyTorch can compute on."""
    gpu_problem: str
    """Why it cannot; empty where nothing went wrong."""
    cache: str
    """Folder of decoded data."""
    free: int
    """Bytes that fit there."""
    shared_memory: int
    """Size of /dev/shm in bytes."""
    token: bool
    """Whether Ray asks for a token here."""


class Probe:
    """The questions. Errors are raised as they come."""

    def about(self) -> Facts:
        """Versions, GPUs, room and security of this node."""
        import tune.running  # noqa: F401  # all that trials and the estimate need, or this node is no use
        from cdal.caching import cache_folder
        from tune.lake import git_commit, versions

        gpus, problem = _gpus()
        commit = git_commit()
        cache = cache_folder()
        there = next(folder for folder in (cache, *cache.parents) if folder.exists())
        return Facts(
            versions=versions() | ({"commit": commit} if commit else {}),
            gpus=gpus,
            gpu_problem=problem,
            cache=str(cache),
            free=shutil.disk_usage(there).free,
            shared_memory=shutil.disk_usage("/dev/shm").total,
            token=os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
        )

    def now(self) -> float:
        """The clock here, in seconds since 1970."""
        return time.time()

    def write(self, root: str, name: str) -> None:
        """Put a small object into the results folder, and read it back.

        Raises:
            OSError: that failed; the message names no object, so that all nodes say the same.
        """
        from tune.lake import REPEATED, Store

        store = Store(root, patience=REPEATED)
        try:
            store.write(name, name.encode())
            if store.read(name).to_pybytes() != name.encode():
                raise OSError(f"{root} gives another content than was written")
        except OSError as error:
            raise OSError(f"{root}: {error.strerror}" if error.strerror else str(error).replace(f"/{name}", "")) from error

    def missing(self, root: str, names: list[str]) -> list[str]:
        """Those of the objects that cannot be seen from here."""
        from tune.lake import REPEATED, Store

        store, missing = Store(root, patience=REPEATED), []
        for name in names:
            try:
                store.read(name)
            except FileNotFoundError:
                missing.append(name)
        return missing

    def delete(self, root: str, names: list[str]) -> None:
        """Remove the objects, those already gone too."""
        from tune.lake import REPEATED, Store

        Store(root, patience=REPEATED).delete(names)

    def data(self, root: str) -> tuple[int, int]:
        """How many files the data have, and how many bytes; the first one is opened.

        Raises:
            FileNotFoundError: there are none.
        """
        if not root.startswith("s3://"):
            files = [Path(folder) / name for folder, _, names in os.walk(root) for name in sorted(names)]
            if not files:
                raise FileNotFoundError(f"{root} {'holds no files' if Path(root).is_dir() else 'is no folder here'}")
            with files[0].open("rb") as file:
                file.read(1)
            return len(files), sum(file.stat().st_size for file in files)
        import s3fs

        service = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
        sizes = {path: info["size"] for path, info in service.find(root, detail=True).items() if info["size"]}
        if not sizes:
            raise FileNotFoundError(f"{root} holds no objects")
        service.cat_file(min(sizes), start=0, end=1)
        return len(sizes), sum(sizes.values())


class Peer:
    """One of several processes on different nodes that add up a tensor together, as training on several nodes does."""

    def address(self) -> str:
        """Where the others can meet this one."""
        import ray.util

        with socket.socket() as free:
            free.bind(("", 0))
            host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
            return f"tcp://{host}:{free.getsockname()[1]}"

    def add_up(self, backend: str, address: str, rank: int, peers: int, seconds: float) -> float:
        """Seconds that an all-reduce of 64 MiB takes, the second time. `seconds` is how long the others are waited for."""
        from datetime import timedelta

        import torch
        import torch.distributed as together

        device = "cuda" if backend == "nccl" else "cpu"
        together.init_process_group(backend, init_method=address, rank=rank, world_size=peers, timeout=timedelta(seconds=seconds))
        try:
            took = 0.0
            for _ in range(2):
                numbers = torch.full((2**24,), float(rank), device=device)
                begun = time.monotonic()
                together.all_reduce(numbers)
                total = float(numbers[-1].item())
                took = time.monotonic() - begun
            if total != peers * (peers - 1) / 2:
                raise ArithmeticError(f"the sum is {total:g} instead of {peers * (peers - 1) / 2:g}")
            return took
        finally:
            together.destroy_process_group()


def _gpus() -> tuple[list[str], str]:
    """Asked in a process of its own: Ray hides the GPUs from processes that reserved none, and a broken driver may end one."""
    seen = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    try:
        asked = subprocess.run([sys.executable, "-c", _LOOK_AT_GPUS], capture_output=True, text=True, env=seen, timeout=120)
    except subprocess.TimeoutExpired:
        return [], "PyTorch did not answer within 120 s"
    problem = "" if asked.returncode == 0 else (asked.stderr.strip().splitlines() or [f"exit status {asked.returncode}"])[-1]
    return asked.stdout.split("\n")[:-1], problem
