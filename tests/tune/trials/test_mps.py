"""NVIDIA's Multi-Process Service, played by a script that notes what it is told; the GPU is played by a module named torch."""

import inspect
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from rich.console import Console

from tune.finals import Contest, Retraining
from tune.results import create_experiment
from tune.running import Node, Options, Session, connect, make_plan, stop_sharing
from tune.running.machines import QUIET, Resources
from tune.running.options import absolute
from tune.trials import mps_folder, start_mps, stop_mps

CONTROL = """#!/bin/sh
pipes=${CUDA_MPS_PIPE_DIRECTORY:-$FAKE/default}
if [ "$1" = -d ]; then command=-d; else read -r command; fi
echo "$command $pipes ${CUDA_VISIBLE_DEVICES-all}" >> "$FAKE/calls"
if [ $command = -d ]; then
  if [ -e "$FAKE/forbidden" ]; then exit 1; fi
  touch "$pipes/daemon"
elif [ ! -e "$pipes/daemon" ]; then
  echo "Cannot find MPS control daemon process"
  exit 1
elif [ "$command" = quit ]; then
  rm "$pipes/daemon"
else
  cat "$FAKE/servers" || true
fi
"""
TORCH = """
import os

class Ones:
    sum = lambda self: self
    item = lambda self: 8

def ones(size, device):
    assert device == "cuda" and size == 8
    assert os.environ["CUDA_MPS_PIPE_DIRECTORY"] == os.environ["CUDA_MPS_LOG_DIRECTORY"]
    if os.path.exists(os.environ["FAKE"] + "/broken"):
        raise RuntimeError("CUDA error: MPS client failed to connect")
    if not os.path.exists(os.environ["FAKE"] + "/past"):
        open(os.environ["FAKE"] + "/servers", "w").write("4711")
    return Ones()
"""
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"


class Fake:
    """The service's own folder, and where ours puts pipes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pipes = folder, folder / "cdal-mps"

    def set(self, what: str) -> None:
        (self.folder / what).touch()

    @property
    def calls(self) -> list[str]:
        """What it was told, with the pipes that it was told through, but for questions."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [line.replace(str(self.folder), "") for line in lines if not line.startswith("get_server_list")]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    for name in ("bin", "python", "default"):
        (tmp_path / name).mkdir()
    script = tmp_path / "bin" / "nvidia-cuda-mps-control"
    script.write_text(CONTROL)
    script.chmod(0o755)
    (tmp_path / "python" / "torch.py").write_text(TORCH)
    for name in (PIPES, LOGS):  # both are as before in the end
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "python"), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    return Fake(tmp_path)


def test_it_is_started_proved_used_again_and_ended(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start_mps(fake.pipes) == "with MPS"
    assert os.environ[PIPES] == os.environ[LOGS] == str(fake.pipes)
    assert stat.S_IMODE(fake.pipes.stat().st_mode) == 0o700
    assert start_mps(fake.pipes) == "with MPS"
    for name in (PIPES, LOGS):  # as in another process
        monkeypatch.delenv(name)
    assert start_mps(fake.pipes) == "with MPS"
    assert fake.calls == ["-d /cdal-mps all"]  # it serves all GPUs, by the numbers that Ray gives to its processes
    stop_mps(fake.pipes)
    assert fake.calls[1:] == ["quit /cdal-mps 3"]
    assert not fake.pipes.exists()
    assert PIPES not in os.environ
    stop_mps(fake.pipes)
    assert len(fake.calls) == 2


@pytest.mark.parametrize(
    ("problem", "said", "calls"),
    [
        ("forbidden", "it does not start here", ["-d", "quit"]),
        ("broken", "CUDA does not work through it here", ["-d", "quit"]),
        ("past", "CUDA goes past it here", ["-d", "quit"]),
    ],
)
def test_where_it_does_not_work_all_go_on_without_it(fake: Fake, problem: str, said: str, calls: list[str]) -> None:
    fake.set(problem)
    for _ in range(2):  # the second process does not try again
        assert start_mps(fake.pipes) == f"without MPS: {said}"
        assert PIPES not in os.environ
        assert [call.split()[0] for call in fake.calls] == calls
    assert not (fake.pipes / "daemon").exists()
    stop_mps(fake.pipes)
    assert not fake.pipes.exists()


def test_a_service_that_was_there_is_used_and_left_alone(fake: Fake) -> None:
    (fake.folder / "default" / "daemon").touch()
    assert start_mps(fake.pipes) == "with the MPS that was running"
    stop_mps(fake.pipes)
    assert PIPES not in os.environ
    assert not fake.calls


def test_without_the_program_nothing_happens(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fake.folder / "default"))
    assert start_mps(fake.pipes) == "without MPS: nvidia-cuda-mps-control is not installed"
    assert not fake.pipes.exists()


