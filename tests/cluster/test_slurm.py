"""The batch script, run as SLURM runs it, with two "nodes" on this machine: a search that is cut, and a requeue that ends it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lean
import pytest
from patience import finish, wait_for
from searches import assert_whole, tiny

from cdal.training import LAST

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "cluster" / "slurm.sh"
SLURM = {
    "srun": """
while [[ $1 == --* ]]; do
  [[ $1 == --nodelist=* ]] && echo "${1#*=} $(env | grep -c ^RAY_AUTH_TOKEN=) ${*: -1}" >>"$STEPS"
  shift
done
exec "$@" $([[ " $* " == *" --head "* ]] && echo "$HEAD" || echo "$NODE")
""",
    "scontrol": """
case "$*" in
  "show hostnames gpu[01-02]") printf 'gpu01\\ngpu02\\n' ;;
  "show hostnames gpu01") echo gpu01 ;;
  *) exit 1 ;;
esac
""",
    "hostname": """echo '127.0.0.1 '""",
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job of two nodes without GPUs; `srun` runs its command here."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in SLURM.items():
        (commands / name).write_text(f"#!/bin/bash\n{text.strip()}\n")
        (commands / name).chmod(0o755)
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "activate").write_text(f"PATH={commands}:{Path(sys.executable).parent}:$PATH\n")
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_CPUS_PER_TASK": "1"}
    small = lean.ENVIRONMENT | {"HEAD": " ".join(lean.HEAD), "NODE": " ".join(lean.NODE)}
    own = {"VENV": str(venv.parent), "NAME": "tiny", "STORAGE": str(tmp_path / "results"), "STEPS": str(tmp_path / "steps")}
    return os.environ | job | own | small | {"PYTHONPATH": str(ROOT), "COLUMNS": "400"}


@contextmanager
def submitted(environment: dict[str, str], nodes: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A job, which ends with the block."""
    told: dict[str, Any] = {"cwd": ROOT, "env": environment | {"SLURM_JOB_NODELIST": nodes}, "start_new_session": True}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    job = subprocess.Popen(["bash", str(SCRIPT), *arguments], text=True, **told, **streams)
    try:
        yield job
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGTERM)
            finish(job)


@pytest.mark.ray
def test_a_search_that_is_told_to_end_goes_on_with_the_same_command(slurm: dict[str, str], tmp_path: Path) -> None:
    arguments = ["--space", str(tiny(tmp_path, epochs=2)), "--trials", "2", "--max-concurrent", "1", "--min-improvement", "0"]
    storage = Path(slurm["STORAGE"])

    with submitted(slurm, "gpu[01-02]", *arguments) as job:
        wait_for(lambda: list(storage.glob(f"tiny/tune/*/{LAST}")) or job.poll() is not None, 300)
        job.send_signal(signal.SIGTERM)  # as `--signal=B:TERM@300` has it sent to the script alone
        output = finish(job)
    assert job.returncode == 130, output
    assert "interrupted; all results are saved" in output
    assert f"go on with the same sbatch command, or: scontrol requeue {slurm['SLURM_JOB_ID']}" in output
    assert re.search(r"storage +\S+: written, read and deleted by 2 nodes", output), output
    assert re.search(r"all-reduce +gloo between 2 nodes, 64 MiB", output), output
    assert re.search(r"access +only with Ray's token", output), output

    with submitted(slurm, "gpu01", *arguments) as job:  # the other node is not free
        output = finish(job, 300)
    assert job.returncode == 0, output
    assert "--resume tiny" in output
    assert Path(output.strip().splitlines()[-1]).is_file()
    assert_whole(storage, "tiny", 2, epochs=2)

    steps = [line.split() for line in Path(slurm["STEPS"]).read_text().splitlines()]
    assert [step[:2] for step in steps] == [["gpu01", "1"], ["gpu02", "1"], ["gpu01", "1"]]  # one step a node, with the token
    assert not Path(f"/tmp/ray-{slurm['SLURM_JOB_ID']}").exists()


def test_the_script_passes_shellcheck() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_a_job_is_told_before_its_time_is_up_and_may_be_requeued() -> None:
    options = re.findall(r"^#SBATCH (--[\w-]+)(?:=(\S+))?", SCRIPT.read_text(), re.MULTILINE)
    found = dict(options)
    assert found["--signal"] == "B:TERM@300"
    assert found.keys() >= {"--requeue", "--nodes", "--gpus-per-node", "--cpus-per-task", "--time", "--ntasks-per-node"}
    first_command = SCRIPT.read_text().index("\nset -euo pipefail")
    assert "#SBATCH" not in SCRIPT.read_text()[first_command:]  # sbatch stops reading at the first command
