"""What cluster.yaml and cluster/onprem.yaml say: by Ray's own schema, and what must hold for cost, safety and equal versions."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]
BOTH = ["cluster.yaml", "cluster/onprem.yaml"]
AWS, ONPREM = BOTH


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return found


def workers() -> dict[str, dict[str, Any]]:
    config = read(AWS)
    return {name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]}


def inbound(config: dict[str, Any]) -> list[dict[str, Any]]:
    return list(config["provider"].get("security_group", {}).get("IpPermissions", []))


@pytest.mark.parametrize("name", BOTH)
def test_ray_accepts_the_file(name: str) -> None:
    validate_config(prepare_config(read(name)))


@pytest.mark.parametrize("name", BOTH)
def test_a_misspelt_key_would_not_be_accepted(name: str) -> None:
    """The check above sees what it is to see."""
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(read(name) | {"idle_timeout": 5}))


def test_ray_is_the_version_of_the_constraints() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#"))
    assert pins["ray"] == version("ray")
    for name in BOTH:  # and no file brings another one
        assert read(name).get("docker") is None
        assert not re.search(r"pip install|ray==|rayproject/", (ROOT / name).read_text())


@pytest.mark.parametrize("name", BOTH)
def test_what_a_user_must_edit_is_marked_and_comes_first(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    marked = {re.sub(r"^[- ]*", "", line).split(":")[0].split("=")[0] for line in lines if "# EDIT" in line}
    common = {"LAKE"}
    if name == AWS:
        assert marked == common | {"cluster_name", "max_workers", "region", "availability_zone", "InstanceType"}
    else:
        assert marked == common | {"head_ip", "worker_ips", "ssh_user", "ssh_private_key"}
    last = max(number for number, line in enumerate(lines) if "# EDIT" in line)
    assert last < next(number for number, line in enumerate(lines) if line.startswith("file_mounts:"))


def test_the_head_trains_nothing_and_is_home_to_drivers() -> None:
    config = read(AWS)
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert head["resources"]["driver"] >= 100
    assert "InstanceMarketOptions" not in head["node_config"]
    assert all("driver" not in kind.get("resources", {}) for kind in workers().values())
    assert "driver" in " ".join(read(ONPREM)["head_start_ray_commands"])
    assert "driver" not in " ".join(read(ONPREM)["worker_start_ray_commands"])


def test_workers_are_two_types_of_the_spot_market_that_go_when_idle() -> None:
    config, types = read(AWS), workers()
    assert len({kind["node_config"]["InstanceType"] for kind in types.values()}) == 2
    for kind in types.values():
        assert kind["min_workers"] == 0
        assert kind["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert 0 < config["idle_timeout_minutes"] <= 10
    assert config["provider"]["cache_stopped_nodes"] is False
    assert 0 < config["max_workers"] <= 16


def test_machines_on_aws_are_alike_tagged_and_cautious() -> None:
    config = read(AWS)
    machines = [kind["node_config"] for kind in config["available_node_types"].values()]
    assert len({machine["ImageId"] for machine in machines}) == 1  # Python's minor version is the image's, and must be the same
    for machine in machines:
        tagged = {spec["ResourceType"]: {tag["Key"]: tag["Value"] for tag in spec["Tags"]} for spec in machine["TagSpecifications"]}
        assert tagged["instance"]["Project"] == tagged["volume"]["Project"] == "cdal-search"
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
        assert all(device["Ebs"]["Encrypted"] for device in machine["BlockDeviceMappings"])
        assert machine["IamInstanceProfile"]["Name"].startswith("cdal-search-")
    assert {machine["IamInstanceProfile"]["Name"] for machine in machines} == {"cdal-search-head", "cdal-search-worker"}


def test_rights_on_aws_end_at_the_lake_and_the_cluster() -> None:
    text = (ROOT / "docs/aws.md").read_text()
    lake, launch = (json.loads(block)["Statement"] for block in re.findall(r"```json\n(.*?)```", text, re.S))
    assert "s3://my-bucket/cdal-search" in read(AWS)["setup_commands"][0]
    rights = {statement["Sid"]: statement for statement in lake + launch}
    assert all("*" not in action for statement in lake for action in statement["Action"])
    assert rights["UseTheLake"]["Resource"] == "arn:aws:s3:::my-bucket/cdal-search/*"
    assert rights["ListTheLake"]["Condition"]["StringLike"]["s3:prefix"] == ["cdal-search", "cdal-search/*"]
    ending = [statement for statement in launch if "ec2:TerminateInstances" in statement["Action"]]
    assert [statement["Condition"]["StringEquals"] for statement in ending] == [
        {"aws:ResourceTag/ray-cluster-name": read(AWS)["cluster_name"]}
    ]
    assert rights["MakeThemWorkers"]["Resource"].endswith(":role/cdal-search-worker")


def test_nothing_but_ssh_comes_in() -> None:
    assert inbound(read(AWS)) == []  # what Ray adds by itself is SSH and what comes from within
    for name in BOTH:
        head = " ".join(read(name)["head_start_ray_commands"])
        assert "--dashboard-host=127.0.0.1" in head
        assert "0.0.0.0" not in (ROOT / name).read_text()


@pytest.mark.parametrize("name", BOTH)
def test_the_token_is_sent_and_in_no_file(name: str) -> None:
    mounts = read(name)["file_mounts"]
    assert mounts["~/.cdal-search/secret"] == "~/.cdal-search/secret"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert not [path for path in tracked if "secret" in path or path.endswith((".pem", "token"))]
    for path in ("cluster.yaml", "cluster/onprem.yaml", "cluster/setup_node.sh"):
        text = (ROOT / path).read_text()
        assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|[0-9a-f]{32}", text)
    assert "RAY_AUTH_MODE=token" in (ROOT / "cluster/setup_node.sh").read_text()


@pytest.mark.parametrize("name", BOTH)
def test_all_packages_are_sent_and_nothing_that_is_large_or_changes(name: str) -> None:
    mounts = read(name)["file_mounts"]
    for path in ("cdal", "tune", "dashboards", "cluster", "pyproject.toml", "constraints.txt"):
        assert mounts[f"~/cdal-search/{path}"] == path
        assert (ROOT / path).exists()
    assert not {".", "./", ".venv", ".git", "results", "tests"} & set(mounts.values())


def test_both_launchers_send_the_same_and_set_up_alike() -> None:
    aws, onprem = read(AWS), read(ONPREM)
    for key in ("file_mounts", "rsync_exclude"):
        assert aws[key] == onprem[key]
    *started, watching = aws["worker_start_ray_commands"]
    assert started == onprem["worker_start_ray_commands"]
    assert "python -m cluster.spot --address $RAY_HEAD_IP:6379" in watching
    assert watching.endswith("</dev/null &")  # SSH does not wait for it
    for config in (aws, onprem):
        (command,) = config["setup_commands"]
        assert re.fullmatch(r"LAKE=\S+ bash ~/cdal-search/cluster/setup_node.sh", command)


# --- cluster/setup_node.sh, with a project whose only dependency is an empty package ---


class Machine:
    """A home, and a project in it."""

    def __init__(self, folder: Path) -> None:
        self.home, self.project, self.packages = folder / "home", folder / "home/cdal-search", folder / "packages"
        self.kept = self.home / ".cdal-search"
        (self.project / "cluster").mkdir(parents=True)
        self.packages.mkdir()
        self.constrain("1.0")
        (self.home / ".bashrc").write_text("return  # as many do where nobody types\n")
        shutil.copy(ROOT / "cluster/setup_node.sh", self.project / "cluster")
        (self.project / "pyproject.toml").write_text(
            '[project]\ndependencies = ["torch"]\n[project.optional-dependencies]\ncluster = ["torch>=1"]\n'
        )

    def constrain(self, version: str) -> None:
        """Write which version the project wants."""
        (self.project / "constraints.txt").write_text(f"torch=={version}\n")

    def offer(self, version: str) -> None:
        """Publish a version of the package."""
        with zipfile.ZipFile(self.packages / f"torch-{version}-py3-none-any.whl", "w") as wheel:
            about = f"torch-{version}.dist-info"
            wheel.writestr("torch.py", "")
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")

    def set_up(self, lake: str = "s3://bucket/prefix", python: str = sys.executable) -> subprocess.CompletedProcess[str]:
        offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.packages), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        settings = {"HOME": str(self.home), "PATH": "/usr/bin:/bin", "LAKE": lake, "PYTHON": python} | offline
        command = ["bash", str(self.project / "cluster/setup_node.sh")]
        return subprocess.run(command, env=settings, capture_output=True, text=True)

    def shell(self, command: str) -> list[str]:
        """The lines that a command prints in a shell such as Ray's commands run in."""
        call = ["bash", "-c", f". ~/.bashrc; {command}"]
        settings = {"HOME": str(self.home), "PATH": "/usr/bin:/bin"}
        return subprocess.run(call, env=settings, capture_output=True, text=True, check=True).stdout.splitlines()

    @property
    def environments(self) -> set[str]:
        return {path.name for path in self.kept.glob("venv-*.complete")}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """It is set up; nothing more can be installed but what is offered."""
    made = Machine(tmp_path_factory.mktemp("machine"))
    made.offer("1.0")
    done = made.set_up()
    assert done.returncode == 0, done.stderr
    (made.packages / "torch-1.0-py3-none-any.whl").unlink()
    return made


