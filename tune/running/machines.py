"""The machines: what each gives, what a trial takes of it, how many fit at once; Ray, started here or joined elsewhere."""

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ray
import yaml
from ray._common.utils import get_default_ray_temp_dir

from cdal.errors import InputError
from tune.running.joining import knock
from tune.running.options import AUTO, Options

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the overseer tells of them
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial's last message need not have a Dice
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "PYTHONWARNINGS": "ignore",
}
_LAUNCHER_FILE = Path("~/ray_bootstrap_config.yaml")  # where there is one, this is the head of a cluster that `ray up` made


class Node(NamedTuple):
    """What one machine of the cluster can give to trials."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Resources:
    """What a trial takes, and how many run at once."""

    workers: int
    cpus: float
    """Of one worker."""
    gpus: float
    """Of one worker."""
    at_once: int

    def __str__(self) -> str:
        worker = f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")
        return f"{self.workers} worker{'s' * (self.workers > 1)} of {worker} per trial, {self.at_once} at once"


def size(options: Options, nodes: Sequence[Node]) -> Resources:
    """What a trial takes and how many fit at once, so that none waits for what others hold.

    Raises:
        InputError: a trial asks for more than there is.
    """
    workers, all_gpus, all_cpus = options.workers_per_trial, sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)
    if options.gpus_per_worker == AUTO and workers > 1:
        raise InputError("--gpus-per-worker auto is for trials of one worker, which may share a GPU; name a number")
    gpus = min(1.0, all_gpus) if isinstance(options.gpus_per_worker, str | None) else options.gpus_per_worker
    for name, value in (("gpus", gpus), ("cpus", options.cpus_per_worker)):
        if value is not None and (not math.isfinite(value) or value < 0 or (name == "cpus" and value == 0)):
            raise InputError(f"--{name}-per-worker is {value:g}; it must be {'above 0' if name == 'cpus' else 'at least 0'}")
        if value is not None and value != int(value) and (value > 1 or workers > 1):
            raise InputError(f"--{name}-per-worker is {value:g}; a fraction must be below 1, and is for trials of one worker only")
    cpus = options.cpus_per_worker or _share(options, nodes, gpus)
    fits = [_fits(node, cpus, gpus) for node in nodes]
    if sum(fits) < workers:
        asked = f"{workers} worker{'s' * (workers > 1)} of {cpus:g} CPU and {gpus:g} GPU"
        raise InputError(f"a trial asks for {asked}, but {len(nodes)} machine(s) have {all_cpus:g} CPU and {all_gpus:g} GPU")
    at_once = sum(fits) // workers
    if options.max_concurrent is not None:
        at_once = min(at_once, options.max_concurrent)
    if options.trials is not None:
        at_once = min(at_once, options.trials)
    return Resources(workers, cpus, gpus, at_once)


def _share(options: Options, nodes: Sequence[Node], gpus: float) -> float:
    """CPUs of a worker where the user named none: those that go with its GPUs, else one, or more where fewer trials are allowed."""
    biggest = max(nodes, key=lambda node: (node.gpus, node.cpus))
    if gpus > 0:
        return max(1, math.floor(biggest.cpus * min(gpus / biggest.gpus, 1))) if biggest.gpus else 1
    if options.max_concurrent is None:
        return 1
    wanted = options.max_concurrent * options.workers_per_trial
    per_node = math.ceil(wanted / len(nodes))
    return max(1, math.floor(min(node.cpus for node in nodes) / per_node))  # the same on every machine


def _fits(node: Node, cpus: float, gpus: float) -> int:
    room = math.floor(node.cpus / cpus + 1e-9)
    if gpus > 0:
        per_gpu = math.floor(1 / gpus + 1e-9) if gpus < 1 else 0
        room = min(room, int(node.gpus) * per_gpu if per_gpu else math.floor(node.gpus / gpus + 1e-9))
    return room


def this_machine() -> Node:
    """CPUs that this process may use, and the GPUs it sees."""
    import torch

    cpus: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cpus = max(1, min(cpus, math.floor(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return Node(cpus, torch.cuda.device_count())


def connect(address: str | None, *, this: Node | None) -> None:
    """Start Ray on this machine, or join a cluster; once per process.

    Raises:
        InputError: there is no cluster at the address, or Ray does not start here.
    """
    if ray.is_initialized():
        return
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    warnings.filterwarnings("ignore", module=r"ray\.")
    wanted: dict[str, Any]
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    if this is not None:
        logs = f"{get_default_ray_temp_dir()}/session_latest/logs"  # type: ignore[no-untyped-call]
        where, what, see = "on this machine", "started", f"; see {logs}"
        wanted = {"address": "local", "num_cpus": int(this.cpus), "num_gpus": int(this.gpus), "include_dashboard": False}
    else:
        knock(address or "auto")
        where, what, see = f"at --address {address}", "joined", ""
        wanted = {"address": address}
    try:
        ray.init(**wanted, **quiet)
    except Exception as error:  # of any kind
        raise InputError(f"Ray {where} cannot be {what}: {' '.join(str(error).split())[:200]}{see}") from error


def cluster_nodes() -> list[Node]:
    """The machines of the cluster that Ray is connected to, and those that its autoscaler may add when trials wait for them."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    nodes = [_node(resources) for resources in alive] + _to_come(len(alive) - 1)
    return [node for node in nodes if node.cpus > 0] or [Node(0, 0)]


def _to_come(workers: int) -> list[Node]:
    """The machines that may join so many workers, of the largest type in the launcher's file, which `ray up` leaves on the head."""
    try:
        launcher = yaml.safe_load(_LAUNCHER_FILE.expanduser().read_text())
    except OSError:
        return []
    types = [kind["resources"] for name, kind in launcher["available_node_types"].items() if name != launcher["head_node_type"]]
    largest = max((_node(resources) for resources in types), key=lambda node: (node.gpus, node.cpus), default=Node(0, 0))
    return [largest] * max(0, launcher["max_workers"] - workers)


def _node(resources: Mapping[str, float]) -> Node:
    return Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0))
