"""Rows that wait on this machine's disk until the store has taken them.

    <spool>/<experiment and lake>/<writer>/<table>/*.parquet      files as they will lie in the lake, under the same names
    <spool>/<experiment and lake>/<writer>.lock                   held while that writer, or one that sends for it, lives

A file is deleted here when the store has it. Killed in between, the next one sends it again, under the same name and with the same
`recorded_at`: nothing is doubled, and no old row gets in front of a newer one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import re
import shutil
import time
import uuid
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import pyarrow as pa

from cdal.caching import cache_folder
from tune.lake.driver import identity, is_dead
from tune.lake.experiments import Experiment
from tune.lake.storage import Store
from tune.lake.tables import KEYS, LakeWarning, concatenate, level_of, newest, read_files, stamp_of, write_file

SPOOL_BYTES = 512 * 2**20
"""What one writer may leave waiting, give or take one flush."""

FAN_IN = 8  # files are merged eight at a time ...
TOP_LEVEL = 4  # ... up to four times over, so a file holds up to 4,096 flushes ...
_LARGE = 64 * 2**20  # ... or this many bytes, for larger ones are few anyway
_ABOUT = "about.json"
_QUIET_SECONDS = 3600.0  # a writer of another machine that has not touched its files for so long has ended


def spool_folder() -> Path:
    """Where rows wait by default: `spool` in the cache folder."""
    return cache_folder() / "spool"


class Ladder:
    """One writer's files in one folder of tables. The small ones are merged, so that many writes do not become many files."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store, self._folder = store, folder
        self._files: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)  # bytes of own files, by table and level
        self.merges = True

    def add(self, table: str, rows: pa.Table) -> None:
        """Write rows to a new file; they are durable when this returns."""
        self._climb(table, 0, *write_file(self._store, self._path(table), rows, 0))

    def take(self, table: str, name: str, content: pa.Buffer) -> None:
        """Write a file that was made elsewhere, under its own name."""
        path = f"{self._path(table)}/{name}"
        self._store.write(path, content)
        self._climb(table, level_of(name), path, content.size)

    def _path(self, table: str) -> str:
        return f"{self._folder}/{table}" if self._folder else table

    def _climb(self, table: str, level: int, path: str, size: int) -> None:
        files = self._files[table, level]
        files[path] = size
        if not self.merges or level >= TOP_LEVEL or len(files) < FAN_IN:
            return
        if sum(files.values()) > _LARGE:
            return files.clear()
        parts: dict[str, pa.Table] = {}
        try:
            read_files(self._store, list(files), table, None, parts)
            rows = newest(concatenate(list(parts.values()), table, None), KEYS[table])
            merged, size = write_file(self._store, self._path(table), rows, level + 1)
        except FileNotFoundError:
            return files.clear()  # compacted or sent by somebody else in the meantime: the rows are safe in another place
        except OSError:
            return None  # nothing is lost; the next file tries again
        files.clear()
        with suppress(OSError):  # what stays is doubled, which is harmless
            self._store.delete(parts)
        self._climb(table, level + 1, merged, size)