@pytest.mark.long
def test_a_node_is_set_up_once_for_the_same_dependencies(machine: Machine) -> None:
    shown = machine.shell('python -c "import torch; print(torch.__file__)"; echo $RAY_AUTH_MODE; echo $LAKE; echo $PYTHONPATH')
    assert shown[0].startswith(str(machine.kept.resolve()))
    assert shown[1:] == ["token", "s3://bucket/prefix", str(machine.project)]
    assert machine.shell("echo $RAY_AUTH_TOKEN_PATH") == [str(machine.kept / "secret/token")]

    before = machine.environments
    assert machine.set_up(lake="/shared/results").returncode == 0
    assert machine.environments == before
    assert machine.shell("echo $LAKE") == ["/shared/results"]
    assert (machine.home / ".bashrc").read_text().count("environment.sh") == 1


@pytest.mark.long
def test_other_dependencies_are_another_environment_and_half_of_one_is_none(machine: Machine) -> None:
    (before,) = machine.environments
    machine.constrain("2.0")
    failed = machine.set_up()
    assert failed.returncode != 0
    assert "torch" in failed.stderr
    assert machine.environments == {before}
    assert machine.shell("readlink ~/.cdal-search/venv") == [str(machine.kept / before.removesuffix(".complete"))]
    machine.offer("2.0")
    assert machine.set_up().returncode == 0
    assert len(machine.environments) == 2
    assert machine.shell("python -c \"from importlib.metadata import version; print(version('torch'))\"") == ["2.0"]


def test_an_old_python_is_refused_in_one_line(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (tmp_path / "python3.10").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3.10").chmod(0o755)
    refused = machine.set_up(python=str(tmp_path / "python3.10"))
    assert refused.returncode == 2
    assert refused.stderr.startswith("Python 3.11 or newer is needed")
    assert len(refused.stderr.splitlines()) == 1
    assert not machine.environments
