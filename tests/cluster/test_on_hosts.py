"""Both launchers from `ray up` to `ray down`, on hosts made of namespaces: as they are, and as instances of an emulated AWS.

Ray, SSH, rsync, the autoscaler and the searches are real. The files are the project's, but for lines that are marked EDIT. Nothing
is downloaded: the nodes find their dependencies installed, which is where cluster/setup_node.sh comes to on its second run.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hosts as hosts_module
import lean
import pandas as pd
import patience
import pytest
from data_centre import ENVIRONMENT
from hosts import HOME, SSH_KEY, Hosts, address
from searches import here, tiny, trials

from cdal.training import LAST, history
from tune.results import load

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.ray,
    pytest.mark.hosts,
    pytest.mark.skipif(hosts_module.missing() is not None, reason=str(hosts_module.missing())),
]

# Every trial is known beforehand, and trained to its end: what is found does not depend on who was first.
ORDERLESS = "--sampler random --scheduler none --min-improvement 0 --seed 3"

# Threads of a process that has fewer CPUs than it thinks do not spin.
SMALL = {"OMP_WAIT_POLICY": "PASSIVE"} | lean.ENVIRONMENT


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

    @contextmanager
    def search(self, options: str) -> Iterator[subprocess.Popen[str]]:
        """A search on the head, through `ray exec`; it ends with the block."""
        command = f"cd cdal-search && python tune/search.py --address auto --storage $LAKE {options} 2>&1 | cat"
        call = self.hosts.on(0, *self._ray("exec", command), folder=ROOT, env=self._environment)
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(call, text=True, start_new_session=True, **streams)
        try:
            yield process
        finally:
            patience.end(process)


def processes(hosts: Hosts, host: int) -> list[str]:
    """Command lines of all that runs on a host, in full: without a terminal `ps` may cut them off."""
    return hosts.run(host, "ps", "-ewwo", "args", "--no-headers").splitlines()


def has(hosts: Hosts, host: int, name: str) -> bool:
    """Whether a process whose command line has this in it is on the host."""
    return any(name in line for line in processes(hosts, host))


def rays(hosts: Hosts) -> list[str]:
    """All processes of Ray on the nodes."""
    return [line for node in hosts.nodes for line in processes(hosts, node) if re.search(r"raylet|gcs_server|ray::|/ray/", line)]


def wait(until: Callable[[], object], seconds: float = 300) -> None:
    """Look now and then, as every look is a command on some host."""
    patience.wait_for(until, seconds, every=0.5)


def finish(process: subprocess.Popen[str], seconds: float = 300) -> str:
    output = patience.finish(process, seconds)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Three nodes, ready to be set up, and where the user sits, with a token."""
    folder = tmp_path_factory.mktemp("hosts")
    share = [ROOT, Path(sys.prefix), Path(sys.base_prefix)]
    small = SMALL | {"RAY_health_check_failure_threshold": "2"}  # a host that is cut off is given up sooner
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

NODES = 1, 2  # of the hosts


@pytest.fixture(scope="module")
def onprem(hosts: Hosts) -> Lab:
    """Two of the hosts, as owners of machines have them."""
    lab = Lab(hosts, "onprem", {})
    changes = {"192.168.1.11": address(NODES[0]), "[192.168.1.12, 192.168.1.13]": f"[{address(NODES[1])}]"}
    changes |= {"ssh_user: trainer": "ssh_user: root", "~/.ssh/id_ed25519": SSH_KEY, "/shared/results": str(lab.lake)}
    lab.edit("cluster/onprem.yaml", changes)
    return lab


def assert_one_cluster(lab: Lab) -> None:
    """Both hosts are in it, sooner or later."""
    wait(lambda: all(has(lab.hosts, node, "raylet/raylet") for node in NODES))  # is seen at less cost than what follows
    wait(lambda: "2 local.cluster.node" in lab.ray("exec", "ray status"))


def test_ray_up_makes_one_cluster_of_all_hosts(onprem: Lab) -> None:
    onprem.ray("up", "-y")
    assert_one_cluster(onprem)


