"""Machines made of Linux namespaces: each has an address, processes, /tmp, /dev/shm, a home and an SSH server of its own.

with Hosts(folder, share=[ROOT], nodes=3) as hosts:
    hosts.run(0, "ray", "up", "-y", "cluster.yaml")   # host 0 is where the user sits
    with hosts.away(2):
        ...                                            # its link is down

The files of this machine are seen by all, but what a host writes below its home, /tmp, /run and /dev/shm is its own; `folder` and
`share` are seen by all where they are. A program that asks how many CPUs its container may use hears of one. Everything lives in a
namespace of network and processes whose first process ends with its standard input, however the tests end, and takes along all that
was started in it: nothing is left behind on this machine.

Needs root, iproute2, openssh-server and a kernel that allows namespaces; see `missing`.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import patience

BRIDGE, NETWORK = "machines", "10.78.0"
HOME = "/mnt/home"
SSH_KEY = f"{HOME}/.ssh/id_ed25519"
_BOOT = r"""
set -eu
hostname "host$NUMBER"
mount -t tmpfs tmpfs /mnt && mkdir -p -m 700 /mnt/home/.ssh /mnt/seen
n=0; for path in $SEEN; do n=$((n + 1)); mkdir "/mnt/seen/$n" && mount --bind "$path" "/mnt/seen/$n"; done
mount -t tmpfs -o mode=1777 tmpfs /tmp
n=0; for path in $SEEN; do n=$((n + 1)); mkdir -p "$path" && mount --bind "/mnt/seen/$n" "$path"; done
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /sys/fs/cgroup && echo 100000 100000 >/sys/fs/cgroup/cpu.max
mount -t tmpfs tmpfs /run && mkdir -p /run/sshd
cp "$STATE/key" /mnt/home/.ssh/id_ed25519 && cp "$STATE/key.pub" /mnt/home/.ssh/authorized_keys
mount --bind "$STATE/passwd" /etc/passwd && mount --bind "$STATE/hosts" /etc/hosts
cp "$STATE/key" /run/host_key
exec /usr/sbin/sshd -D -e -f /dev/null -o HostKey=/run/host_key -o PermitRootLogin=prohibit-password -o UsePAM=no \
  -o StrictModes=no -o PidFile=none -o MaxStartups=100 -o Subsystem='sftp internal-sftp' ${ENVIRONMENT:+-o "SetEnv=$ENVIRONMENT"}
"""


def missing() -> str | None:
    """What this machine lacks; None if it can have hosts."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts of namespaces need root on Linux"
    for tool in ("ip", "unshare", "nsenter", "rsync", "/usr/sbin/sshd"):
        if shutil.which(tool) is None:
            return f"{tool} is missing; apt-get install iproute2 util-linux rsync openssh-server"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"namespaces are not allowed here: {tried.stderr.strip()}"


class Hosts:
    """Host 0, where the user sits, and some nodes, numbered from 1 on."""

    def __init__(self, folder: Path, share: Sequence[Path], nodes: int, environment: dict[str, str]) -> None:
        """Make them.

        Args:
            folder: for what they keep; seen by all.
            share: other folders that they all see, where these are below /tmp.
            nodes: how many.
            environment: of every SSH session.
        """
        self.folder, self.nodes = folder, range(1, nodes + 1)
        told = json.dumps(
            {"folder": str(folder), "share": [str(path) for path in share], "nodes": nodes, "environment": environment}
        )
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, __file__, told]
        # In a session of its own, so that a Ctrl-C ends the tests first.
        self._world = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self._world.stdout is not None
        line = self._world.stdout.readline()
        assert line, "the hosts did not come up"
        self._first: list[int] = json.loads(line)
        children = Path(f"/proc/{self._world.pid}/task/{self._world.pid}/children").read_text().split()
        self._enter_world = ["nsenter", "--target", children[0], "--net", "--mount", "--pid"]

    def __enter__(self) -> "Hosts":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End everything."""
        patience.finish(self._world)  # which closes its standard input

    @property
    def first_processes(self) -> list[int]:
        """Of every host, as numbered in their world."""
        return self._first

    def around(self, *command: object) -> list[str]:
        """A command line that runs outside the hosts, but in their network."""
        return [*self._enter_world, *map(str, command)]

    def on(self, host: int, *command: object, folder: Path | str = HOME, env: dict[str, str] | None = None) -> list[str]:
        """A command line that runs on a host, in a folder."""
        settings = [f"{name}={value}" for name, value in {"HOME": HOME, **(env or {})}.items()]
        namespaces = ["--net", "--mount", "--pid", "--ipc", "--uts"]
        return self.around("nsenter", "--target", self._first[host], *namespaces, "env", "--chdir", folder, *settings, *command)

    def run(self, host: int, *command: object, seconds: float = 120, **more: Any) -> str:
        """Run a command on a host; its output, error output included."""
        return run(self.on(host, *command, **more), seconds)

    @contextmanager
    def away(self, host: int) -> Iterator[None]:
        """Its link is down meanwhile."""
        link = "ip", "link", "set", f"link{host}"
        run(self.around(*link, "down"))
        try:
            yield
        finally:
            run(self.around(*link, "up"))


def address(host: int) -> str:
    """Of a host, in the hosts' network; `around` has the first one."""
    return f"{NETWORK}.{10 + host}"


