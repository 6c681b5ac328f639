"""What is measured before a search starts, on one trial's worker: how fast its settings are, and how many trials share a GPU.

Nothing that goes wrong here ends the search, but for mistakes of the user's: what could not be measured is told in a sentence.
"""

import gc
import time
from collections.abc import Callable
from typing import NamedTuple

import ray
import ray.exceptions
import torch

from cdal.config import Config
from cdal.devices.memory import out_of_memory, peak_memory
from cdal.errors import InputError
from tune.lake.status import SEARCHED
from tune.running.estimate import Pace, Paces, calibrate
from tune.running.machines import Node, connect
from tune.running.plan import Plan
from tune.running.sharing import Sharing, as_asked, measure_sharing
from tune.running.tuning import trial_settings
from tune.trials import limit_memory

_CANCEL_SECONDS = 10.0
_SILENT_SECONDS = 60.0  # after which the user is told what is waited for
_LONGEST_SECONDS = 1800.0  # machines of a cluster may have to be made first
_ALONE = "a trial has a GPU of its own"


class _Measured(NamedTuple):
    """What a worker found."""

    published: Pace | None = None
    typical: Pace | None = None
    sharing: Sharing | None = None
    notes: tuple[str, ...] = ()
    """What could not be measured, and why."""
    mistake: str | None = None
    """Of the user's."""


def measure(plan: Plan, machine: Node | None, say: Callable[[str], None]) -> tuple[Plan, Paces | None]:
    """The plan with as many trials on a GPU as are worthwhile, and how fast a trial alone is; None where nobody knows.

    Args:
        plan: what to do.
        machine: what this machine gives to trials; None on a cluster, where one of its workers measures.
        say: tells the user what is waited for, and what could not be measured.

    Raises:
        InputError: the user's mistake shows here first.
    """
    on_gpu = plan.resources.gpus > 0
    if machine is not None and not on_gpu:
        found = _measure(plan, "cpu")
    else:
        connect(None, this=machine)
        found = _by_a_worker(plan, "cuda" if on_gpu else "cpu", say)
    if found.mistake is not None:
        raise InputError(found.mistake)
    for note in found.notes:
        say(f"note        {note}")
    sharing = found.sharing or (Sharing(1, f"{_ALONE}: nothing could be measured") if plan.undecided else None)
    one = found.typical or found.published
    return plan if sharing is None else plan.shared(sharing), Paces(one, found.published or one) if one else None


def _by_a_worker(plan: Plan, device: str, say: Callable[[str], None]) -> _Measured:
    """Have a worker measure; not again where its process dies, which it may have been the reason for."""
    resources = plan.resources
    task = ray.remote(max_calls=1, max_retries=0)(_measure)  # a process that used a GPU holds some of it until it ends
    asked = task.options(num_cpus=resources.cpus, num_gpus=resources.gpus).remote(plan, device)
    started, silent = time.monotonic(), True
    wanted = f"machine with {resources.cpus:g} CPU and {resources.gpus:g} GPU free"
    try:
        while not ray.wait([asked], timeout=1.0)[0]:
            waited = time.monotonic() - started
            if silent and waited > _SILENT_SECONDS:
                say(f"estimate    waits for a {wanted}, or for the first steps there; at most {_LONGEST_SECONDS / 60:.0f} min")
                silent = False
            if waited > _LONGEST_SECONDS:
                _cancel(asked)
                return _Measured(notes=(f"nothing was measured in {waited / 60:.0f} min: there may be no {wanted}",))
        found: _Measured = ray.get(asked)
        return found
    except (KeyboardInterrupt, SystemExit):
        _cancel(asked)  # it ends what it has started
        raise
    except ray.exceptions.OutOfMemoryError:
        return _Measured(notes=("the published or typical settings do not fit the memory of the machine that measured",))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        return _Measured(notes=(f"the process that measured ended: {_brief(cause)}",))


def _cancel(asked: "ray.ObjectRef[_Measured]") -> None:
    ray.cancel(asked)
    ray.wait([asked], timeout=_CANCEL_SECONDS)


def _measure(plan: Plan, device: str) -> _Measured:
    """What a worker does. Errors are told, not raised: Ray would pass them on with a traceback."""
    found, threads = _Measured(), torch.get_num_threads()
    torch.set_num_threads(max(1, int(plan.resources.cpus)))
    try:
        if device == "cuda":
            limit_memory(plan.resources.gpus)
        pace, problem = _pace(plan, plan.published, device)
        if problem:
            found = _with_note(found, f"the published settings {problem}: their trial will be infeasible")
        found = found._replace(published=pace)
        pace, problem = _pace(plan, plan.typical, device)
        if problem:
            found = _with_note(found, f"settings from the middle of the space {problem}: many trials may be infeasible")
        found = found._replace(typical=pace)
        return found._replace(sharing=_sharing(plan, found.published, found.typical, device))
    except InputError as error:
        return found._replace(mistake=str(error))
    except Exception as error:  # a GPU that fails, data that cannot be read: what the trials meet as well, and tell of
        return _with_note(found, f"not everything could be measured: {_brief(error)}")
    finally:
        torch.set_num_threads(threads)


def _pace(plan: Plan, config: Config, device: str) -> tuple[Pace | None, str]:
    """How fast one setting is, or in words that it does not fit."""
    share = config.training.batch_size // plan.resources.workers
    try:
        return calibrate(config.replace({"training.batch_size": share}), plan.dataset, fold=plan.options.fold, device=device), ""
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        used = peak_memory(torch.device(device)) / 2**30
    gc.collect()  # out here, where the error no longer holds on to what filled the memory
    if device == "cuda":
        torch.cuda.empty_cache()
    return None, f"do not fit the {'GPU' if device == 'cuda' else 'memory'} ({used:.1f} GiB in use)"


def _with_note(found: _Measured, note: str) -> _Measured:
    return found._replace(notes=(*found.notes, note))


def _brief(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _sharing(plan: Plan, published: Pace | None, typical: Pace | None, device: str) -> Sharing | None:
    if 0 < plan.resources.gpus < 1:
        return as_asked(plan.resources.gpus)
    if not plan.undecided:
        return None
    if published is None or typical is None:
        return Sharing(1, f"{_ALONE}: settings of the search do not fit it alone")
    gc.collect()
    torch.cuda.empty_cache()
    cpus, trials = plan.per_gpu
    settings = trial_settings(plan, 0, SEARCHED, plan.typical, "")
    return measure_sharing(settings, peak_memory=max(published.memory, typical.memory), cpus=cpus, trials=trials)
