"""How requests reach the driver: as small files in the lake, `<experiment>/tune/requests/<time>-<id>.json`.

The driver obeys within seconds and writes down in experiment.json, under `requests`, who asked when for what, and the answer.

    id = ask("results", "first", worded("stop", "12"), by="ann@ws1")      # anybody who may write to the lake
    answered("results", "first", id)                                      # {"answer": "trial 12 is stopped", "obeyed": True, ...}

    inbox = Inbox("results", "first")                                     # the driver, which holds the experiment
    for line in inbox.obeyed(session):                                    # now and then; it does not wait for the store
        print(line)
    inbox.close()

A file is data and nothing else: it has at most 64 KiB and is JSON, and `checked` has the last word. What is no request is refused.
"""

import json
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cdal.errors import InputError
from tune.lake import REPEATED, Store, amend_experiment, read_experiment
from tune.steering.requests import Request, Steered, checked, obey, plain

_MOST_BYTES = 64 * 1024  # of a request
_MOST_AT_ONCE = 100  # requests of one look; others wait
_MOST_KEPT = 1000  # answers in experiment.json, the newest
_FOLDER_SECONDS, _REMOTE_SECONDS = 1.0, 4.0  # between two looks


def ask(root: str, experiment: str, request: Mapping[str, Any], by: str) -> str:
    """Leave a request, as `worded` makes it, for the driver; returns its id.

    Raises:
        InputError: there is no such experiment, the request is none, or the lake cannot be written.
    """
    if "finalists" in read_experiment(root, experiment).description:
        raise InputError(f"{experiment} holds finalists, whose trainings cannot be steered; end them with Ctrl-C")
    now = datetime.now(UTC)
    content = checked(dict(request) | {"by": by, "at": now.isoformat(timespec="seconds")})
    id = f"{now:%Y%m%dT%H%M%S.%f}-{uuid.uuid4().hex[:12]}"
    text = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
    try:
        Store(root, patience=REPEATED).create(f"{experiment}/tune/requests/{id}.json", text)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"nothing can be asked for, because {root} cannot be written: {error.strerror or error}") from error
    return id


def answered(root: str, experiment: str, id: str) -> Mapping[str, Any] | None:
    """What became of a request: `answer`, `obeyed`, and all that was asked; None where nobody has answered yet.

    Raises:
        InputError: there is no such experiment, or the store cannot be used.
    """
    return answer_in(read_experiment(root, experiment).description, id)


def answer_in(description: Mapping[str, Any], id: str) -> Mapping[str, Any] | None:
    """The same from an experiment's description."""
    return next((one for one in _records(description) if one.get("id") == id), None)


def _records(description: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All requests that an experiment's description tells of, the oldest first."""
    found = description.get("requests")
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


@dataclass(frozen=True)
class Granted:
    """What people have given to a search on top of what it was started with."""

    seconds: float = 0.0
    gpu_hours: float = 0.0
    trials: int = 0
    settings: tuple[Mapping[str, Any], ...] = ()
    """To be tried, the oldest first, those that have run as well."""


def granted(description: Mapping[str, Any]) -> Granted:
    """The sum of what was obeyed, for a search that goes on: the answer in experiment.json is what makes it last."""
    found = Granted()
    for one in _records(description):
        if one.get("obeyed") is not True:
            continue
        try:
            values = checked(one)
        except InputError:
            continue  # changed by hand
        found = Granted(
            found.seconds + values.get("seconds", 0.0),
            found.gpu_hours + values.get("gpu_hours", 0.0),
            found.trials + values.get("count", 0),
            (*found.settings, values["settings"]) if "settings" in values else found.settings,
        )
    return found


class Inbox:
    """The driver's side. A thread looks for requests and writes answers down, so that nobody waits for a store that is away."""

    def __init__(self, root: str, experiment: str) -> None:
        """Look once, so that what was asked while nobody was at work is known at once; then go on looking."""
        self._root, self._experiment = root, experiment
        self._store, self._folder = Store(root, patience=REPEATED), f"{experiment}/tune/requests"
        self._lock = threading.Lock()
        self._waiting: list[Request] = []
        self._seen: set[str] = set()
        self._records: list[Mapping[str, Any]] | None = None  # None until experiment.json has been read
        self._written: set[str] = set()  # of these requests experiment.json tells
        self._closing = threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._follow, name="inbox", daemon=True)
        self._thread.start()

    def obeyed(self, steered: Steered) -> Iterator[str]:
        """Obey what has been asked for since the last call, oldest first, and say so, a line each."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for request in waiting:
            try:
                answer, did = obey(request, steered), True
            except InputError as error:
                answer, did = f"refused: {error}", False
            except Exception as error:  # whatever people ask for, the search goes on
                answer, did = f"it failed: {error or type(error).__name__}", False
            about = {"ask": request.ask} | dict(request.values) | {"by": request.by, "at": request.at}
            self._record(request.id, about, answer, obeyed=did)
            yield f"request     {request}, by {request.by or 'somebody'}: {answer}"

    def close(self, patience: float = 10.0) -> None:
        """Write down what is not yet, for at most so many seconds."""
        self._closing.set()
        self._thread.join(patience)

    def _follow(self) -> None:
        seconds = _REMOTE_SECONDS if self._store.is_remote else _FOLDER_SECONDS
        while not self._closing.wait(seconds):
            self._look()
        self._look()

    def _look(self) -> None:
        """Write answers down, delete what has one, and find what is new. A store that is away is asked again the next time."""
        with suppress(OSError, InputError):
            self._write()
            for path, size in sorted(self._store.sizes(self._folder, ".json").items())[:_MOST_AT_ONCE]:
                id = path.rpartition("/")[2].removesuffix(".json")
                if id in self._written:
                    self._store.delete([path])
                elif id not in self._seen and not self._closing.is_set():
                    self._take(path, id, size)

    def _take(self, path: str, id: str, size: int) -> None:
        try:
            request = read_request(self._store, path, id, size)
        except FileNotFoundError:
            return
        except InputError as error:
            if isinstance(error, OSError):
                raise  # the store, not the request
            self._record(id, {}, f"refused: {error}", obeyed=False)
        else:
            with self._lock:
                self._waiting.append(request)
        self._seen.add(id)

    def _record(self, id: str, about: Mapping[str, Any], answer: str, *, obeyed: bool) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"id": plain(id)} | dict(about) | {"answer": answer, "obeyed": obeyed, "answered_at": now}
        with self._lock:
            self._records = [*(self._records or []), record][-_MOST_KEPT:]

    def _write(self) -> None:
        if self._records is None:
            self._records = _records(read_experiment(self._root, self._experiment).description)
            self._written = {str(one.get("id")) for one in self._records}
        with self._lock:
            records = list(self._records)
        ids = {str(one["id"]) for one in records if "id" in one}
        if not ids <= self._written:
            amend_experiment(self._root, self._experiment, {"requests": records})
            self._written |= ids


def read_request(store: Store, path: str, id: str, size: int) -> Request:
    """A request from its file.

    Raises:
        InputError: it is none.
        OSError: the file is gone, or the store is away.
    """
    if size > _MOST_BYTES:
        raise InputError(f"a request has at most {_MOST_BYTES:,} bytes, this one {size:,}")
    try:
        content = json.loads(store.read(path).to_pybytes())
    except (ValueError, RecursionError) as error:
        raise InputError("it is not JSON") from error
    values = checked(content)
    asked, by, at = values.pop("ask"), values.pop("by", ""), values.pop("at", "")
    return Request(id=id, ask=asked, values=values, by=by, at=at)
