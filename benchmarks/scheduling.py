"""What scheduling costs on many machines: searches of trials that do nothing, on 50 simulated nodes.

    python benchmarks/scheduling.py                          # 50 nodes, 17 GB of memory, 5 minutes: wants a machine of its own
    python benchmarks/scheduling.py --nodes 12               # fits two cores that have other work

Every node is a Ray node of its own, with its own store and workers, though all are on this machine; node after node is started.
Sampler, scheduler, recorder and lake are the search's own; only the trial is exchanged for one that reports twice and ends. Shown
are the seconds from the search's start to its last trial in the lake, which are upper bounds, as all nodes share this machine's
cores, and the processor time of the search's own process, which other load hardly changes: what scheduling costs.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}  # before Ray looks

import ray.tune
from ray.cluster_utils import Cluster
from rich.console import Console

from tune.results import create_experiment, load
from tune.running import Node, Options, Session, make_plan, tuning

EPOCHS = 2
GROWTH = 1.5  # how much more a trial among the last ones may take than one among the first
STORE = 80 * 2**20  # bytes of every node's object store, about the least that Ray takes


class Nothing(ray.tune.Trainable):
    """A trial that only speaks: what CdalTrial says of two epochs. (Pickled by value, so workers need not import PyTorch.)"""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> ray.tune.PlacementGroupFactory:
        """One CPU, as a trial of one worker takes without GPUs."""
        return ray.tune.PlacementGroupFactory([{"CPU": 1}])

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the first trial of this process."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another."""
        self._number, self._epoch = json.loads(new_config["settings"])["number"], 0
        return True

    def step(self) -> dict[str, Any]:
        """The next epoch; the last one ends the trial."""
        self._epoch += 1
        dice = (self._number * 7919 % 1000) / 1000
        row = {"trial_id": f"{self._number:05d}", "epoch": self._epoch, "step": self._epoch, "dice": dice}
        payload: dict[str, Any] = {"epochs": [row], "curve": [(self._epoch, dice)]}
        if self._epoch == EPOCHS:
            payload |= {"done": True, "status": "finished", "reason": "nothing to do", "trial": {"final_dice": dice}}
        said = {key: payload[key] for key in ("curve", "done", "status") if key in payload}
        return said | {"epoch": self._epoch, "best_dice": dice, "dice": dice, "payload": payload}

    def save_checkpoint(self, checkpoint_dir: str) -> str:
        """Nothing is kept."""
        return checkpoint_dir

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing was kept."""


def search(root: str, trials: int, nodes: int, address: str) -> tuple[float, float]:
    """Seconds that a search takes, and those of its process; all its trials must be in the lake, finished."""
    name = f"of-{trials}"
    options = Options(dataset="phantom", trials=trials, epochs=EPOCHS, scheduler="none", min_improvement=0, cpus_per_worker=1)
    plan = make_plan(options, [Node(1, 0)] * nodes)
    create_experiment(root, name, plan.describe())
    started, busy = time.perf_counter(), time.process_time()
    session = Session(plan, root, name, machine=None, address=address)
    session.run(Console(quiet=True), resume=False, budget=None)
    seconds = time.perf_counter() - started, time.process_time() - busy
    rows = [row for row in load(root).trials().to_pylist() if row["experiment"] == name]
    assert [row["status"] for row in rows] == ["finished"] * trials, "some trials did not end"
    return seconds


def main() -> int:
    """Print the table; 1 where trials take longer the more there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--trials", default="50,100,200", metavar="LIST", help="how many, search by search (default: 50,100,200)")
    options = parser.parse_args()
    numbers = [int(number) for number in options.trials.split(",")]
    tuning.CdalTrial = Nothing  # type: ignore[misc,assignment]
    started = time.perf_counter()
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    )
    try:
        for _ in range(options.nodes):
            cluster.add_node(num_cpus=1, object_store_memory=STORE)
        print(f"{options.nodes} nodes of one CPU, started in {time.perf_counter() - started:.0f} s")
        tuning.connect(cluster.address, this=None)
        with tempfile.TemporaryDirectory() as folder:
            root = str(Path(folder) / "lake")
            search(root, 1, options.nodes, cluster.address)  # what is loaded once only
            seconds = {number: search(root, number, options.nodes, cluster.address) for number in numbers}
    finally:
        ray.shutdown()
        for node in cluster.list_all_nodes():
            node.kill_all_processes(check_alive=False)
    print(f"{'trials':>8}{'seconds':>10}{'a trial':>10}{'processor':>12}{'a trial':>10}")
    for number, (total, busy) in seconds.items():
        print(f"{number:8d}{total:10.1f}{total / number:10.3f}{busy:12.1f}{busy / number:10.3f}")
    first, last = (seconds[number][1] / number for number in (numbers[0], numbers[-1]))
    linear = last <= GROWTH * first
    print(f"all trials finished; one of {numbers[-1]} costs {last / first:.2f} times the processor time of one of {numbers[0]}")
    print(f"bar: at most {GROWTH:g} times: {'met' if linear else 'missed'}")
    return 0 if linear else 1


if __name__ == "__main__":
    sys.exit(main())
