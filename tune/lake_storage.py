"""Whole files under one root, on this machine or in an object store."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

_STALE_SECONDS = 3600.0  # a temporary file this old belongs to a dead writer


class Store:
    """Whole files under one root, on this machine or in an object store. Paths are relative to the root, with '/'."""

    def __init__(self, root: str | Path, filesystem: pafs.FileSystem | None) -> None:
        self._root = str(root)
        self._local = False
        if filesystem is not None:
            self._fs, self._base = filesystem, self._root.rstrip("/")
        elif self._root.startswith("s3://"):
            self._fs, self._base = _s3(), self._root.removeprefix("s3://").rstrip("/")
        elif "://" in self._root:
            self._fs, self._base = pafs.FileSystem.from_uri(self._root)
        else:
            self._fs, self._base = pafs.LocalFileSystem(), Path(self._root).expanduser().absolute().as_posix()
            self._local = True

    @property
    def arrow(self) -> tuple[pafs.FileSystem, str]:
        """The file system and the root's path in it, as other libraries take them."""
        return self._fs, self._base

    def name(self, path: str) -> str:
        """A path as the user knows it."""
        return f"{self._root.rstrip('/')}/{path}"

    def folders(self) -> list[str] | None:
        """Names of the folders under the root; None where the root does not exist."""
        try:
            found = self._fs.get_file_info(pafs.FileSelector(self._base))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)

    def files(self, folder: str) -> list[str]:
        """Parquet files of a folder, oldest first; listed until two lists agree, for one may miss a file during a merge."""
        previous, found = None, self._list(folder)
        while found != previous:
            previous, found = found, self._list(folder)
        return sorted(path for path in found if path.endswith(".parquet"))

    def stale(self, folder: str) -> list[str]:
        """Temporary files that dead writers left."""
        old = time.time() - _STALE_SECONDS
        return [path for path, changed in self._list(folder).items() if path.endswith(".tmp") and 0 < changed < old]

    def read(self, path: str) -> pa.Buffer:
        """A file's content. Raises FileNotFoundError."""
        with self._fs.open_input_file(f"{self._base}/{path}") as stream:
            return stream.read_buffer()

    def write(self, path: str, content: pa.Buffer | bytes) -> None:
        """Write a file whole or not at all: by a rename on this machine, by one put elsewhere."""
        if not self._local:
            with self._fs.open_output_stream(f"{self._base}/{path}") as stream:
                stream.write(content)
            return
        temporary = self._temporary(path, content)
        os.replace(temporary, f"{self._base}/{path}")
        _sync_folder(os.path.dirname(temporary))

    def create(self, path: str, content: bytes) -> bool:
        """Like `write`, but only where there is no such file; tells whether it was written."""
        if not self._local:
            if self._fs.get_file_info(f"{self._base}/{path}").type != pafs.FileType.NotFound:
                return False
            self.write(path, content)
            return True
        temporary = self._temporary(path, content)
        try:
            os.link(temporary, f"{self._base}/{path}")  # unlike a rename, a link fails where the name is taken
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        _sync_folder(os.path.dirname(temporary))
        return True

    def delete(self, paths: Iterable[str]) -> int:
        """Delete files, those already gone too; returns how many there were."""
        deleted = 0
        for path in paths:
            try:
                self._fs.delete_file(f"{self._base}/{path}")
                deleted += 1
            except FileNotFoundError:
                continue
        return deleted

    def _temporary(self, path: str, content: pa.Buffer | bytes) -> str:
        target = Path(f"{self._base}/{path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = f"{target.parent}/.{uuid.uuid4().hex}.tmp"
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        return temporary

    def _list(self, folder: str) -> dict[str, float]:
        """Files of a folder by relative path, with the time of their last change."""
        found = self._fs.get_file_info(pafs.FileSelector(f"{self._base}/{folder}", allow_not_found=True))
        return {f"{folder}/{info.base_name}": (info.mtime_ns or 0) / 1e9 for info in found if info.type == pafs.FileType.File}


def _sync_folder(folder: str) -> None:
    """Make a rename survive a power cut, where the file system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _s3() -> pafs.FileSystem:
    """S3 as AWS_ENDPOINT_URL and the usual credentials say; patient, because servers are away for half a minute at times."""
    import s3fs  # only where it is needed: it takes a second to import

    patience = {"retries": {"max_attempts": 12, "mode": "standard"}, "connect_timeout": 3, "read_timeout": 10}
    return pafs.PyFileSystem(pafs.FSSpecHandler(s3fs.S3FileSystem(config_kwargs=patience, use_listings_cache=False)))
