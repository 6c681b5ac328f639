"""Whose fault it is that a trial cannot go on, told from the error.

| the fault of | such as                                            | what follows                                                 |
| ------------ | -------------------------------------------------- | ------------------------------------------------------------ |
| the setting  | a loss became infinite; it does not fit the memory | the trial ends, and the sampler learns it                    |
| a machine    | a process was killed, a CUDA error, a full disk    | its process ends, and the trial is tried again in another    |
| the input    | a damaged image                                    | tried again, in case it is the machine; then the search ends |
| the store    | it was away for longer than patience lasts         | as a machine's                                               |
"""

import traceback
from typing import NamedTuple

from cdal.devices.workers import WorkerError
from cdal.errors import DivergedError, InputError, disk_is_full
from tune.lake import RemoteError
from tune.lake.status import INPUT, MACHINE, SETTING, STORE


class Fault(NamedTuple):
    """Why an attempt at a trial ended."""

    cause: str
    """One of `tune.lake.status`: SETTING, MACHINE, INPUT, STORE."""
    sentence: str
    details: str = ""
    """A traceback."""
    counts: bool = True
    """False for what happens to the best of machines: it is tried again for ever."""
    code: bool = False
    """An error of Python's that may as well follow from the setting: where a new process has it too, it does."""


class MachineError(RuntimeError):
    """Ends the process of a trial, which is tried again in another."""


def fault_of(error: BaseException) -> Fault:
    """What an error says, other than that the memory is too small."""
    said, details = " ".join(str(error).split())[:300], "".join(traceback.format_exception(error))
    if isinstance(error, DivergedError):
        return Fault(SETTING, said, details)
    if isinstance(error, RemoteError):
        return Fault(STORE, said, details)
    if isinstance(error, InputError) and not isinstance(error.__cause__, OSError):
        return Fault(INPUT, said, details)
    if disk_is_full(error):
        return Fault(MACHINE, f"no room is left on the disk: {said}", details)
    name = type(error).__name__
    machine = isinstance(error, (OSError, InputError, WorkerError)) or "CUDA" in said or "NCCL" in said
    return Fault(MACHINE, f"{name}: {said}" if said else name, details, code=not machine)
