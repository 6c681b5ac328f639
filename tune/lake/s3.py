"""A bucket of S3, or of any service that speaks its protocol, as a place for whole files.

Address, region and credentials of the service come from the standard AWS variables and files (`AWS_ENDPOINT_URL`, `AWS_PROFILE`,
`AWS_ACCESS_KEY_ID`, ...). Every fault is a `RemoteError` in one sentence, and only after the attempts that were asked for.
"""

import io
import os
import textwrap
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa

from cdal.errors import InputError

_CONNECTIONS = 32
_TAIL = 2**20
_CREDENTIALS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "InvalidClientTokenId")
_MISSING = ("NoSuchKey", "NotFound", "404")
_CONFLICT = "ConditionalRequestConflict"
_UNSUPPORTED = ("NotImplemented", "InvalidArgument", "InvalidRequest")

T = TypeVar("T")


class RemoteError(InputError, OSError):
    """The store did not do what was asked. A command prints the sentence and ends; what runs on its own may try again."""


class Patience(NamedTuple):
    """How long a request may take before it fails."""

    attempts: int
    """The waits between them double, up to 20 s."""
    connect_seconds: float
    read_seconds: float
    """Without a word from the service."""


class Found(NamedTuple):
    """What a listing says of a file."""

    size: int
    changed: float
    """Seconds since 1970."""


class Bucket:
    """Objects below a prefix of a bucket; paths are relative to it. Threads may share one."""

    def __init__(self, address: str, patience: Patience) -> None:
        self._bucket, _, self._prefix = address.removeprefix("s3://").strip("/").partition("/")
        if not self._bucket:
            raise InputError(f"{address} names no bucket; write s3://BUCKET/FOLDER")
        self._address = address
        self._client = self._ask("", lambda: _client(patience, os.getpid(), _settings()))

    def folders(self) -> list[str] | None:
        """Names of the folders below the prefix; None where nothing is."""
        _, folders, files = self._list("")
        return sorted(folders) if folders or files else None

    def listing(self, folder: str) -> dict[str, Found]:
        """The files of a folder by name; empty where there is no such folder."""
        return _found(*self._list(folder))

    def tree(self) -> dict[str, Found]:
        """All files below the prefix, by path."""
        return _found(*self._list("", deep=True))

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        try:
            self._ask(path, lambda: self._client.head_object(**self._where(path)))
        except FileNotFoundError:
            return False
        return True

    def read(self, path: str) -> pa.Buffer:
        """A file's content, by one request. Raises FileNotFoundError."""
        return pa.py_buffer(self._ask(path, lambda: _body(self._client.get_object(**self._where(path))), again=2))

    def open(self, path: str) -> pa.NativeFile:
        """A file to read parts of; the first request brings its last MiB, which is all of most files. Raises FileNotFoundError."""
        return pa.PythonFile(_Object(self, path), "r")

    def part(self, path: str, places: str) -> tuple[bytes, int]:
        """Some bytes of a file, and how many the whole has. Raises FileNotFoundError."""
        from botocore.exceptions import ClientError

        def get() -> tuple[bytes, int]:
            try:
                answer = self._client.get_object(**self._where(path), Range=f"bytes={places}")
            except ClientError as error:
                if _code(error) in ("InvalidRange", "416"):
                    return b"", 0  # what an empty file answers
                raise
            content = _body(answer)
            return content, int(answer["ContentRange"].rpartition("/")[2]) if "ContentRange" in answer else len(content)

        return self._ask(path, get, again=2)

    def write(self, path: str, content: pa.Buffer | bytes) -> None:
        """One put: the file appears whole or not at all."""
        self._demand(path, lambda: self._client.put_object(**self._where(path), Body=memoryview(content).tobytes()))

    def create(self, path: str, content: bytes) -> bool:
        """Like `write`, but only where there is no such file; tells whether it was written.

        Of two that create at once one wins where the service knows conditional writes (`If-None-Match: *`: AWS, MinIO, R2 and Ceph
        do). Elsewhere the file is looked for first, which two may do at the same time.
        """
        if self.exists(path):
            return False
        refused = self._put_new(path, content)
        if refused in _UNSUPPORTED:
            self.write(path, content)
            return True
        # An answer that was lost is asked for again, and then finds what it has written itself.
        return not refused or (self.exists(path) and self.read(path).to_pybytes() == content)

    def refuses(self, path: str, content: bytes) -> bool:
        """Whether the service refuses to create a file that is there. One that does not writes the content instead."""
        return self._put_new(path, content) not in ("", *_UNSUPPORTED)

    def copy(self, source: str, target: str) -> None:
        """Let the service copy a file of up to 5 GB, the most that one put may hold too. Raises FileNotFoundError."""
        self._ask(source, lambda: self._client.copy_object(**self._where(target), CopySource=self._where(source)))

    def _put_new(self, path: str, content: bytes) -> str:
        """A put on the condition that there is no such file; returns the code of the refusal, empty where it was written."""
        from botocore.exceptions import ClientError

        def put() -> str:
            try:
                self._client.put_object(**self._where(path), Body=content, IfNoneMatch="*")
            except ClientError as error:
                if _code(error) in ("PreconditionFailed", "412", _CONFLICT, *_UNSUPPORTED):
                    return _code(error)
                raise
            return ""

        while (refused := self._demand(path, put)) == _CONFLICT:
            time.sleep(0.2)  # another one creates it at this moment
        return refused

    def delete(self, path: str) -> bool:
        """Delete a file; S3 does not tell whether there was one."""
        self._demand(path, lambda: self._client.delete_object(**self._where(path)))
        return True

    def _where(self, path: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}/{path}".lstrip("/")}

    def _list(self, folder: str, *, deep: bool = False) -> tuple[str, list[str], list[dict[str, Any]]]:
        """The prefix that was listed, names of the folders there, and the files, or those in all folders too; page by page."""
        prefix = "".join(f"{part}/" for part in (self._prefix, folder) if part)

        def pages() -> list[dict[str, Any]]:
            flat = {} if deep else {"Delimiter": "/"}
            return list(self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix, **flat))

        found = self._demand(folder, pages)
        folders = [item["Prefix"].removeprefix(prefix).rstrip("/") for page in found for item in page.get("CommonPrefixes", [])]
        return prefix, folders, [item for page in found for item in page.get("Contents", []) if item["Key"] != prefix]

    def _demand(self, path: str, request: Callable[[], T]) -> T:
        """Make a request that needs no file to be there. Raises RemoteError."""
        try:
            return self._ask(path, request)
        except FileNotFoundError as error:
            raise RemoteError(
                f"{error.filename} cannot be used: {self._service} is no S3 service; check AWS_ENDPOINT_URL"
            ) from error

    def _ask(self, path: str, request: Callable[[], T], again: int = 0) -> T:
        """Make a request, `again` that often when an answer breaks off. Raises FileNotFoundError and RemoteError."""
        from botocore import exceptions as boto

        name = f"{self._address.rstrip('/')}/{path}".rstrip("/")
        try:
            return request()
        except (boto.ResponseStreamingError, boto.IncompleteReadError) as error:
            if again:
                time.sleep(0.2)
                return self._ask(path, request, again - 1)
            raise RemoteError(f"{name} could not be read to its end ({_line(error)}); try again") from error
        except boto.ClientError as error:
            code = _code(error)
            if code in _MISSING:
                raise FileNotFoundError(2, "no such object", name) from error
            raise RemoteError(f"{name} cannot be used: {self._reason(code, error)}") from error
        except (
            boto.NoCredentialsError,
            boto.PartialCredentialsError,
            boto.ProfileNotFound,
            boto.CredentialRetrievalError,
        ) as error:
            hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            raise RemoteError(f"{name} cannot be used without AWS credentials ({_line(error)}); {hint}") from error
        except (boto.HTTPClientError, boto.ConnectionError) as error:
            hint = "check the network and AWS_ENDPOINT_URL"
            what = str(error).partition(" URL")[0]  # which follows, though it has just been told
            raise RemoteError(f"{name} cannot be reached at {self._service} ({what}); {hint}") from error
        except (boto.BotoCoreError, ValueError) as error:
            raise RemoteError(f"{name} cannot be used: {_line(error)}; check the AWS_* settings") from error

    def _reason(self, code: str, error: Exception) -> str:
        if code == "NoSuchBucket":
            return f"{self._service} has no bucket named {self._bucket!r}; check the name, or create the bucket"
        if code in _CREDENTIALS:
            hint = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            return f"{self._service} refuses the AWS credentials ({code}); {hint}"
        if code in ("AccessDenied", "403", "AllAccessDisabled"):
            needed = "s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject"
            return f"{self._service} denies access; the credentials need {needed} there"
        return f"{self._service} answers {_line(error)!r}"

    @property
    def _service(self) -> str:
        client = getattr(self, "_client", None)
        return "the S3 service" if client is None else str(client.meta.endpoint_url)