def run(command: Sequence[str], seconds: float = 60) -> str:
    """Run a command; its output, error output included.

    Raises:
        AssertionError: it failed, or took too long; with the output.
    """
    done = patience.run(command, seconds, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def _boot(folder: Path, share: Sequence[str], number: int, environment: dict[str, str]) -> int:
    """Start a host; the number of its first process."""
    name = f"host{number}"
    for command in (
        f"ip netns add {name}",
        f"ip link add link{number} type veth peer name eth0 netns {name}",
        f"ip link set link{number} master {BRIDGE} up",
        f"ip -n {name} address add {address(number)}/24 dev eth0",
        f"ip -n {name} link set eth0 up",
        f"ip -n {name} link set lo up",
        f"ip -n {name} route add default via {NETWORK}.1",
    ):
        subprocess.run(command.split(), check=True)
    told = {
        "NUMBER": str(number),
        "STATE": str(folder / "hosts"),
        "SEEN": " ".join([str(folder), *share]),
        "ENVIRONMENT": " ".join(f"{key}={value}" for key, value in environment.items()),
    }
    with open(folder / "hosts" / f"{name}.log", "w") as log:
        process = subprocess.Popen(
            ["ip", "netns", "exec", name, "unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc",
             "bash", "-c", _BOOT],
            env=os.environ | told, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    # `ip` and `unshare` become one process, whose child is the host's first.
    patience.wait_for(lambda: children.read_text() or process.poll() is not None, every=0.01)
    assert process.poll() is None, (folder / "hosts" / f"{name}.log").read_text()
    return int(children.read_text().split()[0])


def _listens(host: int) -> bool:
    """Whether its SSH server can be reached."""
    try:
        socket.create_connection((address(host), 22), timeout=1).close()
    except OSError:
        return False
    return True


def _world(folder: Path, share: Sequence[str], nodes: int, environment: dict[str, str]) -> None:
    """The first process: make the hosts, and wait for the end."""
    state = folder / "hosts"
    state.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", state / "key"], check=True)
    users = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith(("root:", "ubuntu:"))]
    users = [f"root:x:0:0:root:{HOME}:/bin/bash", *users, f"ubuntu:x:0:0:ubuntu:{HOME}:/bin/bash"]
    (state / "passwd").write_text("\n".join(users) + "\n")
    names = [f"{address(number)} host{number}" for number in range(nodes + 1)]
    (state / "hosts").write_text("\n".join(["127.0.0.1 localhost", *names]) + "\n")
    for command in (
        "mount --make-rprivate /",
        "mount -t tmpfs tmpfs /run",
        "ip link set lo up",
        f"ip link add {BRIDGE} type bridge",
        f"ip address add {NETWORK}.1/24 dev {BRIDGE}",
        f"ip link set {BRIDGE} up",
    ):
        subprocess.run(command.split(), check=True)
    first = [_boot(folder, share, number, environment) for number in range(nodes + 1)]
    for number in range(nodes + 1):
        patience.wait_for(partial(_listens, number))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans are not kept
    sys.stdout.write(json.dumps(first) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    _world(Path(told["folder"]), told["share"], told["nodes"], told["environment"])
