"""Data on S3, or on any service that speaks its protocol, copied to this machine before they are read.

    folder = local_folder("s3://bucket/Task04_Hippocampus")     # the same files, below the cache folder
    folder = local_folder("Task04_Hippocampus")                 # as it is

Address, region and credentials of the service come from the standard AWS variables and files (`AWS_ENDPOINT_URL`, `AWS_PROFILE`,
`AWS_ACCESS_KEY_ID`, ...). Every opening lists the objects once and copies those that are new or changed, one process at a time; an
interrupted copy goes on at the byte where it stopped. What is gone from the bucket goes from the copy too.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from cdal.caching import alone, cache_folder
from cdal.errors import InputError, one_line
from cdal.pulse import beat

_AT_ONCE = 8  # objects that are copied side by side
_PIECE = 8 * 2**20  # bytes asked for at once
_LONGEST_PART, _LONGEST_PATH = 255, 4095  # bytes, of a file name and of a path on Linux
_PATIENCE = 5.0  # seconds without a word
_NETWORK = {"connect_timeout": 5, "read_timeout": 8, "retries": {"mode": "standard", "total_max_attempts": 2}}

T = TypeVar("T")


def local_folder(data: str | Path) -> Path:
    """The folder on this machine that holds the data: the folder itself, or the copy of what lies at an s3:// address.

    Raises:
        InputError: an address that cannot be read or copied; the message says why, and what to do.
    """
    text = str(data)
    if text.startswith("s3:/"):  # a Path has lost the second slash
        bucket, _, prefix = text[3:].strip("/").partition("/")
        if not bucket:
            raise InputError(f"{text} names no bucket; write s3://BUCKET/FOLDER")
        return _copy(bucket, prefix)
    if "://" in text:
        raise InputError(f"{text} cannot be read; the data must lie in a folder on this machine or at an s3:// address")
    return Path(os.path.expanduser(text)).absolute()


class _Object(NamedTuple):
    path: str
    """BUCKET/KEY."""
    name: str
    """The key without the prefix: the path in the copy."""
    size: int
    etag: str


def _copy(bucket: str, prefix: str) -> Path:
    """Make the copy of a prefix equal to the bucket, and return it."""
    address = f"s3://{bucket}/{prefix}".rstrip("/")
    store = _Store(address)
    digest = hashlib.blake2b(f"{store.url} {prefix}".encode(), digest_size=8).hexdigest()
    root = cache_folder() / "s3" / f"{bucket}-{digest}"
    files = root / "files" / (re.sub(r"[^\w.-]+", "_", PurePosixPath(prefix).name).strip(".") or bucket)  # names own data
    try:
        with _alone(address, root):
            objects = store.objects(address)
            _check_names(objects, files)
            _remove_others(objects, files)
            copied = _read_journal(root / "journal")
            missing = [item for item in objects if copied.get(item.name, []) != _entry(item, files)]
            if missing:
                _check_space(address, missing, root)
                _copy_objects(store, address, missing, root, files)
                shutil.rmtree(root / "unfinished", ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"{address} cannot be copied to {root}: {error.strerror or error}; make room there, or set CDAL_CACHE to another folder"
        ) from error
    return files


class _Store:
    """The service, its errors in words."""

    def __init__(self, address: str) -> None:
        import s3fs  # here: most data are local, and it takes half a second to import

        self._files = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False, config_kwargs=_NETWORK)
        self._files.retries = 1  # a service that is not there is told soon; below, every request has its attempts
        self.url = "the S3 service"
        self.url = self._ask(address, lambda: str(self._files.s3.meta.endpoint_url))

    def objects(self, address: str) -> list[_Object]:
        """All objects below an address, but not the empty ones that stand for folders."""
        folder = address.removeprefix("s3://")
        found = self._ask(address, lambda: self._files.find(folder, detail=True))
        self._files.retries = 2  # from here on, answers that break off are asked for again
        objects = [
            _Object(path, path.removeprefix(f"{folder}/"), info["size"], info.get("ETag", "").strip('"'))
            for path, info in found.items()
            if path.startswith(f"{folder}/") and not path.endswith("/")
        ]
        if not objects:
            raise InputError(f"{address} holds no objects at {self.url}; the address must name the folder of a dataset")
        return objects

    def read(self, item: _Object, start: int, end: int) -> bytes:
        """The bytes of an object from `start` to before `end`."""
        data: bytes = self._ask(f"s3://{item.path}", lambda: self._files.cat_file(item.path, start=start, end=end))
        if len(data) != end - start:
            raise InputError(f"s3://{item.path} changed while it was copied; run the same command again")
        return data

    def verify(self, item: _Object, file: Path) -> bool:
        """Whether a file of the right size is the object, as far as its ETag tells.

        The ETag is the MD5 of the content, but not of objects that were sent in parts or encrypted with the key of a customer.
        """
        if not re.fullmatch("[0-9a-f]{32}", item.etag):
            return True
        with file.open("rb") as content:
            if hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == item.etag:
                return True
        bucket, _, key = item.path.partition("/")
        about = self._ask(f"s3://{item.path}", lambda: self._files.call_s3("head_object", Bucket=bucket, Key=key))
        return "SSECustomerAlgorithm" in about or str(about.get("ServerSideEncryption")).startswith("aws:kms")

    def _ask(self, address: str, request: Callable[[], T]) -> T:
        import aiohttp
        from botocore import exceptions as boto

        try:
            return request()
        except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound) as error:
            hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            raise InputError(f"{address} cannot be read without AWS credentials ({one_line(error)}); {hint}") from error
        except PermissionError as error:
            hint = "check that the AWS credentials in use may list and read it"
            raise InputError(f"{address} may not be read: {self.url} answers {one_line(error)!r}; {hint}") from error
        except FileNotFoundError as error:
            hint = "check the address and AWS_ENDPOINT_URL"
            raise InputError(f"{address} does not exist: {self.url} answers {one_line(error)!r}; {hint}") from error
        except (boto.ConnectionError, boto.HTTPClientError, aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            hint = "check the network and AWS_ENDPOINT_URL, and run the same command again: it goes on where it stopped"
            raise InputError(f"{address} cannot be reached at {self.url} ({one_line(error)}); {hint}") from error
        except Exception as error:  # s3fs lets through whatever the layers below it raise
            hint = "check the address and the AWS settings"
            raise InputError(f"{address} cannot be read from {self.url}: {one_line(error)}; {hint}") from error


@contextmanager
def _alone(address: str, root: Path) -> Iterator[None]:
    """Let one process at a time work on a copy; the lock ends with its holder, however that ends."""
    root.mkdir(parents=True, exist_ok=True)
    began, said = time.monotonic(), False

    def waits() -> None:
        nonlocal said
        if not said and time.monotonic() - began > _PATIENCE:
            _say(f"waiting for another process, which is copying {address}")
            said = True

    with alone(root / "lock", waits):
        yield


def _check_names(objects: Sequence[_Object], files: Path) -> None:
    """Refuse keys that are no paths below the folder of the copy."""
    folders = {str(parent) for item in objects for parent in PurePosixPath(item.name).parents}
    for item in objects:
        parts = item.name.split("/")
        if (
            any(part in ("", ".", "..") or "\0" in part or len(os.fsencode(part)) > _LONGEST_PART for part in parts)
            or len(os.fsencode(files / item.name)) > _LONGEST_PATH
        ):
            raise InputError(f"the key of s3://{item.path} is no usable file name; rename the object, or remove it")
        if item.name in folders:
            raise InputError(f"s3://{item.path} is both an object and a folder; rename one of them")


def _remove_others(objects: Sequence[_Object], files: Path) -> None:
    """Delete the files of the copy that the bucket no longer has, and folders that become empty."""
    wanted = {str(files / item.name) for item in objects}
    for folder, _, names in os.walk(files, topdown=False):
        for path in (os.path.join(folder, name) for name in names):
            if path not in wanted:
                os.unlink(path)
        if not os.listdir(folder):
            os.rmdir(folder)


def _read_journal(journal: Path) -> dict[str, list[Any]]:
    """The last entry of every object that was copied whole, by name; lines that were cut when a process was killed do not count."""
    entries = {}
    with suppress(FileNotFoundError):
        for line in journal.read_text(errors="replace").splitlines():
            with suppress(ValueError, LookupError, TypeError):
                entry = json.loads(line)
                entries[str(entry[0])] = entry
    return entries


def _entry(item: _Object, files: Path) -> list[Any] | None:
    """What the journal says of an object whose copy is as it was written; None where there is no copy."""
    try:
        status = os.lstat(files / item.name)
    except OSError:
        return None
    return [item.name, item.etag, item.size, status.st_size, status.st_ino, status.st_mtime_ns]


def _check_space(address: str, missing: Sequence[_Object], root: Path) -> None:
    needed, free = sum(item.size for item in missing), shutil.disk_usage(root).free
    if needed > free:
        raise InputError(
            f"{address} has {needed / 1e9:.1f} GB to copy, but {root} has room for {free / 1e9:.1f} GB; "
            "set CDAL_CACHE to a folder with more, or name a smaller part of the bucket"
        )


def _copy_objects(store: _Store, address: str, missing: Sequence[_Object], root: Path, files: Path) -> None:
    stop = threading.Event()
    progress = _Progress(address, sum(item.size for item in missing))

    def fetch(item: _Object, part: Path) -> bool:
        """Go on with a part that was begun; False where the whole turns out to be something else."""
        with part.open("ab") as file:
            progress.add(file.tell())
            while file.tell() < item.size:
                if stop.is_set():
                    raise InterruptedError
                data = store.read(item, file.tell(), min(file.tell() + _PIECE, item.size))
                file.write(data)
                progress.add(len(data))
        return part.stat().st_size == item.size and store.verify(item, part)

    def copy(item: _Object) -> None:
        part = root / "unfinished" / hashlib.blake2b(f"{item.etag} {item.path}".encode(), digest_size=16).hexdigest()
        if not fetch(item, part):
            part.unlink()  # begun by a process that came to harm, perhaps
            if not fetch(item, part):
                part.unlink()
                raise InputError(f"s3://{item.path} arrives with another content than its ETag tells; copy it to the bucket again")
        path = files / item.name
        path.parent.mkdir(parents=True, exist_ok=True)
        part.replace(path)
        os.write(journal, f"\n{json.dumps(_entry(item, files))}\n".encode())

    (root / "unfinished").mkdir(exist_ok=True)
    journal = os.open(root / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                left = {pool.submit(copy, item) for item in missing}
                while left:
                    done, left = wait(left, timeout=_PATIENCE, return_when=FIRST_COMPLETED)
                    if progress.moved():
                        beat()
                    for one in done:
                        one.result()
            finally:  # where one fails, the others do not go on to their ends
                stop.set()
                pool.shutdown(cancel_futures=True)
    finally:
        os.close(journal)


class _Progress:
    """Says how far a copy is, now and then, when it takes long."""

    def __init__(self, address: str, size: int) -> None:
        self._address, self._size = address, size
        self._done, self._seen, self._said = 0, 0, time.monotonic()

    def moved(self) -> bool:
        """Whether anything was copied since the last call."""
        before, self._seen = self._seen, self._done
        return self._done > before

    def add(self, count: int) -> None:
        self._done += count
        if time.monotonic() > self._said + _PATIENCE:
            self._said = time.monotonic()
            _say(f"copying {self._address}: {self._done / 1e6:.0f} of {self._size / 1e6:.0f} MB")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
