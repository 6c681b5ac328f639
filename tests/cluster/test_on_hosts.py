"""Both launchers from `ray up` to `ray down`, on hosts made of namespaces: as they are, and as instances of an emulated AWS.

Ray, SSH, rsync, the autoscaler and the searches are real. The files are the project's, but for lines that are marked EDIT. Nothing
is downloaded: the nodes find their dependencies installed, which is where cluster/setup_node.sh comes to on its second run.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hosts as hosts_module
import pandas as pd
import pytest
from data_centre import ENVIRONMENT
from hosts import HOME, SSH_KEY, Hosts, address
from patience import wait_for
from searches import tiny, trials

from tune.results import load

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(hosts_module.missing() is not None, reason=str(hosts_module.missing()))

# Every trial is known beforehand, and trained to its end: what is found does not depend on who was first.
ORDERLESS = "--sampler random --scheduler none --min-improvement 0 --seed 3"


class Lab:
    """Hosts, a launcher's file, and a lake that they all see."""

    def __init__(self, hosts: Hosts, name: str, environment: dict[str, str]) -> None:
        self.hosts, self.folder, self._environment = hosts, hosts.folder / name, environment
        self.folder.mkdir()
        self.lake, self.file = self.folder / "lake", self.folder / "launcher.yaml"

    def edit(self, name: str, changes: dict[str, str]) -> None:
        """Write the project's file with other values in lines that are marked EDIT, as a user does."""
        lines = (ROOT / name).read_text().splitlines()
        for old, new in changes.items():
            (number,) = [number for number, line in enumerate(lines) if old in line and "# EDIT" in line]
            lines[number] = lines[number].replace(old, new)
        self.file.write_text("\n".join(lines))

    def ray(self, verb: str, *arguments: object) -> str:
        """Run a `ray` command where the user sits, in the project's folder; what it prints."""
        return self.hosts.run(0, *self._ray(verb, *arguments), folder=ROOT, env=self._environment, seconds=300)

    def _ray(self, verb: str, *arguments: object) -> list[object]:
        return [Path(sys.executable).parent / "ray", verb, self.file, *arguments]

    def search(self, options: str) -> subprocess.Popen[str]:
        """Start a search on the head, through `ray exec`."""
        command = f"cd cdal-search && python tune/search.py --address auto --storage $LAKE {options} 2>&1 | cat"
        call = self.hosts.on(0, *self._ray("exec", command), folder=ROOT, env=self._environment)
        return subprocess.Popen(call, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def processes(hosts: Hosts, host: int) -> list[str]:
    """Command lines of all that runs on a host."""
    return hosts.run(host, "ps", "-eo", "args", "--no-headers").splitlines()


def trains(hosts: Hosts, host: int) -> bool:
    """Whether a trial is on the host."""
    return any(line.startswith("ray::CdalTrial") for line in processes(hosts, host))


def rays(hosts: Hosts) -> list[str]:
    """All processes of Ray on the nodes."""
    return [line for node in hosts.nodes for line in processes(hosts, node) if re.search(r"raylet|gcs_server|ray::|/ray/", line)]


def wait(until: Callable[[], object], seconds: float = 300) -> None:
    """Look now and then, as every look is a command on some host."""
    wait_for(until, seconds, every=0.5)


def finish(process: subprocess.Popen[str], seconds: float = 600) -> str:
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        pytest.fail(f"still running after {seconds} s:\n{output}")
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Three nodes, ready to be set up, and where the user sits, with a token."""
    folder = tmp_path_factory.mktemp("hosts")
    share = [ROOT, Path(sys.prefix), Path(sys.base_prefix)]
    # A host that is cut off is given up sooner, and threads of machines with more CPUs than are here do not spin.
    small = {"RAY_health_check_failure_threshold": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    with Hosts(folder, share, nodes=3, environment=ENVIRONMENT | small) as made:
        files = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
        environment = f"{HOME}/.cdal-search/venv-{hashlib.sha256(b''.join(files)).hexdigest()[:16]}"
        for node in made.nodes:
            made.run(node, "mkdir", "-p", f"{HOME}/.cdal-search")
            made.run(node, "ln", "-s", sys.prefix, environment)
            made.run(node, "touch", f"{environment}.complete")
        made.run(
            0, "bash", "-c", "umask 077 && mkdir -p ~/.cdal-search/secret && openssl rand -hex 32 >~/.cdal-search/secret/token"
        )
        yield made


# --- SSH hosts ---


@pytest.fixture(scope="module")
def onprem(hosts: Hosts) -> Lab:
    lab = Lab(hosts, "onprem", {})
    changes = {"192.168.1.11": address(1), "[192.168.1.12, 192.168.1.13]": f"[{address(2)}, {address(3)}]"}
    changes |= {"ssh_user: trainer": "ssh_user: root", "~/.ssh/id_ed25519": SSH_KEY, "/shared/results": str(lab.lake)}
    lab.edit("cluster/onprem.yaml", changes)
    return lab


def test_ray_up_makes_one_cluster_of_all_hosts(onprem: Lab) -> None:
    onprem.ray("up", "-y")
    wait(lambda: "3 local.cluster.node" in onprem.ray("exec", "ray status"))


def test_strangers_are_turned_away(onprem: Lab) -> None:
    """Without the token no machine takes a command, not even one from among the nodes."""
    python = f"{HOME}/.cdal-search/venv/bin/python"
    join = f"import ray; ray.init('{address(1)}:6379', log_to_driver=False); print('joined', len(ray.nodes()))"
    for settings, welcome in ({"RAY_AUTH_MODE": "disabled"}, False), ({}, True):
        known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{HOME}/.cdal-search/secret/token"}
        call = onprem.hosts.on(2, "timeout", "120", python, "-c", join, env=known | settings)
        assert ("joined" in subprocess.run(call, capture_output=True, text=True).stdout) is welcome


def test_a_search_on_three_hosts_finds_what_one_machine_finds(onprem: Lab, tmp_path: Path) -> None:
    options = f"--name same --space {tiny(onprem.folder)} --trials 6 --max-concurrent 3 --cpus-per-worker 1 {ORDERLESS}"
    spread = onprem.search(options)
    alone = subprocess.Popen([sys.executable, "tune/search.py", "--storage", tmp_path, *options.split()], cwd=ROOT)
    assert "leaderboard/index.html" in finish(spread)
    assert alone.wait(timeout=300) == 0
    found, expected = trials(onprem.lake, "same"), trials(tmp_path, "same")
    assert found["status"].tolist() == ["finished"] * 6
    assert found["host"].nunique() >= 2
    figures = ["trial_id", *(name for name in found if name.startswith("config.")), "validation_dice", "final_dice"]
    pd.testing.assert_frame_equal(found[figures], expected[figures], check_exact=True)


def test_one_model_is_trained_by_two_hosts(onprem: Lab) -> None:
    hosts = onprem.hosts
    options = f"--name wide --space {tiny(onprem.folder)} --trials 1 --workers-per-trial 2 --cpus-per-worker 2"
    search = onprem.search(f"{options} {ORDERLESS}")
    wait(lambda: sum(any("RayTrainWorker" in line for line in processes(hosts, node)) for node in hosts.nodes) == 2)
    finish(search)
    (trial,) = trials(onprem.lake, "wide").to_dict("records")
    assert (trial["status"], trial["workers"], trial["epochs"]) == ("finished", 2, 3)


def test_when_a_host_is_lost_its_trials_go_on_elsewhere(onprem: Lab) -> None:
    hosts = onprem.hosts
    space = tiny(onprem.folder, epochs=5, steps=8)
    search = onprem.search(f"--name lost --space {space} --trials 12 --max-concurrent 3 --cpus-per-worker 1 {ORDERLESS}")
    trained: dict[tuple[str, int], set[float]] = {}

    def rows() -> int:
        """Epochs that the lake has; as it keeps the newest row only, look often."""
        if (onprem.lake / "lost").is_dir():
            for row in load(onprem.lake).metrics(["train_seconds"]).to_pylist():
                if row["experiment"] == "lost":
                    trained.setdefault((row["trial_id"], row["epoch"]), set()).add(row["train_seconds"])
        return len(trained)

    wait(lambda: rows() >= 10 and trains(hosts, 3), seconds=400)
    hosts.cut(3)
    wait(lambda: rows() >= 0 and search.poll() is not None, seconds=600)
    hosts.mend(3)
    assert "leaderboard/index.html" in finish(search)
    wait(lambda: "3 local.cluster.node" in onprem.ray("exec", "ray status"))  # Ray has started it again
    assert trials(onprem.lake, "lost")["status"].tolist() == ["finished"] * 12
    assert rows() == 12 * 5
    repeated = [trial for (trial, _), times in trained.items() for _ in range(len(times) - 1)]
    assert all(repeated.count(trial) <= 1 for trial in repeated)  # the epoch since its checkpoint


def test_ray_down_ends_all_work(onprem: Lab) -> None:
    """The head at once, the others when they miss it; idle helpers stay there until `ray stop`, as docs/onprem.md says."""
    onprem.ray("down", "-y")
    working = re.compile(r"raylet/raylet|gcs_server|ray::(CdalTrial|IDLE|_)")
    wait(lambda: not any(working.search(line) for line in rays(onprem.hosts)))
    for node in onprem.hosts.nodes:
        onprem.hosts.run(node, "bash", "-c", ". ~/.cdal-search/environment.sh && ray stop --force")
    assert rays(onprem.hosts) == []


# --- AWS ---

READ = """
import json, boto3
ec2 = boto3.client("ec2")
instances = [found for group in ec2.describe_instances()["Reservations"] for found in group["Instances"]]
groups = {group["GroupId"]: group for group in ec2.describe_security_groups()["SecurityGroups"]}
print(json.dumps({"instances": instances, "groups": groups, "pairs": ec2.describe_key_pairs()["KeyPairs"]}, default=str))
"""
ACCOUNT = r"""
import pathlib, re, boto3
boto3.client("s3").create_bucket(Bucket="my-bucket")
lake, launch = re.findall(r"```json\n(.*?)```", pathlib.Path("docs/aws.md").read_text(), re.S)
iam = boto3.client("iam")
for role, policies in {"cdal-search-head": {"lake": lake, "launch": launch}, "cdal-search-worker": {"lake": lake}}.items():
    trust = re.search(r"trust.json <<END\n(.*?)END", pathlib.Path("docs/aws.md").read_text(), re.S)[1]
    iam.create_role(RoleName=role, AssumeRolePolicyDocument=trust)
    for name, document in policies.items():
        iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=document)
    iam.create_instance_profile(InstanceProfileName=role)
    iam.add_role_to_instance_profile(InstanceProfileName=role, RoleName=role)
