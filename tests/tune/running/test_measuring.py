"""What cannot be measured before a search is told in a sentence, and the search begins."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from searches import tiny

from cdal.config import Config
from cdal.errors import InputError
from tune.running import Node, Options, Plan, make_plan, measuring
from tune.running.estimate import Pace, Paces
from tune.running.machines import Resources

HERE = Node(2, 0)
PACE = Pace(10.0, 5.0, 2**30)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A search whose published setting is told from a typical one by its time steps."""
    return make_plan(Options(space=str(tiny(tmp_path))), [HERE])


def failing(plan: Plan, error: Exception, *, typical: bool = False) -> Callable[..., Pace]:
    """A calibration that fails for the published settings, or for others as well."""

    def calibrate(config: Config, *_: Any, **__: Any) -> Pace:
        if typical or config.optimiser == plan.published.optimiser:
            raise error
        return PACE

    return calibrate


def told(plan: Plan, monkeypatch: pytest.MonkeyPatch, calibrate: Callable[..., Pace]) -> tuple[Paces | None, list[str]]:
    said: list[str] = []
    monkeypatch.setattr(measuring, "calibrate", calibrate)
    same, paces = measuring.measure(plan, HERE, said.append)
    assert same == plan
    return paces, said


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=lambda error: type(error).__name__,
)
def test_settings_that_do_not_fit_are_told_and_the_others_are_timed(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    paces, (note,) = told(plan, monkeypatch, failing(plan, error))
    assert paces == Paces(PACE, PACE)
    assert note.startswith("note        the published settings do not fit the memory (")
    assert note.endswith(" GiB in use): their trial will be infeasible")
    paces, notes = told(plan, monkeypatch, failing(plan, error, typical=True))
    assert paces is None
    assert "settings from the middle of the space do not fit" in notes[1]


def test_a_gpu_that_fails_is_told_and_nothing_else_is_started_on_it(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_sharing", None)
    error = RuntimeError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA")
    paces, (note,) = told(plan, monkeypatch, failing(plan, error))
    assert paces is None
    assert note == (
        "note        not everything could be measured: RuntimeError: CUDA error: device-side assert triggered Compile with "
        "TORCH_USE_CUDA_DSA"
    )


def test_data_that_cannot_be_read_are_told_and_mistakes_end_the_command(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    _, (note,) = told(plan, monkeypatch, failing(plan, FileNotFoundError(2, "No such file or directory", "data/1.png")))
    assert "could be measured: FileNotFoundError: [Errno 2] No such file or directory: 'data/1.png'" in note
    with pytest.raises(InputError, match=r"^a damaged image$"):
        told(plan, monkeypatch, failing(plan, InputError("a damaged image")))


@pytest.fixture
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.mark.ray
def test_a_worker_that_dies_or_never_comes_is_told(plan: Plan, monkeypatch: pytest.MonkeyPatch, cluster: None) -> None:
    def dies(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fails(*_: Any) -> None:
        raise OSError("the data are not here")

    def found(plan: Plan) -> tuple[Paces | None, list[str]]:
        """What was measured and what was said; on a busy machine the first words may be that a worker is waited for."""
        said: list[str] = []
        return measuring.measure(plan, None, said.append)[1], said

    monkeypatch.setattr(measuring, "_measure", dies)
    paces, (*_, note) = found(plan)
    assert paces is None
    assert "the process that measured ended: WorkerCrashedError" in note
    monkeypatch.setattr(measuring, "_measure", fails)
    assert found(plan)[1][-1] == "note        the process that measured ended: OSError: the data are not here"
    monkeypatch.setattr(measuring, "_SILENT_SECONDS", 0.5)
    monkeypatch.setattr(measuring, "_LONGEST_SECONDS", 2.5)
    monkeypatch.setattr(measuring, "_CANCEL_SECONDS", 0.1)
    waits, note = found(replace(plan, resources=Resources(1, 64, 0, 1)))[1]
    assert waits.startswith("estimate    waits for a machine with 64 CPU and 0 GPU free")
    assert note.startswith("note        nothing was measured in ")