def test_strangers_are_turned_away(onprem: Lab) -> None:
    """Without the token no machine takes a command, not even one from among the nodes."""
    python = f"{HOME}/.cdal-search/venv/bin/python"
    join = f"import ray; ray.init('{address(1)}:6379', log_to_driver=False); print('joined', len(ray.nodes()))"
    for settings, welcome in ({"RAY_AUTH_MODE": "disabled"}, False), ({}, True):
        known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{HOME}/.cdal-search/secret/token"}
        call = onprem.hosts.on(2, python, "-c", join, env=known | settings)
        assert ("joined" in patience.run(call).stdout) is welcome


def test_a_search_that_loses_a_host_finds_what_one_machine_finds(onprem: Lab, tmp_path: Path) -> None:
    space = tiny(onprem.folder, epochs=4, steps=4)
    options = f"--name same --space {space} --trials 3 --cpus-per-worker 1 {ORDERLESS}"

    def checkpoints() -> list[Path]:
        return sorted(onprem.lake.glob(f"same/tune/*/{LAST}"))

    with onprem.search(options) as search:
        begun = {"00000", "00001"}  # one on either host, as each has one CPU
        patience.wait_for(lambda: begun <= {path.parent.name for path in checkpoints()} or search.poll() is not None, 300)
        with onprem.hosts.away(2):
            known = [(path.parent.name, report) for path in checkpoints() for report in history(path.parent)]
            before = {(trial, report.epoch): report.values["train_seconds"] for trial, report in known}
            here("--storage", tmp_path, *options.split())
            assert "leaderboard/index.html" in finish(search)
    found, expected = trials(onprem.lake, "same"), trials(tmp_path, "same")
    assert found["status"].tolist() == ["finished"] * 3
    assert {row.host for row in found.itertuples() if (row.trial_id, 4) not in before} == {"host1"}
    figures = ["trial_id", *(name for name in found if name.startswith("config.")), "validation_dice", "final_dice"]
    pd.testing.assert_frame_equal(found[figures], expected[figures], check_exact=True)

    epochs = load(onprem.lake).metrics().to_pandas().set_index(["trial_id", "epoch"])["train_seconds"]
    assert len(epochs) == 3 * 4
    assert begun <= {trial for trial, _ in before}
    assert before.items() <= epochs.to_dict().items()  # none of them was trained a second time
    assert_one_cluster(onprem)  # Ray has started the lost host again


def test_ray_down_ends_all_work(onprem: Lab) -> None:
    """The head at once, the others when they miss it; idle helpers stay there until `ray stop`, as docs/onprem.md says."""
    onprem.ray("down", "-y")
    working = re.compile(r"raylet/raylet|gcs_server|ray::(CdalTrial|IDLE|_)")
    wait(lambda: not any(working.search(line) for line in rays(onprem.hosts)))
    for node in NODES:
        onprem.hosts.run(node, "bash", "-c", ". ~/.cdal-search/environment.sh && ray stop --force")
    assert rays(onprem.hosts) == []


# --- AWS ---

ANSWER = """
import json, pathlib, re, sys
import boto3

ec2, iam, s3 = map(boto3.client, ("ec2", "iam", "s3"))

def instances():
    return [found for group in ec2.describe_instances()["Reservations"] for found in group["Instances"]]

for line in sys.stdin:
    answer = None
    exec(json.loads(line))
    print(json.dumps(answer, default=str), flush=True)
"""
ACCOUNT = r"""
s3.create_bucket(Bucket="my-bucket")
lake, launch = re.findall(r"```json\n(.*?)```", pathlib.Path("docs/aws.md").read_text(), re.S)
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
answer = load("s3://my-bucket/cdal-search").trials().select(["status", "workers", "epochs"]).to_pylist()
"""


