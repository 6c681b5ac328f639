"""What a machine must have before a search begins on it, found out in milliseconds; what is missing is told with its remedy.

Ray finds most of it out itself, half a minute later, in a process whose log nobody reads.
"""

import os
import pwd
import resource
import sys
import tempfile
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from ray._common.utils import get_default_ray_temp_dir

from cdal.caching import cache_folder
from cdal.errors import InputError

_MIB = 2**20
_ROOM = 64 * _MIB
"""Free bytes without which nothing can go on for long."""
_FILES = 500
"""The same for files, on file systems that count them."""
_SHARED = 16 * _MIB
"""In /dev/shm. Ray does with less, but not the processes that share a GPU."""
_OPEN_FILES, _PROCESSES = 64, 200
"""Limits of `ulimit` with which Ray was seen to start; not with half as many processes."""
_SHARED_MEMORY = Path("/dev/shm")
_FIRST_YEAR = 2020
_SOCKET = 103 if sys.platform == "darwin" else 107
"""Bytes of the name of a socket."""


def check_machine(root: str, data: str | None = None, *, starts_ray: bool) -> None:
    """Look whether the machine can run a search.

    Args:
        root: the lake.
        data: the dataset's files, a folder or an address.
        starts_ray: whether Ray is going to be started here, and not joined elsewhere.

    Raises:
        InputError: it cannot; says what to do.
    """
    _check_clock()
    if starts_ray:
        _check_limits()  # first, as the others open files
        _check_temporary_folder()
        _check_token()
        _check_shared_memory()
    remote = next((place for place in (root, data or "") if "://" in place), None)
    if remote is not None:
        remedy = f"set CDAL_CACHE to a folder with room: what belongs to {remote} passes through it"
        _check_folder(cache_folder(), "the cache folder", remedy)
    if "://" not in root:
        folder = Path(root)
        _check_room(folder, f"--storage {root}", "make room, or name another --storage")


def _check_clock() -> None:
    """Services refuse what is signed with a wrong date, and of two rows the lake takes the one that is later."""
    now = datetime.fromtimestamp(time.time()).astimezone()
    if now.year < _FIRST_YEAR:
        raise InputError(f"the clock of this machine says {now:%Y-%m-%d}; set it, as with `timedatectl set-ntp true`")


def _check_temporary_folder() -> None:
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "")
    folder = Path(get_default_ray_temp_dir())  # type: ignore[no-untyped-call]
    if not folder.is_absolute():
        raise InputError(f"{name} is {os.environ[name]!r}, and Ray needs a whole path; write one that begins with /, such as /tmp")
    session = f"session_{datetime.now():%Y-%m-%d_%H-%M-%S_%f}_{os.getpid()}"
    socket = len(os.fsencode(folder / session / "sockets" / "plasma_store"))
    if socket > _SOCKET:
        raise InputError(
            f"{name} is {folder.parent}, which makes names of Ray's sockets {socket} bytes long, and the system allows {_SOCKET}; "
            "set RAY_TMPDIR to a short path, such as /tmp"
        )
    _check_folder(folder, "Ray's folder", "set RAY_TMPDIR to a short path of a folder of yours with room")


def _check_token() -> None:
    """Ray makes one for this user where there is none."""
    mode = os.environ.get("RAY_AUTH_MODE", "token").lower()
    if mode != "token" or os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    try:
        home = Path.home()
    except RuntimeError:
        raise InputError("this user has no home, where Ray keeps its token; set HOME to a folder of yours") from None
    token = home / ".ray" / "auth_token"
    if not os.access(token, os.R_OK):
        _check_folder(token.parent, "HOME", "Ray keeps its token there; set HOME to a folder of yours")


def _check_shared_memory() -> None:
    if sys.platform != "linux":
        return
    remedy = "Ray's processes share data there; in a container give --shm-size=1g to `docker run`"
    if not _SHARED_MEMORY.is_dir():
        raise InputError(f"there is no {_SHARED_MEMORY}; {remedy}")
    _check_written(_SHARED_MEMORY, str(_SHARED_MEMORY), remedy)
    free = _free(_SHARED_MEMORY)
    if free < _SHARED:
        raise InputError(f"{_SHARED_MEMORY} has {free / _MIB:.0f} MiB left; delete what is in it: {remedy}")


def _check_limits() -> None:
    for limit, least, letter, what in (
        (resource.RLIMIT_NOFILE, _OPEN_FILES, "n", "open files"),
        (resource.RLIMIT_NPROC, _PROCESSES, "u", "processes and threads"),
    ):
        most = resource.getrlimit(limit)[1]  # Ray goes to the hard one by itself
        for_root = limit == resource.RLIMIT_NPROC and os.geteuid() == 0  # whom the system does not count
        if most != resource.RLIM_INFINITY and most < least and not for_root:
            raise InputError(f"this user may have {most} {what}, and Ray needs {least} at least; raise it: ulimit -{letter} 4096")


def _check_folder(folder: Path, what: str, remedy: str) -> None:
    """Raise InputError where no file can be written to a folder, which need not exist, or too few."""
    _check_written(folder, f"{what} {folder}", remedy)
    _check_room(folder, f"{what} {folder}", remedy)


def _check_written(folder: Path, what: str, remedy: str) -> None:
    there = _nearest(folder)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        owner = there.stat().st_uid
        if owner != os.geteuid():
            with suppress(KeyError):
                why += f"; it belongs to {pwd.getpwuid(owner).pw_name}"
        raise InputError(f"{what} cannot be written ({why}); {remedy}") from error


def _check_room(folder: Path, what: str, remedy: str) -> None:
    there = _nearest(folder)
    free = _free(there)
    if free < _ROOM:
        raise InputError(f"{what} has {free / _MIB:.0f} MiB of disk left; {remedy}")
    files = os.statvfs(there)
    if files.f_files and files.f_favail < _FILES:
        raise InputError(f"{what} has room for {files.f_favail} more files; {remedy}")


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _nearest(folder: Path) -> Path:
    """The folder, or what is there of the way to it."""
    folder = folder.absolute()
    return next((place for place in (folder, *folder.parents) if place.exists()), Path("/"))
