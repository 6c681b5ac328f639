"""What a search makes of a cluster that `ray up` has made: where drivers go, and how many machines it counts on."""

import json
import os
import sys
from pathlib import Path

import lean
import pytest
import yaml
from patience import run
from ray.autoscaler._private.util import prepare_config

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, os, sys
import ray
from tune.running import cluster_nodes
from tune.trials import CdalTrial, TrialSettings

def needs(workers):
    settings = TrialSettings(
        number=0, kind="searched", config={}, dataset="phantom", options={}, data=None, fold=0, folder="", workers=workers
    )
    return CdalTrial.default_resource_request({"settings": settings.to_json()}).bundles

for home, resources in json.loads(sys.argv[1]):
    os.environ["HOME"] = home
    about = {"num_cpus": 0, "num_gpus": 0, "resources": resources}
    ray.init(address="local", include_dashboard=False, log_to_driver=False, **about)
    print(json.dumps({"one": needs(1), "two": needs(2), "nodes": cluster_nodes()}))
    ray.shutdown()
"""


@pytest.mark.ray
def test_on_aws_drivers_stay_on_the_head_and_workers_to_come_are_planned_with_but_not_elsewhere(tmp_path: Path) -> None:
    """What a head without CPUs answers, once where `ray up` has made it on AWS, once with nothing known."""
    launcher = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    for name, kind in launcher["available_node_types"].items():  # as Ray asks AWS for
        if name != launcher["head_node_type"]:
            kind["resources"] = {"CPU": 4, "GPU": 1}
    (tmp_path / "aws").mkdir()
    (tmp_path / "aws" / "ray_bootstrap_config.yaml").write_text(json.dumps(launcher))
    asked = [(str(tmp_path / "aws"), {"driver": 10}), (str(tmp_path / "elsewhere"), {})]
    done = run([sys.executable, "-c", SCRIPT, json.dumps(asked)], cwd=ROOT, env=os.environ | lean.ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    aws, elsewhere = map(json.loads, done.stdout.splitlines()[-2:])

    assert aws["two"][0]["driver"] == 1
    assert "CPU" not in aws["two"][0]
    assert aws["one"] == [{"CPU": 1}]
    assert aws["nodes"] == [[4, 1]] * launcher["max_workers"]

    assert "driver" not in elsewhere["two"][0]
    assert elsewhere["nodes"] == [[0, 0]]