class Account:
    """The emulated account, and what is in it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        call = lab.hosts.on(0, sys.executable, "-c", ANSWER, folder=ROOT, env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)})
        self._mind = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, script: str) -> Any:
        """The `answer` of a script, run where the user sits, always in the same process, as imports take long."""
        assert self._mind.stdin is not None
        assert self._mind.stdout is not None
        self._mind.stdin.write(json.dumps(script) + "\n")
        self._mind.stdin.flush()
        return json.loads(self._mind.stdout.readline())

    def close(self) -> None:
        """Ask no more."""
        patience.finish(self._mind)

    def running(self, profile: str = "") -> list[dict[str, Any]]:
        """Instances that run, of all or of one profile."""
        return [
            found
            for found in self.ask("answer = instances()")
            if found["State"]["Name"] == "running" and found["IamInstanceProfile"]["Arn"].endswith(profile)
        ]

    def host(self, instance: dict[str, Any]) -> int:
        """The host that is an instance; 0 as long as none is."""
        addresses = {host: self.lab.hosts.run(host, "ip", "address") for host in self.lab.hosts.nodes}
        return next((host for host, text in addresses.items() if f"{instance['PrivateIpAddress']}/32" in text), 0)


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
    made.close()
    patience.end(process)


def test_ray_up_makes_a_head_on_aws_and_nothing_else(account: Account) -> None:
    account.lab.ray("up", "-y")
    (head,) = account.running()
    assert (head["InstanceType"], head.get("InstanceLifecycle")) == ("m7i.large", None)
    assert head["IamInstanceProfile"]["Arn"].endswith("/cdal-search-head")
    assert head["MetadataOptions"]["HttpTokens"] == "required"
    assert tags(head)["Project"] == tags(head)["ray-cluster-name"] == "cdal-search"
    (pair,) = account.ask("answer = ec2.describe_key_pairs()['KeyPairs']")
    assert head["KeyName"] == pair["KeyName"] == "ray-autoscaler_us-east-1"
    groups = [entry["GroupId"] for entry in head["SecurityGroups"]]
    (group,) = account.ask(f"answer = ec2.describe_security_groups(GroupIds={groups})['SecurityGroups']")
    assert (group["GroupName"], group["VpcId"]) == ("cdal-search", head["VpcId"])
    rules = {(rule["IpProtocol"], rule.get("FromPort")): rule for rule in group["IpPermissions"]}
    assert rules.keys() == {("tcp", 22), ("-1", None)} or rules.keys() == {("tcp", 22), ("-1", -1)}
    within = next(rule for (protocol, _), rule in rules.items() if protocol == "-1")
    assert within["IpRanges"] == []
    assert [peer["GroupId"] for peer in within["UserIdGroupPairs"]] == [group["GroupId"]]


def test_a_model_is_trained_by_two_spot_workers_that_it_brings_and_survives_the_loss_of_one(account: Account) -> None:
    hosts = account.lab.hosts
    space = tiny(account.lab.folder, epochs=6, steps=4)
    options = f"--name spot --space {space} --trials 1 --workers-per-trial 2 --gpus-per-worker 0 --cpus-per-worker 3 {ORDERLESS}"

    def all_train() -> bool:
        """Whether there are two workers, and both train."""
        workers = account.running("cdal-search-worker")
        return len(workers) == 2 and all(has(hosts, account.host(worker), "RayTrainWorker") for worker in workers)

    with account.lab.search(options) as search:
        wait(lambda: all_train() or search.poll() is not None, 600)
        workers = account.running("cdal-search-worker")
        for worker in workers:
            assert worker["InstanceType"] in ("g6.xlarge", "g5.xlarge")
            assert worker["InstanceLifecycle"] == "spot"
            assert tags(worker)["Project"] == "cdal-search"
        (head,) = account.running("cdal-search-head")
        assert has(hosts, account.host(head), "ray::CdalTrial")  # which only looks after them
        assert not has(hosts, account.host(head), "RayTrainWorker")
        listed = "str(s3.list_objects_v2(Bucket='my-bucket', Prefix='cdal-search/spot/tune/'))"
        wait(lambda: account.ask(f"answer = {LAST!r} in {listed}"))
        account.ask(f"ec2.terminate_instances(InstanceIds=['{workers[-1]['InstanceId']}'])")
        assert "leaderboard/index.html" in finish(search, 600)
    (trial,) = account.ask(LAKE)
    assert (trial["status"], trial["workers"], trial["epochs"]) == ("finished", 2, 6)
    profiles = [str(found.get("IamInstanceProfile", "gone")) for found in account.ask("answer = instances()")]
    ever = [profile for profile in profiles if profile == "gone" or "-worker" in profile]
    assert len(ever) >= 3  # another one came for it


def test_ray_down_terminates_all_instances(account: Account) -> None:
    account.lab.ray("down", "-y")
    assert account.running() == []
    assert {found["State"]["Name"] for found in account.ask("answer = instances()")} <= {"terminated", "shutting-down"}
    wait(lambda: not rays(account.lab.hosts))
