"""A folder of the lake as plain files: a trial's checkpoints, a search's clock and Optuna's journal.

    before = {"last.safetensors": "previous.safetensors"}
    files = Mirror("s3://bucket/lake/first/tune/00003", ("best.safetensors", "last.safetensors"), before)
    files.fetch()                    # what an earlier process left, on whatever machine that was
    (files.path / "last.safetensors").write_bytes(...)
    files.keep()                     # returns at once
    files.close()

Where the lake is a folder that all machines see, `path` is that folder and nothing is copied. Where it is an object store, `path`
is a working copy on this machine: a thread sends what changes, the newest state only, and goes on trying while the store is away.
Where the state before is kept as well, the service copies it there: nothing is sent twice.
"""

import hashlib
import os
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from cdal.caching import cache_folder
from tune.lake.driver import LostError, lease_of
from tune.lake.storage import REPEATED, Store
from tune.lake.tables import LakeWarning

_PAUSE_SECONDS = 5.0  # between two copies of a file
_RETRY_SECONDS = 3.0
_PATIENCE_SECONDS = 600.0  # with a store that is away


def working_folder(place: str) -> Path:
    """Where this machine keeps the files of a folder of the lake."""
    if "://" not in place:
        return Path(place)
    return cache_folder() / "work" / hashlib.sha256(place.encode()).hexdigest()[:24]


def ray_storage(place: str) -> dict[str, Any]:
    """A folder of the lake, as the run configurations of Ray Tune and Ray Train name it."""
    if "://" not in place:
        return {"storage_path": os.path.abspath(place)}
    import s3fs  # only where it is needed: it takes a second to import

    patience = {"retries": {"max_attempts": 12, "mode": "standard"}, "connect_timeout": 3, "read_timeout": 10}
    filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(s3fs.S3FileSystem(config_kwargs=patience, use_listings_cache=False)))
    return {"storage_path": place.removeprefix("s3://"), "storage_filesystem": filesystem}


class Mirror:
    """Some files of one folder of the lake; see the module."""

    def __init__(self, place: str, names: Sequence[str], before: Mapping[str, str] | None = None) -> None:
        """Take the folder up; it need not exist.

        Args:
            place: the folder, in the lake: a path, or s3://bucket/prefix.
            names: of its files, in the order in which they are to appear: one that tells of another comes after it.
            before: of some of these, the name under which the state before is kept. Whoever writes the files renames the old one to
                that, once it is known to be sound.
        """
        self.path, self._place, self._names, self._before = working_folder(place), place, tuple(names), dict(before or {})
        self._store = Store(place, patience=REPEATED) if "://" in place else None
        self._sent: dict[str, tuple[int, int]] = {}
        self._own: set[str] = set()  # files in the store that were sent from here
        self._changed, self._closing, self._abandoned = threading.Event(), threading.Event(), threading.Event()
        self._lost = threading.Event()
        self._thread: threading.Thread | None = None

    def fetch(self) -> None:
        """Make the working copy equal to what the lake holds.

        Raises:
            OSError: the store has been away for ten minutes.
        """
        if self._store is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        for name in (*self._names, *self._before.values()):
            try:
                Store(self.path).write(name, self._read(self._store, name))
            except FileNotFoundError:
                (self.path / name).unlink(missing_ok=True)
            else:
                self._sent[name] = _version(os.stat(self.path / name))

    def keep(self) -> None:
        """Files have changed: send them soon."""
        if self._store is None:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_forever, name="mirror", daemon=True)
            self._thread.start()
        self._changed.set()

    def has(self, name: str) -> bool:
        """Whether the lake holds the file."""
        return (self.path / name).is_file() if self._store is None else name in self._sent

    def close(self, patience: float = 120.0) -> bool:
        """Send what is left and delete the working copy; tells whether all is in the lake. What is not stays in the copy."""
        if self._thread is None:
            return True
        self._closing.set()
        self._changed.set()
        self._thread.join(patience)
        stored = not self._thread.is_alive() and not self._lost.is_set()
        if stored:
            self.discard()
        elif not self._lost.is_set():
            self._abandoned.set()
            warnings.warn(f"{self._place} could not be written; the files are in {self.path}", LakeWarning, stacklevel=2)
        self._thread = None
        return stored

    def discard(self) -> None:
        """Delete the working copy."""
        if self._store is None:
            return
        for name in (*self._names, *self._before.values()):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    def _read(self, store: Store, name: str) -> pa.Buffer:
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return store.read(name)
            except FileNotFoundError:
                raise
            except OSError as error:
                if time.monotonic() > end:
                    raise
                warnings.warn(f"{self._place} is not to be read, trying again: {error}", LakeWarning, stacklevel=3)
                time.sleep(_RETRY_SECONDS)

    def _send_forever(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            last = self._closing.is_set()  # asked before the files are read: nothing changes after that
            try:
                self._send()
            except LostError:
                return self._lost.set()  # the files are another driver's now
            except OSError as error:
                warnings.warn(f"{self._place} is not to be written, trying again: {error}", LakeWarning, stacklevel=2)
                self._changed.set()
                if self._abandoned.wait(_RETRY_SECONDS):
                    return
                continue
            if last:
                return
            self._closing.wait(_PAUSE_SECONDS)

    def _send(self) -> None:
        assert self._store is not None
        with ExitStack() as stack:
            files = []
            for name in reversed(self._names):  # opened from the last one on: what it tells of is then at least as new
                with suppress(FileNotFoundError):
                    files.append((name, stack.enter_context(open(self.path / name, "rb"))))
            for name, file in reversed(files):
                version = _version(os.fstat(file.fileno()))
                if self._sent.get(name) != version:
                    if (lease := lease_of(self._place)) is not None:
                        lease.confirm()
                    self._keep_before(name)
                    self._store.write(name, file.read())
                    self._sent[name] = version
                    self._own.add(name)

    def _keep_before(self, name: str) -> None:
        """Let the service copy its state of a file to the name for the state before, where that is sound: our own, or found so."""
        before = self._before.get(name)
        if self._store is None or before is None or name not in self._sent:
            return
        with suppress(FileNotFoundError):
            if name in self._own or _version(os.stat(self.path / before)) == self._sent[name]:
                self._store.copy(name, before)
                self._sent[before] = self._sent[name]


def _version(status: os.stat_result) -> tuple[int, int]:
    return status.st_ino, status.st_mtime_ns
