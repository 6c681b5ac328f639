"""The writer of the results lake: takes rows at once, and makes them durable within seconds."""

from __future__ import annotations

import atexit
import math
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from cdal.errors import InputError
from tune.lake.experiments import Experiment, read_experiment
from tune.lake.s3 import RemoteError
from tune.lake.spool import SPOOL_BYTES, Ladder, Outbox, outboxes, spool_folder
from tune.lake.storage import REPEATED, Store
from tune.lake.tables import KEYS, SCHEMAS, LakeWarning, fit, plain, stamp_of, to_table

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_WAIT = 30.0  # seconds between two tries to send
_LONGEST_WAIT_IN_MEMORY = 10.0  # seconds between two tries to make rows durable


class Writer:
    """Appends rows to one experiment from one process; a thread makes them durable every few seconds.

    On this machine rows go straight to the lake. To a lake elsewhere they go by way of the spool, a folder of this machine, from
    which another thread sends them: rows survive a store that is away and a driver that is killed meanwhile. The next writer of
    the experiment on this machine sends first what its forerunners left.
    """

    def __init__(
        self,
        root: str | Path,
        experiment: str,
        *,
        flush_seconds: float = 5.0,
        spool: str | Path | None = None,
        spool_bytes: int = SPOOL_BYTES,
        retry_seconds: float = 1.0,
        close_seconds: float = 60.0,
        filesystem: pafs.FileSystem | None = None,
    ) -> None:
        """Open an experiment for appending; what dead writers left in the spool is in the lake afterwards, if the store takes it.

        Args:
            root: the lake.
            experiment: a name that `create_experiment` made.
            flush_seconds: how long a row may wait in memory; 0 makes every `append` durable before it returns.
            spool: folder where rows for a lake elsewhere wait; by default `spool` in the cache folder.
            spool_bytes: what may wait there. Beyond it, rows that newer ones replaced are dropped; if that is not enough, rows
                wait in memory.
            retry_seconds: between a failure to send and the next try; doubled up to 30 s.
            close_seconds: how long `close` tries to send what still waits.
            filesystem: where `root` is a path on a file system of your own; then nothing is spooled.

        Raises:
            InputError: there is no such experiment, or the store cannot be read.
        """
        about = read_experiment(root, experiment, filesystem=filesystem)
        self._store = Store(root, filesystem, patience=REPEATED)
        self._experiment = experiment
        self._flush_seconds, self._retry_seconds, self._close_seconds = flush_seconds, retry_seconds, close_seconds
        self._ladder = Ladder(self._store, experiment)
        self._pending: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._lock = threading.Lock()  # guards _pending, _stamp and _threads
        self._flushing = threading.Lock()  # one flush at a time
        self._sending = threading.Lock()  # one user of _ladder at a time
        self._closing = threading.Event()  # no more rows
        self._ending = threading.Event()  # no more files in the outbox
        self._waiting = threading.Event()  # there is something to send
        self._deadline = math.inf  # of sending, on the monotonic clock
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._outboxes: list[Outbox] = []
        if self._store.is_remote and filesystem is None:
            self._open_spool(Path(spool_folder() if spool is None else spool), about, spool_bytes)
        # A restarted search may run where the clock is behind: its rows must still be newer than those already written.
        written = (stamp_of(path) for table in KEYS for path in self._store.files(f"{experiment}/{table}"))
        self._stamp = max((*written, *(outbox.newest_stamp() for outbox in self._outboxes)), default=0)
        atexit.register(self.close)

    def append(self, table: str, rows: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
        """Take one row or several of `trials`, `metrics`, `cases` or `gallery`. Returns at once (see `flush_seconds`).

        A row must hold the table's key (but `experiment`, which is filled in) and replaces the older row of that key as a whole.

        Raises:
            ValueError: a key is missing, or a value does not fit its column.
        """
        checked = [self._checked(table, row) for row in ([rows] if isinstance(rows, Mapping) else rows)]
        with self._lock:
            if self._closing.is_set():
                raise ValueError(f"the writer of experiment {self._experiment!r} is closed")
            for row in checked:
                self._stamp = max(self._stamp + 1, time.time_ns() // 1000)
                row["recorded_at"] = _EPOCH + timedelta(microseconds=self._stamp)
            self._pending[table].extend(checked)
            self._start()
        if self._flush_seconds <= 0:
            self.flush()

    def flush(self) -> None:
        """Make all rows taken so far durable: they are in the lake when this returns, or, where that is elsewhere, in the spool.

        Waits for the network only where the spool cannot be written. Rows that could not be written anywhere stay in memory.

        Raises:
            OSError: they could not be written.
        """
        with self._flushing:
            with self._lock:
                batch, self._pending = self._pending, defaultdict(list)
            for table in list(batch):
                try:
                    if batch[table]:
                        self._keep(table, to_table(batch[table], table))
                except BaseException:
                    with self._lock:
                        for name, rows in batch.items():
                            self._pending[name] = rows + self._pending[name]
                    raise
                del batch[table]

    def close(self) -> None:
        """Write what is left and stop. What the store has not taken within `close_seconds` stays in the spool, with a warning.

        Closing twice is harmless.

        Raises:
            OSError: rows could be written neither to the lake nor to the spool.
        """
        with self._lock:
            self._closing.set()
            self._ladder.merges = False
        for thread in self._threads:
            if thread.name == "results-lake" and thread is not threading.current_thread():
                thread.join()
        self.flush()
        self._deadline = time.monotonic() + self._close_seconds
        self._ending.set()
        self._waiting.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(self._close_seconds + 5)
        atexit.unregister(self.close)
        if not self._closed:
            self._closed = True
            self._close_spool()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _checked(self, table: str, row: Mapping[str, Any]) -> dict[str, Any]:
        if table not in SCHEMAS:
            raise ValueError(f"unknown table {table!r}; tables are {', '.join(SCHEMAS)}")
        values = {str(name): plain(value) for name, value in row.items()} | {"experiment": self._experiment}
        missing = [name for name in KEYS[table] if values.get(name) is None]
        if missing:
            raise ValueError(f"a row of {table} lacks {', '.join(missing)}; its key is {', '.join(KEYS[table])}")
        return {name: fit(value, name, table) for name, value in values.items()}

    def _keep(self, table: str, rows: pa.Table) -> None:
        """Make rows durable: in the spool where there is one that can be written, else in the lake."""
        if self._outboxes:
            try:
                self._outboxes[-1].keep(table, rows)
            except OSError as error:
                warnings.warn(f"the spool cannot be written, so rows go straight to the lake: {error}", LakeWarning, stacklevel=3)
            else:
                self._waiting.set()
                return
        with self._sending:
            self._ladder.add(table, rows)

    def _start(self) -> None:
        """Start the threads that are needed and do not run yet."""
        work = {"results-lake": self._flush_forever} if self._flush_seconds > 0 else {}
        work |= {"results-lake-sender": self._send_forever} if self._outboxes else {}
        for name in work.keys() - {thread.name for thread in self._threads}:
            self._threads.append(threading.Thread(target=work[name], name=name, daemon=True))
            self._threads[-1].start()

    def _flush_forever(self) -> None:
        wait = self._flush_seconds
        while not self._closing.wait(wait):
            try:
                self.flush()
                wait = self._flush_seconds
            except (OSError, pa.ArrowException) as error:
                wait = min(2 * wait, _LONGEST_WAIT_IN_MEMORY)
                warnings.warn(f"results wait in memory, trying again in {wait:.0f} s: {error}", LakeWarning, stacklevel=2)

    def _open_spool(self, spool: Path, experiment: Experiment, limit: int) -> None:
        """Send what dead writers left, then open an own outbox; those that could not be sent stay before it."""
        try:
            for outbox in Outbox.left(spool, self._store.root, experiment):
                self._outboxes.append(outbox)
            self._outboxes.append(Outbox.new(spool, self._store.root, experiment, limit))
        except OSError as error:
            message = (
                f"{spool} cannot be written ({error.strerror or error}), so rows cannot wait there while {self._store.root} is away"
            )
            warnings.warn(message, LakeWarning, stacklevel=3)
        try:
            self._send()
        except OSError as error:
            warnings.warn(f"results of an earlier session still wait in {spool}: {error}", LakeWarning, stacklevel=3)
            self._start()

    def _send(self) -> None:
        """Send what waits; outboxes of dead writers first, which are then done with. Raises OSError."""
        with self._sending:
            for outbox in list(self._outboxes):
                if outbox.send(self._ladder, self._deadline) and outbox is not self._outboxes[-1]:
                    self._outboxes.remove(outbox)
                    outbox.release()

    def _send_forever(self) -> None:
        wait, away = self._retry_seconds, False
        while True:
            ending = self._ending.is_set()
            self._waiting.clear()
            try:
                self._send()
                wait, away = self._retry_seconds, False
                if ending:
                    return
                self._waiting.wait()
            except (OSError, pa.ArrowException) as error:
                if not away:
                    message = f"{error}; meanwhile results wait in {self._outboxes[-1].folder}, and are sent when the store is back"
                    warnings.warn(message, LakeWarning, stacklevel=2)
                away, left = True, self._deadline - time.monotonic()
                if left <= 0:
                    return
                if ending:
                    time.sleep(min(wait, left))
                else:
                    self._ending.wait(wait)
                wait = min(2 * wait, _LONGEST_WAIT)

    def _close_spool(self) -> None:
        for outbox in self._outboxes:
            if waiting := outbox.waiting():
                command = f"python -m tune.results send --storage {self._store.root}"
                message = f"{len(waiting)} files of results wait in {outbox.folder}, for {self._store.root} did not take them"
                warnings.warn(f"{message}; when it is back: {command}", LakeWarning, stacklevel=3)
            outbox.release()


def send(root: str | Path, experiment: str | None = None, *, spool: str | Path | None = None) -> int:
    """Send what dead writers of this machine left in the spool for a lake; returns how many files were sent.

    What living writers have there is left to them.

    Args:
        root: the lake.
        experiment: only of this one.
        spool: folder where rows wait; by default `spool` in the cache folder.

    Raises:
        RemoteError: the lake cannot be written.
    """
    store, folder, sent = Store(root, patience=REPEATED), Path(spool_folder() if spool is None else spool), 0
    waiting = outboxes(folder, store.root)
    for name in dict.fromkeys(about["experiment"] for about in waiting.values()):
        if experiment not in (None, name):
            continue
        try:
            found = read_experiment(root, name)
        except RemoteError:
            raise
        except InputError as error:
            warnings.warn(f"{error}; its rows stay in {folder}", LakeWarning, stacklevel=2)
            continue
        for path, about in waiting.items():
            if about["experiment"] == name and about["created_at"] != found.created_at:
                message = f"{path} holds results of an earlier experiment named {name!r}; delete it if they are not needed"
                warnings.warn(message, LakeWarning, stacklevel=2)
        for outbox in Outbox.left(folder, store.root, found):
            try:
                sent += len(outbox.waiting())
                outbox.send(Ladder(store, name))
            finally:
                outbox.release()
    return sent
