"""Whether a Ray cluster is at an address: found out by a process that can be ended, as Ray tries for a quarter of an hour."""

import re
import select
import subprocess
import sys

from cdal.errors import InputError

_KNOCK = """
import socket, sys
address = sys.argv[1]
try:
    if address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=8).close()
    print("heard", flush=True)
    import ray
    print("ready", flush=True)
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    print("joined", flush=True)
except Exception as error:
    print(" ".join(str(error).split()) or type(error).__name__, flush=True)
"""
_STEPS = {"heard": 10.0, "ready": 60.0, "joined": 12.0}
"""What the process says, and seconds that it may take; to import Ray takes two, or many on a busy machine."""
_LONGEST = 250
_REFUSED = b"InvalidAuthToken"


def knock(address: str) -> None:
    """Look whether Ray can join the cluster there; takes as long as that, and half a minute at most on an idle machine.

    Args:
        address: HOST:PORT, or auto for the cluster that this machine is part of.

    Raises:
        InputError: it cannot.
    """
    if address.startswith("ray://"):
        raise InputError(
            f"--address is {address}, but no search runs through Ray's client; start it on a machine of the cluster, with "
            "--address auto, or by `ray job submit`"
        )
    if address != "auto" and not re.fullmatch(r"(\[[\da-fA-F:.]+\]|[^\s:/]+):\d{1,5}", address):
        raise InputError(f"--address is {address!r}; write auto, or HOST:PORT of the cluster's head, such as 10.0.0.1:6379")
    command = [sys.executable, "-P", "-c", _KNOCK, address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as knocking:
        assert knocking.stdout is not None
        assert knocking.stderr is not None
        try:
            for word, seconds in _STEPS.items():
                heard = select.select([knocking.stdout], [], [], seconds)[0]
                said = knocking.stdout.readline().decode(errors="replace").strip() if heard else None
                if said == word:
                    continue
                knocking.kill()
                raise InputError(_why(address, word, said, refused=_REFUSED in knocking.stderr.read()))
        finally:
            knocking.kill()


def _why(address: str, word: str, said: str | None, *, refused: bool) -> str:
    """What is told: the step that did not come, what was said instead, and whether a token was refused."""
    if refused or (said and "RAY_AUTH_TOKEN" in said):
        return (
            f"the Ray cluster at --address {address} does not know this user's token; copy its own to ~/.ray/auth_token, or set "
            "RAY_AUTH_TOKEN_PATH to where it is"
        )
    if word == "heard":
        return f"no Ray cluster answers at --address {address} ({said or 'no answer'}); is its head up?"
    if said is not None:
        return f"the Ray cluster at --address {address} cannot be joined: {said[:_LONGEST]}"
    return (
        f"no Ray cluster lets this machine in at --address {address}; is that the port of its head, which is 6379 as a rule, and "
        "is this machine part of it?"
    )
