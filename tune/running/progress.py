"""What a person sees while a search runs, and the table at its end. Draws records; knows nothing of Ray."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tune.lake.status import ACTIVE
from tune.running.recorder import Record
from tune.stopping import Budget

_BARS, _PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-~=+*#"
_LINE_SECONDS = 15.0  # between two lines where there is no terminal
_SPARK = 16
_MOST_RUNNING = 12
_TOP = 5


class Progress:
    """A live display on a terminal, a line now and then elsewhere."""

    def __init__(
        self, console: Console, *, trials: int | None, epochs: int, budget: Budget, gpus: float = 0, price: float | None = None
    ) -> None:
        """Begin to show a search.

        Args:
            console: where to.
            trials: how many there will be; None where only a budget ends the search.
            epochs: of a whole trial.
            budget: what is spent and left.
            gpus: that one trial holds.
            price: of a GPU-hour.
        """
        self._console, self.trials, self._epochs, self._budget = console, trials, epochs, budget
        self._gpus, self._price = gpus, price
        self._started = time.monotonic()
        self._said = self._started
        self._known: set[int] | None = None
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, records: Sequence[Record]) -> None:
        """Draw the search as it stands."""
        if self._live:
            self._live.update(self._picture(records), refresh=True)
        else:
            self._lines(records)

    def _picture(self, records: Sequence[Record]) -> RenderableType:
        table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
        for name in ("trial", "epoch", "Dice", "", ""):
            table.add_column(name, justify="right" if name in ("trial", "epoch", "Dice") else "left", no_wrap=True)
        running = [record for record in records if record.status == "running"]
        for record in running[:_MOST_RUNNING]:
            done = max(record.dice, default=0)
            dice = record.row.get("validation_dice")
            table.add_row(
                str(record.number),
                f"{done}/{self._epochs}",
                "-" if dice is None else f"{dice:.3f}",
                spark([record.dice[epoch] for epoch in sorted(record.dice)], plain=self._console.options.ascii_only),
                "" if record.row["kind"] == "searched" else describe_kind(record.row["kind"]),
            )
        if len(running) > _MOST_RUNNING:
            table.add_row("", "", "", f"and {len(running) - _MOST_RUNNING} more", "")
        return Group(Text(self._summary(records), style="bold"), table)

    def _lines(self, records: Sequence[Record]) -> None:
        ended = {record.number: record for record in records if record.status not in ACTIVE}
        if self._known is not None:
            for number in sorted(ended.keys() - self._known):
                self._console.print(ending(ended[number]), markup=False, highlight=False, soft_wrap=True)
                self._said = 0.0
        if self._known is None or time.monotonic() - self._said >= _LINE_SECONDS:
            self._console.print(self._summary(records), markup=False, highlight=False, soft_wrap=True)
            self._said = time.monotonic()
        self._known = set(ended)

    def _summary(self, records: Sequence[Record]) -> str:
        counts = Counter(record.status for record in records)
        ended = sum(count for status, count in counts.items() if status not in ("pending", "running"))
        parts = [f"{ended} of {self.trials} trials" if self.trials is not None else f"{ended} trials"]
        details = [f"{counts[status]} {status}" for status in ("stopped", "infeasible", "diverged", "failed") if counts[status]]
        if details:
            parts[0] += f" ({', '.join(details)})"
        best = best_of(records)
        if best is not None:
            parts.append(f"best Dice {best.row['validation_dice']:.3f} (trial {best.number})")
        if self._console.is_terminal is False and counts["running"]:
            running = (f"{r.number} at {max(r.dice, default=0)}/{self._epochs}" for r in records if r.status == "running")
            parts.append("running " + ", ".join(running))
        parts.append(f"{clock(time.monotonic() - self._started)} so far")
        left = self._left(records, ended)
        if left is not None:
            parts.append(f"about {clock(left)} left")
        if self._gpus:
            parts.append(self._cost(left, counts["running"]))
        return " · ".join(parts)

    def _cost(self, left: float | None, running: int) -> str:
        """GPU-hours, and money where their price is known: so far, and by the end if as many trials run as now."""

        def told(hours: float) -> str:
            return f"{hours:.2f}" if self._price is None else f"{hours:.2f} ({hours * self._price:.2f})"

        spent = self._budget.spent
        if left is None:
            return f"{told(spent)} GPU-hours"
        whole = spent + left * self._gpus * running / 3600
        limit = self._budget.gpu_hours_left
        return f"{told(spent)} of about {told(whole if limit is None else min(whole, spent + max(limit, 0)))} GPU-hours"

    def _left(self, records: Sequence[Record], ended: int) -> float | None:
        """Until the time budget is used up, or until all trials have ended if they go on as they did."""
        limit = self._budget.left
        if self.trials is None:
            return None if limit is None else max(limit, 0.0)
        halves = sum(max(r.dice, default=0) / self._epochs for r in records if r.status == "running")
        if self._known_at_start is None:
            self._known_at_start = ended
        done = ended - self._known_at_start + halves
        if done < 0.5:
            return None if limit is None else max(limit, 0.0)
        rest = (time.monotonic() - self._started) / done * max(self.trials - self._known_at_start - done, 0)
        return rest if limit is None else max(min(rest, limit), 0.0)

    _known_at_start: int | None = None


def best_of(records: Sequence[Record]) -> Record | None:
    """The trial with the best validation Dice; the earlier one of equals."""
    scored = [record for record in records if record.may_be_best]
    return max(scored, key=lambda record: (record.row["validation_dice"], -record.number), default=None)


def ending(record: Record) -> str:
    """How one trial ended, in a line."""
    dice, final = record.row.get("validation_dice"), record.row.get("final_dice")
    text = f"trial {record.number} {record.status}"
    if record.row["kind"] != "searched":
        text += f" ({describe_kind(record.row['kind'])})"
    if dice is not None:
        text += f": Dice {dice:.3f} at epoch {record.row['best_epoch']}"
    if final is not None:
        text += f", {final:.3f} by the full protocol"
    return text if record.status == "finished" else f"{text}; {record.row.get('reason')}"


def top_table(records: Sequence[Record], searched: Sequence[str]) -> Table:
    """The best trials with the values of the searched fields."""
    scored = [record for record in records if record.may_be_best]
    scored.sort(key=lambda record: (-record.row["validation_dice"], record.number))
    table = Table(title="Best trials (Dice on the validation split)", title_justify="left", box=None, pad_edge=False)
    for name in ("trial", "Dice", "full protocol", "status"):
        table.add_column(name, justify="left" if name == "status" else "right", no_wrap=True)
    table.add_column("settings")
    for record in scored[:_TOP]:
        final = record.row.get("final_dice")
        values = [f"{path.split('.', 1)[1]} {brief(record.row.get(f'config.{path}'))}" for path in searched]
        if record.row["kind"] != "searched":
            values = [describe_kind(record.row["kind"]), *(values if record.row["kind"] == "published" else [])]
        table.add_row(
            str(record.number),
            f"{record.row['validation_dice']:.4f}",
            "-" if final is None else f"{final:.4f}",
            record.status,
            Text(", ".join(values)),
        )
    return table


def describe_kind(kind: str) -> str:
    """What the controls are."""
    return {"published": "published settings", "unet": "plain U-Net"}.get(kind, kind)


def spark(values: Sequence[float], *, plain: bool = False) -> str:
    """Dice by epoch as a row of bars, from 0 to 1; long curves show their last epochs. `plain`: of ASCII."""
    bars = _PLAIN_BARS if plain else _BARS
    return "".join(bars[min(int(min(max(value, 0.0), 1.0) * len(bars)), len(bars) - 1)] for value in values[-_SPARK:])


def clock(seconds: float) -> str:
    """A duration as people write it."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def brief(value: Any) -> str:
    """A value in a few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
