"""What a running search knows of its trials, and how that gets into the lake.

Ray Tune's callbacks hand rows over and return; a thread writes them. A trial's last row is written only when its epochs, cases and
pictures are safe: a trial that the lake calls ended is complete there, whenever the driver is killed.
"""

from __future__ import annotations

import math
import queue
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cdal.config import Config
from cdal.errors import InputError
from cdal.training import BEST, LAST, PREVIOUS, history
from tune.command import Interrupted, Paused
from tune.lake import Lake, LakeWarning, LostError, Mirror, Writer
from tune.lake.status import ACTIVE, ENDED, FAILED, FALLEN, INPUT, INTERRUPTED, PENDING, RUNNING, SETTING, Curve, curve, trial_id
from tune.proposing import Outcome, Proposal, Space, costs_of
from tune.stopping import Ledger
from tune.trials import LOG, LOSS, Message, metrics_row

Row = dict[str, Any]
_RETRY_SECONDS, _CLOSE_SECONDS = 5.0, 120.0


@dataclass
class Record:
    """One trial as the driver knows it: its row of the trials table, and of every epoch the Dice, the loss and the seconds."""

    row: Row
    dice: dict[int, float] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)

    def copy(self) -> Record:
        """One that later messages do not change; the values themselves are never changed in place."""
        return Record(dict(self.row), dict(self.dice), dict(self.losses), dict(self.seconds))

    @property
    def number(self) -> int:
        """The trial's number."""
        return int(self.row["number"])

    @property
    def status(self) -> str:
        """Its status in the lake."""
        return str(self.row["status"])

    @property
    def curve(self) -> Curve:
        """(epoch, best Dice so far)."""
        return curve(self.dice)

    @property
    def may_be_best(self) -> bool:
        """Whether its Dice is one that its settings stand for."""
        return self.row.get("validation_dice") is not None and self.status not in FALLEN

    def adopt(self, parent: int, settings: Mapping[str, Any]) -> None:
        """The trial goes on as a copy of another: what it reached before counts no more."""
        self.dice, self.losses, self.seconds = {}, {}, {}
        self.row |= {"parent": parent, "validation_dice": None, "validation_iou": None, "best_epoch": None}
        self.row |= {f"config.{path}": value for path, value in settings.items()}

    def take(self, epochs: Iterable[Mapping[str, Any]]) -> None:
        """Take rows of the metrics table, new or repeated."""
        for epoch in sorted(epochs, key=lambda row: int(row["epoch"])):
            number, dice = int(epoch["epoch"]), float(epoch["dice"])
            self.dice[number] = dice
            if epoch.get(LOSS) is not None:
                self.losses[number] = float(epoch[LOSS])
            self.seconds[number] = float((epoch.get("train_seconds") or 0) + (epoch.get("validation_seconds") or 0))
            best = self.row.get("validation_dice")
            if math.isfinite(dice) and (best is None or dice > best):
                self.row |= {"validation_dice": dice, "validation_iou": epoch.get("iou"), "best_epoch": number}
            self.row["memory_bytes"] = max(self.row.get("memory_bytes") or 0, epoch.get("memory_bytes") or 0)
        self.row["epochs"] = max(self.dice, default=0)


