"""What a running search knows of its trials, and how that gets into the lake.

Ray Tune's callbacks hand rows over and return; a thread writes them. A trial's last row is written only when its epochs, cases and
pictures are safe: a trial that the lake calls ended is complete there, whenever the driver is killed.
"""

from __future__ import annotations

import math
import queue
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ray.tune import Callback

from cdal.config import Config
from cdal.training import BEST, LAST, history
from tune.lake import Lake, LakeWarning, Mirror, Writer
from tune.lake.status import ACTIVE, ENDED, FAILED, INTERRUPTED, PENDING, RUNNING, STOPPED, Curve, curve, trial_id
from tune.proposing import Outcome, Proposal, Space, costs_of
from tune.trials import Message, metrics_row

Row = dict[str, Any]
_RETRY_SECONDS = 5.0


@dataclass
class Record:
    """One trial as the driver knows it: its row of the trials table, and of every epoch the Dice and the seconds."""

    row: Row
    dice: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)

    def copy(self) -> Record:
        """One that later messages do not change; the values themselves are never changed in place."""
        return Record(dict(self.row), dict(self.dice), dict(self.seconds))

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
    def seconds_so_far(self) -> float:
        """Of start-up, training, validation and scoring."""
        return sum(self.seconds.values()) + (self.row.get("startup_seconds") or 0.0) + (self.row.get("scoring_seconds") or 0.0)

    def adopt(self, parent: int, settings: Mapping[str, Any]) -> None:
        """The trial goes on as a copy of another: what it reached before counts no more."""
        self.dice, self.seconds = {}, {}
        self.row |= {"parent": parent, "validation_dice": None, "validation_iou": None, "best_epoch": None}
        self.row |= {f"config.{path}": value for path, value in settings.items()}

    def take(self, epochs: Iterable[Mapping[str, Any]]) -> None:
        """Take rows of the metrics table, new or repeated."""
        for epoch in sorted(epochs, key=lambda row: int(row["epoch"])):
            number, dice = int(epoch["epoch"]), float(epoch["dice"])
            self.dice[number] = dice
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
        self._records: dict[int, Record] = {}
        self._earlier_cpu: dict[int, float] = {}
        self._lock = threading.Lock()
        self._writer = Writer(root, experiment)
        self._orders: queue.Queue[list[tuple[str, list[Row]]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._write_forever, name="recorder", daemon=True)
        self._thread.start()

    def folder(self, number: int) -> str:
        """Where a trial keeps its checkpoints: a path, or s3://bucket/prefix."""
        return f"{self._root}/{self._experiment}/tune/{trial_id(number)}"

    def snapshot(self) -> list[Record]:
        """A copy of all trials, by number."""
        with self._lock:
            return [record.copy() for _, record in sorted(self._records.items())]

    def restore(self, lake: Lake, space: Space) -> list[Outcome]:
        """Take up the trials of earlier sessions, and the epochs that are only in their checkpoints.

        Returns:
            What is known of every trial, by number.
        """
        columns = ["dice", "iou", "train_seconds", "validation_seconds", "memory_bytes"]
        epochs: dict[str, list[Row]] = {}
        for row in lake.metrics(columns).to_pylist():
            if row["experiment"] == self._experiment:
                epochs.setdefault(row["trial_id"], []).append(row)
        outcomes = []
        for row in lake.trials().to_pylist():
            if row["experiment"] != self._experiment:
                continue
            record = Record({name: value for name, value in row.items() if value is not None and name != "recorded_at"})
            record.take(epochs.get(row["trial_id"], []))
            status = record.status if record.status in ENDED else None
            if status is None:
                files = Mirror(self.folder(record.number), (LAST,))
                files.fetch()
                missing = [metrics_row(record.number, report) for report in history(files.path)]
                files.discard()
                record.take(missing)
                self._orders.put([("metrics", missing)])
            self._records[record.number] = record
            self._earlier_cpu[record.number] = record.row.get("cpu_seconds") or 0.0
            outcomes.append(Outcome(_proposal(record, space), status, record.curve, costs_of(record.row)))
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
                "seed": config.training.seed,
                "restarts": record.row.get("restarts", 0),
                "proposed_at": datetime.now(UTC),
            }
            record.row |= {f"config.{path}": value for path, value in config.flatten().items()} | dict(own or {})
            row = dict(record.row)
        self._writer.append("trials", row)
        self._writer.flush()

    def refuse(self, proposal: Proposal, reason: str) -> None:
        """A proposal cannot be run."""
        with self._lock:
            row = self._common | {"trial_id": trial_id(proposal.number), "number": proposal.number, "kind": proposal.kind}
            row |= {f"config.{path}": value for path, value in proposal.values.items()}
            self._records[proposal.number] = Record(row | {"status": FAILED, "reason": reason})
            self._save(self._records[proposal.number])

    def start(self, number: int) -> None:
        """A worker has taken the trial up."""
        with self._lock:
            record = self._records[number]
            record.row["status"] = RUNNING
            record.row.setdefault("started_at", datetime.now(UTC))
            self._save(record)

    def take(self, number: int, message: Message) -> None:
        """A trial's message."""
        with self._lock:
            record = self._records[number]
            row, best = record.row, record.row.get("validation_dice")
            epochs = message.get("epochs", [])
            if message.get("parent") is not None:
                record.adopt(message["parent"], message["settings"])
                best = None
            record.take(epochs)
            row |= {name: message[name] for name in ("host", "device") if name in message}
            row["cpu_seconds"] = self._earlier_cpu.get(number, 0.0) + message.get("cpu_seconds", 0.0)
            if message.get("first_step_at") and row.get("startup_seconds") is None:
                row["startup_seconds"] = message["first_step_at"] - row["proposed_at"].timestamp()
                row["model_seconds"] = message["model_seconds"]
            if message.get("checkpoint"):
                row["checkpoint"] = f"{self._experiment}/tune/{trial_id(number)}/{BEST}"
            if "trial" in message:
                row |= message["trial"]
            rows = [(table, message[table]) for table in ("cases", "gallery") if message.get(table)]
            rows.insert(0, ("metrics", epochs))
            if message.get("done"):
                self._end(record, message["status"], message["reason"], message.get("error"), rows)
            elif row.get("validation_dice") != best or "trial" in message:
                self._save(record, rows)
            else:
                self._orders.put(rows)

    def end(self, number: int, status: str, reason: str, error: str | None = None) -> None:
        """A trial ended without a last message of its own; one that had a last message keeps it."""
        with self._lock:
            record = self._records[number]
            if record.status in ACTIVE:
                self._end(record, status, reason, error)

    def restarted(self, number: int) -> None:
        """A trial's worker died, and the trial goes on in another."""
        with self._lock:
            record = self._records[number]
            record.row["restarts"] = (record.row.get("restarts") or 0) + 1
            self._save(record)

    def interrupt(self, reason: str) -> None:
        """The search ends before its trials do."""
        for record in self.snapshot():
            self.end(record.number, INTERRUPTED, reason)

    def close(self) -> None:
        """Write what is left."""
        self._orders.put(None)
        self._thread.join()
        self._writer.close()

    def _end(
        self, record: Record, status: str, reason: str, error: str | None, rows: list[tuple[str, list[Row]]] | None = None
    ) -> None:
        row = record.row
        seconds = record.seconds_so_far
        row |= {"status": status, "reason": reason, "error": error, "ended_at": datetime.now(UTC)}
        row |= {"seconds": seconds, "gpu_seconds": seconds * self._gpus}
        if self._price is not None:
            row["cost"] = row["gpu_seconds"] / 3600 * self._price
        self._save(record, rows)

    def _save(self, record: Record, before: list[tuple[str, list[Row]]] | None = None) -> None:
        self._orders.put([*(before or []), ("trials", [dict(record.row)])])

    def _write_forever(self) -> None:
        while (order := self._orders.get()) is not None:
            *before, (table, rows) = order
            for name, earlier in before:
                self._writer.append(name, earlier)
            if before and table == "trials" and rows[0]["status"] not in ACTIVE:
                self._flush()
            self._writer.append(table, rows)

    def _flush(self) -> None:
        pause = threading.Event()
        while True:
            try:
                return self._writer.flush()
            except OSError as error:
                warnings.warn(f"results wait in memory, trying again in {_RETRY_SECONDS:.0f} s: {error}", LakeWarning, stacklevel=2)
                pause.wait(_RETRY_SECONDS)


