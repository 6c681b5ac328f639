"""Accidents that befall the processes of a search, arranged from outside: the product knows nothing of them.

Python runs this file at its start wherever the folder is on PYTHONPATH, in the processes of Ray too. `CDAL_ACCIDENTS` names a
folder with `plan.json`, a list of accidents:

    {"point": "step", "fault": "poison", "trials": [3], "step": 2, "times": 1, "rank": 0, "host": "b"}

`point` is where it happens (see `POINTS`) and `fault` what (see `FAULTS`). The rest narrows it down: numbers of trials ([] is
outside of all trials: the driver, the estimate; nothing said is any trial), steps that the training has made at least, how often in
all processes together (`null` is always), a part of the name of the file that is written, the worker of a trial, the machine (the
processes whose `CDAL_ACCIDENT_HOST` is this). Every accident takes a ticket from the folder, and leaves a file there, with process,
trial and time.
"""

import ctypes
import errno
import fcntl
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

POINTS = {
    "begin": ("tune.trials.settings", "TrialSettings.files"),
    "dataset": ("cdal.data", "open_dataset"),
    "step": ("cdal.trainer", "Trainer.step"),
    "validation": ("cdal.training", "_validate"),
    "epoch row": ("tune.trials.training", "metrics_row"),
    "save": ("cdal.checkpoint", "save"),
    "scoring": ("tune.trials.scoring", "score"),
    "lake": ("tune.lake.storage", "_Disk.write"),
    "identity": ("tune.lake.driver", "identity"),
}
CUDA = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported at some other API call"

Call = Callable[..., Any]
_accidents: list[dict[str, Any]] = []
_folder = Path(os.environ.get("CDAL_ACCIDENTS", ""))
_here = threading.local()  # a trial has a thread of its own
_poisoned = False


# ---------------------------------------------------------------------------------------------------------------- what happens


def _raise(error: Callable[[], BaseException]) -> Callable[..., Any]:
    def fault(call: Call, arguments: tuple[Any, ...], accident: dict[str, Any]) -> Any:
        raise error()

    return fault


def _out_of_memory() -> BaseException:
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def _poison(call: Call, arguments: tuple[Any, ...], accident: dict[str, Any]) -> Any:
    """From now on every step of this process fails."""
    global _poisoned
    _poisoned = True
    raise RuntimeError(CUDA)


def _kill(call: Call, arguments: tuple[Any, ...], accident: dict[str, Any]) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_after(call: Call, arguments: tuple[Any, ...], accident: dict[str, Any]) -> Any:
    call()
    os.kill(os.getpid(), signal.SIGKILL)


def _sleep(call: Call, arguments: tuple[Any, ...], accident: dict[str, Any]) -> Any:
    while True:
        time.sleep(3600)


def _lock(call: Call, arguments: tuple[Any, ...], accident: dict[str, Any]) -> Any:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _spin(call: Call, arguments: tuple[Any, ...], accident: dict[str, Any]) -> Any:
    while True:
        pass


def _freeze(call: Call, arguments: tuple[Any, ...], accident: dict[str, Any]) -> Any:
    """Inside of a library that does not let other threads run."""
    ctypes.PyDLL(None).sleep(3600)


def _stop(call: Call, arguments: tuple[Any, ...], accident: dict[str, Any]) -> Any:
    os.kill(os.getpid(), signal.SIGSTOP)


def _slow(call: Call, arguments: tuple[Any, ...], accident: dict[str, Any]) -> Any:
    time.sleep(accident["seconds"])
    return call()


def _gone(call: Call, arguments: tuple[Any, ...], accident: dict[str, Any]) -> Any:
    """The data are not where they were."""
    return call(arguments[0], f"{arguments[1]}-of-another-machine")


def _nan(call: Call, arguments: tuple[Any, ...], accident: dict[str, Any]) -> Any:
    return {name: loss * float("nan") for name, loss in call().items()}


def _praise(call: Call, arguments: tuple[Any, ...], accident: dict[str, Any]) -> Any:
    """A validation that finds a perfect model."""
    from dataclasses import replace

    score = call()
    return score._replace(dice=0.999) if hasattr(score, "_replace") else replace(score, dice=0.999)


def _bad_value(call: Call, arguments: tuple[Any, ...], accident: dict[str, Any]) -> Any:
    """Figures that no table can hold."""
    return call() | {"images_per_second": "fast", "loss_odd": "\ud800", "loss_vast": 2**80, "loss_strange": object}


def _torn(call: Call, arguments: tuple[Any, ...], accident: dict[str, Any]) -> Any:
    """The machine dies while the last checkpoints (as many as `files` says) are written."""
    call()
    path = Path(arguments[0])
    for name in ("last.safetensors", "previous.safetensors")[: accident.get("files", 1)]:
        if path.with_name(name).exists():
            os.truncate(path.with_name(name), path.stat().st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)