def _found(prefix: str, _: list[str], files: list[dict[str, Any]]) -> dict[str, Found]:
    return {item["Key"].removeprefix(prefix): Found(item["Size"], item["LastModified"].timestamp()) for item in files}


class _Object(io.RawIOBase):
    """What Arrow wants of a file that it reads parts of."""

    def __init__(self, bucket: Bucket, path: str) -> None:
        self._bucket, self._path, self._place = bucket, path, 0
        self._tail, self._size = bucket.part(path, f"-{_TAIL}")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int = -1) -> bytes:
        start, end = self._place, self._size if size < 0 else min(self._place + size, self._size)
        self._place = max(start, end)
        first = self._size - len(self._tail)
        if start >= first or start >= end:
            return self._tail[max(start - first, 0) : max(end - first, 0)]
        return self._bucket.part(self._path, f"{start}-{end - 1}")[0]


def _settings() -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))


_creating = threading.Lock()  # botocore makes one client at a time


@lru_cache(8)
def _client(patience: Patience, process: int, settings: tuple[tuple[str, str], ...]) -> Any:
    """A client for this process and these AWS_* variables: making one takes a quarter of a second."""
    import botocore.session  # only where it is needed
    from botocore.config import Config

    with _creating:
        return botocore.session.Session().create_client(
            "s3",
            config=Config(
                retries={"mode": "standard", "total_max_attempts": patience.attempts},
                connect_timeout=patience.connect_seconds,
                read_timeout=patience.read_seconds,
                max_pool_connections=_CONNECTIONS,
                request_checksum_calculation="when_required",  # not every service knows the new checksums
                response_checksum_validation="when_required",
            ),
        )


def _body(answer: Any) -> bytes:
    """What an answer holds; one that stalls is as one that breaks off."""
    from botocore.exceptions import ReadTimeoutError, ResponseStreamingError

    try:
        content: bytes = answer["Body"].read()
    except ReadTimeoutError as error:
        raise ResponseStreamingError(error=error) from error
    return content


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code") or error.response["ResponseMetadata"]["HTTPStatusCode"])


def _line(error: Exception) -> str:
    return textwrap.shorten(str(error), 200, placeholder=" ...") or type(error).__name__
