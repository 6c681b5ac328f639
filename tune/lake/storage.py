"""Whole files under one root, on this machine or in an object store.

store = Store("results")                        # or "s3://bucket/prefix"
store.write("first/notes.bin", b"...")          # whole or not at all
store.read("first/notes.bin"), store.exists("first/notes.bin"), store.files("first", ".bin")
"""

import errno
import os
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.fs as pafs

from cdal.errors import InputError
from tune.lake.s3 import Bucket, Found, Patience, RemoteError

PATIENT = Patience(attempts=12, connect_seconds=3, read_seconds=10)
"""Services are away for half a minute at times."""
REPEATED = Patience(attempts=2, connect_seconds=3, read_seconds=20)
"""For what is tried again anyway."""
_IMPATIENT = Patience(attempts=2, connect_seconds=2, read_seconds=3)

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # what file systems without hard links say

_STALE_SECONDS = 3600.0  # a temporary file this old belongs to a dead writer


class Store:
    """Whole files under one root, on this machine or in an object store. Paths are relative to the root, with '/'.

    On s3:// every method raises `RemoteError` (an OSError, and an InputError) when the service fails after all attempts.
    """

    def __init__(self, root: str | Path, filesystem: pafs.FileSystem | None = None, *, patience: Patience = PATIENT) -> None:
        """Name a root; nothing is asked of it yet.

        Args:
            root: a folder, `s3://bucket/prefix`, another address that Arrow knows, or a path on `filesystem`.
            filesystem: one of your own.
            patience: with S3.
        """
        self._root = str(root)
        self._place: _Place
        if filesystem is not None:
            self._place = _Foreign(filesystem, self._root.rstrip("/"))
        elif self._root.startswith("s3:/"):  # a Path has lost the second slash
            self._root = "s3://" + self._root.removeprefix("s3:").strip("/")
            self._place = Bucket(self._root, patience)
        elif "://" in self._root:
            try:
                self._place = _Foreign(*pafs.FileSystem.from_uri(self._root))
            except (pa.ArrowException, ValueError) as error:
                raise InputError(f"{self._root} cannot be used: {error}; name a folder or s3://BUCKET/FOLDER") from error
        else:
            self._place = _Disk(Path(self._root).expanduser().absolute().as_posix())

    @property
    def root(self) -> str:
        """The root as the user knows it."""
        return self._root.rstrip("/") or "/"

    @property
    def is_remote(self) -> bool:
        """Whether a network lies between."""
        return not isinstance(self._place, _Disk)

    def name(self, path: str) -> str:
        """A path as the user knows it."""
        return f"{self._root.rstrip('/')}/{path}"

    def local_path(self, path: str) -> Path | None:
        """The file on this machine; None where the root is elsewhere."""
        return Path(self._place.base, path) if isinstance(self._place, _Disk) else None

    def folders(self) -> list[str] | None:
        """Names of the folders under the root; None where the root does not exist."""
        return self._place.folders()

    def files(self, folder: str, suffix: str = ".parquet") -> list[str]:
        """Files of a folder that end like this, by name."""
        return sorted(self.sizes(folder, suffix))

    def sizes(self, folder: str, suffix: str = ".parquet") -> dict[str, int]:
        """Files of a folder that end like this, and their bytes.

        Listed until two lists agree, for one may miss a file while others are merged.
        """
        previous, found = None, self._place.listing(folder)
        while previous is None or found.keys() != previous.keys():
            previous, found = found, self._place.listing(folder)
        return {f"{folder}/{name}": about.size for name, about in found.items() if name.endswith(suffix)}

    def tree(self) -> dict[str, Found]:
        """All files below the root, however deep."""
        return self._place.tree()

    def stale(self, folder: str) -> list[str]:
        """Temporary files that dead writers left."""
        old = time.time() - _STALE_SECONDS
        found = self._place.listing(folder).items()
        return sorted(f"{folder}/{name}" for name, about in found if name.endswith(".tmp") and 0 < about.changed < old)

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return self._place.exists(path)

    def read(self, path: str) -> pa.Buffer:
        """A file's content. Raises FileNotFoundError."""
        return self._place.read(path)

    def open(self, path: str) -> pa.NativeFile:
        """A file to read parts of. Raises FileNotFoundError."""
        return self._place.open(path)

    def write(self, path: str, content: pa.Buffer | bytes) -> None:
        """Write a file whole or not at all: by a rename on this machine, by one put elsewhere."""
        self._place.write(path, content)

    def create(self, path: str, content: bytes) -> bool:
        """Like `write`, but only where there is no such file; tells whether it was written.

        Of two that create at once exactly one is told so: on this machine, and on S3 where the service knows conditional writes.
        """
        return self._place.create(path, content)

    def refuses(self, path: str, content: bytes) -> bool:
        """Whether `create` is refused where there is a file, by asking for it; where it is not, the content is written."""
        return self._place.refuses(path, content)

    def copy(self, source: str, target: str) -> None:
        """Write a file with the content of another one; in an object store, nothing is sent. Raises FileNotFoundError."""
        self._place.copy(source, target)

    def delete(self, paths: Iterable[str]) -> int:
        """Delete files, those already gone too; returns how many there were, as far as the store tells."""
        return sum([self._place.delete(path) for path in paths])


def check_writable(root: str | Path) -> None:
    """Write, read, list and delete below a root, to know before a search starts; takes no longer than about 10 s.

    Raises:
        InputError: it cannot be done; the sentence says why, and what to do.
    """
    store = Store(root, patience=_IMPATIENT)
    path = f".writable-{uuid.uuid4().hex}"
    try:
        store.folders()
        store.write(path, b"This file may be deleted.")
        store.read(path)
        store.delete([path])
    except RemoteError as error:
        raise RemoteError(str(error).replace(f"/{path}", "")) from error
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{root} cannot be written: {reason}; choose another --storage, or make this one writable") from error


