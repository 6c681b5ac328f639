"""The hosts that the launchers are tested on leave nothing behind, however their tests end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import hosts
import pytest
from patience import end, finish, wait_for

SCRIPT = """
import signal, sys, time
from pathlib import Path
from hosts import Hosts
with Hosts(Path(sys.argv[1]), [], nodes=1, environment={}) as made:
    made.run(1, "bash", "-c", "nohup sleep 1000 >/dev/null 2>&1 &")
    print("up", flush=True)
    time.sleep(1000)
"""


@pytest.mark.hosts
@pytest.mark.skipif(hosts.missing() is not None, reason=str(hosts.missing()))
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_hosts_end_with_the_process_that_made_them(how: signal.Signals, tmp_path: Path) -> None:
    def alive() -> list[str]:
        """Processes of the hosts, which carry the folder's name in their arguments or environment."""
        found = []
        for process in Path("/proc").iterdir():
            try:
                if process.name.isdigit() and str(tmp_path).encode() in (process / "environ").read_bytes():
                    found.append(process.name)
            except OSError:
                continue
        return found

    settings = os.environ | {"PYTHONPATH": str(Path(hosts.__file__).parent), "MARK": str(tmp_path)}
    maker = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, env=settings, text=True)
    try:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "up\n"
        assert len(alive()) > 4
        maker.send_signal(how)
        finish(maker)
    finally:
        end(maker)
    wait_for(lambda: not alive())
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert not any(f": {hosts.BRIDGE}" in line or ": link1" in line for line in links.splitlines())