"""
LAKE = """
from tune.results import load
table = load("s3://my-bucket/cdal-search").trials().to_pandas()
print(table[["trial_id", "status", "epochs"]].to_json(orient="records"))
"""


class Account:
    """The emulated account, and what is in it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def ask(self, script: str) -> Any:
        """What a script prints as JSON, run where the user sits."""
        call = self.lab.hosts.on(0, sys.executable, "-c", script, folder=ROOT, env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)})
        done = subprocess.run(call, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout or "null")

    def running(self, profile: str = "") -> list[dict[str, Any]]:
        """Instances that run, of all or of one profile."""
        return [
            found
            for found in self.ask(READ)["instances"]
            if found["State"]["Name"] == "running" and found["IamInstanceProfile"]["Arn"].endswith(profile)
        ]

    def host(self, instance: dict[str, Any]) -> int:
        """The host that is an instance."""
        for host in self.lab.hosts.nodes:
            if f"{instance['PrivateIpAddress']}/32" in self.lab.hosts.run(host, "ip", "address"):
                return host
        raise AssertionError(f"no host is {instance['InstanceId']}")


def tags(instance: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


@pytest.fixture(scope="module")
def account(hosts: Hosts) -> Iterator[Account]:
    """An account with bucket and rights as docs/aws.md says."""
    lab = Lab(hosts, "aws", ENVIRONMENT)
    lab.edit("cluster.yaml", {"max_workers: 8": "max_workers: 2"})
    centre = Path(hosts_module.__file__).with_name("data_centre.py")
    call = hosts.around("env", *(f"{name}={value}" for name, value in ENVIRONMENT.items()), sys.executable, centre)
    with open(lab.folder / "centre.log", "w") as log:
        process = subprocess.Popen([*call, json.dumps(hosts.first_processes[1:])], stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", (lab.folder / "centre.log").read_text()
    made = Account(lab)
    made.ask(ACCOUNT)
    yield made
    process.kill()
    process.wait()


def test_ray_up_makes_a_head_on_aws_and_nothing_else(account: Account) -> None:
    account.lab.ray("up", "-y")
    found = account.ask(READ)
    (head,) = account.running()
    assert (head["InstanceType"], head.get("InstanceLifecycle")) == ("m7i.large", None)
    assert head["IamInstanceProfile"]["Arn"].endswith("/cdal-search-head")
    assert head["MetadataOptions"]["HttpTokens"] == "required"
    assert tags(head)["Project"] == tags(head)["ray-cluster-name"] == "cdal-search"
    (pair,) = found["pairs"]
    assert head["KeyName"] == pair["KeyName"] == "ray-autoscaler_us-east-1"
    (group,) = [found["groups"][entry["GroupId"]] for entry in head["SecurityGroups"]]
    assert (group["GroupName"], group["VpcId"]) == ("cdal-search", head["VpcId"])
    rules = {(rule["IpProtocol"], rule.get("FromPort")): rule for rule in group["IpPermissions"]}
    assert rules.keys() == {("tcp", 22), ("-1", None)} or rules.keys() == {("tcp", 22), ("-1", -1)}
    within = next(rule for (protocol, _), rule in rules.items() if protocol == "-1")
    assert within["IpRanges"] == []
    assert [peer["GroupId"] for peer in within["UserIdGroupPairs"]] == [group["GroupId"]]


def test_trials_bring_spot_workers_and_survive_the_loss_of_one(account: Account) -> None:
    hosts = account.lab.hosts
    space = tiny(account.lab.folder, epochs=5, steps=8)
    search = account.lab.search(f"--name spot --space {space} --trials 5 --gpus-per-worker 0 --cpus-per-worker 4 {ORDERLESS}")
    wait(lambda: len(account.running("cdal-search-worker")) == 2, seconds=400)
    workers = account.running("cdal-search-worker")
    for worker in workers:
        assert worker["InstanceType"] in ("g6.xlarge", "g5.xlarge")
        assert worker["InstanceLifecycle"] == "spot"
        assert tags(worker)["Project"] == "cdal-search"
    wait(lambda: any(trains(hosts, account.host(worker)) for worker in workers), seconds=400)
    (head,) = account.running("cdal-search-head")
    assert not trains(hosts, account.host(head))
    wait(lambda: any((row["epochs"] or 0) >= 1 for row in account.ask(LAKE)), seconds=400)
    lost = next(worker for worker in workers if trains(hosts, account.host(worker)))
    account.ask(f"import boto3; boto3.client('ec2').terminate_instances(InstanceIds=['{lost['InstanceId']}'])")
    assert "leaderboard/index.html" in finish(search)
    assert [row["status"] for row in account.ask(LAKE)] == ["finished"] * 5


def test_ray_down_terminates_all_instances(account: Account) -> None:
    account.lab.ray("down", "-y")
    assert account.running() == []
    assert {found["State"]["Name"] for found in account.ask(READ)["instances"]} <= {"terminated", "shutting-down"}
    wait(lambda: not rays(account.lab.hosts), seconds=60)
