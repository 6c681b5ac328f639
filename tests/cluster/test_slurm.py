"""The batch script, run as SLURM runs it, with two "nodes" on this machine: a search that is cut, and a requeue that ends it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tune.results import load

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "cluster" / "slurm.sh"
SPACE = """
dataset: {name: phantom, size: 16, cases: 8, classes: 1}
fixed:
  model.width_multipliers: [1]
  model.encoder_blocks: 0
  model.discriminator_width: 8
  training.epochs: 2
  training.steps_per_epoch: 2
  training.batch_size: 2
  training.samples_per_case: 1
  evaluation.window: whole
  evaluation.votes: 2
parameters:
  loss.adversarial: {min: 0.0, max: 0.2}
"""
SLURM = {
    "srun": """
while [[ $1 == --* ]]; do
  [[ $1 == --nodelist=* ]] && echo "${1#*=} $(env | grep -c ^RAY_AUTH_TOKEN=) ${*: -1}" >>"$STEPS"
  shift
done
exec "$@"
""",
    "scontrol": """
[ "$1 $2 $3" = "show hostnames gpu[01-02]" ] || exit 1
printf 'gpu01\\ngpu02\\n'
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
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "gpu[01-02]", "SLURM_CPUS_PER_TASK": "1"}
    own = {"VENV": str(venv.parent), "NAME": "tiny", "STORAGE": str(tmp_path / "results"), "STEPS": str(tmp_path / "steps")}
    return os.environ | job | own | {"PYTHONPATH": str(ROOT)}


def submit(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(SCRIPT), *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_search_that_is_told_to_end_goes_on_with_the_same_command(slurm: dict[str, str], tmp_path: Path) -> None:
    space = tmp_path / "tiny.yaml"
    space.write_text(SPACE)
    arguments = ["--space", str(space), "--trials", "4", "--max-concurrent", "1", "--min-improvement", "0"]

    job = submit(slurm, *arguments)
    storage = Path(slurm["STORAGE"])
    until = time.monotonic() + 150
    while not list(storage.glob("tiny/metrics/*.parquet")) and job.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)  # as `--signal=B:TERM@300` has it sent to the script alone
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 130, output
    assert "interrupted; all results are saved" in output
    assert f"go on with the same sbatch command, or: scontrol requeue {slurm['SLURM_JOB_ID']}" in output
    assert re.search(r"all-reduce +gloo between 2 nodes", output), output

    job = submit(slurm, *arguments)
    output, _ = job.communicate(timeout=240)
    assert job.returncode == 0, output
    assert "--resume tiny" in output
    assert Path(output.strip().splitlines()[-1]).is_file()
    trials = load(storage).trials().to_pandas()
    assert trials["number"].tolist() == [0, 1, 2, 3]
    assert set(trials["status"]) <= {"finished", "stopped"}

    steps = [line.split() for line in Path(slurm["STEPS"]).read_text().splitlines()]
    assert [step[:2] for step in steps] == [["gpu01", "1"], ["gpu02", "1"]] * 2  # one step a node, with the token
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
