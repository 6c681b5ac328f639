"""The manifest: read by the model of Kubernetes' own client and by Ray's own autoscaler, and compared with the project's pins.

What belongs to KubeRay itself is compared with the names below. With them the file was valid under the definitions of RayJob that
KubeRay 1.6.2 and 1.7.0 publish, made so strict that no field is allowed which they do not have.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from cluster import start
from tune import search

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "cluster" / "kuberay.yaml").read_text()
FIELDS = {
    "job": {"entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit",
            "preRunningDeadlineSeconds", "rayClusterSpec"},
    "cluster": {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"},
    "autoscaler": {"idleTimeoutSeconds", "resources"},
    "head": {"serviceType", "rayStartParams", "template"},
    "group": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}  # fmt: skip


@pytest.fixture
def account() -> dict[str, Any]:
    return next(yaml.safe_load_all(TEXT))


@pytest.fixture
def job() -> dict[str, Any]:
    _, found = yaml.safe_load_all(TEXT)
    return found


@pytest.fixture
def cluster(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["rayClusterSpec"]


@pytest.fixture
def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    """What the head and the workers are made from."""
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


def test_the_pods_are_what_kubernetes_knows(pods: list[dict[str, Any]], account: dict[str, Any]) -> None:
    for pod in pods:
        client.V1PodTemplateSpec.model_validate(pod)
    client.V1ServiceAccount.model_validate(account)
    pods[0]["spec"]["containers"][0]["imagePullPolicies"] = "Always"
    with pytest.raises(ValueError, match="imagePullPolicies"):
        client.V1PodTemplateSpec.model_validate(pods[0])


def test_the_rest_is_what_kuberay_knows(job: dict[str, Any], cluster: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert job["spec"].keys() <= FIELDS["job"]
    assert cluster.keys() <= FIELDS["cluster"]
    assert cluster["autoscalerOptions"].keys() <= FIELDS["autoscaler"]
    assert cluster["headGroupSpec"].keys() <= FIELDS["head"]
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() <= FIELDS["group"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_rays_autoscaler_reads_a_head_without_trials_and_gpus_from_none_up(cluster: dict[str, Any]) -> None:
    cluster_object = {"metadata": {"name": "cdal-search", "namespace": "default"}, "spec": cluster}
    config = _derive_autoscaling_config_from_ray_cr(cluster_object)
    head = config["available_node_types"][config["head_node_type"]]["resources"]
    assert (head["CPU"], head.get("GPU", 0)) == (0, 0)
    (gpu,) = [kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]]
    assert gpu["resources"]["GPU"] == 1
    assert gpu["resources"]["CPU"] >= 1
    assert gpu["min_workers"] == 0 < gpu["max_workers"]
    assert config["idle_timeout_minutes"] == 5


def test_the_image_has_the_versions_that_the_project_is_tested_with(cluster: dict[str, Any], pods: list[dict[str, Any]]) -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert cluster["rayVersion"] == pins["ray"]
    (image,) = {pod["spec"]["containers"][0]["image"] for pod in pods}
    assert image.rpartition(":")[2] == f"{search_version()}-ray{pins['ray']}"
    assert image in (ROOT / "cluster" / "Dockerfile").read_text()


def search_version() -> str:
    match = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert match
    return match[1]


def test_the_entry_point_is_a_command_line_that_the_programs_understand(job: dict[str, Any]) -> None:
    words = job["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "cluster.start"]
    assert not set(job["spec"]["entrypoint"]) & set("\"'$;&|<>\\")  # KubeRay puts it into a line of shell
    given, others = start.parser().parse_known_args(words[3:])
    assert given.gpus <= job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]
    assert given.storage.startswith("s3://")  # pods keep nothing
    search.parser().parse_args(others)


def test_nobody_comes_in_without_the_token_or_from_outside(cluster: dict[str, Any]) -> None:
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not re.search(r"LoadBalancer|NodePort|Ingress|hostNetwork|hostPort", TEXT)


def test_pods_are_modest(pods: list[dict[str, Any]], account: dict[str, Any]) -> None:
    for pod in pods:
        spec, container = pod["spec"], pod["spec"]["containers"][0]
        assert spec["serviceAccountName"] == account["metadata"]["name"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert limits.items() <= requests.items()  # what is promised is what may be used
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        (shared,) = [volume for volume in spec["volumes"] if volume["name"] == mounted["/dev/shm"]]
        assert shared["emptyDir"]["medium"] == "Memory"
        assert mounted.keys() >= {next(item["value"] for item in container["env"] if item["name"] == "CDAL_CACHE")}


def test_nothing_is_paid_for_after_the_end(job: dict[str, Any]) -> None:
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert 0 < job["spec"]["ttlSecondsAfterFinished"] <= 600
    assert job["spec"]["activeDeadlineSeconds"] > 0


def test_what_is_to_be_edited_is_marked() -> None:
    lines = TEXT.splitlines()
    mine = re.compile(r"my-bucket|example\.com|ACCOUNT|maxReplicas:|requests: .*gpu")
    places = [number for number, line in enumerate(lines) if mine.search(line)]
    assert len(places) == 6
    for number in places:
        assert any("# EDIT" in line for line in lines[max(0, number - 3) : number + 1]), lines[number]