class Recorder:
    """All trials of a search, in memory and in the lake."""

    def __init__(self, root: str, experiment: str, common: Row, *, gpus: float = 0, price: float | None = None) -> None:
        """Open an experiment of the lake.

        Args:
            root: the lake.
            experiment: a name that is in it.
            common: columns of the trials table that all trials share.
            gpus: GPUs that one trial takes.
            price: of a GPU-hour.
        """
        self._root, self._experiment, self._common, self._gpus, self._price = root, experiment, common, gpus, price
        self.ledger = Ledger()
        """What trials have held."""
        self._records: dict[int, Record] = {}
        self._earlier_cpu: dict[int, float] = {}
        self._waits: dict[int, float] = {}  # since when, of the trials that wait for a machine
        self._cut: Row = {}  # how trials are left, once the search is cut: Ray Tune's thread may not have heard of it yet
        self._lock = threading.Lock()
        self._writer = Writer(root, experiment)
        self._orders: queue.Queue[list[tuple[str, list[Row]]] | None] = queue.Queue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_forever, name="recorder", daemon=True)
        self._thread.start()

    def folder(self, number: int) -> str:
        """Where a trial keeps its checkpoints: a path, or s3://bucket/prefix."""
        return f"{self._root}/{self._experiment}/tune/{trial_id(number)}"

    def snapshot(self) -> list[Record]:
        """All trials, by number; those that go on are copied, for their records change."""
        with self._lock:
            return [record.copy() if record.row["status"] in ACTIVE else record for _, record in sorted(self._records.items())]

    def restore(
        self, lake: Lake, space: Space, *, held: Mapping[int, float] | None = None, retry_failed: bool = False
    ) -> list[Outcome]:
        """Take up the trials of earlier sessions, and the epochs that are only in their checkpoints.

        Args:
            lake: as it is now.
            space: what is searched.
            held: seconds that the trials which were cut had held their machines.
            retry_failed: whether trials that failed go on, unless their settings were the reason.

        Returns:
            What is known of every trial, by number.
        """
        columns = ["dice", "iou", LOSS, "train_seconds", "validation_seconds", "memory_bytes"]
        epochs: dict[str, list[Row]] = {}
        for row in lake.metrics(columns).to_pylist():
            if row["experiment"] == self._experiment:
                epochs.setdefault(row["trial_id"], []).append(row)
        outcomes, waiting = [], set()
        for row in lake.trials().to_pylist():
            if row["experiment"] != self._experiment:
                continue
            record = Record({name: value for name, value in row.items() if value is not None and name != "recorded_at"})
            record.take(epochs.get(row["trial_id"], []))
            status, cause = record.status if record.status in ENDED else None, record.row.get("cause")
            if retry_failed and status == FAILED and cause != SETTING:
                status = None
            if status is None:
                waiting.add(record.number)
                if record.number in (held or {}):  # that it had begun may not have been written any more; it had been proposed
                    record.row.setdefault("started_at", record.row.get("proposed_at"))
                files = Mirror(self.folder(record.number), (LAST, PREVIOUS))
                files.fetch()
                missing = [metrics_row(record.number, report) for report in history(files.path)]
                files.discard()
                record.take(missing)
                self._orders.put([("metrics", missing)])
            self._records[record.number] = record
            self._earlier_cpu[record.number] = record.row.get("cpu_seconds") or 0.0
            ended = record.row.get("ended_at")
            outcomes.append(
                Outcome(_proposal(record, space), status, record.curve, costs_of(record.row), cause, ended, record.losses)
            )
        earlier = {number: record.row.get("seconds") or sum(record.seconds.values()) for number, record in self._records.items()}
        cut = {number: max(seconds, earlier[number]) for number, seconds in (held or {}).items() if number in waiting}
        self.ledger = Ledger(earlier | cut)
        return outcomes

    def propose(self, proposal: Proposal, config: Config, own: Mapping[str, Any] | None = None) -> None:
        """A trial is coming. Its row is safe when this returns, so that its number is never given to another.

        Args:
            proposal: the trial.
            config: its whole configuration.
            own: further columns of the trials table, which this trial does not share with the others.
        """
        with self._lock:
            record = self._records.setdefault(proposal.number, Record({}))
            record.row |= self._common | {
                "trial_id": trial_id(proposal.number),
                "number": proposal.number,
                "kind": proposal.kind,
                "status": PENDING,
                "reason": None,
                "error": None,
                "cause": None,
                "log": f"{self._experiment}/tune/{trial_id(proposal.number)}/{LOG}",
                "seed": config.training.seed,
                "restarts": record.row.get("restarts", 0),
                "proposed_at": datetime.now(UTC),
            }
            record.row |= {f"config.{path}": value for path, value in config.flatten().items()} | dict(own or {}) | self._cut
            row = dict(record.row)
            self._waits[proposal.number] = time.monotonic()
        self._writer.append("trials", row)
        try:
            self._writer.flush()
        except OSError as error:  # the row waits in memory
            warnings.warn(f"trial {proposal.number} is not written down yet: {error}", LakeWarning, stacklevel=2)

    def refuse(self, proposal: Proposal, reason: str) -> None:
        """A proposal cannot be run."""
        with self._lock:
            row = self._common | {"trial_id": trial_id(proposal.number), "number": proposal.number, "kind": proposal.kind}
            row |= {f"config.{path}": value for path, value in proposal.values.items()}
            row |= {"status": FAILED, "cause": SETTING, "reason": reason, "ended_at": datetime.now(UTC)}
            self._records[proposal.number] = Record(row)
            self._save(self._records[proposal.number])

    def start(self, number: int) -> None:
        """A process has taken the trial up."""
        with self._lock:
            record = self._changing(number)
            record.row |= {"status": RUNNING, "attempts": (record.row.get("attempts") or 0) + 1} | self._cut
            self._save(record)

    def holds(self, number: int) -> None:
        """The trial has its machines; it may be told again and again."""
        with self._lock:
            self.ledger.begin(number)
            if (since := self._waits.pop(number, None)) is not None:
                record = self._changing(number)
                record.row["waiting_seconds"] = (record.row.get("waiting_seconds") or 0.0) + time.monotonic() - since
                record.row.setdefault("started_at", datetime.now(UTC))
                self._save(record)

    def take(self, number: int, message: Message) -> None:
        """A trial's message."""
        with self._lock:
            record = self._changing(number)
            row, best = record.row, record.row.get("validation_dice")
            epochs = message.get("epochs", [])
            if message.get("parent") is not None:
                record.adopt(message["parent"], message["settings"])
                best = None
            record.take(epochs)
            row |= {name: message[name] for name in ("host", "device") if name in message}
            row["cpu_seconds"] = self._earlier_cpu.get(number, 0.0) + message.get("cpu_seconds", 0.0)
            if message.get("first_step_seconds") and row.get("startup_seconds") is None:
                row |= {"startup_seconds": message["first_step_seconds"], "model_seconds": message["model_seconds"]}
            if message.get("checkpoint"):
                row["checkpoint"] = f"{self._experiment}/tune/{trial_id(number)}/{BEST}"
            if "trial" in message:
                row |= message["trial"]
            rows = [(table, message[table]) for table in ("cases", "gallery") if message.get(table)]
            rows.insert(0, ("metrics", epochs))
            if message.get("done") and record.status in ACTIVE:
                self._end(record, message["status"], message["reason"], message.get("error"), message.get("cause"), rows)
                return
            if record.status not in ACTIVE:
                self._book(record)
            if row.get("validation_dice") != best or "trial" in message:
                self._save(record, rows)
            else:
                self._orders.put(rows)

    def not_scored(self, number: int, reason: str) -> None:
        """The full protocol could not be run."""
        with self._lock:
            record = self._changing(number)
            before = str(record.row.get("reason") or record.status).partition("; not scored")[0]
            record.row["reason"] = f"{before}; not scored: {reason}"
            self._save(record)

    def end(self, number: int, status: str, reason: str, error: str | None = None, cause: str | None = None) -> None:
        """A trial ended without a last message of its own; one that had a last message keeps it."""
        with self._lock:
            record = self._records[number]
            if record.status not in ENDED:
                self._end(record, status, reason, error, cause)

    def has_epochs(self, number: int) -> bool:
        """Whether a trial has shown a Dice."""
        return bool(self._records[number].dice)

    def leaves(self, number: int) -> None:
        """A trial gives its machine back, to go on later; it may be told again and again."""
        with self._lock:
            self.ledger.end(number)
            self._waits.setdefault(number, time.monotonic())

    def restarted(self, number: int, reason: str, error: str | None) -> None:
        """A trial's process ended, and the trial goes on in another."""
        self.leaves(number)
        with self._lock:
            record = self._changing(number)
            record.row["restarts"] = (record.row.get("restarts") or 0) + 1
            record.row |= {"status": PENDING, "reason": f"tried again: {reason}", "error": error} | self._cut
            self._book(record)
            self._save(record)

    def interrupt(self, reason: str, cause: str | None = None) -> None:
        """The search ends before its trials do; none that Ray Tune proposes or starts from now on counts as going on."""
        with self._lock:
            self._cut = {"status": INTERRUPTED, "reason": reason, "cause": cause, "ended_at": datetime.now(UTC)}
            for record in self._records.values():
                if record.status in ACTIVE:
                    self._end(record, INTERRUPTED, reason, None, cause)

    @contextmanager
    def saved(self, work: str) -> Iterator[None]:
        """Whatever ends the work inside, trials that it cuts are told so, and all is written.

        Args:
            work: what it is, in words: `the search`.

        Raises:
            Interrupted: also where Ctrl-C came while Ray was starting, which lets it through.
        """
        try:
            yield
        except (Interrupted, KeyboardInterrupt):
            self.interrupt(f"{work} was interrupted")
            raise Interrupted from None
        except LostError:  # nothing of this experiment is this process's to write
            raise
        except Paused as reason:
            self.interrupt(f"{work} paused: {reason}")
            raise
        except InputError as error:
            self.interrupt(f"{work} ended: {error}", INPUT)
            raise
        finally:
            self.close()

    def close(self) -> None:
        """Write what is left."""
        self._orders.put(None)
        self._closing.set()
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            warnings.warn(f"results could not be written for {_CLOSE_SECONDS:.0f} s", LakeWarning, stacklevel=2)
        self._writer.close()

    def _changing(self, number: int) -> Record:
        """A trial's record, of which no snapshot knows."""
        record = self._records[number]
        if record.status not in ACTIVE:
            record = self._records[number] = record.copy()
        return record

    def _end(
        self,
        record: Record,
        status: str,
        reason: str,
        error: str | None,
        cause: str | None,
        rows: list[tuple[str, list[Row]]] | None = None,
    ) -> None:
        self.ledger.end(record.number)
        self._waits.pop(record.number, None)
        record.row |= {"status": status, "reason": reason, "error": error, "cause": cause, "ended_at": datetime.now(UTC)}
        self._book(record)
        self._save(record, rows)

    def _book(self, record: Record) -> None:
        seconds = self.ledger.seconds(record.number)
        record.row |= {"seconds": seconds, "gpu_seconds": seconds * self._gpus}
        if self._price is not None:
            record.row["cost"] = record.row["gpu_seconds"] / 3600 * self._price

    def _save(self, record: Record, before: list[tuple[str, list[Row]]] | None = None) -> None:
        self._orders.put([*(before or []), ("trials", [dict(record.row)])])

    def _write_forever(self) -> None:
        while (order := self._orders.get()) is not None:
            *before, (table, rows) = order
            for name, earlier in before:
                self._append(name, earlier)
            if before and table == "trials" and rows[0]["status"] not in ACTIVE:
                self._flush()
            self._append(table, rows)

    def _append(self, table: str, rows: list[Row]) -> None:
        """One row at a time, so that a bad one takes no other along."""
        for row in rows:
            try:
                self._writer.append(table, row)
            except (ValueError, TypeError, OSError) as error:
                whose = f"trial {row.get('trial_id')}" + (f", epoch {row['epoch']}" if "epoch" in row else "")
                warnings.warn(f"a row of {table} ({whose}): {error}", LakeWarning, stacklevel=2)

    def _flush(self) -> None:
        while True:
            try:
                return self._writer.flush()
            except OSError as error:
                warnings.warn(f"results wait in memory, trying again in {_RETRY_SECONDS:.0f} s: {error}", LakeWarning, stacklevel=2)
                if self._closing.is_set():
                    return None  # the writer tries once more when it is closed
                self._closing.wait(_RETRY_SECONDS)


def _proposal(record: Record, space: Space) -> Proposal:
    values = {path: record.row[f"config.{path}"] for path in space.parameters if f"config.{path}" in record.row}
    return Proposal(record.number, str(record.row["kind"]), space.active(values))
