"""NVIDIA's Multi-Process Service (MPS): processes that share a GPU compute on it at the same time, and not in turns.

    print(start_mps(folder))     # before this process uses a GPU; it and its children then go through the service
    stop_mps(folder)             # on the same machine

The service is the user's own: its pipes and logs are in a private folder. One that others started is used and left alone, no mode
of a GPU is changed, and where the service does not work all go on without it.
"""

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

from cdal.caching import alone

_CONTROL = "nvidia-cuda-mps-control"
_PIPES, _LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
_PROOF = "import torch; assert torch.ones(8, device='cuda').sum().item() == 8"
_REFUSED = "refused"  # a file that says why nobody need try again
_ANSWER_SECONDS, _PROOF_SECONDS = 5, 30


def mps_folder(name: str) -> Path:
    """Where the service of a search is spoken to on this machine; short, as names of sockets have to be."""
    return Path(tempfile.gettempdir()) / f"cdal-mps-{os.getuid()}-{zlib.crc32(name.encode()):08x}"


def start_mps(folder: Path) -> str:
    """Let this process and its children go through the service, which is started if need be; says in words whether they do."""
    if os.environ.get(_PIPES) == str(folder):
        return "with MPS"
    if shutil.which(_CONTROL) is None:
        return f"without MPS: {_CONTROL} is not installed"
    if _ask("get_server_list") is not None:
        return "with the MPS that was running"
    try:
        problem = _serve(folder)
    except OSError as error:
        problem = str(error)
    if problem:
        return f"without MPS: {problem}"
    os.environ.update(_environment(folder))
    return "with MPS"


def stop_mps(folder: Path) -> None:
    """End the service that was started with the folder on this machine; nothing where there is none."""
    if os.environ.get(_PIPES) == str(folder):
        del os.environ[_PIPES], os.environ[_LOGS]
    if _is_ours(folder):
        _ask("quit", folder)  # where processes still use it, it ends with the last of them
        shutil.rmtree(folder, ignore_errors=True)


def _serve(folder: Path) -> str:
    """See that the service runs; says why it does not."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not _is_ours(folder):
        return f"{folder} belongs to somebody else"
    with alone(folder / "lock"):  # of all trials that begin on this machine at once, one starts it
        refused = folder / _REFUSED
        if refused.is_file():
            return refused.read_text()
        problem = "" if _ask("get_server_list", folder) is not None else _start(folder)
        if problem:
            _ask("quit", folder)
            refused.write_text(problem)
        return problem


def _start(folder: Path) -> str:
    """Start the service and send a process through it; says what is wrong."""
    environment = os.environ | _environment(folder)
    all_gpus = {name: value for name, value in environment.items() if name != "CUDA_VISIBLE_DEVICES"}  # it would count them anew
    if not _works([_CONTROL, "-d"], all_gpus, _ANSWER_SECONDS):
        return "it does not start here"
    if not _works([sys.executable, "-c", _PROOF], environment, _PROOF_SECONDS):
        return "CUDA does not work through it here"
    return "" if (_ask("get_server_list", folder) or "").strip() else "CUDA goes past it here"


def _works(command: list[str], environment: dict[str, str], seconds: float) -> bool:
    silent = subprocess.DEVNULL  # a pipe would stay open as long as the service runs
    try:
        done = subprocess.run(
            command, env=environment, stdin=silent, stdout=silent, stderr=silent, start_new_session=True, timeout=seconds
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _ask(command: str, folder: Path | None = None) -> str | None:
    """What the service answers to a command; None where there is no service."""
    environment = os.environ | (_environment(folder) if folder else {})
    try:
        done = subprocess.run(
            [_CONTROL], input=f"{command}\n", env=environment, capture_output=True, text=True, timeout=_ANSWER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _environment(folder: Path) -> dict[str, str]:
    return {_PIPES: str(folder), _LOGS: str(folder)}


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder of this user; /tmp is everyone's."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
