"""Where this machine keeps what it can make or fetch again, and how its processes do so one at a time."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from cdal.pulse import beat

_LOOK_SECONDS = 1.0


def cache_folder() -> Path:
    """`$CDAL_CACHE`, else `cdal-search` in `$XDG_CACHE_HOME` or in `~/.cache`; the folder need not exist."""
    chosen = os.environ.get("CDAL_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "cdal-search")
    return Path(os.path.expanduser(chosen)).absolute()


@contextmanager
def alone(path: Path, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock between processes, which ends with its holder, however that ends.

    File systems that know no locks get a file that stands for one; where that cannot be written either, nobody is kept out.

    Args:
        path: of the lock; its folder is there.
        waits: called once a second while another process holds it.
    """
    lock = _acquired(FileLock(path), waits) or _acquired(SoftFileLock(path.with_name(f"{path.name}.held")), waits)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _acquired(lock: BaseFileLock, waits: Callable[[], None]) -> BaseFileLock | None:
    """The lock, held by this process; None where it cannot be."""
    while True:
        try:
            lock.acquire(timeout=_LOOK_SECONDS)
        except Timeout:
            beat()
            waits()
        except (OSError, NotImplementedError):
            return None
        else:
            return lock
