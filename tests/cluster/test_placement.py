"""What a search makes of a cluster that `ray up` has made: where drivers go, and how many machines it counts on."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import lean
import pytest
import yaml
from patience import run
from ray.autoscaler._private.util import prepare_config

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.ray
SCRIPT = """
import json, sys
import ray
from tune.running import cluster_nodes
from tune.trials import CdalTrial, TrialSettings

def needs(workers):
    settings = TrialSettings(
        number=0, kind="searched", config={}, dataset="phantom", options={}, data=None, fold=0, folder="", workers=workers
    )
    return CdalTrial.default_resource_request({"settings": settings.to_json()}).bundles

ray.init(address="local", num_cpus=0, num_gpus=0, resources=json.loads(sys.argv[1]), include_dashboard=False, log_to_driver=False)
print(json.dumps({"one": needs(1), "two": needs(2), "nodes": cluster_nodes()}))
"""


def ask(home: Path, resources: dict[str, float]) -> dict[str, Any]:
    """What a head without CPUs answers."""
    call = [sys.executable, "-c", SCRIPT, json.dumps(resources)]
    settings = os.environ | lean.ENVIRONMENT | {"HOME": str(home)}
    done = run(call, cwd=ROOT, env=settings)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_on_aws_drivers_stay_on_the_head_and_workers_to_come_are_planned_with(tmp_path: Path) -> None:
    launcher = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    for name, kind in launcher["available_node_types"].items():  # as Ray asks AWS for
        if name != launcher["head_node_type"]:
            kind["resources"] = {"CPU": 4, "GPU": 1}
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(launcher))
    found = ask(tmp_path, {"driver": 10})
    assert found["two"][0]["driver"] == 1
    assert "CPU" not in found["two"][0]
    assert found["one"] == [{"CPU": 1}]
    assert found["nodes"] == [[4, 1]] * launcher["max_workers"]


def test_elsewhere_drivers_go_anywhere_and_what_is_there_is_all_there_is(tmp_path: Path) -> None:
    found = ask(tmp_path, {})
    assert "driver" not in found["two"][0]
    assert found["nodes"] == [[0, 0]]
