"""How many trials share a GPU: most are too small to fill one alone.

    sharing = measure_sharing(settings, peak_memory=2**30, cpus=16, trials=50)
    print(sharing.reason)     # 4 trials share a GPU: together 2.9 times the images per second of one; ...

`choose` decides from what is known so far and says what to measure next; `measure_sharing` measures it, on the GPU of this process.
"""

import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tune.trials import SHARED_OUT, TrialSettings, side_by_side, start_mps, stop_mps

NUMBERS = (1, 2, 4, 8)  # of trials on a GPU
WORTHWHILE = 1.1  # times the images per second of the number before
_ROOM = 1.25  # times the memory that the settings took that were tried: others of the space may take more
_SECONDS, _LONGEST = 2.5, 40.0  # of one measurement, and of all


@dataclass(frozen=True)
class Sharing:
    """How many trials share a GPU."""

    trials: int
    reason: str
    """In words, for the search's output."""
    slowdown: float = 1.0
    """Of each, against a trial that has the GPU for itself."""
    measured: Mapping[str, Any] = field(default_factory=dict)
    """What was decided from."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Sharing":
        """Inverse of `dataclasses.asdict`."""
        return cls(**{name: value for name, value in values.items() if name in cls.__dataclass_fields__})


class Choice(NamedTuple):
    """What follows from what was measured so far."""

    trials: int
    reason: str
    next: int | None
    """A number to measure before this is the last word."""


def choose(rates: Mapping[int, float], *, needed: float, memory: float, cpus: float, trials: float) -> Choice:
    """The largest number of trials on a GPU up to which each step to more of them is worthwhile.

    Args:
        rates: images per second of so many trainings together.
        needed: bytes of a GPU that the larger of the settings takes.
        memory: bytes that the GPU has.
        cpus: that go with a GPU, in those of a trial.
        trials: that there are for every GPU.
    """
    best, why = 1, ""
    for number in NUMBERS[1:]:
        missing = [before for before in NUMBERS if before <= number and before not in rates]
        if number > trials:
            why = "there are as many GPUs as trials"
        elif number > cpus:
            why = f"its CPUs are too few for {number}"
        elif _ROOM * needed * number > memory:
            why = f"{number} may not fit its {_gib(memory)}, as one takes {_gib(needed)}"
        elif missing:
            return Choice(best, _reason(best, rates, memory, "more were not measured in time"), missing[0])
        elif rates[number] < WORTHWHILE * rates[best]:
            why = f"{number} together make only {rates[number] / rates[best]:.2f} times the images per second of {best}"
        else:
            best = number
            continue
        break
    return Choice(best, _reason(best, rates, memory, why), None)


def _reason(best: int, rates: Mapping[int, float], memory: float, why: str) -> str:
    if best == 1:
        return f"a trial has a GPU of its own: {why}"
    faster = f"together {rates[best] / rates[1]:.1f} times the images per second of one"
    return f"{best} trials share a GPU: {faster}; each may take {_gib(SHARED_OUT * memory / best)}"


def measure_sharing(
    settings: TrialSettings, *, peak_memory: float, cpus: float, trials: float, seconds: float = _SECONDS
) -> Sharing:
    """Train a typical setting in several processes at once, on this machine, until more of them are no use.

    Args:
        settings: the typical setting, and where it is trained; `cpus` are all that trials on one GPU have.
        peak_memory: bytes that a process had in use, of the larger one of the settings that are known.
        cpus: as for `choose`.
        trials: as for `choose`.
        seconds: of every measurement.
    """
    device, until, note = settings.device, time.monotonic() + _LONGEST, ""
    free, memory = _free_and_all(device)
    limits = {"memory": memory, "cpus": cpus, "trials": trials}
    rates: dict[int, float] = {}
    needed, chosen = peak_memory, choose(rates, needed=peak_memory, **limits)
    if chosen.next is None:
        return Sharing(1, chosen.reason)
    most = choose({number: number for number in NUMBERS}, needed=needed, **limits).trials
    try:
        with _going_through_mps(device) as note, side_by_side(settings, most, seconds=seconds, until=until) as rate:
            while (number := chosen.next) is not None:
                together = rate(number)
                rates[number] = together.images_per_second
                if number == 1 and device.type == "cuda":  # what CUDA takes for itself in a process
                    needed += max(0, free - _free_and_all(device)[0] - together.reserved)
                chosen = choose(rates, needed=needed, **limits)
    except TimeoutError:
        pass  # what is known decides
    except (OSError, RuntimeError) as error:
        problem = " ".join(str(error).split())[:200]
        return Sharing(1, f"a trial has a GPU of its own: several at once could not be measured ({problem})")
    measured = {
        "images_per_second": {str(number): value for number, value in rates.items()},
        "trial_bytes": needed,
        "gpu_bytes": memory,
    }
    if chosen.trials == 1:
        return Sharing(1, chosen.reason, measured=measured)
    slowdown = max(1.0, chosen.trials * rates[1] / rates[chosen.trials])
    return Sharing(chosen.trials, chosen.reason + (note and f"; {note}"), slowdown, measured)


def as_asked(gpus: float) -> Sharing:
    """So many as fit the part of a GPU that the user named for each; says what it has, on the GPU of this process."""
    with _going_through_mps(torch.device("cuda")) as note:
        number = math.floor(1 / gpus + 1e-9)
        share = _gib(SHARED_OUT * gpus * _free_and_all(torch.device("cuda"))[1])
    return Sharing(number, f"{number} trials share a GPU, as asked; each may take {share}; {note}")


@contextmanager
def _going_through_mps(device: torch.device) -> Iterator[str]:
    """Inside, processes that are started share the GPU as trials would; says how."""
    if device.type != "cuda":
        yield ""
        return
    folder = Path(tempfile.mkdtemp(prefix="cdal-mps-"))
    try:
        yield start_mps(folder)
    finally:
        stop_mps(folder)


def _free_and_all(device: torch.device) -> tuple[int, int]:
    """Bytes of the device's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    page = os.sysconf("SC_PAGE_SIZE")
    return page * os.sysconf("SC_AVPHYS_PAGES"), page * os.sysconf("SC_PHYS_PAGES")


def _gib(memory: float) -> str:
    return f"{memory / 2**30:.1f} GiB"