class _Place(Protocol):
    """Where files are; all paths are relative to its base."""

    def folders(self) -> list[str] | None: ...
    def listing(self, folder: str) -> dict[str, Found]: ...
    def tree(self) -> dict[str, Found]: ...
    def exists(self, path: str) -> bool: ...
    def read(self, path: str) -> pa.Buffer: ...
    def open(self, path: str) -> pa.NativeFile: ...
    def write(self, path: str, content: pa.Buffer | bytes) -> None: ...
    def create(self, path: str, content: bytes) -> bool: ...
    def refuses(self, path: str, content: bytes) -> bool: ...
    def copy(self, source: str, target: str) -> None: ...
    def delete(self, path: str) -> bool: ...


class _Disk:
    """A folder of this machine."""

    def __init__(self, base: str) -> None:
        self.base = base

    def folders(self) -> list[str] | None:
        try:
            with os.scandir(self.base) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def listing(self, folder: str) -> dict[str, Found]:
        found = {}
        try:
            with os.scandir(f"{self.base}/{folder}") as entries:
                for entry in entries:
                    try:
                        if entry.is_file():
                            found[entry.name] = Found(entry.stat().st_size, entry.stat().st_mtime)
                    except FileNotFoundError:
                        continue  # gone since
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return found

    def tree(self) -> dict[str, Found]:
        found: dict[str, Found] = {}
        for folder, _, _ in os.walk(self.base):
            path = os.path.relpath(folder, self.base)
            found |= {f"{path}/{name}".removeprefix("./"): about for name, about in self.listing(path).items()}
        return found

    def exists(self, path: str) -> bool:
        return os.path.isfile(f"{self.base}/{path}")

    def read(self, path: str) -> pa.Buffer:
        with self.open(path) as stream:
            return stream.read_buffer()

    def open(self, path: str) -> pa.NativeFile:
        return pa.OSFile(f"{self.base}/{path}")

    def write(self, path: str, content: pa.Buffer | bytes) -> None:
        temporary = self._temporary(path, content)
        os.replace(temporary, f"{self.base}/{path}")
        _sync_folder(os.path.dirname(temporary))

    def create(self, path: str, content: bytes) -> bool:
        temporary = self._temporary(path, content)
        try:
            os.link(temporary, f"{self.base}/{path}")  # unlike a rename, a link fails where the name is taken
        except FileExistsError:
            if os.stat(temporary).st_nlink < 2:  # on NFS an answer may be lost, and the second try finds the first one's link
                return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return self._create_by_opening(path, content)
        finally:
            os.unlink(temporary)
        _sync_folder(os.path.dirname(temporary))
        return True

    def refuses(self, path: str, content: bytes) -> bool:
        return True

    def copy(self, source: str, target: str) -> None:
        self.write(target, self.read(source))

    def delete(self, path: str) -> bool:
        try:
            os.unlink(f"{self.base}/{path}")
        except FileNotFoundError:
            return False
        return True

    def _create_by_opening(self, path: str, content: bytes) -> bool:
        try:
            with open(f"{self.base}/{path}", "xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        except FileExistsError:
            return False
        return True

    def _temporary(self, path: str, content: pa.Buffer | bytes) -> str:
        folder = os.path.dirname(f"{self.base}/{path}")
        os.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/.{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)  # half a file takes room that a full disk lacks
            raise
        return temporary


class _Foreign:
    """A folder on one of Arrow's file systems."""

    def __init__(self, filesystem: pafs.FileSystem, base: str) -> None:
        self._fs, self._base = filesystem, base

    def folders(self) -> list[str] | None:
        try:
            found = self._fs.get_file_info(pafs.FileSelector(self._base))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)

    def listing(self, folder: str) -> dict[str, Found]:
        found = self._fs.get_file_info(pafs.FileSelector(f"{self._base}/{folder}", allow_not_found=True))
        return {info.base_name: Found(info.size, (info.mtime_ns or 0) / 1e9) for info in found if info.type == pafs.FileType.File}

    def tree(self) -> dict[str, Found]:
        found = self._fs.get_file_info(pafs.FileSelector(self._base, allow_not_found=True, recursive=True))
        files = [info for info in found if info.type == pafs.FileType.File]
        return {info.path.removeprefix(f"{self._base}/"): Found(info.size, (info.mtime_ns or 0) / 1e9) for info in files}

    def exists(self, path: str) -> bool:
        return bool(self._fs.get_file_info(f"{self._base}/{path}").type == pafs.FileType.File)

    def read(self, path: str) -> pa.Buffer:
        with self.open(path) as stream:
            return stream.read_buffer()

    def open(self, path: str) -> pa.NativeFile:
        return self._fs.open_input_file(f"{self._base}/{path}")

    def write(self, path: str, content: pa.Buffer | bytes) -> None:
        with self._fs.open_output_stream(f"{self._base}/{path}") as stream:
            stream.write(content)

    def create(self, path: str, content: bytes) -> bool:
        if self.exists(path):
            return False
        self.write(path, content)
        return True

    def refuses(self, path: str, content: bytes) -> bool:
        return False

    def copy(self, source: str, target: str) -> None:
        self.write(target, self.read(source))

    def delete(self, path: str) -> bool:
        try:
            self._fs.delete_file(f"{self._base}/{path}")
        except FileNotFoundError:
            return False
        return True


def _sync_folder(folder: str) -> None:
    """Make a rename survive a power cut, where the file system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