def test_a_place_that_is_not_ours_is_not_used(fake: Fake) -> None:
    fake.pipes.symlink_to(fake.folder / "default")
    assert start_mps(fake.pipes) == f"without MPS: {fake.pipes} belongs to somebody else"
    stop_mps(fake.pipes)
    assert not fake.calls
    assert fake.pipes.is_symlink()


def test_trials_that_begin_at_once_start_one(fake: Fake) -> None:
    code = "import pathlib, runpy, sys; print(runpy.run_path(sys.argv[1])['start_mps'](pathlib.Path(sys.argv[2])))"
    command = [sys.executable, "-c", code, inspect.getfile(start_mps), fake.pipes]
    trials = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [trial.communicate()[0] for trial in trials] == 3 * ["with MPS\n"]
    assert fake.calls == ["-d /cdal-mps all"]


def test_a_search_ends_what_its_trials_started(fake: Fake) -> None:
    place = f"{fake.folder}/lake/first/tune"
    start_mps(mps_folder(absolute(place)))
    for gpus in (0, 1):
        stop_sharing(Resources(1, 1, gpus, 1), place, Node(2, 1))
    assert len(fake.calls) == 1
    stop_sharing(Resources(1, 1, 0.5, 2), place, Node(2, 1))
    assert [call.split()[0] for call in fake.calls] == ["-d", "quit"]
    assert not mps_folder(absolute(place)).exists()


@pytest.mark.parametrize("kind", ["search", "finalists"])
def test_that_is_the_last_thing_it_does(kind: str, fake: Fake) -> None:
    """Here one that has nothing to do, or no time for it."""
    machine, root = Node(2, 1), str(fake.folder / "lake")
    plan = make_plan(Options(gpus_per_worker=0.5), [machine])
    create_experiment(root, "first", plan.describe())
    start_mps(mps_folder(f"{root}/first/tune"))
    console = Console(quiet=True)
    if kind == "search":
        Session(plan, root, "first", machine=machine).run(console, resume=False, budget=0)
    else:
        Retraining(plan, Contest(finalists=(), folds=(0,), seeds=(1,)), root, "first", {}, machine=machine).run(console)
    assert [call.split()[0] for call in fake.calls] == ["-d", "quit"]


@pytest.mark.ray
def test_a_search_ends_it_on_every_machine_with_gpus(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.environ["PYTHONPATH"].partition(os.pathsep)[2])  # Ray needs the real torch
    place = f"{fake.folder}/lake/second/tune"
    folder = mps_folder(absolute(place))
    folder.mkdir(mode=0o700)
    (folder / "daemon").touch()
    monkeypatch.setattr("tune.running.tuning._STOP_SECONDS", 300.0)  # of a busy machine
    for name, value in QUIET.items():  # which `connect` would leave behind
        monkeypatch.setenv(name, value)
    connect(None, this=Node(1, 1))  # a cluster of one machine whose GPU is made up
    try:
        stop_sharing(Resources(1, 1, 0.5, 2), place, None)
    finally:
        ray.shutdown()
    assert [call.split()[0] for call in fake.calls] == ["quit"]
    assert not folder.exists()