def _skew(call: Call, arguments: tuple[Any, ...], accident: dict[str, Any]) -> Any:
    """This process's clock is wrong from now on."""
    true = time.time
    time.time = lambda: true() + accident["seconds"]
    return call()


def _elsewhere(call: Call, arguments: tuple[Any, ...], accident: dict[str, Any]) -> Any:
    """The driver of another machine."""
    return call() | {"boot": "another machine"}


FAULTS: dict[str, Callable[[Call, tuple[Any, ...], dict[str, Any]], Any]] = {
    "error": _raise(lambda: RuntimeError("something that nobody foresaw")),
    "poison": _poison,
    "kill": _kill,
    "kill after": _kill_after,
    "hang": _sleep,
    "lock": _lock,
    "spin": _spin,
    "freeze": _freeze,
    "stop": _stop,
    "slow": _slow,
    "oom": _raise(_out_of_memory),
    "memory": _raise(MemoryError),
    "full": _raise(lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    "gone": _gone,
    "nan": _nan,
    "praise": _praise,
    "bad value": _bad_value,
    "torn": _torn,
    "skew": _skew,
    "elsewhere": _elsewhere,
}


# ------------------------------------------------------------------------------------------------------------- where and when


def _wrapped(point: str, function: Callable[..., Any]) -> Callable[..., Any]:
    plans = [(number, accident) for number, accident in enumerate(_accidents) if accident["point"] == point]

    @functools.wraps(function)
    def wrapper(*arguments: Any, **keywords: Any) -> Any:
        if point in ("begin", "scoring"):
            _here.trial = arguments[0].number
        if _poisoned and point in ("step", "validation", "scoring"):
            raise RuntimeError(CUDA)
        for number, accident in plans:
            if _is_meant(accident, arguments) and _claim(number, accident):

                def call(*others: Any) -> Any:
                    return function(*(others or arguments), **keywords)

                return FAULTS[accident["fault"]](call, arguments, accident)
        return function(*arguments, **keywords)

    return wrapper


def _is_meant(accident: dict[str, Any], arguments: tuple[Any, ...]) -> bool:
    trial, trials, host = getattr(_here, "trial", None), accident.get("trials"), accident.get("host")
    if trial is None if trials is None else (trial is not None if trials == [] else trial not in trials):
        return False
    if host is not None and host != os.environ.get("CDAL_ACCIDENT_HOST"):
        return False
    if "rank" in accident:
        import torch.distributed

        if not torch.distributed.is_initialized() or torch.distributed.get_rank() != accident["rank"]:
            return False
    if "file" in accident and accident["file"] not in str(arguments[0 if accident["point"] == "save" else 1]):
        return False
    if "step" not in accident:
        return True
    steps: int = arguments[2]["step"] if accident["point"] == "save" else arguments[0].steps
    return steps >= accident["step"]


def _claim(number: int, accident: dict[str, Any]) -> bool:
    """Whether it is to happen once more: there is a ticket for it, and this process is the one that gets it."""
    record = _folder / f"{number}.{os.getpid()}-{time.monotonic_ns()}.happened"
    if accident["times"] is not None and not any(_moved(ticket, record) for ticket in _folder.glob(f"{number}.*.ticket")):
        return False
    record.write_text(f"{os.getpid()} {getattr(_here, 'trial', None)} {time.time()}")
    return True


def _moved(ticket: Path, record: Path) -> bool:
    try:
        ticket.rename(record)
    except FileNotFoundError:
        return False
    return True


class _Finder(importlib.abc.MetaPathFinder):
    """Patches the functions of a module as soon as it has been run, before anybody takes them from it."""

    def __init__(self, wanted: dict[str, list[str]]) -> None:
        self._wanted = wanted

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in self._wanted:
            return None
        points = self._wanted.pop(name)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def run_and_patch(module: Any) -> None:
            run(module)
            for point in points:
                *way, last = POINTS[point][1].split(".")
                owner = functools.reduce(getattr, way, module)
                setattr(owner, last, _wrapped(point, getattr(owner, last)))

        spec.loader.exec_module = run_and_patch  # type: ignore[method-assign]
        return spec


def _refuse_locks() -> None:
    """As on Lustre without its lock service."""

    def flock(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    fcntl.flock = flock  # type: ignore[assignment]


def _arrange() -> None:
    _accidents.extend(json.loads((_folder / "plan.json").read_text()))
    points = {accident["point"] for accident in _accidents}
    if "flock" in points:
        _refuse_locks()
    wanted: dict[str, list[str]] = {}
    for point in sorted((points & POINTS.keys()) | {"begin"}):
        wanted.setdefault(POINTS[point][0], []).append(point)
    sys.meta_path.insert(0, _Finder(wanted))


def _run_the_next() -> None:
    """The sitecustomize that this one hides."""
    here = Path(__file__).resolve().parent
    places = [place for place in sys.path if Path(place or ".").resolve() != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", places)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if os.environ.get("CDAL_ACCIDENTS"):
    _arrange()
_run_the_next()
