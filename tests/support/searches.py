"""The commands as users run them: real searches with tiny models, in processes of their own."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lean
import pandas as pd
import pytest
from one_process import one_process
from patience import end, finish, wait_for

from cdal.errors import InputError
from cdal.layers import LatentMapping
from tune import search
from tune.results import load

ROOT = Path(__file__).resolve().parents[2]
TINY = """
dataset: {name: phantom, size: 16, cases: 8, classes: 1}
fixed:
  model.base_width: 16
  model.width_multipliers: [1]
  model.encoder_blocks: 0
  model.discriminator_width: 8
  training.epochs: EPOCHS
  training.steps_per_epoch: STEPS
  training.batch_size: 2
  training.samples_per_case: 1
  optimiser.ema_decay: 0.5
  evaluation.window: whole
  evaluation.votes: 2
  evaluation.blend: soft
  evaluation.validation_votes: 1
parameters:
  diffusion.timesteps: {values: [1, 2]}
  loss.adversarial: {min: 0.0, max: 0.2}
  optimiser.lr_generator: {min: 1e-4, max: 1e-2, distribution: log_uniform}
"""


def tiny(folder: Path, epochs: int = 3, steps: int = 1) -> Path:
    """A search space whose trials take seconds."""
    path = folder / "tiny.yaml"
    path.write_text(TINY.replace("EPOCHS", str(epochs)).replace("STEPS", str(steps)))
    return path


HUGE = 8192
"""A `model.latent_embedding` that `little_memory` has no room for."""


def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, models of the size HUGE do not fit the memory."""

    def allocate(latent_size: int, width: int, layers: int) -> LatentMapping:
        if width == HUGE:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")
        return LatentMapping(latent_size, width, layers)

    monkeypatch.setattr("cdal.generator.LatentMapping", allocate)


class Command(subprocess.Popen[str]):
    """A command that ends with its `with` block, however that ends."""

    def __exit__(self, *exception: object) -> None:
        end(self)
        super().__exit__(None, None, None)


def start(*arguments: object, script: str = "tune/search.py") -> Command:
    command, environment = [sys.executable, script, *map(str, arguments)], os.environ | lean.ENVIRONMENT
    return Command(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(*arguments: object, script: str = "tune/search.py") -> list[str]:
    process = start(*arguments, script=script)
    output = finish(process)
    assert process.returncode == 0, output
    return output.splitlines()


def here(*arguments: object, door: Callable[[Sequence[str]], int] = search.main, **machine: Any) -> list[str]:
    """What `run` does, without Ray and in this process; see `one_process`. No leaderboard is drawn."""
    said = io.StringIO()
    with one_process(**machine), contextlib.redirect_stdout(said):
        status = door(list(map(str, arguments)))
    assert status == 0, said.getvalue()
    return said.getvalue().splitlines()


def trials(storage: Path | str, experiment: str) -> pd.DataFrame:
    table = load(storage).trials().to_pandas()
    return table[table["experiment"] == experiment].reset_index(drop=True)


def assert_whole(storage: Path | str, experiment: str, count: int, epochs: int) -> None:
    """Every trial once and ended, no epoch missing or doubled, every finished trial scored."""
    table, lake = trials(storage, experiment), load(storage)
    assert table["number"].tolist() == list(range(count))
    assert set(table["status"]) <= {"finished", "stopped"}
    metrics = lake.metrics().to_pandas().query("experiment == @experiment")
    assert not metrics.duplicated(["trial_id", "epoch"]).any()
    for row in table.to_dict("records"):
        own = metrics[metrics["trial_id"] == row["trial_id"]]
        assert sorted(own["epoch"]) == list(range(1, int(row["epochs"]) + 1)), row["trial_id"]
        assert row["validation_dice"] == own["dice"].max()
        if row["status"] == "finished":
            assert row["epochs"] == epochs
            assert len(lake.cases().to_pandas().query("experiment == @experiment and trial_id == @row['trial_id']")) > 0
            assert pd.notna(row["final_dice"])


def rows_of(storage: Path | str, table: str) -> int:
    try:
        return int(getattr(load(storage), table)().num_rows)
    except InputError:
        return 0


def worker_processes(driver: int) -> list[int]:
    """Processes that run trials of a driver: its raylet's children named after the trainable."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name = (entry / "cmdline").read_bytes().decode(errors="replace")
                if "CdalTrial.train" in name and driver in ancestors(int(entry.name)):
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def kill_worker(driver: subprocess.Popen[str]) -> None:
    """Kill a process that runs a trial, once there is one: between two messages none has the trainable's name."""
    at_work: list[int] = []
    wait_for(lambda: at_work.extend(worker_processes(driver.pid)) or at_work or driver.poll() is not None)
    os.kill(at_work[0], signal.SIGKILL)


def ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            break
        found.append(pid)
    return found
