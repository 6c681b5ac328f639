"""A service that speaks S3's protocol on this machine, remembers what it was asked, and can be told to misbehave.

service = S3Service()
bucket = service.new_bucket()
bucket.put("data/a.png", b"...")
service.misbehave = lambda request: Answer(503) if request.key == "data/a.png" else None
with service.away():
    ...                                  # connections are refused
"""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

import botocore.session
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class Request(NamedTuple):
    method: str
    key: str
    """Empty for a listing."""
    range: str
    copies: bool = False
    """Whether the service is to copy another object."""

    @property
    def bytes(self) -> range:
        """The places that are asked for."""
        first, last = self.range.removeprefix("bytes=").split("-")
        return range(int(first), int(last) + 1)


class Answer(NamedTuple):
    """What is sent instead of the true answer, after some seconds; the body may be shorter than what is announced."""

    status: int = 200
    body: bytes = b""
    announced: int | None = None
    after: float = 0.0


class S3Service:
    """One server for all tests of a session, with buckets of its own for every test."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.misbehave: Callable[[Request], Answer | None] = lambda _: None
        self.conditional = "knows"
        """What it does with conditions of a put: it knows them, ignores them, or refuses the whole put."""
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._creating = threading.Lock()
        self._numbers = itertools.count()
        self._listen(0)
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }
        with mock.patch.dict(os.environ, self.environment):
            self.client = botocore.session.Session().create_client("s3")

    def new_bucket(self) -> "Bucket":
        """An empty bucket; the service behaves, and has forgotten what it was asked."""
        name = f"bucket-{next(self._numbers)}"
        self.misbehave = lambda _: None
        self.client.create_bucket(Bucket=name)
        self.requests.clear()
        return Bucket(self, name)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Connections are refused meanwhile; afterwards the service is back at its port, with all that it had."""
        self._server.shutdown()
        self._server.server_close()
        try:
            yield
        finally:
            self._listen(self._server.server_port)

    def stop(self) -> None:
        """End the server."""
        self._server.shutdown()

    def _listen(self, port: int) -> None:
        self._server = make_server("127.0.0.1", port, self._answer, threaded=True, request_handler=_Quiet)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        key = environ["PATH_INFO"].encode("latin-1").decode().lstrip("/").partition("/")[2]
        request = Request(environ["REQUEST_METHOD"], key, environ.get("HTTP_RANGE", ""), "HTTP_X_AMZ_COPY_SOURCE" in environ)
        self.requests.append(request)
        answer = self.misbehave(request) or _refusal(environ)
        if answer is None and environ.get("HTTP_IF_NONE_MATCH") and self.conditional == "refuses":
            answer = Answer(501, b"<Error><Code>NotImplemented</Code><Message>A header is not implemented.</Message></Error>")
        if answer is None and environ.get("HTTP_IF_NONE_MATCH") and self.conditional == "ignores":
            del environ["HTTP_IF_NONE_MATCH"]
        if answer is None and environ.get("HTTP_IF_NONE_MATCH"):
            with self._creating:  # moto looks and writes in two steps, true services in one
                return list(self._moto(environ, start_response))
        if answer is None:
            return self._moto(environ, start_response)  # type: ignore[no-any-return]
        time.sleep(answer.after)
        size = len(answer.body) if answer.announced is None else answer.announced
        start_response(f"{answer.status} Told", [("Content-Length", str(size)), ("Content-Type", "application/xml")])
        return [answer.body]


def _refusal(environ: dict[str, Any]) -> Answer | None:
    """The answer to wrong or absent credentials."""
    signed = environ.get("HTTP_AUTHORIZATION", "") + environ.get("QUERY_STRING", "")
    if "Credential=testing" in signed:
        return None
    code = "InvalidAccessKeyId" if signed else "AccessDenied"
    return Answer(403, f"<Error><Code>{code}</Code><Message>Not you.</Message></Error>".encode())


@dataclass
class Bucket:
    """A bucket, and what was asked about it."""

    service: S3Service
    name: str

    @property
    def address(self) -> str:
        return f"s3://{self.name}"

    def put(self, key: str, data: bytes = b"", **more: Any) -> None:
        self.service.client.put_object(Bucket=self.name, Key=key, Body=data, **more)

    def get(self, key: str) -> bytes:
        return bytes(self.service.client.get_object(Bucket=self.name, Key=key)["Body"].read())

    @property
    def keys(self) -> set[str]:
        pages = self.service.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return {item["Key"] for page in pages for item in page.get("Contents", ())}

    def put_in_parts(self, key: str, *parts: bytes) -> None:
        """As large objects are sent; their ETag is no MD5 of the content."""
        client, where = self.service.client, {"Bucket": self.name, "Key": key}
        upload = client.create_multipart_upload(**where)["UploadId"]
        sent = [
            {"PartNumber": number, "ETag": client.upload_part(**where, PartNumber=number, UploadId=upload, Body=part)["ETag"]}
            for number, part in enumerate(parts, start=1)
        ]
        client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": sent})

    def delete(self, key: str) -> None:
        self.service.client.delete_object(Bucket=self.name, Key=key)

    @property
    def fetched(self) -> Iterator[Request]:
        """Requests for the content of objects, in order."""
        return (request for request in self.service.requests if request.method == "GET" and request.key)


class _Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        """Say nothing."""