class Outbox:
    """What one writer has not sent yet. Whoever has one holds its lock."""

    def __init__(self, folder: Path, lock: _WriterLock, limit: int) -> None:
        self.folder, self._lock, self._limit = folder, lock, limit
        self._store = Store(folder)
        self._ladder = Ladder(self._store, "")

    @classmethod
    def new(cls, spool: Path, root: str, experiment: Experiment, limit: int) -> Outbox:
        """An empty one. Raises OSError where the disk refuses."""
        folder = _folder_of(spool, root, experiment) / uuid.uuid4().hex
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = _WriterLock(folder)
        lock.acquire()  # before there is a folder that others could take for a dead writer's
        folder.mkdir(parents=True)
        about = {"root": root, "experiment": experiment.name, "created_at": experiment.created_at}
        Store(folder).write(_ABOUT, json.dumps(about).encode())
        return cls(folder, lock, limit)

    @classmethod
    def left(cls, spool: Path, root: str, experiment: Experiment) -> Iterator[Outbox]:
        """Those that dead writers of this experiment left, oldest first, each with its lock taken."""
        folders = [folder for folder in _folder_of(spool, root, experiment).glob("*") if folder.is_dir()]
        for folder in sorted(folders, key=_changed):
            lock = _WriterLock(folder)
            with suppress(OSError):
                if lock.acquire():  # else its writer lives, or another one sends it
                    yield cls(folder, lock, SPOOL_BYTES)

    def keep(self, table: str, rows: pa.Table) -> None:
        """Make rows durable here. Raises OSError where the disk or the bound refuses."""
        if self.size() >= self._limit:
            self._condense()
            if self.size() >= self._limit:
                bound = f"{self.folder} is at its bound of {self._limit / 2**20:.0f} MiB and takes no more until the store is back"
                raise OSError(errno.ENOSPC, bound)
        self._ladder.add(table, rows)

    def waiting(self) -> list[str]:
        """Files that have not been sent, by table and name; those of the trials table last."""
        return [path for table in sorted(KEYS, key=lambda table: table == "trials") for path in self._store.files(table)]

    def size(self) -> int:
        """Bytes that wait."""
        return sum(size for table in KEYS for size in self._store.sizes(table).values())

    def newest_stamp(self) -> int:
        """Microseconds since 1970 of the newest row that waits, 0 where none does."""
        return max(map(stamp_of, self.waiting()), default=0)

    def send(self, ladder: Ladder, deadline: float = math.inf, confirm: Callable[[], None] = lambda: None) -> bool:
        """Send what waits until a moment of the monotonic clock; tells whether nothing waits any more. Raises OSError.

        Rows of trials go last: a trial that the lake calls ended is complete there. Before every file `confirm` is called, which
        raises where nothing may be sent any more; the rows that are sent then are older than its answer.
        """
        while True:
            trials = self._store.files("trials")  # listed first, so that what they rely on is in the other list
            paths = [path for path in self.waiting() if not path.startswith("trials/")] + trials
            if not paths:
                return True
            for path in paths:
                if time.monotonic() > deadline:
                    return False
                try:
                    content = self._store.read(path)
                except FileNotFoundError:
                    break  # it has just been merged into another
                table, _, name = path.partition("/")
                confirm()
                ladder.take(table, name, content)
                self._store.delete([path])

    def drop(self) -> None:
        """Give up what waits."""
        self._store.delete(self.waiting())

    def release(self) -> None:
        """Give the lock back, and clear up where nothing waits."""
        if not self.waiting():
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()
        with suppress(OSError):
            self.folder.parent.rmdir()

    def _condense(self) -> None:
        """Drop the rows that newer ones have replaced, never the last of a key."""
        before = self.size()
        for table in KEYS:
            paths = self._store.files(table)
            if len(paths) < 2:
                continue
            parts: dict[str, pa.Table] = {}
            try:
                read_files(self._store, paths, table, None, parts)
            except FileNotFoundError:
                continue  # just sent
            write_file(self._store, table, newest(concatenate(list(parts.values()), table, None), KEYS[table]), TOP_LEVEL)
            self._store.delete(parts)
        if (after := self.size()) < before:
            message = (
                f"{self.folder} reached its bound of {self._limit / 2**20:.0f} MiB; rows that newer ones replaced were dropped"
            )
            warnings.warn(f"{message}, {(before - after) / 2**20:.1f} MiB", LakeWarning, stacklevel=2)


class _WriterLock:
    """Held while a writer lives. Where the file system has no locks, the file says which process the writer is.

    It spares work: two that send the same files would do no harm.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder.with_name(f"{folder.name}.lock")
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Take it, unless somebody has it; tells whether it was taken. Raises OSError where the disk refuses."""
        file = self._path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        except OSError:  # there are no locks
            if self._is_held(file):
                file.close()
                return False
            file.truncate(0)
            file.write(json.dumps(identity()))
            file.flush()
        self._file = file
        return True

    def release(self) -> None:
        """Give it back; the file is deleted where the folder is gone."""
        if self._file is not None:
            if not self._folder.exists():
                self._path.unlink(missing_ok=True)
            with suppress(OSError):
                self._file.truncate(0)
            self._file.close()

    def _is_held(self, file: IO[str]) -> bool:
        file.seek(0)
        try:
            dead = is_dead(json.loads(file.read()))
        except (ValueError, AttributeError):
            return False
        quiet = max((_changed(path) for path in self._folder.rglob("*")), default=0.0) < time.time() - _QUIET_SECONDS
        return dead is False or (dead is None and not quiet)


def outboxes(spool: Path, root: str) -> dict[Path, dict[str, str]]:
    """The folders in a spool that hold files for a lake, and what each says of itself, oldest first."""
    found = {}
    for path in sorted(spool.glob(f"*/*/{_ABOUT}"), key=_changed):
        with suppress(OSError, ValueError):
            about = json.loads(path.read_bytes())
            if about["root"] == root and any(path.parent.glob("*/*.parquet")):
                found[path.parent] = about
    return found


def _folder_of(spool: Path, root: str, experiment: Experiment) -> Path:
    """Where the outboxes of one experiment are; another experiment that later gets its name has another folder."""
    known_by = json.dumps([root, experiment.name, experiment.created_at]).encode()
    readable = re.sub(r"[^\w.-]+", "_", experiment.name)[:40]
    return spool / f"{readable}-{hashlib.blake2b(known_by, digest_size=8).hexdigest()}"


def _changed(path: Path) -> float:
    """Seconds since 1970; 0 where it is gone by now."""
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0
