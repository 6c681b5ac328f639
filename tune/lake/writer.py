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
import pyarrow.parquet as pq

from cdal.errors import InputError
from tune.lake.driver import LostError, lease_of
from tune.lake.experiments import Experiment, read_experiment
from tune.lake.s3 import RemoteError
from tune.lake.spool import SPOOL_BYTES, Ladder, Outbox, outboxes, spool_folder
from tune.lake.storage import REPEATED, Store
from tune.lake.tables import KEYS, SCHEMAS, LakeWarning, first_line, fit, plain, stamp_of, to_table

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
        self._lease, self._told_lost = lease_of(f"{root}/{experiment}/tune"), False
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
            ValueError: a key is missing, or a value does not fit its column. All other rows are taken, and the row itself without
                that value, unless it belongs to the key; the message names them.
        """
        if table not in SCHEMAS:
            raise ValueError(f"unknown table {table!r}; tables are {', '.join(SCHEMAS)}")
        checked: list[dict[str, Any]] = []
        problems: list[str] = []
        for row in [rows] if isinstance(rows, Mapping) else rows:
            self._check(table, row, checked, problems)
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
        if problems:
            raise ValueError("; ".join(problems))

    def flush(self) -> None:
        """Make all rows taken so far durable: they are in the lake when this returns, or, where that is elsewhere, in the spool.

        Waits for the network only where the spool cannot be written. Rows that could not be written anywhere stay in memory. What
        no file can hold is left out, with a warning that names the row and the column.

        Raises:
            OSError: they could not be written.
        """
        with self._flushing:
            with self._lock:
                batch, self._pending = self._pending, defaultdict(list)
            for table in list(batch):
                try:
                    self._keep_rows(table, batch[table])
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
            OSError: rows could be written neither to the lake nor to the spool; the message says which. Closing again tries again.
        """
        with self._lock:
            self._closing.set()
            self._ladder.merges = False
        for thread in self._threads:
            if thread.name == "results-lake" and thread is not threading.current_thread():
                thread.join()
        try:
            self.flush()
        except OSError as error:
            counts = ", ".join(f"{len(rows)} of {table}" for table, rows in self._pending.items() if rows)
            raise OSError(
                error.errno, f"rows cannot be written, and are lost when this process ends ({counts}): {error}"
            ) from error
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

    def _check(self, table: str, row: Mapping[str, Any], checked: list[dict[str, Any]], problems: list[str]) -> None:
        """Take a row, and note what cannot be taken of it."""
        values: dict[str, Any] = {}
        wrong: list[str] = []
        for name, value in row.items():
            column = str(plain(name))
            try:
                values[column] = fit(plain(value), column, table)
            except Exception as error:  # whatever a value of somebody else's type does
                named = isinstance(error, ValueError) and f"{table}.{column}" in str(error)
                wrong.append(str(error) if named else f"{table}.{column} cannot be stored: {first_line(error)}")
        values["experiment"] = self._experiment
        missing = [name for name in KEYS[table] if values.get(name) is None]
        if missing:
            wrong.append(f"a row of {table} lacks {', '.join(missing)}; its key is {', '.join(KEYS[table])}")
        else:
            checked.append(values)
        if wrong:
            problems.append("; ".join(wrong) + ("" if missing else f"; {_whose(values, table)} is taken without that"))

    def _keep_rows(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Make rows durable. The list is what is left of them: where they do not go together, only what can be stored."""
        if not rows:
            return
        try:
            return self._keep(table, to_table(rows, table))
        except OSError:
            raise
        except Exception:  # some value that no file can hold; found out row by row
            found = [_storable(row, table) for row in rows]
        for _, told in found:
            if told:
                warnings.warn(told, LakeWarning, stacklevel=4)
        rows[:] = [row for row, _ in found if row is not None]
        for row in rows:
            self._keep(table, to_table([row], table))

    def _confirm(self) -> None:
        """Ask whether this driver still holds the experiment. Raises LostError where not, OSError where the store is silent."""
        if self._lease is not None:
            self._lease.confirm()

    def _tell_lost(self, error: LostError) -> None:
        if not self._told_lost:
            warnings.warn(f"{error}; rows that are not in the lake yet are dropped", LakeWarning, stacklevel=4)
        self._told_lost = True

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
        try:
            with self._sending:
                self._confirm()
                self._ladder.add(table, rows)
        except LostError as error:
            self._tell_lost(error)

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
            except Exception as error:  # a thread that ends would lose all that is to come
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
                try:
                    done = outbox.send(self._ladder, self._deadline, self._confirm)
                except LostError as error:
                    self._tell_lost(error)
                    return self._outboxes[-1].drop()
                if done and outbox is not self._outboxes[-1]:
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
            except Exception as error:  # as above
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


def _storable(row: Mapping[str, Any], table: str) -> tuple[dict[str, Any] | None, str]:
    """What can be stored of a row, None where not even its key can, and in words what was left out."""
    key = {name: row[name] for name in (*KEYS[table], "recorded_at")}
    if problem := _problem(key, table):
        return None, f"{_whose(row, table)} cannot be stored: {problem}"
    bad = {name: problem for name in row if (problem := _problem(key | {name: row[name]}, table))}
    if not bad and (problem := _problem(row, table)):
        return None, f"{_whose(row, table)} cannot be stored: {problem}"
    told = (
        f"{_whose(row, table)} is stored without " + "; ".join(f"{name}: {problem}" for name, problem in bad.items()) if bad else ""
    )
    return {name: value for name, value in row.items() if name not in bad}, told


def _whose(row: Mapping[str, Any], table: str) -> str:
    """A row in words."""
    return f"the row of {table} with {', '.join(f'{name} {row.get(name)!r:.80}' for name in KEYS[table][1:])}"


def _problem(row: Mapping[str, Any], table: str) -> str:
    """Why a row cannot be stored; empty where it can."""
    try:
        pq.write_table(to_table([row], table), pa.BufferOutputStream())
    except Exception as error:  # whatever a value of somebody else's type does
        return first_line(error)
    return ""


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