class RecordingCallback(Callback):
    """Ray Tune's events, passed on to the recorder."""

    def __init__(self, recorder: Recorder, why_stopped: Callable[[str], str], saw_scoring: Callable[[float], None]) -> None:
        self._recorder, self._why_stopped, self._saw_scoring = recorder, why_stopped, saw_scoring

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given, to restore from; nothing here is restored like that

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker began or went on with a trial."""
        self._recorder.start(trial.config["number"])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A message came; Tune shall not keep its rows and pictures."""
        message = result.pop("payload")
        if "scoring_seconds" in message.get("trial", ()):
            self._saw_scoring(message["trial"]["scoring_seconds"])
        self._recorder.take(trial.config["number"], message)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended: by its own last message, because it was stopped, or because there was no time for it to begin."""
        status = STOPPED if trial.has_reported_at_least_once else INTERRUPTED
        self._recorder.end(trial.config["number"], status, self._why_stopped(trial.trial_id))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker died and Tune starts the trial again."""
        self._recorder.restarted(trial.config["number"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune gave a trial up."""
        lines = str(trial.get_pickled_error() or trial.get_error() or "its worker died again and again").splitlines()
        self._recorder.end(trial.config["number"], FAILED, f"its worker died: {lines[0][:300]}", "\n".join(lines))


def _proposal(record: Record, space: Space) -> Proposal:
    values = {path: record.row[f"config.{path}"] for path in space.parameters if f"config.{path}" in record.row}
    return Proposal(record.number, str(record.row["kind"]), space.active(values))
